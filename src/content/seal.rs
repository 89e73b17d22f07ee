//! Sealing a chunk: a key made from the content, so that equal chunks of one cluster become equal blocks.
//!
//! `h = BLAKE3(P)`, `key = derive_key("storgo v1 chunk key", secret ‖ h)`, `C = AES-256-CTR(key, IV 0, P)`. A key
//! encrypts one plaintext only, so a fixed IV is sound. Whoever reads checks `h`: SHA-1 names the block, but does not
//! decide what a reader gets.

use aes::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};

use super::{
    ContentError,
    cid::{Cid, Codec},
    hash::sha1_checked,
    secret::{ConvergenceSecret, Key},
};

/// Whether and how content is encrypted.
#[derive(Debug, Clone)]
pub enum Sealing {
    /// Encrypted, with keys derived from this secret and the content.
    Secret(ConvergenceSecret),
    /// Plain, for everyone.
    Public,
}

/// What a reader must know of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The block's name.
    pub cid: Cid,
    /// Length in bytes, of the chunk as of its block.
    pub len: u32,
    /// The chunk's key; none in plain mode.
    pub key: Option<Key>,
    /// BLAKE3 of the plaintext.
    pub hash: [u8; 32],
}

/// A chunk turned into a block.
#[derive(Debug)]
pub struct SealedChunk {
    /// What a reader must know.
    pub entry: Entry,
    /// What is stored.
    pub block: Vec<u8>,
}

/// Encrypts a chunk in place and names it.
///
/// # Errors
/// [`ContentError::Collision`] for public data that carries a SHA-1 attack; [`ContentError::TooLarge`] above
/// [`super::MAX_CHUNK`].
pub fn seal_chunk(sealing: &Sealing, mut chunk: Vec<u8>) -> Result<SealedChunk, ContentError> {
    if chunk.len() > super::MAX_CHUNK {
        return Err(ContentError::TooLarge("a chunk"));
    }
    let len = u32::try_from(chunk.len()).map_err(|_| ContentError::TooLarge("a chunk"))?;
    let hash = *blake3::hash(&chunk).as_bytes();
    let (cid, key) = match sealing {
        Sealing::Public => (public_cid(Codec::Raw, &chunk)?, None),
        Sealing::Secret(secret) => {
            let key = derive("storgo v1 chunk key", secret.as_bytes(), &hash);
            apply_keystream(&key, &mut chunk);
            (Cid::of(Codec::Raw, &chunk), Some(key))
        }
    };
    Ok(SealedChunk { entry: Entry { cid, len, key, hash }, block: chunk })
}

/// Decrypts a block in place and checks what came out. The caller has checked the block against its CID, or not: a
/// block that passes here is the right one either way.
///
/// # Errors
/// [`ContentError::Forged`] where length or hash are not the entry's.
pub fn open_chunk(entry: &Entry, mut block: Vec<u8>) -> Result<Vec<u8>, ContentError> {
    if block.len() != entry.len as usize {
        return Err(ContentError::Forged { cid: entry.cid });
    }
    if let Some(key) = &entry.key {
        apply_keystream(key, &mut block);
    }
    if blake3::hash(&block) == blake3::Hash::from_bytes(entry.hash) {
        Ok(block)
    } else {
        Err(ContentError::Forged { cid: entry.cid })
    }
}

/// The CID of public data, refused where it was crafted to collide.
pub(super) fn public_cid(codec: Codec, block: &[u8]) -> Result<Cid, ContentError> {
    sha1_checked(block).map(|digest| Cid::new(codec, digest)).map_err(|_| ContentError::Collision)
}

/// `derive_key(context, first ‖ second)`.
pub(super) fn derive(context: &str, first: &[u8], second: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(first).update(second);
    Key::new(*hasher.finalize().as_bytes())
}

/// AES-256-CTR with a 128-bit big-endian counter that starts at 0. Encryption and decryption are the same.
pub(super) fn apply_keystream(key: &Key, bytes: &mut [u8]) {
    let iv = [0_u8; 16];
    ctr::Ctr128BE::<aes::Aes256>::new(key.as_bytes().into(), (&iv).into()).apply_keystream(bytes);
}

/// As `[cid, len, key, hash]`, the CID as a CBOR link.
impl Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (cid::Cid::from(self.cid), self.len, &self.key, serde_bytes::Bytes::new(&self.hash))
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Parts = (cid::Cid, u32, Option<Key>, serde_bytes::ByteArray<32>);
        let (cid, len, key, hash) = Parts::deserialize(deserializer)?;
        let cid = cid.try_into().map_err(serde::de::Error::custom)?;
        Ok(Self { cid, len, key, hash: hash.into_array() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealing(byte: u8) -> Sealing {
        Sealing::Secret(ConvergenceSecret::new(Key::new([byte; 32])))
    }

    #[test]
    fn equal_chunks_converge_under_one_secret_alone() {
        let seal = |byte| seal_chunk(&sealing(byte), b"hello".to_vec()).expect("sealed").entry.cid;
        assert_eq!(seal(1), seal(1));
        assert_ne!(seal(1), seal(2));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(chunk in proptest::collection::vec(any::<u8>(), 0..5000), public: bool) {
            let sealing = if public { Sealing::Public } else { sealing(1) };
            let SealedChunk { entry, block } = seal_chunk(&sealing, chunk.clone()).expect("sealed");
            prop_assert!(entry.cid.matches(&block));
            prop_assert_eq!(block == chunk, public || chunk.is_empty());
            prop_assert_eq!(open_chunk(&entry, block), Ok(chunk));
        }

        #[test]
        fn one_flipped_bit_is_seen(chunk in proptest::collection::vec(any::<u8>(), 1..2000), at: prop::sample::Index, bit in 0_u32..8) {
            let SealedChunk { entry, mut block } = seal_chunk(&sealing(1), chunk).expect("sealed");
            let at = at.index(block.len());
            block[at] ^= 1_u8 << bit;
            prop_assert_eq!(open_chunk(&entry, block), Err(ContentError::Forged { cid: entry.cid }));
        }
    }
}
