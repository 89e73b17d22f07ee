//! Ways to a peer: by an address, by what is known of it, and by asking the DHT where it is.

use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};

use super::{Dialed, Task, query::Query, reason};
use crate::net::{
    NetError,
    discovery::{dial_opts, peer_of},
    streams::Reply,
};

/// Streams that wait for a connection to a peer.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) replies: Vec<Reply>,
    /// The DHT has been asked where the peer is.
    asked: bool,
}

impl Task {
    pub(super) fn connect(&mut self, addr: Multiaddr, reply: Dialed) {
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

    pub(super) fn open(&mut self, peer: PeerId, reply: Reply) {
        if peer == *self.swarm.local_peer_id() {
            drop(reply.send(Err(NetError::Dial("this peer is ourselves".into()))));
            return;
        }
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, reply);
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
        match self.swarm.dial(opts) {
            // Already on its way: its end is ours too.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(DialError::NoAddresses) => self.look_up(peer, &NetError::NoAddress(peer)),
            Err(error) => self.look_up(peer, &dial_error(&error)),
        }
    }

    /// Where a peer could not be dialled: asks the DHT once where it is, and gives up the second time.
    fn look_up(&mut self, peer: PeerId, why: &NetError) {
        let Some(opening) = self.opening.get_mut(&peer) else {
            return;
        };
        if opening.asked || self.dht_peers.is_empty() {
            self.give_up(peer, why);
        } else {
            opening.asked = true;
            self.ask(Query::Address { peer });
        }
    }

    pub(super) fn give_up(&mut self, peer: PeerId, why: &NetError) {
        for reply in self.opening.remove(&peer).unwrap_or_default().replies {
            drop(reply.send(Err(why.clone())));
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        if let Some(addr) = self.bootstrap.failed(id, error) {
            match error {
                DialError::WrongPeerId { obtained, .. } => {
                    tracing::warn!(%addr, actual = %obtained, "the bootstrap address belongs to another peer");
                }
                DialError::LocalPeerId { .. } => tracing::info!(%addr, "this bootstrap address is our own"),
                _ => tracing::debug!(%addr, "a bootstrap node cannot be reached: {error}"),
            }
        }
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Err(dial_error(error))));
        }
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.shunned.add(peer);
            self.look_up(peer, &dial_error(error));
        }
    }
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
