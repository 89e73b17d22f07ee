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

/// A change of the protected peers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) protect: Option<PeerId>,
    pub(super) unprotect: Option<PeerId>,
}

impl ProtectedPeers {
    pub(super) fn new(local: PeerId, max_dht: usize) -> Self {
        Self { local: local.into(), max_dht, nearest: BTreeSet::new(), bootstrap: HashSet::new() }
    }

    fn by_distance(&self, peer: PeerId) -> (KBucketDistance, PeerId) {
        (self.local.distance(&KBucketKey::from(peer)), peer)
    }

    /// Protects a peer at a bootstrap address.
    pub(super) fn add_bootstrap(&mut self, peer: PeerId) -> Change {
        self.bootstrap.insert(peer);
        Change { protect: Some(peer), unprotect: None }
    }

    /// Protects a connected DHT peer if it is near. Above the maximum, the farthest loses its protection.
    pub(super) fn add_dht_peer(&mut self, peer: PeerId) -> Change {
        self.nearest.insert(self.by_distance(peer));
        if self.nearest.len() <= self.max_dht {
            return Change { protect: Some(peer), unprotect: None };
        }
        let farthest = self.nearest.pop_last().map(|(_, farthest)| farthest);
        let unprotect = farthest.filter(|farthest| !self.bootstrap.contains(farthest) && *farthest != peer);
        Change { protect: (farthest != Some(peer)).then_some(peer), unprotect }
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
        let mut now = HashSet::new();
        let apply = |now: &mut HashSet<PeerId>, change: Change| {
            now.extend(change.protect);
            if let Some(peer) = change.unprotect {
                assert!(now.remove(&peer), "only a protected peer loses its protection");
            }
        };
        apply(&mut now, protected.add_bootstrap(peers[0]));
        for peer in &peers {
            apply(&mut now, protected.add_dht_peer(*peer));
            // Adding it again changes nothing.
            apply(&mut now, protected.add_dht_peer(*peer));
        }
        let mut nearest: Vec<_> = peers.iter().map(|peer| protected.by_distance(*peer)).collect();
        nearest.sort();
        let mut expected: HashSet<PeerId> = nearest[..10].iter().map(|(_, peer)| *peer).collect();
        expected.insert(peers[0]);
        assert_eq!(now, expected);
        let (first, eleventh) = (nearest[0].1, nearest[10].1);
        assert!(protected.remove(first) && !protected.remove(nearest[20].1));
        assert_eq!(protected.add_dht_peer(eleventh), Change { protect: Some(eleventh), unprotect: None });
    }
}
