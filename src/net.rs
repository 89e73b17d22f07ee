//! The libp2p swarm: connected peers, provider records in the DHT, and streams between nodes.
//!
//! ```text
//! Net (handles) ─ bounded commands ─▶ task: owns the Swarm, does nothing else
//!      ◀── replies, events, streams ──┘      behaviour: Kademlia, Identify, Ping, mDNS, relay, streams, limits
//! ```
//! Bulk bytes never pass through the task: a stream is handed to its opener or to the server of its protocol, which
//! `protocols` lists. `provider_records` holds the records of peers and `announce` schedules the own ones. `transport`
//! demands the cluster's key on TCP and QUIC before any protocol starts.

mod address_book;
mod address_ranking;
mod announce;
mod behaviour;
mod connected;
mod connection_limits;
mod delivered;
mod dial_back;
mod dial_backoff;
mod dial_failure;
mod discovery;
mod error;
mod filtered;
mod host;
mod identify_limit;
mod identify_scope;
mod mux;
mod peer_check;
mod pending_limits;
mod proof;
mod protected_peers;
mod protocols;
mod provider_records;
mod strangers;
mod streams;
mod task;
mod transport;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, identity::Keypair};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
};

use crate::content::{cid::Cid, secret::MembershipKey};
use connected::{Peer, Shared};
use delivered::DeliveredPeers;
pub use error::{DialCause, NetError};
pub use host::{Group, Host};
pub use protocols::{IncomingStreams, Protocols};
use strangers::Strangers;
use streams::OpenStream;
use task::Command;

/// Maximum commands queued for the task.
const COMMANDS: usize = 256;
/// Maximum events buffered for a slow subscriber.
const EVENTS: usize = 1024;
/// Attempts to open one stream.
const OPEN_ATTEMPTS: usize = 3;

/// Options of [`Net::start`].
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Identity of this node.
    pub keypair: Keypair,
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which peers can reach this node and which it cannot detect itself.
    pub external: Vec<Multiaddr>,
    /// Addresses of peers to join the swarm through, with or without `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// The cluster's key. `None` means an open node.
    pub membership: Option<MembershipKey>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to relay connections of other peers.
    pub relay_server: bool,
    /// Maximum bytes per relayed circuit and direction. A peer that needs more requests another circuit.
    pub circuit_bytes: u64,
    /// Maximum connections, or less if this process may open few files. A quarter is reserved for dialled and for known
    /// peers, and a quarter may stay open while idle.
    pub max_connections: u32,
    /// Idle time after which an unprotected connection is closed.
    pub idle_timeout: Duration,
    /// Lifetime of a peer's provider record that the peer does not renew.
    pub record_ttl: Duration,
    /// Interval at which each root is announced again.
    pub republish: Duration,
    /// Peers remembered from the last run.
    pub remembered: Vec<RememberedPeer>,
    /// Provider records of the last run, from [`Snapshot::records`].
    pub records: Vec<u8>,
    /// Addresses of earlier runs with this identity. A node that has it and answers there is another machine.
    pub former: Vec<Multiaddr>,
}

impl NetOptions {
    /// Returns options of an open node without listen addresses and bootstrap peers.
    pub fn new(keypair: Keypair) -> Self {
        Self {
            keypair,
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            membership: None,
            mdns: false,
            relay_server: false,
            circuit_bytes: 1 << 30,
            max_connections: 512,
            idle_timeout: Duration::from_secs(60),
            record_ttl: Duration::from_secs(48 * 3600),
            republish: Duration::from_secs(12 * 3600),
            remembered: Vec::new(),
            records: Vec::new(),
            former: Vec::new(),
        }
    }
}

/// A peer of the last run and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedPeer {
    /// Its id.
    pub peer: PeerId,
    /// Its addresses, newest first.
    pub addrs: Vec<Multiaddr>,
}

/// State that a node saves for its next start.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Peers of this DHT, most recently seen first.
    pub remembered: Vec<RememberedPeer>,
    /// Provider records of other peers.
    pub records: Vec<u8>,
    /// Changes with each change of the records.
    pub records_version: u64,
}

