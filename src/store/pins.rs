//! Blocks that must not be collected now, and blocks that are being collected.
//!
//! One lock decides the race between uploads and the collector: the collector dooms a block only while no upload has it
//! pinned, and an upload that pins a doomed block waits until the collector is done with it. So an upload that looks for a
//! block after pinning it sees it either safe or gone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Condvar, Mutex, PoisonError},
};

use crate::content::hash::Digest;

#[derive(Default)]
pub(super) struct Pins {
    state: Mutex<PinState>,
    released: Condvar,
}

#[derive(Default)]
struct PinState {
    pinned: HashMap<Digest, u32>,
    doomed: HashSet<Digest>,
}

impl Pins {
    /// Pins a block; waits while it is being collected.
    pub(super) fn pin(&self, digest: Digest) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.doomed.contains(&digest) {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state.pinned.entry(digest).or_default() += 1;
    }

    pub(super) fn unpin<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in digests {
            if let Some(count) = state.pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.pinned.remove(digest);
                }
            }
        }
    }

    /// Whether an upload has a block pinned at this moment.
    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).pinned.contains_key(digest)
    }

    /// Dooms those of `candidates` that are neither pinned nor doomed, until the result is dropped.
    pub(super) fn doom(&self, candidates: impl IntoIterator<Item = Digest>) -> Doomed<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let PinState { pinned, doomed } = &mut *state;
        let candidates = candidates.into_iter();
        let digests =
            candidates.filter(|digest| !pinned.contains_key(digest) && doomed.insert(*digest)).collect();
        Doomed { pins: self, digests }
    }
}

/// Blocks that are being removed.
pub(super) struct Doomed<'a> {
    pins: &'a Pins,
    pub(super) digests: Vec<Digest>,
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        let mut state = self.pins.state.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            state.doomed.remove(digest);
        }
        self.pins.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_doomed_by_one_at_a_time_and_never_while_pinned() {
        let pins = Pins::default();
        let (a, b) = ([1; 20], [2; 20]);
        pins.pin(b);
        let first = pins.doom([a, b]);
        assert_eq!(first.digests, [a]);
        let second = pins.doom([a]);
        assert!(second.digests.is_empty());
        drop(second);
        assert!(pins.doom([a]).digests.is_empty(), "the first one is not done with it");
        drop(first);
        pins.unpin([&b]);
        assert_eq!(pins.doom([a, b]).digests, [a, b]);
    }
}
