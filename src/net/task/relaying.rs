//! Relay reservations for a node without a confirmed public address.
//!
//! Peers that relay report it by Identify. If `AutoNAT` has confirmed no public address after a while, two of them are
//! asked for a reservation, and the relayed addresses are reported to peers like others. Two nodes use a relayed
//! connection until one of them reaches the other directly. New streams then use the direct connection, and the relayed
//! one is closed when idle.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, autonat,
    core::transport::ListenerId,
    multiaddr::Protocol,
    swarm::{
        FromSwarm, NetworkBehaviour, NewExternalAddrCandidate,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::Task;
use crate::net::{
    address_ranking::{is_for_ipv4, is_public, is_relayed, scope},
    connected::{Connection, SwarmState},
};

/// Maximum reservations.
const RESERVATIONS: usize = 2;
/// Time for `AutoNAT`, which probes every five seconds, to confirm a public address before a relay is asked.
const CONFIRM: Duration = Duration::from_secs(8);
/// Time after which a relay that refused or ended a reservation is asked again.
const RETRY: Duration = Duration::from_secs(60);
/// Maximum relays remembered.
const RELAYS: usize = 64;

/// Known relays, and the reservations of this node.
#[derive(Default)]
pub(super) struct Relays {
    /// Connected peers that relay, and when they may be asked.
    available: HashMap<PeerId, Instant>,
    reservations: HashMap<ListenerId, PeerId>,
    /// Confirmed public addresses that hosts without IPv6 can dial.
    public: HashSet<Multiaddr>,
}

impl Relays {
    /// Adds a connected relay. `at_once` means that there is no address that could be confirmed.
    fn add(&mut self, peer: PeerId, at_once: bool, now: Instant) {
        if self.available.len() < RELAYS {
            self.available.entry(peer).or_insert(if at_once { now } else { now + CONFIRM });
        }
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        self.available.remove(peer);
    }

    /// Adds a confirmed address of this node. Returns the reservations that are no longer needed.
    pub(super) fn confirmed(&mut self, addr: &Multiaddr) -> Vec<ListenerId> {
        if !is_public(addr) || !is_for_ipv4(addr) {
            return Vec::new();
        }
        self.public.insert(addr.clone());
        self.reservations.drain().map(|(id, _)| id).collect()
    }

    pub(super) fn expired(&mut self, addr: &Multiaddr) {
        self.public.remove(addr);
    }

    /// Removes a listener that has ended. Returns whether it was a reservation.
    pub(super) fn closed(&mut self, id: ListenerId) -> bool {
        self.reservations.remove(&id).is_some()
    }

    fn candidates(&self) -> impl Iterator<Item = (&PeerId, &Instant)> {
        let needed = self.public.is_empty() && self.reservations.len() < RESERVATIONS;
        self.available
            .iter()
            .filter(move |(peer, _)| needed && !self.reservations.values().any(|relay| relay == *peer))
    }

    /// Returns when the next relay is to be asked.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.candidates().map(|(_, at)| *at).min()
    }

    /// Returns a relay to ask now.
    fn due(&mut self, now: Instant) -> Option<PeerId> {
        let (peer, _) = self.candidates().find(|(_, at)| **at <= now)?;
        let peer = *peer;
        self.available.insert(peer, now + RETRY);
        Some(peer)
    }
}

impl Task {
    /// Handles a DHT peer that relays.
    pub(super) fn on_relay_found(&mut self, peer: PeerId) {
        let no_listener = self.shared.read(|shared| shared.listen.is_empty());
        if !self.is_only_relayed(&peer) {
            self.relays.add(peer, no_listener, Instant::now());
        }
    }

    /// Asks relays for the reservations that are due.
    pub(super) fn reserve(&mut self, now: Instant) {
        while let Some(peer) = self.relays.due(now) {
            let known = self.address_book.addrs(&peer);
            let best = known.iter().filter(|addr| !is_relayed(addr)).min_by_key(|addr| scope(addr));
            let Some(addr) = best.cloned().and_then(|addr| addr.with_p2p(peer).ok()) else { continue };
            match self.swarm.listen_on(addr.with(Protocol::P2pCircuit)) {
                Ok(id) => drop(self.relays.reservations.insert(id, peer)),
                Err(error) => tracing::debug!(%peer, "no reservation at a relay: {error}"),
            }
        }
    }

    /// Handles a public address that the configuration states or a peer confirms.
    pub(super) fn on_external_addr(&mut self, addr: &Multiaddr) {
        let reservations = self.relays.confirmed(addr);
        self.end_reservations(reservations);
    }

    /// Handles the result of an `AutoNAT` probe. The server must have a direct incoming connection: a relayed peer could
    /// confirm any address and so end the reservations.
    pub(super) fn on_probed(&mut self, test: &autonat::v2::client::Event) {
        let calls = |state: &SwarmState| state.connections(&test.server).any(Connection::is_direct_call);
        if test.result.is_ok() && self.shared.read(calls) {
            self.on_external_addr(&test.tested_addr);
        }
    }

    fn end_reservations(&mut self, reservations: Vec<ListenerId>) {
        for id in reservations {
            self.swarm.remove_listener(id);
        }
    }

    /// Has `AutoNAT` probe a public listen address.
    pub(super) fn probe(&mut self, addr: &Multiaddr) {
        if is_public(addr) {
            let candidate = FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr });
            self.swarm.behaviour_mut().autonat_client.on_swarm_event(candidate);
        }
    }

    /// Returns whether all connections to a peer are relayed.
    pub(super) fn is_only_relayed(&self, peer: &PeerId) -> bool {
        self.shared.read(|shared| {
            shared.connections(peer).next().is_some() && shared.connections(peer).all(Connection::is_relayed)
        })
    }

    /// Dials a relayed peer directly.
    pub(super) fn dial_directly(&mut self, peer: PeerId) {
        let mut addrs = self.address_book.addrs(&peer);
        addrs.retain(|addr| !is_relayed(addr));
        if addrs.is_empty() || !self.is_only_relayed(&peer) {
            return;
        }
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addrs).build();
        if let Err(error) = self.dial_in_backoff(opts) {
            tracing::debug!(%peer, "a relayed peer cannot be dialled directly: {error}");
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
    fn relays_are_asked_only_while_no_public_address_is_confirmed() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for peer in &peers {
            relays.add(*peer, false, now);
        }
        assert_eq!((relays.due(now), relays.next_due()), (None, Some(now + CONFIRM)));
        for _ in 0..RESERVATIONS {
            let peer = relays.due(now + CONFIRM).expect("due");
            relays.reservations.insert(ListenerId::next(), peer);
        }
        assert_eq!((relays.due(now + CONFIRM), relays.next_due()), (None, None));
        // A relay that ended a reservation is not asked again at once; another one is.
        let (id, lost) = relays.reservations.iter().map(|(id, peer)| (*id, *peer)).next().expect("two");
        assert!(relays.closed(id) && !relays.closed(id));
        let other = relays.due(now + CONFIRM).expect("there are four");
        assert_ne!(other, lost);
        for useless in ["/ip4/10.0.0.1/tcp/1", "/ip6/2001:db8::1/tcp/1"] {
            assert!(relays.confirmed(&addr(useless)).is_empty() && relays.next_due().is_some(), "{useless}");
        }
        assert_eq!(relays.confirmed(&addr("/ip4/198.51.100.1/tcp/1")).len(), 1);
        assert_eq!(relays.next_due(), None);
        relays.expired(&addr("/ip4/198.51.100.1/tcp/1"));
        assert!(relays.next_due().is_some());
    }
}
