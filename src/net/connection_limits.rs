//! Limits on connections: in all, incoming, and from one host. libp2p itself limits those with one peer.
//!
//! Anybody can have any number of identities, so one host could take all places. In an open network a host may therefore
//! hold a part of the places only, and a new connection takes the place of the oldest one from the host with the most.
//! Peers that this node knows keep their places: those at bootstrap addresses, those remembered from the last run, and the
//! members of its cluster. Of other peers of one host, those that have delivered blocks go last.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use rustix::process::{Resource, getrlimit};

use super::{
    address_ranking::is_relayed,
    delivered::DeliveredPeers,
    host::{Host, oldest_of_largest},
};

/// Maximum known peers.
const KNOWN: usize = 4096;

/// Maximum numbers of connections, all derived from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Established ones.
    pub(super) total: usize,
    /// Established ones from peers that are not known. The rest is for dialled and for known peers.
    incoming: usize,
    /// The part of these from one host.
    per_host: usize,
    /// Callers that have not authenticated.
    pub(super) pending: usize,
    /// The part of these from one host.
    pub(super) pending_per_host: usize,
}

impl Limits {
    /// Returns the limits for a maximum number of connections, or for half of the files that this process may open if that
    /// is less: callers, HTTP and the store need the others.
    pub(super) fn new(max_connections: u32) -> Self {
        let wanted = usize::try_from(max_connections).unwrap_or(usize::MAX);
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let total = wanted.min(files.map_or(usize::MAX, |files| files / 2)).max(4);
        if total < wanted {
            tracing::warn!(
                "max.connections is limited to {total}: this process may open too few files (see `ulimit -n`)"
            );
        }
        Self {
            total,
            incoming: total - total / 4,
            per_host: total / 2,
            pending: total / 4,
            pending_per_host: (total / 8).max(1),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("too many connections")]
struct TooMany;

/// The behaviour.
pub(super) struct ConnectionLimits {
    limits: Limits,
    /// Whether each peer has proven that it has the cluster's key.
    in_cluster: bool,
    known: HashSet<PeerId>,
    delivered: DeliveredPeers,
    established: HashMap<ConnectionId, Established>,
    /// Number of connections so far.
    count: u64,
    to_close: VecDeque<(PeerId, ConnectionId)>,
}

#[derive(Clone, Copy)]
struct Established {
    peer: PeerId,
    host: Option<Host>,
    incoming: bool,
    /// The lower, the older.
    number: u64,
}

impl ConnectionLimits {
    pub(super) fn new(
        limits: Limits,
        in_cluster: bool,
        known: impl IntoIterator<Item = PeerId>,
        delivered: DeliveredPeers,
    ) -> Self {
        Self {
            limits,
            in_cluster,
            known: known.into_iter().collect(),
            delivered,
            established: HashMap::new(),
            count: 0,
            to_close: VecDeque::new(),
        }
    }

    /// Keeps the places of a peer from now on.
    pub(super) fn add_known(&mut self, peer: PeerId) {
        if self.known.len() < KNOWN {
            self.known.insert(peer);
        }
    }

    fn is_known(&self, peer: &PeerId) -> bool {
        self.in_cluster || self.known.contains(peer)
    }

    /// Returns the incoming connections of peers that are not known.
    fn strangers(&self) -> impl Iterator<Item = (ConnectionId, &Established)> {
        let of_stranger =
            |(_, held): &(&ConnectionId, &Established)| held.incoming && !self.is_known(&held.peer);
        self.established.iter().filter(of_stranger).map(|(id, held)| (*id, held))
    }

    /// Returns a number by which connections are closed, the lowest first: the oldest, and those of peers that have delivered
    /// blocks after all others.
    fn age(&self, held: &Established) -> u64 {
        if self.delivered.contains(&held.peer) { held.number | (1 << 63) } else { held.number }
    }

    /// Closes the connection of a stranger, so that there is a place.
    fn close(&mut self, id: ConnectionId) {
        if let Some(closed) = self.established.remove(&id) {
            tracing::debug!(peer = %closed.peer, "connection closed: another one needs its place");
            self.to_close.push_back((closed.peer, id));
        }
    }

    /// Makes a place for one more connection in all. `host` is that of a stranger who calls.
    fn make_place(&mut self, stranger: bool, host: Option<Host>) -> Result<(), ConnectionDenied> {
        let strangers = self.strangers().count();
        let full =
            self.established.len() >= self.limits.total || (stranger && strangers >= self.limits.incoming);
        if stranger && host.is_some() {
            let same = self.strangers().filter(|(_, held)| held.host == host);
            let same: Vec<_> = same.map(|(id, held)| (self.age(held), id)).collect();
            if let Some((_, oldest)) = same.iter().min().filter(|_| same.len() >= self.limits.per_host) {
                self.close(*oldest);
                return Ok(());
            }
        }
        if !full {
            return Ok(());
        }
        let all = self.strangers().map(|(id, held)| (held.host, self.age(held), id));
        let newcomer = if stranger { host } else { None };
        let taken = oldest_of_largest(all, newcomer);
        self.close(taken.ok_or_else(|| ConnectionDenied::new(TooMany))?);
        Ok(())
    }

    fn add(&mut self, id: ConnectionId, peer: PeerId, host: Option<Host>, incoming: bool) {
        self.count += 1;
        self.established.insert(id, Established { peer, host, incoming, number: self.count });
    }
}

impl NetworkBehaviour for ConnectionLimits {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let host = if is_relayed(local) { Some(Host::Relayed) } else { Host::of(remote) };
        self.make_place(!self.is_known(&peer), host)?;
        self.add(id, peer, host, true);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.make_place(false, None)?;
        self.add(id, peer, Host::of(addr), false);
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let ended = match event {
            FromSwarm::ConnectionClosed(closed) => closed.connection_id,
            // Another behaviour refused the connection.
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            FromSwarm::DialFailure(failure) => failure.connection_id,
            _ => return,
        };
        self.established.remove(&ended);
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.to_close.pop_front() {
            Some((peer_id, id)) => {
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) })
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sixteen places: twelve for strangers, eight for one host.
    fn limited(known: &[PeerId]) -> ConnectionLimits {
        ConnectionLimits::new(Limits::new(16), false, known.iter().copied(), DeliveredPeers::default())
    }

    fn call(limits: &mut ConnectionLimits, id: usize, peer: PeerId, host: &str) -> bool {
        let local = "/ip4/198.51.100.1/tcp/1".parse().expect("a multiaddr");
        let remote = format!("/ip4/{host}/tcp/{}", 1000 + id).parse().expect("a multiaddr");
        let id = ConnectionId::new_unchecked(id);
        limits.handle_established_inbound_connection(id, peer, &local, &remote).is_ok()
    }

    fn closed(limits: &mut ConnectionLimits) -> Vec<ConnectionId> {
        limits.to_close.drain(..).map(|(_, id)| id).collect()
    }

    #[test]
    fn one_host_holds_half_of_the_places_and_its_oldest_connection_goes() {
        let mut limits = limited(&[]);
        assert!((0..8).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.1")));
        assert_eq!(closed(&mut limits), []);
        assert!(call(&mut limits, 8, PeerId::random(), "192.0.2.1"));
        assert_eq!(closed(&mut limits), [ConnectionId::new_unchecked(0)]);
        assert!(call(&mut limits, 9, PeerId::random(), "192.0.2.2"));
        assert_eq!(closed(&mut limits), []);
    }

    #[test]
    fn when_all_places_are_taken_the_host_with_the_most_loses_its_oldest() {
        let mut limits = limited(&[]);
        assert!((0..8).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.1")));
        assert!((8..12).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.2")));
        assert!((12..14).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.3")));
        assert_eq!(closed(&mut limits), [0, 1].map(ConnectionId::new_unchecked));
        // Equal shares stay.
        assert!((14..16).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.3")));
        assert_eq!(closed(&mut limits).len(), 2);
        assert!(!call(&mut limits, 16, PeerId::random(), "192.0.2.3"));
    }

    #[test]
    fn a_known_peer_always_gets_a_place_and_is_never_closed() {
        let known = [PeerId::random(), PeerId::random()];
        let mut limits = limited(&known);
        assert!(call(&mut limits, 0, known[0], "192.0.2.1"));
        for n in 1..40 {
            call(&mut limits, n, PeerId::random(), &format!("192.0.2.{n}"));
        }
        assert!(call(&mut limits, 40, known[1], "192.0.2.1"));
        let closed = closed(&mut limits);
        assert!(!closed.contains(&ConnectionId::new_unchecked(0)), "{closed:?}");
        assert!([0, 40].iter().all(|id| limits.established.contains_key(&ConnectionId::new_unchecked(*id))));
        assert!(limits.established.len() <= 16);
    }

    #[test]
    fn a_known_peer_takes_the_place_of_the_host_with_the_most() {
        let known = PeerId::random();
        let mut limits = limited(&[known]);
        assert!((0..4).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.2")));
        assert!((4..12).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.1")));
        assert!((12..16).all(|n| call(&mut limits, n, known, "192.0.2.3")));
        limits.established.values_mut().filter(|held| held.peer == known).for_each(|held| {
            held.peer = PeerId::random();
            held.incoming = false;
        });
        assert_eq!(closed(&mut limits), []);
        assert!(call(&mut limits, 16, known, "192.0.2.3"));
        assert_eq!(closed(&mut limits), [ConnectionId::new_unchecked(4)]);
    }

    #[test]
    fn a_peer_that_has_delivered_goes_last_and_counts_for_its_host() {
        let mut limits = limited(&[]);
        let peers: Vec<PeerId> = (0..9).map(|_| PeerId::random()).collect();
        limits.delivered.add(peers[0]);
        assert!((0..9).all(|n| call(&mut limits, n, peers[n], "192.0.2.1")));
        assert_eq!(closed(&mut limits), [ConnectionId::new_unchecked(1)]);
        for peer in &peers {
            limits.delivered.add(*peer);
        }
        assert!(call(&mut limits, 9, PeerId::random(), "192.0.2.1"));
        assert_eq!(closed(&mut limits), [ConnectionId::new_unchecked(0)]);
    }

    #[test]
    fn with_few_connections_each_limit_still_allows_one() {
        let Limits { incoming, per_host, pending, pending_per_host, .. } = Limits::new(1);
        assert!([incoming, per_host, pending, pending_per_host].iter().all(|limit| *limit > 0));
    }

    #[test]
    fn the_members_of_a_cluster_share_an_address_without_limit() {
        let mut limits = ConnectionLimits::new(Limits::new(16), true, [], DeliveredPeers::default());
        assert!((0..16).all(|n| call(&mut limits, n, PeerId::random(), "192.0.2.1")));
        assert!(!call(&mut limits, 16, PeerId::random(), "192.0.2.2"));
        assert_eq!(closed(&mut limits), []);
    }
}
