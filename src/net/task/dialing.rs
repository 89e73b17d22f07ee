//! Ways to a peer: by an address, by what is known of it, and by asking the DHT where it is.

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
    address_ranking::bare,
    dial_failure::{SELF_DIAL, dial_error, is_other_cluster},
    discovery::{dial_opts, peer_of},
    streams::OpenStream,
};

/// Streams that wait for a connection to a peer.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) streams: Vec<OpenStream>,
    /// The DHT has been asked where the peer is, which could not be reached at these addresses.
    asked: Option<Vec<Multiaddr>>,
}

/// How long a question to the DHT waits for a peer that is being dialled.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a question that comes later waits for the same peer.
const LESS_PATIENCE: Duration = Duration::from_millis(500);

/// Dials to known peers that have not ended.
#[derive(Default)]
pub(super) struct Dials(HashMap<ConnectionId, Pending>);

struct Pending {
    peer: PeerId,
    /// When the DHT is to go on without it.
    due: Instant,
    /// Somebody besides the DHT wants it to succeed.
    awaited: bool,
}

impl Dials {
    pub(super) fn begun(&mut self, id: ConnectionId, peer: Option<PeerId>, awaited: bool, now: Instant) {
        if let Some(peer) = peer {
            self.0.insert(id, Pending { peer, due: now + PATIENCE, awaited });
        }
    }

