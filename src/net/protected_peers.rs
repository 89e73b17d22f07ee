//! Selects the peers whose connections stay open while idle.
//!
//! Idle connections are closed, or strangers could fill the node with them. But an open connection saves a handshake, and
//! a small swarm should stay fully connected. So connections to bootstrap peers are protected, and those to the DHT peers
//! whose ids are nearest to this node's. Nearness is mutual, so both ends mostly agree.

use std::collections::{BTreeSet, HashSet};

use libp2p::{
    PeerId,
    kad::{KBucketDistance, KBucketKey},
};

/// The protected peers.
pub(super) struct ProtectedPeers {
    local: KBucketKey<PeerId>,
    /// Maximum DHT peers.
    max_dht: usize,
    nearest: BTreeSet<(KBucketDistance, PeerId)>,
    /// Peers at bootstrap addresses: at most one for each address.
    bootstrap: HashSet<PeerId>,
}

impl ProtectedPeers {
    pub(super) fn new(local: PeerId, max_dht: usize) -> Self {
        Self { local: local.into(), max_dht, nearest: BTreeSet::new(), bootstrap: HashSet::new() }
    }

    fn by_distance(&self, peer: PeerId) -> (KBucketDistance, PeerId) {
        (self.local.distance(&KBucketKey::from(peer)), peer)
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.bootstrap.contains(peer) || self.nearest.contains(&self.by_distance(*peer))
    }

    /// Protects a peer at a bootstrap address.
    pub(super) fn add_bootstrap(&mut self, peer: PeerId) {
        self.bootstrap.insert(peer);
    }

    /// Protects a connected DHT peer if it is near. Above the maximum, returns the farthest, which loses its protection.
    pub(super) fn add_dht_peer(&mut self, peer: PeerId) -> Option<PeerId> {
        self.nearest.insert(self.by_distance(peer));
        let full = self.nearest.len() > self.max_dht;
        if full { self.nearest.pop_last().map(|(_, farthest)| farthest) } else { None }
    }

    /// Removes a disconnected peer. Returns whether there is room for another DHT peer.
    pub(super) fn remove(&mut self, peer: PeerId) -> bool {
        self.bootstrap.remove(&peer);
        self.nearest.remove(&self.by_distance(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_dht_peers_and_the_bootstrap_peers_are_protected_in_any_order() {
        let mut protected = ProtectedPeers::new(PeerId::random(), 10);
        let peers: Vec<PeerId> = (0..50).map(|_| PeerId::random()).collect();
        protected.add_bootstrap(peers[0]);
        // Adding a peer again changes nothing.
        for peer in peers.iter().chain(&peers) {
            protected.add_dht_peer(*peer);
        }
        let mut nearest: Vec<_> = peers.iter().map(|peer| protected.by_distance(*peer)).collect();
        nearest.sort();
        let mut expected: HashSet<PeerId> = nearest[..10].iter().map(|(_, peer)| *peer).collect();
        expected.insert(peers[0]);
        assert!(peers.iter().all(|peer| protected.contains(peer) == expected.contains(peer)));
        let (first, eleventh) = (nearest[0].1, nearest[10].1);
        assert!(protected.remove(first) && !protected.remove(nearest[20].1));
        assert_eq!(protected.add_dht_peer(eleventh), None);
        assert!(protected.contains(&eleventh) && !protected.contains(&first));
    }
}
