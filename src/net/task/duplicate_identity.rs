//! Detects another machine with the identity of this node. The two hide each other from the swarm.
//!
//! A connection between equal peer ids is either one of this node with itself, for example at its own bootstrap address,
//! and then both ends are seen here, or one with such a machine. Neither mDNS nor the DHT tells a node about its own peer id,
//! so the addresses of earlier runs are dialled: a copied data directory and a restored backup name those of the original.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::Multiaddr;
use tokio::time::Instant;

/// Time within which both ends of a connection of this node with itself are seen.
const PAIR: Duration = Duration::from_secs(3);
/// First and longest interval at which the addresses of earlier runs are dialled.
const PROBE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// Connections between equal peer ids.
#[derive(Default)]
pub(super) struct DuplicateIdentity {
    /// Addresses of earlier runs, and when they are dialled next.
    former: Vec<Multiaddr>,
    next_probe: Option<Instant>,
    probes: u32,
    /// Dials to other peers that this node itself answered, and how many of them were handled.
    self_dials: Arc<AtomicU64>,
    handled: u64,
    outgoing: Option<Multiaddr>,
    incoming: Option<Multiaddr>,
    /// When any incoming connection last failed.
    incoming_failed: Option<Instant>,
    due: Option<Instant>,
    reported: bool,
}

impl DuplicateIdentity {
    pub(super) fn new(self_dials: Arc<AtomicU64>, former: Vec<Multiaddr>) -> Self {
        let next_probe = (!former.is_empty()).then(Instant::now);
        Self { former, next_probe, self_dials, ..Self::default() }
    }

    /// Returns the addresses of earlier runs to dial now.
    pub(super) fn probes(&mut self, now: Instant) -> Vec<Multiaddr> {
        if self.next_probe.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_probe = Some(now + PROBE.0.saturating_mul(1 << self.probes.min(16)).min(PROBE.1));
        self.probes += 1;
        self.former.clone()
    }

    /// Notes that a dial reached a node with this identity.
    pub(super) fn outgoing(&mut self, addr: Multiaddr, now: Instant) {
        self.outgoing = Some(addr);
        self.due.get_or_insert(now + PAIR);
    }

    /// Notes that an incoming connection failed, and whether because the peer has this identity.
    pub(super) fn incoming_failed(&mut self, addr: Multiaddr, same_identity: bool, now: Instant) {
        self.incoming_failed = Some(now);
        if same_identity {
            self.incoming = Some(addr);
            self.due.get_or_insert(now + PAIR);
        }
    }

    /// Returns when the noted connections are to be judged, or addresses are to be dialled.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.next_probe).min()
    }

    /// Returns the address of another machine with this identity, once.
    pub(super) fn detect(&mut self, now: Instant) -> Option<Multiaddr> {
        self.due.take_if(|due| *due <= now)?;
        // If the dialling end closes first, the other end sees a failure of any kind.
        let failed = self.incoming_failed.is_some_and(|at| at + 2 * PAIR > now);
        let dials = self.self_dials.load(Ordering::Relaxed);
        let dialled_itself = std::mem::replace(&mut self.handled, dials) != dials;
        let other = match (self.outgoing.take(), self.incoming.take()) {
            (Some(addr), None) if !failed => addr,
            (None, Some(addr)) if !dialled_itself => addr,
            _ => return None,
        };
        (!std::mem::replace(&mut self.reported, true)).then_some(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr")
    }

    #[test]
    fn a_connection_with_itself_is_ignored_and_another_machine_is_reported_once() {
        let now = Instant::now();
        for same_identity in [true, false] {
            let mut identity = DuplicateIdentity::default();
            identity.incoming_failed(addr(2), same_identity, now);
            identity.outgoing(addr(1), now);
            assert_eq!(
                (identity.detect(now), identity.detect(now + PAIR), identity.next_due()),
                (None, None, None)
            );
        }
        // This node dialled itself at an address that was reported of another peer.
        let mut identity = DuplicateIdentity::default();
        identity.self_dials.fetch_add(1, Ordering::Relaxed);
        identity.incoming_failed(addr(2), true, now);
        assert_eq!(identity.detect(now + PAIR), None);
        for outgoing in [true, false] {
            let mut identity = DuplicateIdentity::default();
            for detected in [Some(addr(1)), None] {
                if outgoing {
                    identity.outgoing(addr(1), now);
                } else {
                    identity.incoming_failed(addr(1), true, now);
                }
                assert_eq!(identity.next_due(), Some(now + PAIR));
                assert_eq!(identity.detect(now + PAIR), detected);
            }
        }
    }
}
