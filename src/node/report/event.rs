//! The events of a node.

use serde::{Deserialize, Serialize};

use crate::content::cid::Cid;

/// Something that happened on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A peer connected.
    PeerConnected {
        /// Its id.
        peer: String,
        /// Its address.
        addr: String,
    },
    /// The last connection to a peer closed.
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
        /// Its address.
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
        /// Peers that accepted the record.
        peers: u32,
    },
    /// A damaged block was moved to quarantine.
    BadBlock {
        /// The block.
        cid: Cid,
        /// `disk`, or the id of the peer that sent it.
        origin: String,
    },
    /// A folder was read without entries whose blocks are damaged or missing.
    LeftOut {
        /// The root of the folder.
        cid: Cid,
        /// Number of these entries.
        count: u64,
        /// The paths of the first of them.
        paths: Vec<String>,
    },
    /// Collection removed blocks.
    Collected {
        /// Blocks removed.
        blocks: u64,
        /// Bytes freed.
        bytes: u64,
    },
    /// The subscriber was too slow and missed events.
    Skipped {
        /// Number of missed events.
        count: u64,
    },
}
