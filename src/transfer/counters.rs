//! Bytes of blocks sent and received since start, in all and for each peer.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use libp2p::PeerId;

/// Maximum peers with their own counts.
const PEERS: usize = 4096;

/// Bytes of blocks since start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sent to peers.
    pub sent: AtomicU64,
    /// Received from peers.
    pub received: AtomicU64,
    peers: Mutex<HashMap<PeerId, BlockBytes>>,
}

/// Bytes of blocks exchanged with one peer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BlockBytes {
    /// Sent to it.
    pub sent: u64,
    /// Received from it.
    pub received: u64,
}

impl Counters {
    /// Returns the bytes exchanged with one peer.
    pub fn for_peer(&self, peer: &PeerId) -> BlockBytes {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(peer).copied().unwrap_or_default()
    }

    pub(super) fn add_sent(&self, peer: PeerId, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.add(peer, |count| count.sent += bytes);
    }

    pub(super) fn add_received(&self, peer: PeerId, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.add(peer, |count| count.received += bytes);
    }

    fn add(&self, peer: PeerId, add: impl FnOnce(&mut BlockBytes)) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS && !peers.contains_key(&peer) {
            // The peer with the fewest bytes is dropped.
            let least = peers.iter().min_by_key(|(_, count)| count.sent + count.received);
            if let Some(least) = least.map(|(peer, _)| *peer) {
                peers.remove(&least);
            }
        }
        add(peers.entry(peer).or_default());
    }
}
