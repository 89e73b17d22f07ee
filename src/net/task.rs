//! The task that owns the swarm.

mod dialing;
mod duplicate_identity;
mod events;
mod query;
mod relaying;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{transport::ListenerId, upgrade::Version},
    futures::StreamExt,
    kad, relay,
    swarm::{self, ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::Instant,
};

use dialing::{Dials, Opening};
use duplicate_identity::DuplicateIdentity;
use query::Query;
use relaying::Relays;

use super::{
    NetError, NetEvent, NetOptions, RememberedPeer, Snapshot,
    address_book::AddressBook,
    announce::{Announcer, Growth},
    behaviour::{Behaviour, kad_protocol},
    connected::Shared,
    connection_limits::Limits,
    delivered::DeliveredPeers,
    dial_failure::root_cause,
    discovery::{Bootstrap, ReconnectSchedule},
    identify_limit::IdentifyLimit,
    protected_peers::ProtectedPeers,
    protocols::Protocols,
    provider_records::key,
    strangers::Strangers,
    streams::{OpenStream, Streams},
    transport,
};
use crate::content::cid::Cid;

/// Time within which a listener must start.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// Interval at which expired provider records are dropped.
const EXPIRY: Duration = Duration::from_secs(600);
/// Maximum peers remembered for the next start.
const REMEMBERED: usize = 256;

type Dialed = oneshot::Sender<Result<PeerId, NetError>>;

/// Commands of the handles to the task.
pub(super) enum Command {
    Connect { addr: Multiaddr, reply: Dialed },
    Open { peer: PeerId, open: OpenStream },
    Providers { root: Cid, found: mpsc::Sender<PeerId> },
    Provide { root: Cid },
    Unprovide { root: Cid, done: oneshot::Sender<()> },
    Announced { root: Cid, reply: oneshot::Sender<Option<u32>> },
    Settled { root: Cid, reply: oneshot::Sender<bool> },
    Closest { root: Cid, reply: oneshot::Sender<Vec<PeerId>> },
    DropProvider { root: Cid, peer: PeerId },
    Snapshot { seen: Option<u64>, reply: oneshot::Sender<Snapshot> },
    Shutdown,
}

pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    shared: Shared,
    events: broadcast::Sender<NetEvent>,
    kad_protocol: libp2p::StreamProtocol,
    in_cluster: bool,
    announcer: Announcer,
    bootstrap: Bootstrap,
    reconnect: ReconnectSchedule,
    address_book: AddressBook,
    /// Connected peers that support this DHT's protocol.
    dht_peers: HashSet<PeerId>,
    identify_limit: IdentifyLimit,
    growth: Growth,
    dialing: HashMap<ConnectionId, Dialed>,
    dials: Dials,
    relays: Relays,
    duplicate_identity: DuplicateIdentity,
    opening: HashMap<PeerId, Opening>,
    /// Callers that wait for the end of the last announcement of a root that is no longer provided.
    unproviding: HashMap<kad::QueryId, Vec<oneshot::Sender<()>>>,
    queries: HashMap<kad::QueryId, Query>,
    queued_queries: VecDeque<Query>,
    next_expiry: Instant,
}

