//! The task that owns the swarm. What the swarm says is dealt with in `events`.

mod events;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    futures::StreamExt,
    kad, relay,
    swarm::{self, ConnectionId, DialError, SwarmEvent, dial_opts::DialOpts},
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::Instant,
};

use super::{
    NetError, NetEvent, NetOptions, RememberedPeer, Shared, Snapshot,
    announce::Announcer,
    behaviour::{Behaviour, kad_protocol},
    discovery::{Bootstrap, Shunned, dial_opts, peer_of},
    records::AddressBook,
    streams::{Incoming, Reply},
    transport,
};
use crate::content::cid::Cid;

/// How long listening may take to begin.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// Questions to the DHT at a time; more wait.
const QUERIES: usize = 32;
/// Questions that may wait; more are answered with nothing.
const WAITING_QUERIES: usize = 4096;
/// How often expired records are dropped.
const EXPIRY: Duration = Duration::from_secs(600);
/// Peers that are remembered for the next start.
const REMEMBERED: usize = 256;

type Dialed = oneshot::Sender<Result<PeerId, NetError>>;

/// What the handles ask of the task.
pub(super) enum Command {
    Connect { addr: Multiaddr, reply: Dialed },
    Open { peer: PeerId, reply: Reply },
    Providers { root: Cid, found: mpsc::Sender<PeerId> },
    Provide { root: Cid },
    Unprovide { root: Cid },
    Announced { root: Cid, reply: oneshot::Sender<u32> },
    Closest { root: Cid, reply: oneshot::Sender<Vec<PeerId>> },
    DropProvider { root: Cid, peer: PeerId },
    Snapshot { reply: oneshot::Sender<Snapshot> },
    Shutdown,
}

/// A question to the DHT.
enum Query {
    Providers {
        root: Cid,
        found: mpsc::Sender<PeerId>,
    },
    Closest {
        root: Cid,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    /// Where is this peer? Streams are waiting for it.
    Address {
        peer: PeerId,
    },
}

pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Mutex<Shared>>,
    events: broadcast::Sender<NetEvent>,
    kad_protocol: libp2p::StreamProtocol,
    announcer: Announcer,
    bootstrap: Bootstrap,
    shunned: Shunned,
    book: AddressBook,
    dht_peers: HashSet<PeerId>,
    dialing: HashMap<ConnectionId, Vec<Dialed>>,
    /// Streams that wait for a connection, and whether the DHT has been asked for the peer's address.
    opening: HashMap<PeerId, (Vec<Reply>, bool)>,
    queries: HashMap<kad::QueryId, Query>,
    waiting: VecDeque<Query>,
    next_expiry: Instant,
}

pub(super) async fn start(
    options: NetOptions,
    commands: mpsc::Receiver<Command>,
    incoming: mpsc::Sender<Incoming>,
    shared: Arc<Mutex<Shared>>,
    events: broadcast::Sender<NetEvent>,
) -> Result<Task, NetError> {
    let local = options.keypair.public().to_peer_id();
    let (relay_transport, relay_client) = relay::client::new(local);
    let transport = transport::build(&options.keypair, options.membership.as_ref(), relay_transport)?;
    let behaviour = Behaviour::new(&options, &options.keypair, relay_client, incoming);
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    let mut task = Task {
        swarm: Swarm::new(transport, behaviour, local, config),
        commands,
        shared,
        events,
        kad_protocol: kad_protocol(options.membership.as_ref()),
        announcer: Announcer::default(),
        bootstrap: Bootstrap::new(options.bootstrap),
        shunned: Shunned::default(),
        book: AddressBook::default(),
        dht_peers: HashSet::new(),
        dialing: HashMap::new(),
        opening: HashMap::new(),
        queries: HashMap::new(),
        waiting: VecDeque::new(),
        next_expiry: Instant::now() + EXPIRY,
    };
    task.listen(options.listen).await?;
    for addr in options.external {
        task.swarm.add_external_address(addr);
    }
    for RememberedPeer { peer, addrs } in options.remembered.into_iter().take(REMEMBERED) {
        for addr in addrs.into_iter().rev() {
            task.book.add(peer, addr);
        }
        task.dial(peer);
    }
    Ok(task)
}

