//! Encryption of chunks. The key depends on the content, so equal chunks of one cluster become equal blocks.
//!
//! `h = BLAKE3(P)`, `key = derive_key("storgo v1 chunk key", secret ‖ h)`, `C = AES-256-CTR(key, IV 0, P)`. A key
//! encrypts one plaintext only, so a fixed IV is safe. Readers check `h`: SHA-1 names the block but does not authenticate
//! the plaintext.
//!
//! The last chunk of a file is padded with zeros before it is encrypted, so that the lengths of the blocks do not add up to
//! the exact size of the file. The padding is Padmé (Nikitin et al., 2019): at most 12 %, and less for long chunks.

use aes::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};

use super::{
    ContentError,
    cid::{Cid, Codec},
    hash::sha1_checked,
    secret::{ConvergenceSecret, Key},
};

/// How content is encrypted.
#[derive(Debug, Clone)]
pub enum Sealing {
    /// With keys derived from this secret and the content.
    Secret(ConvergenceSecret),
    /// Not at all: everybody can read it.
    Public,
}

/// The data that a reader needs to find and decrypt one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// CID of the block.
    pub cid: Cid,
    /// Length of the block in bytes.
    pub len: u32,
    /// Length of the chunk in bytes, without padding.
    pub size: u32,
    /// Key of the chunk. `None` in public mode.
    pub key: Option<Key>,
    /// BLAKE3 of the chunk and its padding.
    pub hash: [u8; 32],
}

impl Entry {
    /// Returns the length of the block of this chunk, in bytes, if it is (`last`) or is not the last one of its file.
    pub(super) fn padded_len(&self, last: bool) -> u32 {
        if last && self.key.is_some() { padded_len(self.size) } else { self.size }
    }
}

/// Rounds a length up as Padmé does. Of its binary digits after the first, as many stay as the number of these has digits.
fn padded_len(len: u32) -> u32 {
    let Some(e) = len.checked_ilog2().filter(|e| *e > 0) else { return len };
    let zeros = e - (e.ilog2() + 1);
    len.next_multiple_of(1 << zeros)
}

/// An encrypted chunk.
#[derive(Debug)]
pub struct SealedChunk {
    /// The entry for the file's list.
    pub entry: Entry,
    /// The block to store.
    pub block: Vec<u8>,
}

/// Encrypts a chunk in place. The `last` one of a file is padded, if it is encrypted.
///
/// # Errors
/// [`ContentError::Collision`] for public data that contains a SHA-1 attack; [`ContentError::TooLarge`] above
/// [`super::MAX_CHUNK`].
pub fn seal_chunk(sealing: &Sealing, mut chunk: Vec<u8>, last: bool) -> Result<SealedChunk, ContentError> {
    let size = u32::try_from(chunk.len()).ok().filter(|size| *size as usize <= super::MAX_CHUNK);
    let size = size.ok_or(ContentError::TooLarge("a chunk"))?;
    let len = if last && matches!(sealing, Sealing::Secret(_)) { padded_len(size) } else { size };
    chunk.resize(len as usize, 0);
    let hash = *blake3::hash(&chunk).as_bytes();
    let (cid, key) = match sealing {
        Sealing::Public => (public_cid(Codec::Raw, &chunk)?, None),
        Sealing::Secret(secret) => {
            let key = derive("storgo v1 chunk key", secret.as_bytes(), &hash);
            apply_keystream(&key, &mut chunk);
            (Cid::of(Codec::Raw, &chunk), Some(key))
        }
    };
    Ok(SealedChunk { entry: Entry { cid, len, size, key, hash }, block: chunk })
}

/// Decrypts a block in place, checks the plaintext, and removes the padding. The block need not have been checked against its
/// CID.
///
/// # Errors
/// [`ContentError::Forged`] if the length or the hash differs from the entry, or the padding is not of zeros.
pub fn open_chunk(entry: &Entry, mut block: Vec<u8>) -> Result<Vec<u8>, ContentError> {
    if block.len() != entry.len as usize {
        return Err(ContentError::Forged { cid: entry.cid });
    }
    if let Some(key) = &entry.key {
        apply_keystream(key, &mut block);
    }
    let padding = block.get(entry.size as usize..).ok_or(ContentError::Forged { cid: entry.cid })?;
    if padding.iter().any(|byte| *byte != 0) || blake3::hash(&block) != blake3::Hash::from_bytes(entry.hash) {
        return Err(ContentError::Forged { cid: entry.cid });
    }
    block.truncate(entry.size as usize);
    Ok(block)
}

