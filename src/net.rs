//! The swarm: who is there, who has what, and streams between nodes.
//!
//! ```text
//! Net (handles) ─ bounded commands ─▶ task: owns the Swarm, does nothing else
//!      ◀── replies, events, streams ──┘      behaviour: Kademlia, Identify, Ping, mDNS, relay, streams, limits
//! ```
//! Bulk bytes never pass through the task: a stream is handed to its opener or to the server of its protocol.
//! `provider_records` holds what peers announce, `announce` paces our own announcements, and `transport` is where TCP and
//! QUIC demand the cluster's key before any other protocol.

mod address_book;
mod address_ranking;
mod announce;
mod behaviour;
mod dial_backoff;
mod discovery;
mod expected;
mod identify_limit;
mod keep;
mod mux;
mod proof;
mod provider_records;
mod quic_fallback;
mod socket;
mod streams;
mod task;
mod transport;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, identity::Keypair, swarm::ConnectionId};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
};

use crate::content::{cid::Cid, secret::MembershipKey};
use task::Command;

/// The protocol that moves blocks.
pub const TRANSFER_PROTOCOL: StreamProtocol = StreamProtocol::new("/storgo/transfer/1.0.0");

/// Commands that wait for the task.
const COMMANDS: usize = 256;
/// Streams of peers that wait to be served.
const INCOMING: usize = 64;
/// Events that a slow listener may be behind.
const EVENTS: usize = 1024;
/// Tries to open a stream on a connection that lives.
const OPEN_TRIES: usize = 3;

/// How the network is started.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Who we are.
    pub keypair: Keypair,
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others reach us, where we cannot know them.
    pub external: Vec<Multiaddr>,
    /// Peers to find the swarm by, with or without `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// The cluster's key; none: an open node.
    pub membership: Option<MembershipKey>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to relay for others.
    pub relay_server: bool,
    /// Bytes that one circuit carries, each way, where this node relays. Whoever needs more asks for another circuit.
    pub circuit_bytes: u64,
    /// Connections at most; a quarter of them is for those that we open, and a quarter may stay while idle.
    pub max_connections: u32,
    /// How long a connection on which nothing is done stays, where it is not one that stays anyway.
    pub idle_timeout: Duration,
    /// How long a provider record of another peer lives here where that does not announce it again.
    pub record_ttl: Duration,
    /// How long after an announcement the root is announced again.
    pub republish: Duration,
    /// Peers of an earlier run.
    pub remembered: Vec<RememberedPeer>,
    /// Provider records of an earlier run, as [`Snapshot::records`] gave them.
    pub records: Vec<u8>,
}

impl NetOptions {
    /// An open node that listens nowhere and knows nobody.
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
        }
    }
}

/// A peer and where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedPeer {
    /// Its id.
    pub peer: PeerId,
    /// Its addresses, newest first.
    pub addrs: Vec<Multiaddr>,
}

/// What a node should still know after a restart.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Peers of our own DHT, most recently seen first.
    pub remembered: Vec<RememberedPeer>,
    /// Provider records held for others.
    pub records: Vec<u8>,
    /// Another number after each change of the records.
    pub records_version: u64,
}

/// An error of the network.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The network could not be set up.
    #[error("the network cannot be set up: {0}")]
    Setup(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// The kind of the system's error: doors decide by this one.
        kind: io::ErrorKind,
        /// The system's message, for display.
        reason: String,
    },
    /// A peer cannot be reached.
    #[error("cannot connect: {0}")]
    Dial(String),
    /// No address of the peer is known, here or in the DHT.
    #[error("no address of peer {0} is known")]
    NoAddress(PeerId),
    /// The peer speaks, but not our protocol.
    #[error("the peer does not speak {TRANSFER_PROTOCOL}")]
    NotStorgo,
    /// A stream could not be opened.
    #[error("cannot open a stream: {0}")]
    Stream(String),
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
    /// Nobody has said that this root is to be announced.
    #[error("{0} is not announced by this node")]
    NotProvided(Cid),
}