pub(super) async fn start(
    options: NetOptions,
    protocols: Protocols,
    commands: mpsc::Receiver<Command>,
    shared: Shared,
    strangers: Strangers,
    delivered: DeliveredPeers,
    events: broadcast::Sender<NetEvent>,
) -> Result<Task, NetError> {
    let local = options.keypair.public().to_peer_id();
    let (relay_transport, relay_client) = relay::client::new(local);
    let self_dials = Arc::<AtomicU64>::default();
    let limits = Limits::new(options.max_connections);
    let transport = transport::build(
        &options.keypair,
        options.membership.as_ref(),
        relay_transport,
        limits,
        Arc::clone(&self_dials),
        strangers.clone(),
    )?;
    let streams = Streams::new(protocols, shared.clone(), ProtectedPeers::new(local, limits.total / 4));
    let behaviour = Behaviour::new(&options, relay_client, streams, limits, strangers, delivered);
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(options.idle_timeout)
        // The first bytes of a stream go out with the offered protocol, not a round trip later.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let mut task = Task {
        swarm: Swarm::new(transport, behaviour, local, config),
        commands,
        shared,
        events,
        kad_protocol: kad_protocol(options.membership.as_ref()),
        in_cluster: options.membership.is_some(),
        announcer: Announcer::new(options.republish),
        bootstrap: Bootstrap::new(options.bootstrap),
        reconnect: ReconnectSchedule::new(Instant::now()),
        address_book: AddressBook::default(),
        dht_peers: HashSet::new(),
        identify_limit: IdentifyLimit::default(),
        growth: Growth::default(),
        dialing: HashMap::new(),
        dials: Dials::default(),
        relays: Relays::default(),
        duplicate_identity: DuplicateIdentity::new(self_dials, options.former),
        opening: HashMap::new(),
        unproviding: HashMap::new(),
        queries: HashMap::new(),
        queued_queries: VecDeque::new(),
        next_expiry: Instant::now() + EXPIRY,
    };
    task.listen(options.listen).await?;
    for addr in options.external {
        task.on_external_addr(&addr);
        task.swarm.add_external_address(addr);
    }
    // The peer added last is dialled first.
    for RememberedPeer { peer, addrs } in options.remembered.iter().take(REMEMBERED).rev() {
        if *peer != local {
            task.address_book.set_listen(*peer, addrs);
        }
    }
    Ok(task)
}

