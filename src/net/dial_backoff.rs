//! Dial backoff: peers that could not be reached recently are not dialled again at once.
//!
//! The DHT goes on naming a peer that has left, and each query would dial it again and wait for the failure. So until a
//! pause is over, the DHT's dials to that peer fail at once. Streams to it are refused only for some seconds after a
//! failure, because the peer may be back. A connection to the peer or a new address of it ends the pause. Dials to bootstrap
//! addresses, to remembered peers and on behalf of the user are never refused.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionDenied, ConnectionId, dummy},
};
use tokio::time::Instant;

use super::{address_ranking::without_peer_id, filtered::Filter};

/// First and longest pause between two dials to a peer.
const PAUSE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
/// Time after a failed dial for which streams to the peer are refused.
const REFUSE: Duration = Duration::from_secs(10);
/// Maximum peers remembered.
const PEERS: usize = 4096;

/// Peers that could not be reached. As a filter, it refuses dials to them.
#[derive(Default)]
pub(super) struct DialBackoff {
    peers: HashMap<PeerId, Backoff>,
    /// The dial that is allowed in spite of a pause.
    allowed: Option<ConnectionId>,
}

struct Backoff {
    /// When the last dial failed.
    failed_at: Instant,
    until: Instant,
    /// The pause after the next failure.
    pause: Duration,
    /// The addresses that failed. `None` means that the peer was only slow to answer.
    tried: Option<Vec<Multiaddr>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the peer could not be reached a moment ago")]
struct Refused;

impl DialBackoff {
    /// Notes that a peer could not be reached at these addresses.
    pub(super) fn failed<'a>(
        &mut self,
        peer: PeerId,
        tried: impl IntoIterator<Item = &'a Multiaddr>,
        now: Instant,
    ) {
        let tried = tried.into_iter().map(without_peer_id).collect();
        self.add(peer, Some(tried), now);
    }

    /// Notes that a peer takes too long to answer for the DHT. It may still be there.
    pub(super) fn slow(&mut self, peer: PeerId, now: Instant) {
        if !self.is_failed(&peer, now) {
            self.add(peer, None, now);
        }
    }

    fn add(&mut self, peer: PeerId, tried: Option<Vec<Multiaddr>>, now: Instant) {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, entry| entry.until > now);
            if self.peers.len() >= PEERS {
                return;
            }
        }
        let new = Backoff { failed_at: now, until: now, pause: PAUSE.0, tried: None };
        let entry = self.peers.entry(peer).or_insert(new);
        if entry.until + PAUSE.1 <= now {
            // The last failure was long ago.
            entry.pause = PAUSE.0;
        }
        entry.failed_at = now;
        // Several dials that end at once are one failure.
        if entry.until <= now {
            entry.until = now + entry.pause;
            entry.pause = (entry.pause * 2).min(PAUSE.1);
        }
        entry.tried = tried.or(entry.tried.take());
    }

    /// Returns whether a dial to the peer failed and its pause is not over.
    pub(super) fn is_failed(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.until > now && entry.tried.is_some())
    }

    /// Returns whether a dial to the peer failed a few seconds ago.
    pub(super) fn just_failed(&self, peer: &PeerId, now: Instant) -> bool {
        self.is_failed(peer, now) && self.peers.get(peer).is_some_and(|entry| entry.failed_at + REFUSE > now)
    }

    /// Ends the pause of a peer if this address of it was not tried.
    pub(super) fn add_address(&mut self, peer: &PeerId, addr: &Multiaddr) {
        let addr = without_peer_id(addr);
        let untried = |entry: &Backoff| entry.tried.as_ref().is_none_or(|tried| !tried.contains(&addr));
        if self.peers.get(peer).is_some_and(untried) {
            self.peers.remove(peer);
        }
    }

    pub(super) fn connected(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Ends all pauses: dials failed because this machine had no network.
    pub(super) fn clear(&mut self) {
        self.peers.clear();
    }

    /// Allows one dial in spite of a pause. `None` allows no dial.
    pub(super) fn allow(&mut self, dial: Option<ConnectionId>) {
        self.allowed = dial;
    }
}

impl Filter<dummy::Behaviour> for DialBackoff {
    fn check_dial(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
    ) -> Result<(), ConnectionDenied> {
        let now = Instant::now();
        let paused = peer.and_then(|peer| self.peers.get(&peer)).is_some_and(|entry| entry.until > now);
        if paused && self.allowed != Some(id) {
            return Err(ConnectionDenied::new(Refused));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr")
    }

    fn is_refused(backoff: &mut DialBackoff, peer: PeerId, id: ConnectionId) -> bool {
        backoff.check_dial(id, Some(peer), &[]).is_err()
    }

    #[test]
    fn the_pause_doubles_with_each_failure_up_to_its_maximum() {
        let (mut backoff, peer, mut now) = (DialBackoff::default(), PeerId::random(), Instant::now());
        for round in 0..10 {
            backoff.failed(peer, &[addr(1)], now);
            backoff.failed(peer, &[addr(1)], now);
            let pause = (PAUSE.0 * 2_u32.pow(round)).min(PAUSE.1);
            assert!(backoff.is_failed(&peer, now + pause - Duration::from_millis(1)), "round {round}");
            assert!(backoff.just_failed(&peer, now) && !backoff.just_failed(&peer, now + REFUSE));
            now += pause;
            assert!(!backoff.is_failed(&peer, now), "round {round}");
        }
        now += PAUSE.1;
        backoff.failed(peer, &[addr(1)], now);
        assert!(!backoff.is_failed(&peer, now + PAUSE.0), "the pause starts again after a long time");
    }

    #[test]
    fn a_connection_or_a_new_address_ends_the_pause() {
        let (mut backoff, peer, now) = (DialBackoff::default(), PeerId::random(), Instant::now());
        let (id, allowed) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        backoff.failed(peer, &[addr(1).with_p2p(peer).expect("no id yet")], now);
        backoff.add_address(&peer, &addr(1));
        assert!(backoff.is_failed(&peer, now) && is_refused(&mut backoff, peer, id));
        assert!(!is_refused(&mut backoff, PeerId::random(), id));
        backoff.allow(Some(allowed));
        assert!(is_refused(&mut backoff, peer, id) && !is_refused(&mut backoff, peer, allowed));
        backoff.add_address(&peer, &addr(2));
        assert!(!backoff.is_failed(&peer, now) && !is_refused(&mut backoff, peer, id));
        backoff.failed(peer, &[addr(1)], now);
        backoff.connected(&peer);
        assert!(!is_refused(&mut backoff, peer, id));
        // A slow peer is refused to the DHT and does not count as failed.
        backoff.slow(peer, now);
        assert!(is_refused(&mut backoff, peer, id) && !backoff.is_failed(&peer, now));
        backoff.clear();
        assert!(!is_refused(&mut backoff, peer, id));
    }
}