impl Task {
    async fn listen(&mut self, addrs: Vec<Multiaddr>) -> Result<(), NetError> {
        let mut waiting: HashMap<ListenerId, Multiaddr> = HashMap::new();
        for addr in &addrs {
            check_free(addr)?;
        }
        for addr in addrs {
            let failed = |addr: &Multiaddr, reason: String| NetError::Listen { addr: addr.clone(), reason };
            let id = self.swarm.listen_on(addr.clone()).map_err(|e| failed(&addr, reason(&e)))?;
            waiting.insert(id, addr);
        }
        let deadline = Instant::now() + LISTEN_DEADLINE;
        while !waiting.is_empty() {
            let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await else {
                let addr = waiting.into_values().next().unwrap_or_else(Multiaddr::empty);
                return Err(NetError::Listen { addr, reason: "it takes too long".into() });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                SwarmEvent::ListenerClosed { listener_id, reason: Err(e), .. } => {
                    if let Some(addr) = waiting.remove(listener_id) {
                        return Err(NetError::Listen { addr, reason: e.to_string() });
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        Ok(())
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = [self.announcer_due(), self.bootstrap.next_due(), Some(self.next_expiry)];
            let due = due.into_iter().flatten().min().unwrap_or(self.next_expiry);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    None | Some(Command::Shutdown) => return,
                    Some(command) => self.on_command(command),
                },
                () = tokio::time::sleep_until(due) => {}
            }
            self.on_time();
        }
    }

    fn announcer_due(&self) -> Option<Instant> {
        // With nobody to tell, announcing waits for the first peer.
        if self.dht_peers.is_empty() { None } else { self.announcer.next_due() }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        for opts in self.bootstrap.due(now) {
            let id = opts.connection_id();
            if let Err(error) = self.swarm.dial(opts) {
                self.bootstrap.failed(id, &error);
            }
        }
        if !self.dht_peers.is_empty() {
            while let Some(cid) = self.announcer.next(now) {
                match self.swarm.behaviour_mut().kad.start_providing(key(&cid)) {
                    Ok(query) => self.announcer.begun(query, cid),
                    Err(error) => {
                        tracing::warn!(%cid, "cannot announce: {error}");
                        self.announcer.failed(cid);
                    }
                }
            }
        }
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRY;
            self.swarm.behaviour_mut().kad.store_mut().expire(std::time::Instant::now());
        }
    }

    fn share(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn emit(&self, event: NetEvent) {
        drop(self.events.send(event));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { addr, reply } => self.connect(addr, reply),
            Command::Open { peer, reply } => self.open(peer, reply),
            Command::Providers { root, found } => {
                let known = kad::store::RecordStore::providers(
                    self.swarm.behaviour_mut().kad.store_mut(),
                    &key(&root),
                );
                let local = *self.swarm.local_peer_id();
                for record in known.into_iter().filter(|record| record.provider != local) {
                    let _ = found.try_send(record.provider);
                }
                self.ask(Query::Providers { root, found });
            }
            Command::Provide { root } => {
                self.announcer.add(root);
                self.count_announcements(0);
            }
            Command::Unprovide { root } => {
                self.announcer.remove(&root);
                self.swarm.behaviour_mut().kad.stop_providing(&key(&root));
                self.count_announcements(0);
            }
            Command::Announced { root, reply } => self.announcer.wait(&root, reply),
            Command::Closest { root, reply } => self.ask(Query::Closest { root, reply }),
            Command::DropProvider { root, peer } => {
                let records = self.swarm.behaviour_mut().kad.store_mut();
                kad::store::RecordStore::remove_provider(records, &key(&root), &peer);
            }
            Command::Snapshot { reply } => drop(reply.send(self.snapshot())),
            Command::Shutdown => {}
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let remembered = self.book.all(&self.dht_peers).take(REMEMBERED);
        Snapshot {
            remembered: remembered.map(|(peer, addrs)| RememberedPeer { peer, addrs }).collect(),
            records: self.swarm.behaviour_mut().kad.store_mut().snapshot(std::time::Instant::now()),
        }
    }

    fn count_announcements(&self, more: u64) {
        let queued = self.announcer.queued(Instant::now());
        self.share(|shared| {
            shared.announced += more;
            shared.queued = queued;
        });
    }

    fn connect(&mut self, addr: Multiaddr, reply: Dialed) {
        if let Some(peer) = peer_of(&addr).filter(|peer| self.swarm.is_connected(peer)) {
            drop(reply.send(Ok(peer)));
            return;
        }
        let opts = dial_opts(addr);
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => self.dialing.entry(id).or_default().push(reply),
            Err(error) => drop(reply.send(Err(dial_error(&error)))),
        }
    }

