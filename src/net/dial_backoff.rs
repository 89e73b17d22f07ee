//! Peers that could not be reached a moment ago.
//!
//! The DHT goes on naming a peer that has left, and each question to it would dial that peer again and wait for the end
//! of it. So a failure is remembered: until it is time for another try, the DHT's dials to that peer fail at once. Whoever
//! wants a stream to it is refused for some seconds after a try alone, since the peer may be back. It is forgotten when the peer is connected, or when another address of it becomes known. Dials that
//! this program makes of its own accord (bootstrap addresses, the way back into the swarm, a user's) are never refused.

use std::{
    collections::HashMap,
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use tokio::time::Instant;

use super::address_ranking::bare;

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
/// How long nobody is made to wait for another try.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Peers remembered at most.
const PEERS: usize = 4096;

/// The memory, and the behaviour that acts on it.
#[derive(Default)]
pub(super) struct DialBackoff {
    peers: HashMap<PeerId, Entry>,
    /// The dial that is made now whatever is remembered.
    allowed: Option<ConnectionId>,
}

struct Entry {
    /// The end of the last try.
    last: Instant,
    until: Instant,
    pause: Duration,
    /// Where it was tried; none where it was only slow to answer.
    tried: Option<Vec<Multiaddr>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the peer could not be reached a moment ago")]
struct TriedJustNow;

impl DialBackoff {
    /// A peer could not be reached at these addresses.
    pub(super) fn failed<'a>(
        &mut self,
        peer: PeerId,
        tried: impl IntoIterator<Item = &'a Multiaddr>,
        now: Instant,
    ) {
        let tried = tried.into_iter().map(bare).collect();
        self.note(peer, Some(tried), now);
    }

    /// A peer takes so long to answer that the DHT does without it. It may still be there.
    pub(super) fn slow(&mut self, peer: PeerId, now: Instant) {
        if !self.is_failed(&peer, now) {
            self.note(peer, None, now);
        }
    }

    fn note(&mut self, peer: PeerId, tried: Option<Vec<Multiaddr>>, now: Instant) {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, entry| entry.until > now);
            if self.peers.len() >= PEERS {
                return;
            }
        }
        let new = Entry { last: now, until: now, pause: PAUSE.0, tried: None };
        let entry = self.peers.entry(peer).or_insert(new);
        if entry.until + PAUSE.1 <= now {
            // Long ago.
            entry.pause = PAUSE.0;
        }
        entry.last = now;
        // Several dials that end at once are one failure.
        if entry.until <= now {
            entry.until = now + entry.pause;
            entry.pause = (entry.pause * 2).min(PAUSE.1);
        }
        entry.tried = tried.or(entry.tried.take());
    }

    /// Whether it is known that a peer cannot be reached now.
    pub(super) fn is_failed(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.until > now && entry.tried.is_some())
    }

    /// Whether a peer was tried in vain a few seconds ago.
    pub(super) fn was_just_tried(&self, peer: &PeerId, now: Instant) -> bool {
        self.is_failed(peer, now) && self.peers.get(peer).is_some_and(|entry| entry.last + AT_ONCE > now)
    }

    /// An address of a peer has become known: where it was not tried, the peer is worth a try.
    pub(super) fn heard(&mut self, peer: &PeerId, addr: &Multiaddr) {
        let addr = bare(addr);
        let untried = |entry: &Entry| entry.tried.as_ref().is_none_or(|tried| !tried.contains(&addr));
        if self.peers.get(peer).is_some_and(untried) {
            self.peers.remove(peer);
        }
    }

    pub(super) fn connected(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// What was noted while this machine had no network says nothing of the peers.
    pub(super) fn forget_all(&mut self) {
        self.peers.clear();
    }

    /// Lets one dial pass whatever is remembered; none: no more.
    pub(super) fn allow(&mut self, dial: Option<ConnectionId>) {
        self.allowed = dial;
    }
}

impl NetworkBehaviour for DialBackoff {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let now = Instant::now();
        let noted = peer.and_then(|peer| self.peers.get(&peer)).is_some_and(|entry| entry.until > now);
        if noted && self.allowed != Some(id) {
            return Err(ConnectionDenied::new(TriedJustNow));
        }
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr")
    }

    fn is_refused(memory: &mut DialBackoff, peer: PeerId, id: ConnectionId) -> bool {
        memory.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).is_err()
    }

    #[test]
    fn who_could_not_be_reached_is_left_alone_for_longer_and_longer() {
        let (mut memory, peer, mut now) = (DialBackoff::default(), PeerId::random(), Instant::now());
        for round in 0..10 {
            memory.failed(peer, &[addr(1)], now);
            memory.failed(peer, &[addr(1)], now);
            let pause = (PAUSE.0 * 2_u32.pow(round)).min(PAUSE.1);
            assert!(memory.is_failed(&peer, now + pause - Duration::from_millis(1)), "round {round}");
            assert!(memory.was_just_tried(&peer, now) && !memory.was_just_tried(&peer, now + AT_ONCE));
            now += pause;
            assert!(!memory.is_failed(&peer, now), "round {round}");
        }
        now += PAUSE.1;
        memory.failed(peer, &[addr(1)], now);
        assert!(!memory.is_failed(&peer, now + PAUSE.0), "what was long ago counts no more");
    }

    #[test]
    fn a_connection_or_another_address_is_a_new_beginning() {
        let (mut memory, peer, now) = (DialBackoff::default(), PeerId::random(), Instant::now());
        let (id, own) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        memory.failed(peer, &[addr(1).with_p2p(peer).expect("no id yet")], now);
        memory.heard(&peer, &addr(1));
        assert!(memory.is_failed(&peer, now) && is_refused(&mut memory, peer, id));
        assert!(!is_refused(&mut memory, PeerId::random(), id));
        memory.allow(Some(own));
        assert!(is_refused(&mut memory, peer, id) && !is_refused(&mut memory, peer, own));
        memory.heard(&peer, &addr(2));
        assert!(!memory.is_failed(&peer, now) && !is_refused(&mut memory, peer, id));
        memory.failed(peer, &[addr(1)], now);
        memory.connected(&peer);
        assert!(!is_refused(&mut memory, peer, id));
        // Of one that is only slow, nobody says that it cannot be reached.
        memory.slow(peer, now);
        assert!(is_refused(&mut memory, peer, id) && !memory.is_failed(&peer, now));
        memory.forget_all();
        assert!(!is_refused(&mut memory, peer, id));
    }
}
