//! Dials: to an address, to the known addresses of a peer, and to those that the DHT knows.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{Dialed, Task, query::Query};
use crate::net::{
    NetError,
    address_ranking::without_peer_id,
    dial_failure::{dial_error, is_other_cluster, self_dial, unreachable},
    discovery::{dial_opts, peer_of},
    streams::OpenStream,
};

/// Streams that wait for a connection to one peer.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) streams: Vec<OpenStream>,
    /// The addresses that had failed when the DHT was queried for others. `None` means that it was not queried.
    queried: Option<Vec<Multiaddr>>,
}

/// Time for which a DHT query waits for a dial.
const WAIT: Duration = Duration::from_secs(2);
/// Time for which a later query waits for the same dial.
const LATER_WAIT: Duration = Duration::from_millis(500);

/// Dials in progress to peers with a known id.
#[derive(Default)]
pub(super) struct Dials(HashMap<ConnectionId, Dial>);

struct Dial {
    peer: PeerId,
    /// When DHT queries stop waiting for it.
    due: Instant,
    /// Whether anything else waits for it.
    awaited: bool,
}

impl Dials {
    pub(super) fn started(&mut self, id: ConnectionId, peer: Option<PeerId>, awaited: bool, now: Instant) {
        if let Some(peer) = peer {
            self.0.insert(id, Dial { peer, due: now + WAIT, awaited });
        }
    }

    pub(super) fn ended(&mut self, id: ConnectionId) {
        self.0.remove(&id);
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|dial| dial.due).min()
    }

    fn to<'a>(&'a self, peer: &PeerId) -> impl Iterator<Item = &'a Dial> {
        let peer = *peer;
        self.0.values().filter(move |dial| dial.peer == peer)
    }

    /// Returns the dials for which DHT queries have waited long enough. They are due again soon, for later queries.
    fn slow(&mut self, now: Instant) -> Vec<(ConnectionId, PeerId)> {
        let mut slow = Vec::new();
        for (id, dial) in self.0.iter_mut().filter(|(_, dial)| dial.due <= now) {
            dial.due = now + LATER_WAIT;
            slow.push((*id, dial.peer));
        }
        slow
    }
}

impl Task {
    pub(super) fn connect(&mut self, addr: Multiaddr, reply: Dialed) {
        if let Some(peer) = peer_of(&addr).filter(|peer| self.swarm.is_connected(peer)) {
            drop(reply.send(Ok(peer)));
            return;
        }
        let opts = dial_opts(addr);
        let (id, peer) = (opts.connection_id(), opts.get_peer_id());
        match self.dial_in_backoff(opts) {
            Ok(()) => {
                self.dials.started(id, peer, true, Instant::now());
                self.dialing.insert(id, reply);
            }
            Err(error) => drop(reply.send(Err(self.describe(peer, &error)))),
        }
    }

