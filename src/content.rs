//! The formats: chunks, sealed blocks, node blocks, links. Pure code: no I/O, no clock, no async.
//!
//! ```text
//! file ─ chunk::Cutter ─▶ chunk ─ seal ─▶ block (named by its CID) + Entry (CID, key and hash, for readers)
//!                                            entries ─ encoder ─▶ node blocks ─▶ root ─▶ Link
//! Link + root ─ decoder ─▶ entries ─ fetch ─▶ block ─ open_chunk ─▶ chunk
//! ```
//! `docs/format.md` specifies the formats, and the golden vectors in `tests/vectors/` pin them.

pub mod chunk;
pub mod cid;
pub mod decoder;
pub mod encoder;
mod entry;
pub mod hash;
pub mod link;
pub mod node_block;
pub mod preorder;
pub mod seal;
mod sealed;
pub mod secret;
pub(crate) mod tar_time;

/// Maximum length of a chunk and of its data block, in bytes.
pub const MAX_CHUNK: usize = (2 << 20) - (64 << 10);

/// Why content cannot be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The data contains a SHA-1 collision attack. Only public data is checked.
    #[error("the data contains a SHA-1 collision attack: another block with the same CID can exist")]
    Collision,
    /// The content is encrypted, and the link has no key.
    #[error("this content is encrypted, and the link has no key")]
    NoKey,
    /// The key does not decrypt this block: the link or the block is wrong.
    #[error("the key does not decrypt block {cid}: the link is wrong, or the block is forged")]
    WrongKey {
        /// The block.
        cid: cid::Cid,
    },
    /// The plaintext of a block does not have the hash in its entry, although its CID may match.
    #[error("block {cid} is forged: its plaintext does not have the expected hash")]
    Forged {
        /// The block.
        cid: cid::Cid,
    },
    /// A node block violates the format.
    #[error("malformed node block: {0}")]
    Malformed(&'static str),
    /// A name is not a single path component of at most 255 bytes.
    #[error("{0:?} is not a valid name in a folder")]
    BadName(String),
    /// The names of a folder are not in strictly ascending order.
    #[error("folder entry {0:?} is out of order or duplicated")]
    Unordered(String),
    /// A value exceeds the limits of the format.
    #[error("{0} is too large for the format")]
    TooLarge(&'static str),
}
