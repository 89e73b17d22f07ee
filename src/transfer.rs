//! The transfer protocol `/storgo/transfer/1.0.0`, client and server: moves blocks and withdraws provider records.
//!
//! ```text
//! client                                                     server
//! Transfers::request ─▶ RequestStream ── Get ────────────▶ reads always, queues requests (bounded)
//!                       RequestStream ◀─ Block + bytes ─── loads ahead from the store, writes in order
//! ```
//! A server answers the requests of a stream in order and completely, so the client knows which bytes come next. Anything
//! else is a violation, which ends the stream. [`crate::wire`] has the messages and `docs/transfer.md` the rules.
//!
//! A stream on which nothing moves while something should is closed. Memory does not grow with what a peer sends: the
//! length of a frame is limited before it is read, a block is read only if it was requested, and the server has a memory
//! limit for each peer, for each host and for all.

mod client;
mod counters;
mod frames;
mod lookup;
mod pace;
mod peer_limits;
mod rate_limit;
mod request_stream;
mod server;

use std::io;

pub use client::{Holding, PeerStatus, Transfers, Withdrawn};
pub use counters::{BlockBytes, Counters};
pub use rate_limit::RateLimiter;
pub use request_stream::Failure;
pub use server::{ServeOptions, serve};

use libp2p::StreamProtocol;

use crate::wire::WireError;

/// The name of the protocol.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/storgo/transfer/1.0.0");

/// Why a stream has failed.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    /// The stream broke, or the peer closed it.
    #[error("the stream broke: {0}")]
    Lost(#[from] io::Error),
    /// No byte moved for too long.
    #[error("the peer has stalled")]
    Stalled,
    /// The peer sent bytes that are not a message.
    #[error("the peer breaks the protocol: {0}")]
    Wire(#[from] WireError),
    /// The peer sent a message that is not allowed here.
    #[error("the peer breaks the protocol: {0}")]
    Violation(&'static str),
    /// The peer or this node refused the request.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer has too many requests.
    #[error("the peer is busy")]
    Busy,
}

impl TransferError {
    /// Returns whether the peer breaks the protocol, so that another request is pointless.
    fn is_hostile(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::Violation(_))
    }
}

#[cfg(test)]
#[path = "transfer/tests.rs"]
mod tests;