    pub(super) fn open(&mut self, peer: PeerId, open: OpenStream) {
        if peer == *self.swarm.local_peer_id() {
            drop(open.reply.send(Err(self_dial())));
            return;
        }
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, open);
            return;
        }
        if self.swarm.behaviour().dial_backoff.filter.just_failed(&peer, Instant::now()) {
            drop(open.reply.send(Err(unreachable("the peer could not be reached a moment ago"))));
            return;
        }
        let first = !self.opening.contains_key(&peer);
        self.opening.entry(peer).or_default().streams.push(open);
        if first {
            self.dial(peer);
        }
    }

    /// Dials a peer at its known addresses. Without any, queries the DHT.
    pub(super) fn dial(&mut self, peer: PeerId) {
        self.dial_untried(peer, &[], PeerCondition::DisconnectedAndNotDialing);
    }

    /// Dials a peer at its known addresses, except those that were `tried`.
    fn dial_untried(&mut self, peer: PeerId, tried: &[Multiaddr], condition: PeerCondition) {
        if self.swarm.is_connected(&peer) || peer == *self.swarm.local_peer_id() {
            return;
        }
        let tried: Vec<Multiaddr> = tried.iter().map(without_peer_id).collect();
        let mut addrs = self.address_book.addrs(&peer);
        addrs.retain(|addr| !tried.contains(addr));
        let opts = DialOpts::peer_id(peer)
            .condition(condition)
            .addresses(addrs)
            .extend_addresses_through_behaviour()
            .build();
        let id = opts.connection_id();
        match self.dial_in_backoff(opts) {
            Ok(()) => self.dials.started(id, Some(peer), true, Instant::now()),
            // A dial in progress serves this caller too.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(DialError::NoAddresses) => drop(self.look_up(peer, Vec::new(), &NetError::NoAddress(peer))),
            Err(error) => drop(self.look_up(peer, Vec::new(), &dial_error(&error))),
        }
    }

    /// Dials even if the backoff of the peer is not over.
    pub(super) fn dial_in_backoff(&mut self, opts: DialOpts) -> Result<(), DialError> {
        self.swarm.behaviour_mut().dial_backoff.filter.allow(Some(opts.connection_id()));
        let started = self.swarm.dial(opts);
        self.swarm.behaviour_mut().dial_backoff.filter.allow(None);
        started
    }

    /// Dials the addresses of earlier runs, for a node there that has the identity of this one.
    pub(super) fn probe_former_addresses(&mut self, now: Instant) {
        let local = *self.swarm.local_peer_id();
        for addr in self.duplicate_identity.probes(now) {
            // With the peer id, so that no other node there becomes a peer. This node's own addresses are not dialled.
            if let Ok(addr) = without_peer_id(&addr).with_p2p(local) {
                let _ = self.dial_in_backoff(dial_opts(addr));
            }
        }
    }

    /// Adds an address of a peer that another peer or the local network reports.
    pub(super) fn add_reported_address(&mut self, peer: PeerId, addr: &Multiaddr) {
        self.address_book.add_reported(peer, addr);
        self.swarm.behaviour_mut().dial_backoff.filter.add_address(&peer, addr);
    }

    /// Returns when DHT queries stop waiting for the next dial.
    pub(super) fn slow_dial_due(&self) -> Option<Instant> {
        // Without another peer, the query depends on these dials.
        if self.dht_peers.is_empty() || self.queries.is_empty() {
            return None;
        }
        self.dials.next_due()
    }

    /// Ends slow dials for the DHT. A dial that anything else waits for continues.
    pub(super) fn end_slow_dials(&mut self, now: Instant) {
        if self.slow_dial_due().is_none_or(|due| due > now) {
            return;
        }
        for (id, peer) in self.dials.slow(now) {
            if self.swarm.is_connected(&peer) {
                continue;
            }
            let awaited = self.opening.contains_key(&peer) || self.dials.to(&peer).any(|dial| dial.awaited);
            let behaviour = self.swarm.behaviour_mut();
            behaviour.dial_backoff.filter.slow(peer, now);
            if awaited {
                // Only the DHT sees a failure.
                let failed =
                    DialFailure { peer_id: Some(peer), error: &DialError::Aborted, connection_id: id };
                behaviour.kad.on_swarm_event(FromSwarm::DialFailure(failed));
            } else {
                self.dials.ended(id);
                // The peer is not connected, so this ends its dials.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
    }

    /// Handles a peer that cannot be dialled: queries the DHT for its addresses, and gives up the second time. Returns
    /// whether the peer may still be reached.
    fn look_up(&mut self, peer: PeerId, tried: Vec<Multiaddr>, error: &NetError) -> bool {
        let Some(opening) = self.opening.get_mut(&peer) else {
            return false;
        };
        if self.dials.to(&peer).next().is_some() {
            // Another dial may still succeed.
            return true;
        }
        if opening.queried.is_some() || self.dht_peers.is_empty() {
            self.give_up(peer, error);
            return false;
        }
        opening.queried = Some(tried);
        self.query(Query::Address { peer });
        true
    }

    /// Handles the end of a query for the addresses of a peer: dials the new ones, or gives up.
    pub(super) fn on_addresses_found(&mut self, peer: PeerId) {
        let tried = self.opening.get(&peer).and_then(|opening| opening.queried.clone());
        match tried {
            Some(tried) if !tried.is_empty() && !self.address_book.has_untried(&peer, &tried) => {
                self.swarm.behaviour_mut().dial_backoff.filter.failed(peer, &tried, Instant::now());
                self.give_up(peer, &unreachable("the peer does not answer at its known addresses"));
            }
            // A dial in progress may be to an old address, so it is no reason to wait.
            _ => self.dial_untried(peer, &tried.unwrap_or_default(), PeerCondition::Disconnected),
        }
    }

    pub(super) fn give_up(&mut self, peer: PeerId, error: &NetError) {
        for open in self.opening.remove(&peer).unwrap_or_default().streams {
            drop(open.reply.send(Err(error.clone())));
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        self.dials.ended(id);
        if let DialError::LocalPeerId { address } = error {
            self.duplicate_identity.outgoing(address.clone(), Instant::now());
        }
        self.on_bootstrap_failed(id, error);
        if let DialError::Transport(tried) = error
            && let Some((addr, _)) = tried.iter().find(|(_, e)| is_other_cluster(e))
        {
            self.shared.update(|shared| shared.other_cluster = Some(addr.clone()));
        }
        if let Some(reply) = self.dialing.remove(&id) {
            drop(reply.send(Err(self.describe(peer, error))));
        }
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.on_unreachable(peer, error);
        }
    }

    /// Describes a failed dial to an address that the user named.
    fn describe(&self, peer: Option<PeerId>, error: &DialError) -> NetError {
        if self.is_self_dial(peer, error) { self_dial() } else { dial_error(error) }
    }

    /// Returns whether a failed dial was to this node. A handshake with its own peer id fails for another reason, and its
    /// listen addresses are not dialled.
    fn is_self_dial(&self, peer: Option<PeerId>, error: &DialError) -> bool {
        peer.is_some_and(|peer| peer == *self.swarm.local_peer_id())
            || matches!(error, DialError::LocalPeerId { .. } | DialError::NoAddresses)
    }

    /// Warns now and then about a bootstrap address that cannot be reached.
    pub(super) fn on_bootstrap_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(addr) = self.bootstrap.failed(id, error).cloned() else {
            return;
        };
        if self.is_self_dial(peer_of(&addr), error) {
            tracing::warn!(target: "storgo::bootstrap", "bootstrap address {addr} is this node itself");
            return;
        }
        let error = dial_error(error);
        tracing::warn!(target: "storgo::bootstrap", "bootstrap address {addr} cannot be reached, retrying: {error}");
    }

    /// Handles a lost peer that may be at a bootstrap address. Warns now and then if it closed the connection at once.
    pub(super) fn on_bootstrap_lost(&mut self, peer: &PeerId) {
        if let Some(addr) = self.bootstrap.lost(peer, self.dht_peers.len(), Instant::now()) {
            tracing::warn!(
                target: "storgo::bootstrap",
                "bootstrap address {addr} closes the connection at once, retrying: that node is full or belongs to another cluster"
            );
        }
    }

    fn on_unreachable(&mut self, peer: PeerId, error: &DialError) {
        let mut tried: Vec<Multiaddr> = match error {
            DialError::Transport(tried) => tried.iter().map(|(addr, _)| addr.clone()).collect(),
            _ => Vec::new(),
        };
        let before = self.opening.get(&peer).and_then(|opening| opening.queried.clone());
        tried.extend(before.into_iter().flatten());
        // While the peer may be reached, the DHT may dial it.
        if !self.look_up(peer, tried.clone(), &dial_error(error)) && !tried.is_empty() {
            self.swarm.behaviour_mut().dial_backoff.filter.failed(peer, &tried, Instant::now());
            // DHT answers no longer name it.
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
    }
}