impl Task {
    async fn listen(&mut self, addrs: Vec<Multiaddr>) -> Result<(), NetError> {
        let mut waiting: HashMap<ListenerId, (Multiaddr, io::ErrorKind)> = HashMap::new();
        let mut checked = Vec::with_capacity(addrs.len());
        for addr in addrs {
            let kind = bind_failure(&addr);
            if kind == Some(io::ErrorKind::AddrInUse) {
                return Err(NetError::Listen {
                    addr,
                    kind: io::ErrorKind::AddrInUse,
                    reason: "the port is in use".into(),
                });
            }
            checked.push((addr, kind.unwrap_or(io::ErrorKind::Other)));
        }
        for (addr, kind) in checked {
            match self.swarm.listen_on(addr.clone()) {
                Ok(id) => drop(waiting.insert(id, (addr, kind))),
                Err(e) => return Err(NetError::Listen { addr, kind, reason: root_cause(&e) }),
            }
        }
        let deadline = Instant::now() + LISTEN_DEADLINE;
        while !waiting.is_empty() {
            let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await else {
                let addr = waiting.into_values().next().map_or_else(Multiaddr::empty, |(addr, _)| addr);
                return Err(NetError::Listen {
                    addr,
                    kind: io::ErrorKind::TimedOut,
                    reason: "the listener did not start in time".into(),
                });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                SwarmEvent::ListenerClosed { listener_id, reason: Err(e), .. } => {
                    if let Some((addr, kind)) = waiting.remove(listener_id) {
                        return Err(NetError::Listen { addr, kind, reason: e.to_string() });
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
            let due = [
                self.announcer_due(),
                self.growth.next_due(),
                self.bootstrap.next_due(),
                self.reconnect_due(),
                self.slow_dial_due(),
                self.relays.next_due(),
                self.duplicate_identity.next_due(),
            ];
            let due = due.into_iter().flatten().fold(self.next_expiry, Instant::min);
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
        // Without a peer, announcements wait for the first one.
        if self.dht_peers.is_empty() { None } else { self.announcer.next_due(Instant::now()) }
    }

    fn reconnect_due(&self) -> Option<Instant> {
        let alone = self.dht_peers.is_empty() && self.address_book.dht_peers().next().is_some();
        alone.then(|| self.reconnect.next_due())
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        for opts in self.bootstrap.due(now) {
            let (id, peer) = (opts.connection_id(), opts.get_peer_id());
            match self.dial_in_backoff(opts) {
                Ok(()) => self.dials.started(id, peer, true, now),
                Err(error) => self.on_bootstrap_failed(id, &error),
            }
        }
        if self.reconnect_due().is_some_and(|at| at <= now) {
            let known: Vec<PeerId> = self.address_book.dht_peers().map(|(peer, _)| peer).collect();
            for peer in self.reconnect.due(now, &known) {
                self.dial(peer);
            }
        }
        self.probe_former_addresses(now);
        self.end_slow_dials(now);
        self.reserve(now);
        if let Some(addr) = self.duplicate_identity.detect(now) {
            self.on_duplicate_identity(addr);
        }
        if self.growth.is_due(self.dht_peers.len(), now) {
            self.announcer.swarm_grew();
        }
        if !self.dht_peers.is_empty() {
            while let Some(cid) = self.announcer.next(now) {
                match self.swarm.behaviour_mut().kad.start_providing(key(&cid)) {
                    Ok(query) => self.announcer.started(query, cid),
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

    fn emit(&self, event: NetEvent) {
        drop(self.events.send(event));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { addr, reply } => self.connect(addr, reply),
            Command::Open { peer, open } => self.open(peer, open),
            Command::Providers { root, found } => self.find_providers(root, found),
            Command::Provide { root } => {
                self.announcer.add(root);
                self.count_announcements(0);
            }
            Command::Unprovide { root, done } => self.unprovide(root, done),
            Command::Announced { root, reply } => self.announcer.wait(&root, reply),
            Command::Settled { root, reply } => {
                let _ = reply.send(self.announcer.is_settled(&root, Instant::now()));
            }
            Command::Closest { root, reply } => self.query(Query::Closest { root, reply }),
            Command::DropProvider { root, peer } => {
                let records = self.swarm.behaviour_mut().kad.store_mut();
                kad::store::RecordStore::remove_provider(records, &key(&root), &peer);
            }
            Command::Snapshot { seen, reply } => drop(reply.send(self.snapshot(seen))),
            Command::Shutdown => {}
        }
    }

    /// Ends the announcement of a root, and replies when no announcement is in flight: it would undo a withdrawal.
    fn unprovide(&mut self, root: Cid, done: oneshot::Sender<()>) {
        let in_flight = self.announcer.remove(&root);
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.stop_providing(&key(&root));
        if let Some(id) = in_flight
            && let Some(mut query) = kad.query_mut(&id)
        {
            query.finish();
            self.unproviding.entry(id).or_default().push(done);
        } else {
            let _ = done.send(());
        }
        self.count_announcements(0);
    }

    fn snapshot(&mut self, seen: Option<u64>) -> Snapshot {
        let remembered = self.address_book.dht_peers().take(REMEMBERED);
        let records = self.swarm.behaviour_mut().kad.store_mut();
        let changed = seen != Some(records.version());
        Snapshot {
            remembered: remembered.map(|(peer, addrs)| RememberedPeer { peer, addrs }).collect(),
            records: if changed { records.snapshot(std::time::Instant::now()) } else { Vec::new() },
            records_version: records.version(),
        }
    }

    fn count_announcements(&self, more: u64) {
        let queued = self.announcer.queued();
        self.shared.update(|shared| {
            shared.announced += more;
            shared.queued = queued;
        });
    }
}

/// Returns why a plain bind to an address fails. libp2p's listeners share ports, which hole punching needs, so two nodes
/// could listen on one port and each get half of the connections. Its transports also hide the kind of a system error.
fn bind_failure(addr: &Multiaddr) -> Option<io::ErrorKind> {
    use libp2p::multiaddr::Protocol;

    let mut parts = addr.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => std::net::IpAddr::from(ip),
        Some(Protocol::Ip6(ip)) => std::net::IpAddr::from(ip),
        _ => return None,
    };
    let bound = match parts.next() {
        Some(Protocol::Tcp(port)) if port > 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        Some(Protocol::Udp(port)) if port > 0 => std::net::UdpSocket::bind((ip, port)).map(drop),
        _ => Ok(()),
    };
    bound.err().map(|e| e.kind())
}
