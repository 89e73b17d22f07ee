//! Frames and messages of the transfer protocol. Pure code: no I/O, no clock, no async.
//!
//! ```text
//! frame = length of the message (u32, big endian) ‖ message in CBOR ‖ as many raw bytes as the message announces
//! ```
//! A message is a map with one entry: its kind, and a map of its fields (`{"get": {"cids": [...]}}`). The schema is
//! `proto/transfer.cddl`; `docs/transfer.md` describes the exchange.
//!
//! Peers are not trusted, so input passes three checks. [`body_len`] bounds a frame before a buffer is allocated. A
//! structural check bounds nesting, lengths and the number of items before `serde` reads a byte. [`Message::decode`]
//! checks the values of the fields. Unknown fields are ignored, because newer peers may send them. An unknown kind is an
//! error that contains its name.

mod message;
mod structure;

pub use message::{Message, PREFIX_LEN, PutBlock, Request, Response, body_len};

/// Maximum length of a message in bytes, without the raw bytes after it.
pub const MAX_MESSAGE: usize = 256 << 10;
/// Maximum length of a request in bytes. A request for [`MAX_CIDS`] blocks is shorter.
pub const MAX_REQUEST: usize = 64 << 10;
/// Maximum length of a block in bytes.
pub const MAX_BLOCK: u32 = 2 << 20;
/// Maximum number of blocks in one message.
pub const MAX_CIDS: usize = 1024;
/// Maximum length of a region name in bytes.
pub const MAX_REGION: usize = 64;

/// Why bytes are not a valid message, or a message cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame is longer than allowed.
    #[error("frame of {len} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Length in bytes.
        len: usize,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// The bytes are not CBOR as this protocol uses it.
    #[error("malformed message: {0}")]
    Structure(&'static str),
    /// This version does not know the kind of message.
    #[error("unknown message kind {0:?}")]
    UnknownKind(String),
    /// The fields of a message are missing or invalid.
    #[error("malformed {kind:?} message: {reason}")]
    Fields {
        /// Kind of the message.
        kind: &'static str,
        /// The invalid part.
        reason: String,
    },
}
