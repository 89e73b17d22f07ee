//! What has moved since start, in all and for each peer.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use libp2p::PeerId;

/// Peers that are counted apart at a time.
const PEERS: usize = 4096;

/// Bytes of blocks since start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sent to peers.
    pub sent: AtomicU64,
    /// Received from peers.
    pub received: AtomicU64,
    peers: Mutex<HashMap<PeerId, Moved>>,
}

/// Bytes of blocks that one peer took and gave.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Sent to it.
    pub sent: u64,
    /// Received from it.
    pub received: u64,
}

impl Counters {
    /// What moved to and from one peer.
    pub fn of(&self, peer: &PeerId) -> Moved {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(peer).copied().unwrap_or_default()
    }

    pub(super) fn note_sent(&self, peer: PeerId, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.note(peer, |moved| moved.sent += bytes);
    }

    pub(super) fn note_received(&self, peer: PeerId, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.note(peer, |moved| moved.received += bytes);
    }

    fn note(&self, peer: PeerId, add: impl FnOnce(&mut Moved)) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS && !peers.contains_key(&peer) {
            // Whoever moved least is missed least.
            let least = peers.iter().min_by_key(|(_, moved)| moved.sent + moved.received);
            if let Some(least) = least.map(|(peer, _)| *peer) {
                peers.remove(&least);
            }
        }
        add(peers.entry(peer).or_default());
    }
}
