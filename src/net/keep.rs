//! Which connections stay when nothing is done on them.
//!
//! An idle connection is closed, or strangers who connect and say nothing could fill the node. But a connection at hand
//! saves the first byte a handshake, and a small swarm should stay fully connected: so the connections to bootstrap
//! peers stay, and those to the peers of our DHT whose ids are nearest to ours. Nearness is mutual, so both ends mostly
//! agree; whoever loses its connection is dialled again when it is needed.

use std::collections::{BTreeSet, HashSet};

use libp2p::{
    PeerId,
    kad::{KBucketDistance, KBucketKey},
};

/// The peers whose connections stay.
pub(super) struct Kept {
    local: KBucketKey<PeerId>,
    /// Peers of the DHT that are kept at most.
    most: usize,
    nearest: BTreeSet<(KBucketDistance, PeerId)>,
    /// Peers behind bootstrap addresses: no more than there are addresses.
    bootstrap: HashSet<PeerId>,
}

/// What changes for whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) keep: Option<PeerId>,
    pub(super) let_go: Option<PeerId>,
}

impl Kept {
    pub(super) fn new(local: PeerId, most: usize) -> Self {
        Self { local: local.into(), most, nearest: BTreeSet::new(), bootstrap: HashSet::new() }
    }

    fn place(&self, peer: PeerId) -> (KBucketDistance, PeerId) {
        (self.local.distance(&KBucketKey::from(peer)), peer)
    }

    /// A bootstrap address leads to this peer.
    pub(super) fn bootstrap(&mut self, peer: PeerId) -> Change {
        self.bootstrap.insert(peer);
        Change { keep: Some(peer), let_go: None }
    }

    /// A peer of the DHT is connected. Where there are too many, the farthest is not kept any more.
    pub(super) fn dht_peer(&mut self, peer: PeerId) -> Change {
        self.nearest.insert(self.place(peer));
        if self.nearest.len() <= self.most {
            return Change { keep: Some(peer), let_go: None };
        }
        let farthest = self.nearest.pop_last().map(|(_, farthest)| farthest);
        let let_go = farthest.filter(|farthest| !self.bootstrap.contains(farthest));
        Change { keep: (farthest != Some(peer)).then_some(peer), let_go: let_go.filter(|gone| *gone != peer) }
    }

    /// A peer is not connected any more; `true` where another one of the DHT can be kept in its place.
    pub(super) fn gone(&mut self, peer: PeerId) -> bool {
        self.bootstrap.remove(&peer);
        self.nearest.remove(&self.place(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_kept_in_whatever_order_they_come_and_bootstrap_peers_besides() {
        let local = PeerId::random();
        let mut kept = Kept::new(local, 10);
        let peers: Vec<PeerId> = (0..50).map(|_| PeerId::random()).collect();
        let mut now = HashSet::new();
        let apply = |now: &mut HashSet<PeerId>, change: Change| {
            now.extend(change.keep);
            if let Some(gone) = change.let_go {
                assert!(now.remove(&gone), "only who was kept is let go");
            }
        };
        apply(&mut now, kept.bootstrap(peers[0]));
        for peer in &peers {
            apply(&mut now, kept.dht_peer(*peer));
            // Told twice is told once.
            apply(&mut now, kept.dht_peer(*peer));
        }
        let mut nearest: Vec<_> = peers.iter().map(|peer| kept.place(*peer)).collect();
        nearest.sort();
        let mut expected: HashSet<PeerId> = nearest[..10].iter().map(|(_, peer)| *peer).collect();
        expected.insert(peers[0]);
        assert_eq!(now, expected);
        let (first, eleventh) = (nearest[0].1, nearest[10].1);
        assert!(kept.gone(first) && !kept.gone(nearest[20].1));
        assert_eq!(kept.dht_peer(eleventh), Change { keep: Some(eleventh), let_go: None });
    }
}
