//! Rate limit for Identify updates from one peer: each update costs work here, and a peer may send any number.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

/// Updates accepted at once: a node that starts sends one for each of its addresses.
const IN_A_ROW: u32 = 24;
/// Interval at which one more update is accepted.
const EACH: Duration = Duration::from_secs(5);

/// For each connected peer, the time at which its full burst is available again.
#[derive(Default)]
pub(super) struct IdentifyLimit(HashMap<PeerId, Instant>);

impl IdentifyLimit {
    /// Returns whether to process an update of this peer, and counts it if so.
    pub(super) fn is_due(&mut self, peer: PeerId, now: Instant) -> bool {
        let available = self.0.entry(peer).or_insert(now);
        if *available + EACH > now + EACH * IN_A_ROW {
            return false;
        }
        *available = (*available).max(now) + EACH;
        true
    }

    /// Forgets a peer that has disconnected.
    pub(super) fn remove(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_sends_many_updates_is_limited_to_a_burst_and_then_one_per_interval() {
        let (mut limit, peer, start) = (IdentifyLimit::default(), PeerId::random(), Instant::now());
        let accepted =
            |limit: &mut IdentifyLimit, peer, now| (0..1000).filter(|_| limit.is_due(peer, now)).count();
        assert_eq!(accepted(&mut limit, peer, start), 24);
        assert_eq!(accepted(&mut limit, peer, start + EACH), 1);
        assert_eq!(accepted(&mut limit, PeerId::random(), start), 24);
        assert_eq!(accepted(&mut limit, peer, start + EACH * 100), 24);
    }
}
