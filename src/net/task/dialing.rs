//! Ways to a peer: by an address, by what is known of it, and by asking the DHT where it is.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use tokio::time::Instant;

use super::{Dialed, Task, query::Query, reason};
use crate::net::{
    NetError,
    discovery::{dial_opts, peer_of},
    proof::{NO_PROOF, WRONG_PROOF},
    streams::Reply,
};

/// Streams that wait for a connection to a peer.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) replies: Vec<Reply>,
    /// The DHT has been asked where the peer is, which could not be reached at these addresses.
    asked: Option<Vec<Multiaddr>>,
}

/// What a handshake that ends in noise means.
const OTHER_CLUSTER: &str = "one of the two nodes belongs to a cluster whose key the other one lacks";

/// How long a question to the DHT waits for a peer that is being dialled.
const PATIENCE: Duration = Duration::from_secs(2);

/// Dials that nobody but the DHT may be waiting for.
#[derive(Default)]
pub(super) struct Unawaited(HashMap<ConnectionId, (PeerId, Instant)>);

impl Unawaited {
    pub(super) fn begun(&mut self, id: ConnectionId, peer: Option<PeerId>, now: Instant) {
        if let Some(peer) = peer {
            self.0.insert(id, (peer, now));
        }
    }

    pub(super) fn ended(&mut self, id: ConnectionId) {
        self.0.remove(&id);
    }
}

impl Task {
    pub(super) fn connect(&mut self, addr: Multiaddr, reply: Dialed) {
        if let Some(peer) = peer_of(&addr).filter(|peer| self.swarm.is_connected(peer)) {
            drop(reply.send(Ok(peer)));
            return;
        }
        let opts = dial_opts(addr);
        let id = opts.connection_id();
        match self.dial_anyway(opts) {
            Ok(()) => self.dialing.entry(id).or_default().push(reply),
            Err(error) => drop(reply.send(Err(dial_error(&error)))),
        }
    }