/// Events of the network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NetEvent {
    /// A peer is connected.
    Connected {
        /// Its id.
        peer: PeerId,
        /// Its address.
        addr: Multiaddr,
    },
    /// The last connection to a peer was closed.
    Lost {
        /// Its id.
        peer: PeerId,
    },
    /// A peer reported that it supports this DHT's protocol.
    DhtPeer {
        /// Its id.
        peer: PeerId,
    },
    /// This node listens on an address.
    Listening {
        /// The address.
        addr: Multiaddr,
    },
    /// Another machine uses this node's identity.
    DuplicateIdentity {
        /// Its address.
        addr: Multiaddr,
    },
    /// A root was announced.
    Announced {
        /// The root.
        cid: Cid,
        /// Estimated number of peers that got the record: the DHT does not acknowledge records.
        peers: u32,
    },
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Its id.
    pub peer: PeerId,
    /// The remote addresses of its connections.
    pub addrs: Vec<Multiaddr>,
    /// Round-trip time of the last ping.
    pub rtt: Option<Duration>,
    /// Agent version that it reports by Identify.
    pub agent: Option<String>,
    /// Whether it supports this DHT's protocol.
    pub dht: bool,
}

impl PeerInfo {
    /// Returns the transport of the first connection: `tcp`, `quic`, `memory` or `unknown`.
    pub fn transport(&self) -> &'static str {
        use libp2p::multiaddr::Protocol;

        let of = |part: Protocol<'_>| match part {
            Protocol::QuicV1 | Protocol::Quic => Some("quic"),
            Protocol::Tcp(_) => Some("tcp"),
            Protocol::Memory(_) => Some("memory"),
            _ => None,
        };
        self.addrs.first().and_then(|addr| addr.iter().find_map(of)).unwrap_or("unknown")
    }

    /// Returns whether all connections run over a relay.
    pub fn relayed(&self) -> bool {
        !self.addrs.is_empty() && self.addrs.iter().all(address_ranking::is_relayed)
    }
}

/// A handle on the running network.
#[derive(Clone)]
pub struct Net {
    commands: mpsc::Sender<Command>,
    shared: Shared,
    strangers: Strangers,
    delivered: DeliveredPeers,
    events: broadcast::Sender<NetEvent>,
    local: PeerId,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Net {
    /// Starts the swarm and accepts streams of these protocols. Returns when it listens on all requested addresses.
    ///
    /// # Errors
    /// [`NetError::Listen`], for example if a port is in use; [`NetError::Setup`].
    pub async fn start(options: NetOptions, protocols: Protocols) -> Result<Self, NetError> {
        let local = options.keypair.public().to_peer_id();
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let shared = Shared::default();
        let strangers = Strangers::new(options.membership.is_some(), shared.clone());
        let delivered = DeliveredPeers::default();
        let task = task::start(
            options,
            protocols,
            queue,
            shared.clone(),
            strangers.clone(),
            delivered.clone(),
            events.clone(),
        );
        let task = Arc::new(Mutex::new(Some(tokio::spawn(task.await?.run()))));
        Ok(Self { commands, shared, strangers, delivered, events, local, task })
    }

    /// Returns the peer id of this node.
    pub fn peer_id(&self) -> PeerId {
        self.local
    }

    /// Returns the addresses at which this node can be dialled, including `/p2p/…`.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        let with_id = |addr: &Multiaddr| addr.clone().with_p2p(self.local).unwrap_or_else(|addr| addr);
        self.shared.read(|shared| shared.listen.iter().map(with_id).collect())
    }

    /// Returns the connected peers.
    pub fn connected(&self) -> Vec<PeerId> {
        self.shared.read(|shared| shared.peers.keys().copied().collect())
    }

