//! A way in for a node that cannot be called: places at relays, as long as nobody has confirmed a public address of it.
//!
//! Peers that relay say so. Where `AutoNAT` has confirmed no public address after a while, two of them are asked for a
//! place, and the addresses through them are told to the swarm like any other. Through a relay two nodes only meet: as
//! soon as one of them reaches the other without it, new streams go that way, and the relayed connection ends when
//! nothing runs on it any more.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, autonat,
    core::transport::ListenerId,
    multiaddr::Protocol,
    swarm::{
        ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::Task;
use crate::net::address_ranking::{is_for_ipv4, is_public, is_relayed, remoteness};

/// Relays at which a node has a place.
const PLACES: usize = 2;
/// How long `AutoNAT` has to confirm a public address before a relay is asked: it looks every five seconds.
const PROOF: Duration = Duration::from_secs(8);
/// A relay that gave no place, or took it back, is asked again after this long.
const AGAIN: Duration = Duration::from_secs(60);
/// Peers that relay and are remembered.
const OFFERS: usize = 64;

/// Who relays, and where we have a place.
#[derive(Default)]
pub(super) struct Relays {
    /// Connected peers that relay, and when they may be asked.
    offers: HashMap<PeerId, Instant>,
    places: HashMap<ListenerId, PeerId>,
    /// Addresses at which we can be called from anywhere that has IPv4: one of IPv6 alone leaves out whoever has none.
    public: HashSet<Multiaddr>,
    /// Connections by which peers have called us without a relay.
    callers: HashMap<PeerId, HashSet<ConnectionId>>,
}

impl Relays {
    /// A connected peer relays. `at_once`: nobody could confirm an address of ours, because there is none.
    fn offered(&mut self, peer: PeerId, at_once: bool, now: Instant) {
        if self.offers.len() < OFFERS {
            self.offers.entry(peer).or_insert(if at_once { now } else { now + PROOF });
        }
    }

    pub(super) fn gone(&mut self, peer: &PeerId) {
        self.offers.remove(peer);
    }

    /// An address was confirmed, or given by the user; answers with the places that are of no more use.
    pub(super) fn confirmed(&mut self, addr: &Multiaddr) -> Vec<ListenerId> {
        if !is_public(addr) || !is_for_ipv4(addr) {
            return Vec::new();
        }
        self.public.insert(addr.clone());
        self.places.drain().map(|(id, _)| id).collect()
    }

    /// A peer has called us without a relay.
    pub(super) fn called(&mut self, peer: PeerId, id: ConnectionId) {
        self.callers.entry(peer).or_default().insert(id);
    }

    pub(super) fn hung_up(&mut self, peer: &PeerId, id: ConnectionId) {
        if let Some(calls) = self.callers.get_mut(peer) {
            calls.remove(&id);
            if calls.is_empty() {
                self.callers.remove(peer);
            }
        }
    }

    /// A peer says that it has reached us at an address. It must have called for that, and its call is still there: one
    /// that comes through a relay alone could say so of any address, and cost us the relay.
    fn confirmed_by(&mut self, peer: &PeerId, addr: &Multiaddr) -> Vec<ListenerId> {
        if self.callers.contains_key(peer) { self.confirmed(addr) } else { Vec::new() }
    }

    pub(super) fn expired(&mut self, addr: &Multiaddr) {
        self.public.remove(addr);
    }

    /// A listener has ended; answers whether it was a place at a relay.
    pub(super) fn closed(&mut self, id: ListenerId) -> bool {
        self.places.remove(&id).is_some()
    }

    fn free(&self) -> impl Iterator<Item = (&PeerId, &Instant)> {
        let needed = self.public.is_empty() && self.places.len() < PLACES;
        self.offers.iter().filter(move |(peer, _)| needed && !self.places.values().any(|used| used == *peer))
    }

    /// When a relay is next to be asked.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.free().map(|(_, at)| *at).min()
    }

    /// Whom to ask now.
    fn due(&mut self, now: Instant) -> Option<PeerId> {
        let (peer, _) = self.free().find(|(_, at)| **at <= now)?;
        let peer = *peer;
        self.offers.insert(peer, now + AGAIN);
        Some(peer)
    }
}

impl Task {
    /// A peer of our DHT relays for others.
    pub(super) fn on_relay_offered(&mut self, peer: PeerId) {
        let unlistening = self.look(|shared| shared.listen.is_empty());
        if !self.is_only_relayed(&peer) {
            self.relays.offered(peer, unlistening, Instant::now());
        }
    }

