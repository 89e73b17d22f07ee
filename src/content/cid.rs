//! The names of blocks: `CIDv1` with SHA-1 and no other kind.
//!
//! A [`Cid`] is 21 bytes, `Copy`, and valid by construction: text and bytes are checked once, here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hash::{self, Digest};

/// Multihash code of SHA-1.
const SHA1: u64 = 0x11;

/// The kind of block that a [`Cid`] names (multicodec).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// A data block: the ciphertext of one chunk, or the chunk itself in public mode (`raw`, 0x55).
    Raw = 0x55,
    /// A node block (`dag-cbor`, 0x71).
    DagCbor = 0x71,
}

/// The content identifier of one block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid {
    digest: Digest,
    codec: Codec,
}

/// Why text or bytes are not a [`Cid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidError {
    /// Not a CID.
    #[error("invalid CID: {0}")]
    Malformed(String),
    /// A CID of a version, codec or hash that storgo does not use.
    #[error("unsupported CID ({0}): storgo uses CIDv1 with codec raw or dag-cbor, and SHA-1")]
    Foreign(&'static str),
}

impl Cid {
    /// Length in bytes of the binary form.
    pub const LEN: usize = 24;

    /// Returns the CID of `block`.
    pub fn of(codec: Codec, block: &[u8]) -> Self {
        Self { digest: hash::sha1(block), codec }
    }

    /// Returns the CID with this digest.
    pub const fn new(codec: Codec, digest: Digest) -> Self {
        Self { digest, codec }
    }

    /// The SHA-1 digest.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The kind of the block.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Whether `block` has this CID's digest.
    pub fn matches(&self, block: &[u8]) -> bool {
        hash::sha1(block) == self.digest
    }

    /// The binary form: version, codec, hash code, length, digest.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&[1, self.codec as u8, 0x11, 20]);
        out[4..].copy_from_slice(&self.digest);
        out
    }

    /// Parses the binary form.
    ///
    /// # Errors
    /// [`CidError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let cid = cid::Cid::try_from(bytes).map_err(|e| CidError::Malformed(e.to_string()))?;
        let cid = Self::try_from(cid)?;
        // The `cid` crate ignores bytes after the CID. They are rejected here, so that a block has one name.
        if bytes != cid.to_bytes() {
            return Err(CidError::Malformed("unexpected bytes after it".into()));
        }
        Ok(cid)
    }

    /// The multihash (`0x11 0x14 ‖ digest`), which is the key of the block's provider records in the DHT.
    pub fn multihash(&self) -> [u8; 22] {
        self.to_bytes()[2..].try_into().expect("22 of 24 bytes")
    }
}

impl TryFrom<cid::Cid> for Cid {
    type Error = CidError;

    fn try_from(cid: cid::Cid) -> Result<Self, CidError> {
        if cid.version() != cid::Version::V1 {
            return Err(CidError::Foreign("another version"));
        }
        let codec = match cid.codec() {
            0x55 => Codec::Raw,
            0x71 => Codec::DagCbor,
            _ => return Err(CidError::Foreign("another codec")),
        };
        if cid.hash().code() != SHA1 {
            return Err(CidError::Foreign("another hash"));
        }
        let digest =
            cid.hash().digest().try_into().map_err(|_| CidError::Foreign("another digest length"))?;
        Ok(Self { digest, codec })
    }
}

impl From<Cid> for cid::Cid {
    fn from(cid: Cid) -> Self {
        let hash = multihash::Multihash::wrap(SHA1, &cid.digest).expect("20 bytes fit into 64");
        Self::new_v1(cid.codec as u64, hash)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        cid::Cid::from(*self).fmt(f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        // In base32 a CID has 40 characters. Longer bases exist, but huge input is not decoded at all.
        if text.len() > 128 {
            return Err(CidError::Malformed("too long".into()));
        }
        if cid::Version::is_v0_str(text) {
            return Err(CidError::Foreign("another version"));
        }
        let (_, bytes) = cid::multibase::decode(text).map_err(|e| CidError::Malformed(e.to_string()))?;
        Self::from_bytes(&bytes)
    }
}

/// As text in human-readable formats, as 24 bytes in binary ones.
impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.to_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            let bytes = serde_bytes::ByteArray::<{ Self::LEN }>::deserialize(deserializer)?;
            Self::from_bytes(&*bytes).map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let cid = Cid::of(Codec::Raw, b"abc");
        assert_eq!(cid.to_string().parse(), Ok(cid));
        assert_eq!(Cid::from_bytes(&cid.to_bytes()), Ok(cid));
        assert!(cid.matches(b"abc") && !cid.matches(b"abd"));
        let longer = [&cid.to_bytes()[..], &[0]].concat();
        assert!(matches!(Cid::from_bytes(&longer), Err(CidError::Malformed(_))));
    }

    #[test]
    fn a_foreign_cid_is_rejected_with_its_difference() {
        let kubo = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
        assert_eq!(kubo.parse::<Cid>(), Err(CidError::Foreign("another hash")));
        let v0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKU76s".parse::<Cid>();
        assert_eq!(v0, Err(CidError::Foreign("another version")));
        assert!(matches!("".parse::<Cid>(), Err(CidError::Malformed(_))));
    }
}