    /// Returns the connected peers with their details.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.read(|shared| {
            let describe = |(peer, state): (&PeerId, &Peer)| PeerInfo {
                peer: *peer,
                addrs: state.connections.values().map(|connection| connection.addr.clone()).collect(),
                rtt: state.rtt,
                agent: state.agent.clone(),
                dht: state.dht,
            };
            shared.peers.iter().map(describe).collect()
        })
    }

    /// Returns whether a peer is a stranger: this node is open, and no connection to the peer is within a private network.
    pub fn is_stranger(&self, peer: &PeerId) -> bool {
        self.strangers.is_stranger(peer)
    }

    /// Returns the peers with which a peer shares limits.
    pub fn group(&self, peer: PeerId) -> Group {
        if self.strangers.in_cluster || self.delivered.contains(&peer) {
            return Group::Peer(peer);
        }
        self.shared.read(|shared| shared.host(&peer)).map_or(Group::Peer(peer), Group::Host)
    }

    /// Returns the address of another machine that uses this node's identity, if one was detected.
    pub fn duplicate_identity(&self) -> Option<Multiaddr> {
        self.shared.read(|shared| shared.duplicate_identity.clone())
    }

    /// Returns the address of the last dialled node that belongs to another cluster.
    pub fn other_cluster(&self) -> Option<Multiaddr> {
        self.shared.read(|shared| shared.other_cluster.clone())
    }

    /// Returns the number of announcements since start, and of roots queued for one.
    pub fn announcements(&self) -> (u64, u64) {
        self.shared.read(|shared| (shared.announced, shared.queued))
    }

    /// Subscribes to events from now on.
    pub fn events(&self) -> broadcast::Receiver<NetEvent> {
        self.events.subscribe()
    }

    /// Sends a command and waits for the reply.
    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NetError::Closed)?;
        answer.await.map_err(|_| NetError::Closed)
    }

    async fn send(&self, command: Command) {
        // After shutdown there is nothing to do.
        drop(self.commands.send(command).await);
    }

    /// Connects to an address, with or without `/p2p/…`.
    ///
    /// # Errors
    /// [`NetError::Dial`], [`NetError::Closed`].
    pub async fn connect(&self, addr: Multiaddr) -> Result<PeerId, NetError> {
        self.call(|reply| Command::Connect { addr, reply }).await?
    }

    /// Opens a stream of a protocol to a peer. Connects first if needed, at addresses known here or in the DHT.
    ///
    /// The protocol is offered together with the first bytes, so a peer that does not support it fails the first read.
    ///
    /// # Errors
    /// [`NetError::Dial`], [`NetError::NoAddress`], [`NetError::UnsupportedProtocol`], [`NetError::Stream`].
    pub async fn open(&self, peer: PeerId, protocol: StreamProtocol) -> Result<Stream, NetError> {
        let mut attempts = OPEN_ATTEMPTS;
        loop {
            attempts -= 1;
            let protocol = protocol.clone();
            match self.call(|reply| Command::Open { peer, open: OpenStream { protocol, reply } }).await {
                // The connection can close while the stream opens. The next attempt dials again.
                Ok(Err(NetError::Stream(_))) | Err(NetError::Closed)
                    if attempts > 0 && !self.commands.is_closed() => {}
                Ok(opened) => return opened,
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the providers of a root as they are found, until the query ends or the receiver is dropped.
    pub async fn find_providers(&self, root: Cid) -> mpsc::Receiver<PeerId> {
        let (found, providers) = mpsc::channel(256);
        self.send(Command::Providers { root, found }).await;
        providers
    }

    /// Announces a root, now and again before the announcement expires.
    pub async fn provide(&self, root: Cid) {
        self.send(Command::Provide { root }).await;
    }

    /// Ends the announcement of a root. Returns when none is in flight. Peers that have the record keep it until it is
    /// withdrawn (see `transfer`) or expires.
    pub async fn unprovide(&self, root: Cid) {
        // After shutdown nothing is in flight either.
        drop(self.call(|done| Command::Unprovide { root, done }).await);
    }

    /// Waits until a [provided](Net::provide) root has been announced. Returns the estimated number of peers that got the
    /// record.
    ///
    /// # Errors
    /// [`NetError::NotProvided`], also if the announcement ends meanwhile; [`NetError::Closed`].
    pub async fn announced(&self, root: Cid) -> Result<u32, NetError> {
        self.call(|reply| Command::Announced { root, reply }).await?.ok_or(NetError::NotProvided(root))
    }

    /// Returns whether all announcements of a root have ended, some seconds after [`Net::unprovide`]. A record that is
    /// withdrawn earlier may be stored again by a late announcement.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn is_settled(&self, root: Cid) -> Result<bool, NetError> {
        self.call(|reply| Command::Settled { root, reply }).await
    }

    /// Returns the peers with the ids closest to a root, which hold its provider records.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn closest_peers(&self, root: Cid) -> Result<Vec<PeerId>, NetError> {
        self.call(|reply| Command::Closest { root, reply }).await
    }

    /// Notes that a peer has delivered a block. Its records are kept when those of others must go, and its connections go last.
    pub fn set_delivered(&self, peer: PeerId) {
        self.delivered.add(peer);
    }

    /// Returns whether a peer is among those that have delivered a block most recently since start.
    pub fn has_delivered(&self, peer: &PeerId) -> bool {
        self.delivered.contains(peer)
    }

    /// Drops the provider record of `peer` for `root`, at the request of that peer.
    pub async fn drop_provider(&self, root: Cid, peer: PeerId) {
        self.send(Command::DropProvider { root, peer }).await;
    }

    /// Returns the state to save for the next start.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn snapshot(&self) -> Result<Snapshot, NetError> {
        self.snapshot_since(None).await
    }

    /// Returns the state to save for the next start. The records are left out if their version is still `seen`.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn snapshot_since(&self, seen: Option<u64>) -> Result<Snapshot, NetError> {
        self.call(|reply| Command::Snapshot { seen, reply }).await
    }

    /// Closes all connections and ends the task.
    pub async fn shutdown(&self) {
        self.send(Command::Shutdown).await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}
