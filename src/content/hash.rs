//! SHA-1, the hash that names blocks.
//!
//! SHA-1 is the slowest step of every path through storgo, so this module is where its implementation is
//! chosen. It names blocks and finds accidental damage; it is never what stands between a reader and a
//! forged file (see `content::seal`).

/// The 20 bytes of a SHA-1 hash.
pub type Digest = [u8; 20];

/// The SHA-1 of `bytes`, by the fastest implementation that this CPU has.
pub fn sha1(bytes: &[u8]) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    digest.as_ref().try_into().expect("SHA-1 is 20 bytes long")
}

/// The bytes hashed by [`sha1_checked()`] bear the marks of a SHA-1 collision attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes carry a SHA-1 collision attack: another block with the same CID can exist")]
pub struct Collision;

/// The SHA-1 of `bytes`, refused where the bytes were crafted to collide.
///
/// Three to five times slower than [`sha1()`]; for `--public` data, where nothing but SHA-1 names a block.
///
/// # Errors
/// [`Collision`] when the bytes contain a known SHA-1 attack (Stevens' counter-cryptanalysis, 2013).
pub fn sha1_checked(bytes: &[u8]) -> Result<Digest, Collision> {
    let result = sha1_checked::Sha1::try_digest(bytes);
    if result.has_collision() { Err(Collision) } else { Ok((*result.hash()).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_published_value() {
        let want = [
            0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e, 0x25, 0x71, 0x78, 0x50, 0xc2, 0x6c,
            0x9c, 0xd0, 0xd8, 0x9d,
        ];
        assert_eq!(sha1(b"abc"), want);
        assert_eq!(sha1_checked(b"abc"), Ok(want));
    }
}
