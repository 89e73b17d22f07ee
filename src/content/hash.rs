//! SHA-1, the hash in block names.
//!
//! SHA-1 is the slowest step of writing and reading, so this module selects a fast implementation. SHA-1 names blocks and
//! detects accidental damage. It does not protect readers from forged files (see `content::seal`).

/// The 20 bytes of a SHA-1 hash.
pub type Digest = [u8; 20];

/// Returns the SHA-1 of `bytes`, with the CPU's SHA instructions if it has them.
pub fn sha1(bytes: &[u8]) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    digest.as_ref().try_into().expect("SHA-1 is 20 bytes long")
}

/// Returns the SHA-1 of `bytes`, or `None` if they contain a known collision attack (Stevens' counter-cryptanalysis,
/// 2013).
///
/// Three to five times slower than [`sha1()`]. For public data, which no BLAKE3 hash protects.
pub fn sha1_checked(bytes: &[u8]) -> Option<Digest> {
    let result = sha1_checked::Sha1::try_digest(bytes);
    (!result.has_collision()).then(|| (*result.hash()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_functions_return_the_published_digest() {
        let want = [
            0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e, 0x25, 0x71, 0x78, 0x50, 0xc2, 0x6c,
            0x9c, 0xd0, 0xd8, 0x9d,
        ];
        assert_eq!(sha1(b"abc"), want);
        assert_eq!(sha1_checked(b"abc"), Some(want));
    }
}
