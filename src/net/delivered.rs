//! The peers that have most recently delivered blocks to this node.
//!
//! Their connections and provider records are dropped last. That is a preference only: anybody can deliver a block.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;

/// Maximum peers. Above it, the one that has delivered nothing for the longest time is forgotten.
const MAX: usize = 4096;

/// A handle on the set.
#[derive(Clone, Default)]
pub(super) struct DeliveredPeers(Arc<Mutex<Peers>>);

#[derive(Default)]
struct Peers {
    /// Number of the last delivery of each peer.
    last: HashMap<PeerId, u64>,
    count: u64,
}

impl DeliveredPeers {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a peer has delivered a block.
    pub(super) fn add(&self, peer: PeerId) {
        let mut peers = self.peers();
        peers.count += 1;
        let count = peers.count;
        if peers.last.insert(peer, count).is_none()
            && peers.last.len() > MAX
            && let Some((oldest, _)) = peers.last.iter().min_by_key(|(_, last)| **last)
        {
            let oldest = *oldest;
            peers.last.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.peers().last.contains_key(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_that_has_delivered_nothing_for_the_longest_time_is_forgotten() {
        let delivered = DeliveredPeers::default();
        let peers: Vec<PeerId> = (0..=MAX).map(|_| PeerId::random()).collect();
        peers[..MAX].iter().for_each(|peer| delivered.add(*peer));
        delivered.add(peers[0]);
        delivered.add(peers[MAX]);
        assert!(delivered.contains(&peers[0]) && delivered.contains(&peers[MAX]));
        assert!(!delivered.contains(&peers[1]) && delivered.contains(&peers[2]));
    }
}