    /// Asks for a place where that is due.
    pub(super) fn ask_relays(&mut self, now: Instant) {
        while let Some(peer) = self.relays.due(now) {
            let known = self.address_book.of(&peer);
            let best = known.iter().filter(|addr| !is_relayed(addr)).min_by_key(|addr| remoteness(addr));
            let Some(addr) = best.cloned().and_then(|addr| addr.with_p2p(peer).ok()) else { continue };
            match self.swarm.listen_on(addr.with(Protocol::P2pCircuit)) {
                Ok(id) => drop(self.relays.places.insert(id, peer)),
                Err(error) => tracing::debug!(%peer, "no place at a relay: {error}"),
            }
        }
    }

    /// The user says that we can be called at this address.
    pub(super) fn on_given(&mut self, addr: &Multiaddr) {
        let places = self.relays.confirmed(addr);
        self.give_back(places);
    }

    /// A peer was asked whether it reaches us at an address.
    pub(super) fn on_tested(&mut self, test: &autonat::v2::client::Event) {
        if test.result.is_ok() {
            let places = self.relays.confirmed_by(&test.server, &test.tested_addr);
            self.give_back(places);
        }
    }

    fn give_back(&mut self, places: Vec<ListenerId>) {
        for place in places {
            self.swarm.remove_listener(place);
        }
    }

    /// A public address of this machine: others are to try whether they reach it.
    pub(super) fn check_from_outside(&mut self, addr: &Multiaddr) {
        if is_public(addr) {
            let candidate = FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr });
            self.swarm.behaviour_mut().autonat_client.on_swarm_event(candidate);
        }
    }

    /// Whether a peer is connected through relays alone.
    pub(super) fn is_only_relayed(&self, peer: &PeerId) -> bool {
        self.look(|shared| {
            let connections = shared.peers.get(peer).map(|state| &state.connections);
            connections.is_some_and(|all| !all.is_empty() && all.values().all(is_relayed))
        })
    }

    /// Tries to reach a peer, which is connected through a relay, without it.
    pub(super) fn meet_directly(&mut self, peer: PeerId) {
        let mut addrs = self.address_book.of(&peer);
        addrs.retain(|addr| !is_relayed(addr));
        if addrs.is_empty() || !self.is_only_relayed(&peer) {
            return;
        }
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addrs).build();
        if let Err(error) = self.dial_anyway(opts) {
            tracing::debug!(%peer, "it stays behind its relay: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    #[test]
    fn relays_are_asked_when_nobody_has_confirmed_an_address_and_not_after() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for peer in &peers {
            relays.offered(*peer, false, now);
        }
        assert_eq!((relays.due(now), relays.next_due()), (None, Some(now + PROOF)));
        for _ in 0..PLACES {
            let peer = relays.due(now + PROOF).expect("it is time");
            relays.places.insert(ListenerId::next(), peer);
        }
        assert_eq!((relays.due(now + PROOF), relays.next_due()), (None, None));
        // Who takes a place back is not asked again at once; another one is.
        let (id, lost) = relays.places.iter().map(|(id, peer)| (*id, *peer)).next().expect("two");
        assert!(relays.closed(id) && !relays.closed(id));
        let other = relays.due(now + PROOF).expect("there are four");
        assert_ne!(other, lost);
        for no_help in ["/ip4/10.0.0.1/tcp/1", "/ip6/2001:db8::1/tcp/1"] {
            assert!(relays.confirmed(&addr(no_help)).is_empty() && relays.next_due().is_some(), "{no_help}");
        }
        // Nor is the word of one that has not called, or not without a relay.
        let (server, call) = (PeerId::random(), ConnectionId::new_unchecked(1));
        let public = addr("/ip4/198.51.100.1/tcp/1");
        assert!(relays.confirmed_by(&server, &public).is_empty() && relays.next_due().is_some());
        relays.called(server, call);
        relays.hung_up(&server, call);
        assert!(relays.confirmed_by(&server, &public).is_empty() && relays.callers.is_empty());
        relays.called(server, call);
        assert_eq!(relays.confirmed_by(&server, &public).len(), 1);
        assert_eq!(relays.next_due(), None);
        relays.expired(&addr("/ip4/198.51.100.1/tcp/1"));
        assert!(relays.next_due().is_some());
    }
}