/// What happens in the network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NetEvent {
    /// A peer is connected.
    Connected {
        /// Its id.
        peer: PeerId,
        /// Where it is.
        addr: Multiaddr,
    },
    /// The last connection to a peer is gone.
    Lost {
        /// Its id.
        peer: PeerId,
    },
    /// A peer has said that it speaks our DHT protocol.
    DhtPeer {
        /// Its id.
        peer: PeerId,
    },
    /// We listen on an address.
    Listening {
        /// The address.
        addr: Multiaddr,
    },
    /// Another machine runs with our identity.
    SameIdentity {
        /// Where it was met.
        addr: Multiaddr,
    },
    /// A root was announced.
    Announced {
        /// The root.
        cid: Cid,
        /// Peers to which the record was sent. An estimate: nobody answers to one.
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
    /// Round trip of the last ping.
    pub rtt: Option<Duration>,
    /// What it says it is.
    pub agent: Option<String>,
    /// Whether it speaks our DHT protocol.
    pub dht: bool,
}

impl PeerInfo {
    /// `tcp`, `quic` or `memory`, of the first connection.
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

    /// Whether all connections run over a relay.
    pub fn relayed(&self) -> bool {
        !self.addrs.is_empty() && self.addrs.iter().all(address_ranking::is_relayed)
    }
}

/// What everybody may look at without asking the task.
#[derive(Default)]
struct Shared {
    peers: HashMap<PeerId, Peer>,
    listen: Vec<Multiaddr>,
    twin: Option<Multiaddr>,
    announced: u64,
    queued: u64,
    /// Where a node of another cluster was called.
    outside: Option<Multiaddr>,
}

#[derive(Default)]
struct Peer {
    connections: HashMap<ConnectionId, Multiaddr>,
    rtt: Option<Duration>,
    agent: Option<String>,
    dht: bool,
}

/// A handle on the running network.
#[derive(Clone)]
pub struct Net {
    commands: mpsc::Sender<Command>,
    shared: Arc<Mutex<Shared>>,
    events: broadcast::Sender<NetEvent>,
    local: PeerId,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Streams that peers open to us.
pub type IncomingStreams = mpsc::Receiver<(PeerId, Stream)>;

impl Net {
    /// Starts the swarm; returns when it listens on every address asked for.
    ///
    /// # Errors
    /// [`NetError::Listen`] names the address, for example of a port that is taken; [`NetError::Setup`].
    pub async fn start(options: NetOptions) -> Result<(Self, IncomingStreams), NetError> {
        let local = options.keypair.public().to_peer_id();
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (incoming, streams) = mpsc::channel(INCOMING);
        let (events, _) = broadcast::channel(EVENTS);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let task = task::start(options, queue, incoming, Arc::clone(&shared), events.clone()).await?;
        let task = Arc::new(Mutex::new(Some(tokio::spawn(task.run()))));
        Ok((Self { commands, shared, events, local, task }, streams))
    }

    /// Our peer id.
    pub fn peer_id(&self) -> PeerId {
        self.local
    }

    /// Addresses at which we can be dialled, `/p2p/…` included.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        let with_id = |addr: &Multiaddr| addr.clone().with_p2p(self.local).unwrap_or_else(|addr| addr);
        self.look(|shared| shared.listen.iter().map(with_id).collect())
    }

