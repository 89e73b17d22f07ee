//! What peers say to each other on a transfer stream: frames and messages. Pure code: bytes in, values out.
//!
//! ```text
//! frame = length of the message (u32, big endian) ‖ message in CBOR ‖ raw bytes, exactly as many as the message says
//! ```
//! A message is a map with one entry: its kind, and a map of its fields (`{"get": {"cids": [...]}}`). The schema is
//! `proto/transfer.cddl`; `docs/transfer.md` says who says what when.
//!
//! Bytes come from strangers, so three gates stand in a row, each cheap and each before the next:
//! [`body_len`] bounds a frame before a buffer is made for it, a structural check bounds nesting, lengths and the number
//! of items before `serde` sees a byte, and [`Message::decode`] checks what the fields may hold. A field that we do not
//! know is ignored (a newer peer may say more); a kind that we do not know is an error that names it.

mod frame;
mod message;
mod structure;

pub use frame::{PREFIX_LEN, body_len};
pub use message::{Message, PutBlock, Request, Response};

/// Longest message, in bytes, without the raw bytes that may follow it.
pub const MAX_MESSAGE: usize = 256 << 10;
/// Longest request, in bytes: more than the most blocks take that one may name.
pub const MAX_REQUEST: usize = 64 << 10;
/// Longest block, in bytes.
pub const MAX_BLOCK: u32 = 2 << 20;
/// Most blocks that one message may name.
pub const MAX_CIDS: usize = 1024;
/// Longest name of a region, in bytes.
pub const MAX_REGION: usize = 64;

/// Why bytes are no message of ours, or a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame longer than its reader takes.
    #[error("a frame of {len} bytes, {limit} are allowed")]
    TooLong {
        /// What the frame says.
        len: usize,
        /// What its reader takes.
        limit: usize,
    },
    /// Not CBOR as this protocol uses it.
    #[error("malformed message: {0}")]
    Structure(&'static str),
    /// A kind of message that this version does not know.
    #[error("unknown message {0:?}")]
    UnknownKind(String),
    /// A known kind with wrong fields.
    #[error("malformed {kind:?} message: {reason}")]
    Fields {
        /// The kind.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
}
