//! What bytes become: chunks, sealed blocks, node blocks, links. Pure code: no I/O, no clock, no async.
//!
//! ```text
//! file ─ chunk::Cutter ─▶ chunk ─ seal ─▶ block (named by its CID) + Entry (what a reader needs)
//!                                            entries ─ encoder ─▶ node blocks ─▶ root ─▶ Link
//! Link + root ─ decoder ─▶ entries ─ fetch ─▶ block ─ open_chunk ─▶ chunk
//! ```
//! The formats are written down in `docs/format.md` and held by golden vectors in `tests/vectors/`.

pub mod chunk;
pub mod cid;
pub mod decoder;
pub mod encoder;
mod entry;
pub mod hash;
pub mod link;
pub mod node_block;
pub mod seal;
mod sealed;
pub mod secret;
pub(crate) mod tar_time;

/// Longest data block, in bytes: the longest chunk.
pub const MAX_CHUNK: usize = (2 << 20) - (64 << 10);

/// Why content cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Public data that carries a SHA-1 collision attack.
    #[error("{0}", hash::Collision)]
    Collision,
    /// The content is encrypted and no key was given.
    #[error("this content is encrypted, and the link has no key")]
    NoKey,
    /// The key does not open this block: the link or the block is wrong.
    #[error("the key does not fit block {cid}: the link is wrong, or the block is forged")]
    WrongKey {
        /// The block.
        cid: cid::Cid,
    },
    /// A block's content is not what its entry says, although its CID may match.
    #[error("block {cid} does not hold what its key says")]
    Forged {
        /// The block.
        cid: cid::Cid,
    },
    /// A node block that breaks the format.
    #[error("malformed node block: {0}")]
    Malformed(&'static str),
    /// A name that cannot be one path component.
    #[error("{0:?} cannot be a name in a folder")]
    BadName(String),
    /// Names of a folder that do not come in strictly rising order.
    #[error("{0:?} comes out of order, or twice")]
    Unordered(String),
    /// More than a node block can list.
    #[error("too large for a node block: {0}")]
    TooLarge(&'static str),
}