    fn look<T>(&self, read: impl FnOnce(&Shared) -> T) -> T {
        read(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Connected peers.
    pub fn connected(&self) -> Vec<PeerId> {
        self.look(|shared| shared.peers.keys().copied().collect())
    }

    /// Connected peers, with everything known of them.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.look(|shared| {
            let describe = |(peer, state): (&PeerId, &Peer)| PeerInfo {
                peer: *peer,
                addrs: state.connections.values().cloned().collect(),
                rtt: state.rtt,
                agent: state.agent.clone(),
                dht: state.dht,
            };
            shared.peers.iter().map(describe).collect()
        })
    }

    /// Where another machine that runs with our identity was met.
    pub fn twin(&self) -> Option<Multiaddr> {
        self.look(|shared| shared.twin.clone())
    }

    /// Where the last node was called that belongs to another cluster than this one.
    pub fn outside(&self) -> Option<Multiaddr> {
        self.look(|shared| shared.outside.clone())
    }

    /// Roots announced since start, and roots that wait for it.
    pub fn announcements(&self) -> (u64, u64) {
        self.look(|shared| (shared.announced, shared.queued))
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<NetEvent> {
        self.events.subscribe()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NetError::Closed)?;
        answer.await.map_err(|_| NetError::Closed)
    }

    async fn tell(&self, command: Command) {
        // After shutdown there is nobody to tell, and nothing to do.
        drop(self.commands.send(command).await);
    }

    /// Connects to an address, with or without `/p2p/…`.
    ///
    /// # Errors
    /// [`NetError::Dial`], [`NetError::Closed`].
    pub async fn connect(&self, addr: Multiaddr) -> Result<PeerId, NetError> {
        self.ask(|reply| Command::Connect { addr, reply }).await?
    }

    /// Opens a stream to a peer; connects first where there is no connection, by the addresses known here or in the
    /// DHT. The protocol is offered together with the first bytes: a peer that does not speak it is found out by the
    /// first read.
    ///
    /// # Errors
    /// [`NetError::Dial`], [`NetError::NoAddress`], [`NetError::NotStorgo`], [`NetError::Stream`].
    pub async fn open(&self, peer: PeerId) -> Result<Stream, NetError> {
        let mut tries = OPEN_TRIES;
        loop {
            tries -= 1;
            match self.ask(|reply| Command::Open { peer, reply }).await {
                // A connection can close between two steps of an open; the next try dials again.
                Ok(Err(NetError::Stream(_))) | Err(NetError::Closed)
                    if tries > 0 && !self.commands.is_closed() => {}
                Ok(opened) => return opened,
                Err(error) => return Err(error),
            }
        }
    }

    /// Who announces a root: as they are found, until the question ends or the receiver is dropped.
    pub async fn find_providers(&self, root: Cid) -> mpsc::Receiver<PeerId> {
        let (found, providers) = mpsc::channel(256);
        self.tell(Command::Providers { root, found }).await;
        providers
    }

    /// Announces a root, now and again before the announcement expires.
    pub async fn provide(&self, root: Cid) {
        self.tell(Command::Provide { root }).await;
    }

    /// Ends the announcement of a root; returns when none is on its way any more. Peers that have the record keep it
    /// until they are told: see `transfer`.
    pub async fn unprovide(&self, root: Cid) {
        // After shutdown nothing is on its way either.
        drop(self.ask(|done| Command::Unprovide { root, done }).await);
    }

    /// Waits until a root that is [provided](Net::provide) has been announced; answers to how many peers the record
    /// was sent, which is an estimate: nobody answers to one.
    ///
    /// # Errors
    /// [`NetError::NotProvided`], also where it is not any more; [`NetError::Closed`].
    pub async fn announced(&self, root: Cid) -> Result<u32, NetError> {
        self.ask(|reply| Command::Announced { root, reply }).await?.ok_or(NetError::NotProvided(root))
    }

    /// Whether no announcement of ours of a root can arrive anywhere any more: some seconds after it is no longer
    /// [provided](Net::unprovide). What is withdrawn before may come back.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn is_settled(&self, root: Cid) -> Result<bool, NetError> {
        self.ask(|reply| Command::Settled { root, reply }).await
    }

    /// The peers whose ids are closest to a root: those that hold its provider records.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn closest_peers(&self, root: Cid) -> Result<Vec<PeerId>, NetError> {
        self.ask(|reply| Command::Closest { root, reply }).await
    }

    /// Drops the record that says that `peer` has `root`: for a peer that withdraws its own.
    pub async fn drop_provider(&self, root: Cid, peer: PeerId) {
        self.tell(Command::DropProvider { root, peer }).await;
    }

    /// What to keep for the next start.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn snapshot(&self) -> Result<Snapshot, NetError> {
        self.snapshot_since(None).await
    }

    /// What to keep for the next start; without the records where their version is still `seen`.
    ///
    /// # Errors
    /// [`NetError::Closed`].
    pub async fn snapshot_since(&self, seen: Option<u64>) -> Result<Snapshot, NetError> {
        self.ask(|reply| Command::Snapshot { seen, reply }).await
    }

    /// Closes all connections and ends the task.
    pub async fn shutdown(&self) {
        self.tell(Command::Shutdown).await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}