    pub(super) fn open(&mut self, peer: PeerId, reply: Reply) {
        if peer == *self.swarm.local_peer_id() {
            drop(reply.send(Err(NetError::Dial("this peer is ourselves".into()))));
            return;
        }
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, reply);
            return;
        }
        if self.swarm.behaviour().unreachable.was_just_tried(&peer, Instant::now()) {
            drop(reply.send(Err(NetError::Dial("the peer could not be reached a moment ago".into()))));
            return;
        }
        let first = !self.opening.contains_key(&peer);
        self.opening.entry(peer).or_default().replies.push(reply);
        if first {
            self.dial(peer);
        }
    }

    /// Dials a peer by the addresses known here; without any, asks the DHT.
    pub(super) fn dial(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer) || peer == *self.swarm.local_peer_id() {
            return;
        }
        let opts = DialOpts::peer_id(peer)
            .addresses(self.book.of(&peer))
            .extend_addresses_through_behaviour()
            .build();
        let id = opts.connection_id();
        match self.dial_anyway(opts) {
            Ok(()) if self.opening.contains_key(&peer) => {}
            Ok(()) => self.unawaited.begun(id, Some(peer), Instant::now()),
            // Already on its way: its end is ours too.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(DialError::NoAddresses) => drop(self.look_up(peer, Vec::new(), &NetError::NoAddress(peer))),
            Err(error) => drop(self.look_up(peer, Vec::new(), &dial_error(&error))),
        }
    }

    /// Dials, also a peer that could not be reached a moment ago.
    pub(super) fn dial_anyway(&mut self, opts: DialOpts) -> Result<(), DialError> {
        self.swarm.behaviour_mut().unreachable.allow(Some(opts.connection_id()));
        let begun = self.swarm.dial(opts);
        self.swarm.behaviour_mut().unreachable.allow(None);
        begun
    }

    /// Somebody says where a peer is.
    pub(super) fn heard(&mut self, peer: PeerId, addr: &Multiaddr) {
        self.book.heard(peer, addr);
        self.swarm.behaviour_mut().unreachable.heard(&peer, addr);
    }

    /// When a question to the DHT has waited long enough for a peer that is being dialled.
    pub(super) fn unawaited_due(&self) -> Option<Instant> {
        // With nobody else there, these dials are all there is to hope for.
        if self.dht_peers.is_empty() || self.queries.is_empty() {
            return None;
        }
        self.unawaited.0.values().map(|(_, since)| *since + PATIENCE).min()
    }

    /// Lets go of peers that are slow to answer while the DHT waits for them: it goes on with the others.
    pub(super) fn let_go(&mut self, now: Instant) {
        if self.unawaited_due().is_none_or(|due| due > now) {
            return;
        }
        let slow = self.unawaited.0.iter().filter(|(_, (_, since))| *since + PATIENCE <= now);
        let slow: Vec<(ConnectionId, PeerId)> = slow.map(|(id, (peer, _))| (*id, *peer)).collect();
        for (id, peer) in slow {
            self.unawaited.ended(id);
            let awaited = self.opening.get(&peer).is_some_and(|opening| opening.asked.is_none());
            if !awaited && !self.swarm.is_connected(&peer) {
                self.swarm.behaviour_mut().unreachable.slow(peer, now);
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
            Some(tried) if !tried.is_empty() && !self.book.knows_besides(&peer, &tried) => {
                self.swarm.behaviour_mut().unreachable.failed(peer, &tried, Instant::now());
                self.give_up(peer, &NetError::Dial("it does not answer where it was last".into()));
            }
            _ => self.dial(peer),
        }
    }

    pub(super) fn give_up(&mut self, peer: PeerId, why: &NetError) {
        for reply in self.opening.remove(&peer).unwrap_or_default().replies {
            drop(reply.send(Err(why.clone())));
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        self.unawaited.ended(id);
        self.bootstrap_failed(id, error);
        if let DialError::Transport(tried) = error
            && let Some((addr, _)) = tried.iter().find(|(_, e)| is_outside(&reason(e)))
        {
            self.share(|shared| shared.outside = Some(addr.clone()));
        }
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Err(dial_error(error))));
        }
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.shunned.add(peer);
            self.cannot_reach(peer, error);
        }
    }

    /// Where it was a bootstrap address that failed: says so, now and then.
    pub(super) fn bootstrap_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(addr) = self.bootstrap.failed(id, error) else {
            return;
        };
        if matches!(error, DialError::LocalPeerId { .. }) {
            tracing::info!(%addr, "this bootstrap address is our own");
            return;
        }
        let why = dial_error(error);
        tracing::warn!(target: "storgo::bootstrap", "bootstrap address {addr} does not answer, and is tried on: {why}");
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
            self.swarm.behaviour_mut().unreachable.failed(peer, &tried, Instant::now());
            // Nor is it named to others who ask.
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
    }
}

/// Whether this is how a handshake ends where only one side has the cluster's key, or each has another one.
fn is_outside(reason: &str) -> bool {
    // On TCP, what the other one says cannot be read; on QUIC, its proof is missing or wrong.
    reason.contains("decrypt") || reason == NO_PROOF || reason == WRONG_PROOF
}

fn dial_error(error: &DialError) -> NetError {
    match error {
        DialError::WrongPeerId { obtained, .. } => {
            NetError::Dial(format!("another peer is at this address: {obtained}"))
        }
        DialError::LocalPeerId { .. } => NetError::Dial("this address is our own".into()),
        DialError::Transport(tried) => {
            let why = |e| match reason(e) {
                text if is_outside(&text) => OTHER_CLUSTER.into(),
                text => text,
            };
            let reasons: Vec<String> = tried.iter().map(|(addr, e)| format!("{addr}: {}", why(e))).collect();
            NetError::Dial(reasons.join("; "))
        }
        other => NetError::Dial(other.to_string()),
    }
}
