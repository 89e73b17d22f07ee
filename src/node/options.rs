//! The options of a node.

use std::{path::PathBuf, time::Duration};

use libp2p::Multiaddr;

use crate::{
    catalogue,
    content::{chunk::Chunker, secret::ClusterKey},
    store::StoreOptions,
};

/// Options of [`Node::start`](super::Node::start). All but the data directory have defaults for a machine at home.
///
/// ```
/// use storgo::node::NodeOptions;
///
/// let options = NodeOptions { mdns: false, ..NodeOptions::new("/var/lib/storgo") };
/// assert!(options.bootstrap.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The data directory, which also contains the identity, and the limits of the store.
    pub store: StoreOptions,
    /// Addresses to listen on. Port 0 means any free port.
    pub listen: Vec<Multiaddr>,
    /// Further addresses at which peers reach this node, for example behind a port forwarding.
    pub external: Vec<Multiaddr>,
    /// Peers to join the swarm through, with or without `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// The cluster of this node; `None` means an open node.
    pub cluster: Option<ClusterKey>,
    /// Whether to find peers on the local network by multicast DNS.
    pub mdns: bool,
    /// Whether to relay connections to peers that cannot be dialled.
    pub relay_server: bool,
    /// Failure domain, sent to peers: machines of one region may fail together.
    pub region: Option<String>,
    /// Maximum number of connections.
    pub max_connections: u32,
    /// Bytes per second that scrubbing may read; 0 turns it off.
    pub scrub_rate: u64,
    /// Bytes per second sent to all peers together; `None` means no limit.
    pub upload_limit: Option<u64>,
    /// How files are cut.
    pub chunker: Chunker,
    /// Time without progress after which a read fails.
    pub timeout: Duration,
    /// Whether to start without a network, for commands that use the data directory only.
    pub offline: bool,
}

impl NodeOptions {
    /// Default options with a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            store: StoreOptions { observers: catalogue::observers(), ..StoreOptions::new(data_dir) },
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            cluster: None,
            mdns: true,
            relay_server: false,
            region: None,
            max_connections: 512,
            scrub_rate: 4 << 20,
            upload_limit: None,
            chunker: Chunker::default(),
            timeout: Duration::from_secs(60),
            offline: false,
        }
    }
}