    pub(super) fn ended(&mut self, id: ConnectionId) {
        self.0.remove(&id);
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|dial| dial.due).min()
    }

    /// Whether a dial to this peer is on its way, and whether one is that somebody besides the DHT wants.
    fn to(&self, peer: &PeerId) -> (bool, bool) {
        let mut dials = self.0.values().filter(|dial| dial.peer == *peer).peekable();
        (dials.peek().is_some(), dials.any(|dial| dial.awaited))
    }

    /// Dials for which the DHT has waited long enough. Those that go on are due again soon, for questions to come.
    fn slow(&mut self, now: Instant) -> Vec<(ConnectionId, PeerId)> {
        let mut slow = Vec::new();
        for (id, dial) in self.0.iter_mut().filter(|(_, dial)| dial.due <= now) {
            dial.due = now + LESS_PATIENCE;
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
        match self.dial_anyway(opts) {
            Ok(()) => {
                self.dials.begun(id, peer, true, Instant::now());
                self.dialing.entry(id).or_default().push(reply);
            }
            Err(error) => drop(reply.send(Err(self.why_not(peer, &error)))),
        }
    }

    pub(super) fn open(&mut self, peer: PeerId, open: OpenStream) {
        if peer == *self.swarm.local_peer_id() {
            drop(open.reply.send(Err(NetError::Dial(SELF_DIAL.into()))));
            return;
        }
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, open);
            return;
        }
        if self.swarm.behaviour().dial_backoff.was_just_tried(&peer, Instant::now()) {
            drop(open.reply.send(Err(NetError::Dial("the peer could not be reached a moment ago".into()))));
            return;
        }
        let first = !self.opening.contains_key(&peer);
        self.opening.entry(peer).or_default().streams.push(open);
        if first {
            self.dial(peer);
        }
    }

    /// Dials a peer by the addresses known here; without any, asks the DHT.
    pub(super) fn dial(&mut self, peer: PeerId) {
        self.dial_besides(peer, &[], PeerCondition::DisconnectedAndNotDialing);
    }

    /// Dials a peer by the addresses known here but those that were `tried`.
    fn dial_besides(&mut self, peer: PeerId, tried: &[Multiaddr], condition: PeerCondition) {
        if self.swarm.is_connected(&peer) || peer == *self.swarm.local_peer_id() {
            return;
        }
        let tried: Vec<Multiaddr> = tried.iter().map(bare).collect();
        let mut addrs = self.address_book.of(&peer);
        addrs.retain(|addr| !tried.contains(addr));
        let opts = DialOpts::peer_id(peer)
            .condition(condition)
            .addresses(addrs)
            .extend_addresses_through_behaviour()
            .build();
        let id = opts.connection_id();
        match self.dial_anyway(opts) {
            Ok(()) => self.dials.begun(id, Some(peer), true, Instant::now()),
            // Already on its way: its end is ours too.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(DialError::NoAddresses) => drop(self.look_up(peer, Vec::new(), &NetError::NoAddress(peer))),
            Err(error) => drop(self.look_up(peer, Vec::new(), &dial_error(&error))),
        }
    }

    /// Dials, also a peer that could not be reached a moment ago.
    pub(super) fn dial_anyway(&mut self, opts: DialOpts) -> Result<(), DialError> {
        self.swarm.behaviour_mut().dial_backoff.allow(Some(opts.connection_id()));
        let begun = self.swarm.dial(opts);
        self.swarm.behaviour_mut().dial_backoff.allow(None);
        begun
    }

    /// Somebody says where a peer is.
    pub(super) fn heard(&mut self, peer: PeerId, addr: &Multiaddr) {
        self.address_book.heard(peer, addr);
        self.swarm.behaviour_mut().dial_backoff.heard(&peer, addr);
    }

    /// When a question to the DHT has waited long enough for a peer that is being dialled.
    pub(super) fn slow_due(&self) -> Option<Instant> {
        // With nobody else there, these dials are all there is to hope for.
        if self.dht_peers.is_empty() || self.queries.is_empty() {
            return None;
        }
        self.dials.next_due()
    }

    /// Lets the DHT go on without peers that are slow to answer. A dial that somebody else waits for goes on as well.
    pub(super) fn go_on_without_the_slow(&mut self, now: Instant) {
        if self.slow_due().is_none_or(|due| due > now) {
            return;
        }
        for (id, peer) in self.dials.slow(now) {
            if self.swarm.is_connected(&peer) {
                continue;
            }
            let awaited = self.opening.contains_key(&peer) || self.dials.to(&peer).1;
            let behaviour = self.swarm.behaviour_mut();
            behaviour.dial_backoff.slow(peer, now);
            if awaited {
                // For the DHT alone, this dial has failed.
                let failed =
                    DialFailure { peer_id: Some(peer), error: &DialError::Aborted, connection_id: id };
                behaviour.kad.on_swarm_event(FromSwarm::DialFailure(failed));
            } else {
                self.dials.ended(id);
                // Whoever is not connected has only dials to end.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
    }

    /// Where a peer could not be dialled: asks the DHT once where it is, and gives up the second time. Answers whether it
    /// is being looked for.
    fn look_up(&mut self, peer: PeerId, tried: Vec<Multiaddr>, why: &NetError) -> bool {
        let Some(opening) = self.opening.get_mut(&peer) else {
            return false;
        };
        if self.dials.to(&peer).0 {
            // Another dial to it may still succeed.
            return true;
        }
        if opening.asked.is_some() || self.dht_peers.is_empty() {
            self.give_up(peer, why);
            return false;
        }
        opening.asked = Some(tried);
        self.ask(Query::Address { peer });
        true
    }

    /// The DHT has said what it knows of a peer: where that is nothing new, there is nothing to try.
    pub(super) fn dial_elsewhere(&mut self, peer: PeerId) {
        let tried = self.opening.get(&peer).and_then(|opening| opening.asked.clone());
        match tried {
            Some(tried) if !tried.is_empty() && !self.address_book.knows_besides(&peer, &tried) => {
                self.swarm.behaviour_mut().dial_backoff.failed(peer, &tried, Instant::now());
                self.give_up(peer, &NetError::Dial("it does not answer where it was last".into()));
            }
            // Also where it is being dialled: that may be where it was before.
            _ => self.dial_besides(peer, &tried.unwrap_or_default(), PeerCondition::Disconnected),
        }
    }

    pub(super) fn give_up(&mut self, peer: PeerId, why: &NetError) {
        for open in self.opening.remove(&peer).unwrap_or_default().streams {
            drop(open.reply.send(Err(why.clone())));
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        self.dials.ended(id);
        if let DialError::LocalPeerId { address } = error {
            self.duplicate_identity.made(address.clone(), Instant::now());
        }
        self.bootstrap_failed(id, error);
        if let DialError::Transport(tried) = error
            && let Some((addr, _)) = tried.iter().find(|(_, e)| is_other_cluster(e))
        {
            self.share(|shared| shared.outside = Some(addr.clone()));
        }
        let why = self.why_not(peer, error);
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Err(why.clone())));
        }
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.shunned.add(peer);
            self.cannot_reach(peer, error);
        }
    }

    /// Why a call at an address that was named failed.
    fn why_not(&self, peer: Option<PeerId>, error: &DialError) -> NetError {
        if self.was_for_us(peer, error) { NetError::Dial(SELF_DIAL.into()) } else { dial_error(error) }
    }

    /// A call for ourselves by name ends in a handshake that says nothing of that; one to where we listen is never made.
    fn was_for_us(&self, peer: Option<PeerId>, error: &DialError) -> bool {
        peer.is_some_and(|peer| peer == *self.swarm.local_peer_id())
            || matches!(error, DialError::LocalPeerId { .. } | DialError::NoAddresses)
    }

    /// Where it was a bootstrap address that failed: says so, now and then.
    pub(super) fn bootstrap_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(addr) = self.bootstrap.failed(id, error).cloned() else {
            return;
        };
        if self.was_for_us(peer_of(&addr), error) {
            tracing::warn!(target: "storgo::bootstrap", "bootstrap address {addr} is this node itself, and leads to nobody else");
            return;
        }
        let why = dial_error(error);
        tracing::warn!(target: "storgo::bootstrap", "bootstrap address {addr} does not answer, and is tried on: {why}");
    }

    /// A bootstrap peer may have gone. Where it had not even said who it is, that is a failure, and said now and then.
    pub(super) fn bootstrap_lost(&mut self, peer: &PeerId) {
        if let Some(addr) = self.bootstrap.lost(peer, self.dht_peers.len(), Instant::now()) {
            tracing::warn!(
                target: "storgo::bootstrap",
                "bootstrap address {addr} hangs up at once, and is tried on: that node is full, or belongs to another cluster"
            );
        }
    }

    fn cannot_reach(&mut self, peer: PeerId, error: &DialError) {
        let mut tried: Vec<Multiaddr> = match error {
            DialError::Transport(tried) => tried.iter().map(|(addr, _)| addr.clone()).collect(),
            _ => Vec::new(),
        };
        let before = self.opening.get(&peer).and_then(|opening| opening.asked.clone());
        tried.extend(before.into_iter().flatten());
        // As long as it is looked for, the DHT may dial it where it is now.
        if !self.look_up(peer, tried.clone(), &dial_error(error)) && !tried.is_empty() {
            self.swarm.behaviour_mut().dial_backoff.failed(peer, &tried, Instant::now());
            // Nor is it named to others who ask.
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
    }
}