    fn open(&mut self, peer: PeerId, reply: Reply) {
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, reply);
            return;
        }
        let first = !self.opening.contains_key(&peer);
        self.opening.entry(peer).or_default().0.push(reply);
        if first {
            self.dial(peer);
        }
    }

    /// Dials a peer by the addresses known here; without any, asks the DHT.
    fn dial(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer) || peer == *self.swarm.local_peer_id() {
            return;
        }
        let opts = DialOpts::peer_id(peer)
            .addresses(self.book.of(&peer))
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(opts) {
            // Already on its way: its end is ours too.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(_) => self.look_up(peer),
        }
    }

    /// Where a peer could not be dialled: asks the DHT once where it is.
    fn look_up(&mut self, peer: PeerId) {
        let Some((_, asked)) = self.opening.get_mut(&peer) else {
            return;
        };
        if *asked || self.dht_peers.is_empty() {
            let replies = self.opening.remove(&peer).map(|(replies, _)| replies).unwrap_or_default();
            for reply in replies {
                drop(reply.send(Err(NetError::NoAddress(peer))));
            }
            return;
        }
        *asked = true;
        self.ask(Query::Address { peer });
    }

    fn ask(&mut self, query: Query) {
        if self.queries.len() < QUERIES {
            let kad = &mut self.swarm.behaviour_mut().kad;
            let id = match &query {
                Query::Providers { root, .. } => kad.get_providers(key(root)),
                Query::Closest { root, .. } => kad.get_closest_peers(root.multihash().to_vec()),
                Query::Address { peer } => kad.get_closest_peers(*peer),
            };
            self.queries.insert(id, query);
        } else if self.waiting.len() < WAITING_QUERIES {
            self.waiting.push_back(query);
        }
    }
}

/// Listeners share ports on purpose (hole punching needs it), so two nodes could sit on one port and each get half of
/// the callers. A plain bind tells whether anybody is there.
fn check_free(addr: &Multiaddr) -> Result<(), NetError> {
    use libp2p::multiaddr::Protocol;

    let mut parts = addr.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => std::net::IpAddr::from(ip),
        Some(Protocol::Ip6(ip)) => std::net::IpAddr::from(ip),
        _ => return Ok(()),
    };
    let bound = match parts.next() {
        Some(Protocol::Tcp(port)) if port > 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        Some(Protocol::Udp(port)) if port > 0 => std::net::UdpSocket::bind((ip, port)).map(drop),
        _ => Ok(()),
    };
    match bound {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            Err(NetError::Listen { addr: addr.clone(), reason: "the port is in use".into() })
        }
        // Anything else is better told by who really listens.
        _ => Ok(()),
    }
}

/// The DHT's key of a root: its multihash.
fn key(root: &Cid) -> kad::RecordKey {
    kad::RecordKey::new(&root.multihash())
}

fn dial_error(error: &DialError) -> NetError {
    match error {
        DialError::WrongPeerId { obtained, .. } => {
            NetError::Dial(format!("another peer is at this address: {obtained}"))
        }
        DialError::LocalPeerId { .. } => NetError::Dial("this address is our own".into()),
        DialError::Transport(tried) => {
            let reasons: Vec<String> =
                tried.iter().map(|(addr, e)| format!("{addr}: {}", reason(e))).collect();
            NetError::Dial(reasons.join("; "))
        }
        other => NetError::Dial(other.to_string()),
    }
}

/// What lies at the bottom of an error: the wrappers above it say nothing.
fn reason(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}
