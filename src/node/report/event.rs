//! The events of a node.

use serde::{Deserialize, Serialize};

use crate::content::cid::Cid;

/// Something that happened on this node, for `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A peer is connected.
    PeerConnected {
        /// Its id.
        peer: String,
        /// Its address.
        addr: String,
    },
    /// A peer is gone.
    PeerLost {
        /// Its id.
        peer: String,
    },
    /// The node listens on an address.
    Listening {
        /// The address.
        addr: String,
    },
    /// Another machine runs with this node's identity.
    SameIdentity {
        /// Where it was met.
        addr: String,
    },
    /// A file was stored.
    Stored {
        /// Its root.
        cid: Cid,
        /// Plaintext bytes.
        size: u64,
    },
    /// A file was removed.
    Removed {
        /// Its root.
        cid: Cid,
    },
    /// A root was announced to the DHT.
    Announced {
        /// The root.
        cid: Cid,
        /// Peers that took the record.
        peers: u32,
    },
    /// A block was bad and is in quarantine.
    BadBlock {
        /// The block.
        cid: Cid,
        /// Where it came from: `disk` or a peer id.
        origin: String,
    },
    /// Collection removed blocks.
    Collected {
        /// Blocks removed.
        blocks: u64,
        /// Bytes freed.
        bytes: u64,
    },
    /// The reader was too slow: this many events were skipped.
    Skipped {
        /// How many.
        count: u64,
    },
}
