//! Moving blocks: `/storgo/transfer/1.0.0` over raw streams.
//!
//! ```text
//! asker                                       answerer
//! Transfers::get ─▶ lane ── Get ────────────▶ server: reads always, queues what is asked (bounded)
//!                   lane ◀─ Block + bytes ─── loads ahead from the store, writes in order
//! ```
//! Requests on a stream are answered in order and completely, so an asker knows what comes next, byte by byte: whatever
//! else comes is a violation. A peer that breaks the protocol is dropped, not argued with. The messages are in
//! [`crate::wire`], the rules in `docs/transfer.md`.
//!
//! Nothing waits for ever: a stream on which nothing moves while something should is closed. Nothing grows with what a
//! peer sends: a frame is bounded before it is read, a block is read only when it was asked for, and the server holds a
//! fixed number of bytes for each peer and for all of them together.

mod answers;
mod client;
mod counters;
mod frames;
mod lane;
mod limit;
mod pace;
mod server;

use std::io;

pub use client::{Failure, Holding, PeerStatus, Transfers, Withdrawn};
pub use counters::{Counters, Moved};
pub use limit::Limiter;
pub use server::{ServeOptions, serve};

use libp2p::StreamProtocol;

use crate::wire::WireError;

/// The protocol of all streams here.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/storgo/transfer/1.0.0");

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    /// The stream broke, or the peer ended it.
    #[error("the stream broke: {0}")]
    Lost(#[from] io::Error),
    /// Nothing moved for too long.
    #[error("the peer moves nothing")]
    Stalled,
    /// The peer sent bytes that are no message.
    #[error("the peer breaks the protocol: {0}")]
    Wire(#[from] WireError),
    /// The peer sent what it may not send.
    #[error("the peer breaks the protocol: {0}")]
    Violation(&'static str),
    /// The peer does not do what it was asked, or we do not.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer has no time.
    #[error("the peer is busy")]
    Busy,
}

impl TransferError {
    /// Whether no honest peer does this: there is no point in asking again.
    fn is_hostile(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::Violation(_))
    }
}

#[cfg(test)]
#[path = "transfer/tests.rs"]
mod tests;