/// Returns the CID of public data, unless it was crafted to collide.
pub(super) fn public_cid(codec: Codec, block: &[u8]) -> Result<Cid, ContentError> {
    sha1_checked(block).map(|digest| Cid::new(codec, digest)).ok_or(ContentError::Collision)
}

/// `derive_key(context, first ‖ second)`.
pub(super) fn derive(context: &str, first: &[u8], second: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(first).update(second);
    Key::new(*hasher.finalize().as_bytes())
}

/// Encrypts or decrypts with AES-256-CTR and a 128-bit big-endian counter that starts at 0.
pub(super) fn apply_keystream(key: &Key, bytes: &mut [u8]) {
    let iv = [0_u8; 16];
    ctr::Ctr128BE::<aes::Aes256>::new(key.as_bytes().into(), (&iv).into()).apply_keystream(bytes);
}

/// Serialized as `[cid, len, size, key, hash]`, the CID as a CBOR link.
impl Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (cid::Cid::from(self.cid), self.len, self.size, &self.key, serde_bytes::Bytes::new(&self.hash))
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Parts = (cid::Cid, u32, u32, Option<Key>, serde_bytes::ByteArray<32>);
        let (cid, len, size, key, hash) = Parts::deserialize(deserializer)?;
        let cid = cid.try_into().map_err(serde::de::Error::custom)?;
        Ok(Self { cid, len, size, key, hash: hash.into_array() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`crate::content::MAX_CHUNK`].
    const LONGEST: u32 = 1984 << 10;

    fn sealing(byte: u8) -> Sealing {
        Sealing::Secret(ConvergenceSecret::new(Key::new([byte; 32])))
    }

    #[test]
    fn equal_chunks_become_equal_blocks_only_under_the_same_secret() {
        let seal = |byte| seal_chunk(&sealing(byte), b"hello".to_vec(), true).expect("sealed").entry.cid;
        assert_eq!(seal(1), seal(1));
        assert_ne!(seal(1), seal(2));
    }

    #[test]
    fn lengths_are_rounded_up_as_padme_does() {
        for (len, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (8, 8),
            (9, 10),
            (31, 32),
            (1000, 1024),
            (1025, 1088),
            (100_000, 100_352),
        ] {
            assert_eq!(padded_len(len), padded, "{len}");
        }
        assert_eq!(padded_len(LONGEST), LONGEST);
    }

    #[test]
    fn padding_of_other_bytes_than_zeros_is_refused() {
        let SealedChunk { mut entry, block } = seal_chunk(&sealing(1), vec![1; 9], true).expect("sealed");
        assert_eq!((block.len(), entry.size), (10, 9));
        entry.size = 8;
        assert_eq!(open_chunk(&entry, block), Err(ContentError::Forged { cid: entry.cid }));
    }

    proptest! {
        #[test]
        fn a_sealed_chunk_decrypts(
            chunk in proptest::collection::vec(any::<u8>(), 0..5000),
            public: bool,
            last: bool,
        ) {
            let sealing = if public { Sealing::Public } else { sealing(1) };
            let SealedChunk { entry, block } = seal_chunk(&sealing, chunk.clone(), last).expect("sealed");
            prop_assert!(entry.cid.matches(&block));
            prop_assert_eq!(entry.len, entry.padded_len(last));
            prop_assert_eq!(block == chunk, public || chunk.is_empty());
            prop_assert_eq!(open_chunk(&entry, block), Ok(chunk));
        }

        #[test]
        fn padding_adds_at_most_an_eighth_and_hides_the_low_bits(len in 1_u32..=LONGEST) {
            let padded = padded_len(len);
            prop_assert!(padded >= len && padded - len <= len / 8 && padded <= LONGEST);
            prop_assert_eq!(padded_len(padded), padded);
        }

        #[test]
        fn one_flipped_bit_is_detected(chunk in proptest::collection::vec(any::<u8>(), 1..2000), at: prop::sample::Index, bit in 0_u32..8) {
            let SealedChunk { entry, mut block } = seal_chunk(&sealing(1), chunk, true).expect("sealed");
            let at = at.index(block.len());
            block[at] ^= 1_u8 << bit;
            prop_assert_eq!(open_chunk(&entry, block), Err(ContentError::Forged { cid: entry.cid }));
        }
    }
}
