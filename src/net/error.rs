//! Errors of the network.

use std::io;

use libp2p::{Multiaddr, PeerId, StreamProtocol};

use crate::content::cid::Cid;

/// Why a peer cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialCause {
    /// The address is that of this node.
    OwnAddress,
    /// The two nodes do not have the same cluster key.
    OtherCluster,
    /// Another peer is at the address.
    OtherPeer,
    /// The host name does not exist.
    UnknownHost,
    /// The host refused the connection: nothing listens on the port.
    Refused,
    /// No answer, or another failure.
    Other,
}

/// Errors of the network.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The network could not be set up.
    #[error("the network cannot be set up: {0}")]
    Setup(String),
    /// Listening on an address failed.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// The system's message, for display.
        reason: String,
    },
    /// A peer cannot be reached.
    #[error("cannot connect: {reason}")]
    Dial {
        /// The cause, as far as the next step depends on it.
        cause: DialCause,
        /// The reason, for people.
        reason: String,
    },
    /// No address of the peer is known, here or in the DHT.
    #[error("no address of peer {0} is known")]
    NoAddress(PeerId),
    /// The peer does not support the protocol.
    #[error("the peer does not support {0}")]
    UnsupportedProtocol(StreamProtocol),
    /// A stream could not be opened.
    #[error("cannot open a stream: {0}")]
    Stream(String),
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
    /// This node does not announce the root.
    #[error("{0} is not announced by this node")]
    NotProvided(Cid),
}
