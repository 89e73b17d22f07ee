//! What a node is started with.

use std::{path::PathBuf, time::Duration};

use libp2p::Multiaddr;

use crate::{
    content::{chunk::Chunker, secret::ClusterKey},
    store::Layout,
};

/// Options of [`Node::start`](super::Node::start). Every field has a default that fits a machine at home;
/// `data_dir` is the one that nobody else can know.
///
/// ```
/// use storgo::node::NodeOptions;
///
/// let options = NodeOptions { mdns: false, ..NodeOptions::new("/var/lib/storgo") };
/// assert!(options.bootstrap.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where identity, blocks and index live. Made where it does not exist.
    pub data_dir: PathBuf,
    /// Addresses to listen on. Port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node, where it cannot know them itself.
    pub external: Vec<Multiaddr>,
    /// Peers to find the swarm by, with or without `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// The cluster this node belongs to; none: an open node.
    pub cluster: Option<ClusterKey>,
    /// Whether to find peers on the local network by multicast DNS.
    pub mdns: bool,
    /// Whether to relay connections for peers that cannot be dialled.
    pub relay_server: bool,
    /// Where this machine is, in a word, said to peers: machines of one region may fail together.
    pub region: Option<String>,
    /// Connections held at most.
    pub max_connections: u32,
    /// How block files are laid out in folders.
    pub layout: Layout,
    /// Hard limit in bytes for blocks on disk; none: the disk is the limit.
    pub capacity: Option<u64>,
    /// Bytes of evictable cache.
    pub cache_size: u64,
    /// How long a block without a file is kept before it is collected.
    pub grace: Duration,
    /// Bytes per second that the background check of stored blocks may read; 0: no background check.
    pub scrub_rate: u64,
    /// Bytes per second that peers may be sent, all together; none: no limit.
    pub upload_limit: Option<u64>,
    /// How files are cut.
    pub chunker: Chunker,
    /// How long a read waits without progress before it gives up.
    pub timeout: Duration,
    /// No network at all: for commands that only look at the data directory.
    pub offline: bool,
}

impl NodeOptions {
    /// The defaults, with this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            cluster: None,
            mdns: true,
            relay_server: false,
            region: None,
            max_connections: 512,
            layout: Layout::default(),
            capacity: None,
            cache_size: 10 << 30,
            grace: Duration::from_secs(60 * 60),
            scrub_rate: 4 << 20,
            upload_limit: None,
            chunker: Chunker::default(),
            timeout: Duration::from_secs(60),
            offline: false,
        }
    }
}
