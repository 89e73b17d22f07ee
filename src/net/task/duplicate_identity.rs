//! Another machine that runs with our identity: each of the two hides the other from the swarm.
//!
//! A call whose other end has our own peer id is either one to ourselves (a bootstrap address that is our own), and then
//! both of its ends are here, or one to or from such a machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::Multiaddr;
use tokio::time::Instant;

/// How long the other end of a call to ourselves may take to show.
const PAIR: Duration = Duration::from_secs(3);

/// Calls in which both ends have our identity.
#[derive(Default)]
pub(super) struct DuplicateIdentity {
    /// Calls for others that reached ourselves, and how many of them have been seen.
    self_calls: Arc<AtomicU64>,
    seen: u64,
    made: Option<Multiaddr>,
    taken: Option<Multiaddr>,
    /// When a caller was last refused, whoever it was.
    refused: Option<Instant>,
    due: Option<Instant>,
    /// Once is enough.
    told: bool,
}

impl DuplicateIdentity {
    pub(super) fn new(self_calls: Arc<AtomicU64>) -> Self {
        Self { self_calls, ..Self::default() }
    }

    /// We have called, and it was us who answered.
    pub(super) fn made(&mut self, addr: Multiaddr, now: Instant) {
        self.made = Some(addr);
        self.due.get_or_insert(now + PAIR);
    }

    /// A caller was refused; `ours`: because it was us.
    pub(super) fn refused(&mut self, addr: Multiaddr, ours: bool, now: Instant) {
        self.refused = Some(now);
        if ours {
            self.taken = Some(addr);
            self.due.get_or_insert(now + PAIR);
        }
    }

    /// When it is known what a call was.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Where another machine with our identity was met; said once.
    pub(super) fn met(&mut self, now: Instant) -> Option<Multiaddr> {
        self.due.take_if(|due| *due <= now)?;
        // One who hangs up early is seen here as any caller who was refused.
        let refused = self.refused.is_some_and(|at| at + 2 * PAIR > now);
        let calls = self.self_calls.load(Ordering::Relaxed);
        let called_for_others = std::mem::replace(&mut self.seen, calls) != calls;
        let met = match (self.made.take(), self.taken.take()) {
            (Some(called), None) if !refused => Some(called),
            (None, Some(caller)) if !called_for_others => Some(caller),
            _ => None,
        };
        let news = met.filter(|_| !self.told)?;
        self.told = true;
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{port}").parse().expect("a multiaddr")
    }

    #[test]
    fn a_call_to_ourselves_has_two_ends_here_and_any_other_one_is_told_once() {
        let now = Instant::now();
        for ours in [true, false] {
            let mut twins = DuplicateIdentity::default();
            twins.refused(addr(2), ours, now);
            twins.made(addr(1), now);
            assert_eq!((twins.met(now), twins.met(now + PAIR), twins.next_due()), (None, None, None));
        }
        // Whoever was called for another peer: its own address was told of that one.
        let mut twins = DuplicateIdentity::default();
        twins.self_calls.fetch_add(1, Ordering::Relaxed);
        twins.refused(addr(2), true, now);
        assert_eq!(twins.met(now + PAIR), None);
        for called in [true, false] {
            let mut twins = DuplicateIdentity::default();
            for met in [Some(addr(1)), None] {
                if called {
                    twins.made(addr(1), now);
                } else {
                    twins.refused(addr(1), true, now);
                }
                assert_eq!(twins.next_due(), Some(now + PAIR));
                assert_eq!(twins.met(now + PAIR), met);
            }
        }
    }
}
