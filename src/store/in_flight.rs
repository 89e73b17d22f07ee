//! Blocks that uploads have in hand, and blocks that are being collected.
//!
//! An upload pins each block that it puts. One lock decides the race between uploads and the collector: the collector dooms
//! a block only while no upload has it pinned, and an upload that pins a doomed block waits until the collector is done with
//! it. So an upload that looks for a block after pinning it sees it either safe or gone.
//!
//! A block that the index does not list yet has a [`Stage`], shared by all uploads that put it. A file keeps it after the
//! last of them until the file is listed or gone.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{
    block_stage::{Event, Stage},
    quota::Reservation,
    schema::Arrival,
};
use crate::content::hash::Digest;

type Blocks = HashMap<Digest, Entry>;

#[derive(Default)]
pub(super) struct InFlight {
    blocks: Mutex<Blocks>,
    released: Condvar,
}

#[derive(Default)]
struct Entry {
    /// Number of uploads that have pinned it.
    pins: u32,
    is_doomed: bool,
    /// `None` for a block of which the index says all.
    held: Option<Box<Held>>,
}

/// A block that some upload stores.
pub(super) struct Held {
    pub(super) stage: Stage,
    /// The row of the index for it.
    pub(super) arrival: Arrival,
    /// Ends when the index counts the block, or when the block is given up.
    quota: Option<Reservation>,
}

impl Held {
    /// Whether it is a file that the index does not list.
    pub(super) fn is_unlisted_file(&self) -> bool {
        self.stage != Stage::Listed && self.arrival.inline.is_none()
    }

    fn note(&mut self, event: Event) {
        self.stage = self.stage.after(event);
        if self.stage == Stage::Listed {
            (self.arrival.inline, self.quota) = (None, None);
        }
    }
}

impl InFlight {
    /// Pins a block; waits while it is being collected.
    pub(super) fn pin(&self, digest: Digest) {
        let is_doomed = |blocks: &mut Blocks| blocks.get(&digest).is_some_and(|entry| entry.is_doomed);
        let waited = self.released.wait_while(self.blocks(), is_doomed);
        waited.unwrap_or_else(PoisonError::into_inner).entry(digest).or_default().pins += 1;
    }

    /// Ends one pin of each block.
    pub(super) fn unpin<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        self.change(digests, |entry| {
            entry.pins = entry.pins.saturating_sub(1);
            if entry.pins == 0 {
                // A block that could not be written is not there.
                entry.held.take_if(|held| !held.is_unlisted_file() || held.stage == Stage::Reserved);
            }
        });
    }

    /// Whether an upload has a block pinned or has left a file of it that is not listed, or it is being collected.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.blocks().contains_key(digest)
    }

    /// Dooms those of `candidates` that are neither pinned nor doomed, until the result is dropped.
    pub(super) fn doom(&self, candidates: impl IntoIterator<Item = Digest>) -> Doomed<'_> {
        let mut blocks = self.blocks();
        let mut digests = Vec::new();
        for digest in candidates {
            let entry = blocks.entry(digest).or_default();
            if entry.pins == 0 && !entry.is_doomed {
                entry.is_doomed = true;
                digests.push(digest);
            }
        }
        Doomed { in_flight: self, digests }
    }

    /// Takes a block in hand that the index does not list, or not with these bytes. One that lives in the index is as good as
    /// synced. A file is reserved, unless it has a stage already.
    pub(super) fn hold(&self, arrival: Arrival, quota: Reservation) {
        let mut blocks = self.blocks();
        let entry = blocks.entry(arrival.digest).or_default();
        let stage = if arrival.inline.is_some() { Stage::Synced } else { Stage::Reserved };
        if stage == Stage::Synced || entry.held.as_ref().is_none_or(|held| held.stage == Stage::Listed) {
            entry.held = Some(Box::new(Held { stage, arrival, quota: Some(quota) }));
        }
    }

    /// Looks at a block that some upload stores.
    pub(super) fn look<T>(&self, digest: &Digest, look: impl FnOnce(&Held) -> T) -> Option<T> {
        self.blocks().get(digest)?.held.as_deref().map(look)
    }

    /// Looks at those of `digests` that some upload stores.
    pub(super) fn look_at_all<T>(&self, digests: &[Digest], look: impl Fn(&Held) -> Option<T>) -> Vec<T> {
        let blocks = self.blocks();
        let held = digests.iter().filter_map(|digest| blocks.get(digest)?.held.as_deref());
        held.filter_map(look).collect()
    }

    /// Whether there are block files that the index does not list.
    pub(super) fn has_unlisted_files(&self) -> bool {
        let blocks = self.blocks();
        blocks.values().filter_map(|entry| entry.held.as_deref()).any(Held::is_unlisted_file)
    }

    /// Whether a block has to be written again, although its bytes may look right.
    pub(super) fn is_unsound(&self, digest: &Digest) -> bool {
        self.look(digest, |held| held.stage == Stage::Unsound) == Some(true)
    }

    /// Notes what happened to blocks.
    pub(super) fn note<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>, event: Event) {
        self.change(digests, |entry| {
            if let Some(held) = &mut entry.held {
                held.note(event);
            }
        });
    }

    /// Notes that a sync has failed: no file that is not listed can be relied on.
    pub(super) fn note_failed_sync(&self) {
        let mut blocks = self.blocks();
        let held = blocks.values_mut().filter_map(|entry| entry.held.as_deref_mut());
        held.filter(|held| held.is_unlisted_file()).for_each(|held| held.note(Event::SyncFailed));
    }

    /// Forgets blocks whose files are gone.
    pub(super) fn forget<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        self.change(digests, |entry| entry.held = None);
    }

    fn change<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>, mut change: impl FnMut(&mut Entry)) {
        let mut blocks = self.blocks();
        for digest in digests {
            if let Some(entry) = blocks.get_mut(digest) {
                change(entry);
                if entry.pins == 0 && !entry.is_doomed && entry.held.is_none() {
                    blocks.remove(digest);
                }
            }
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks that are being removed.
pub(super) struct Doomed<'a> {
    in_flight: &'a InFlight,
    pub(super) digests: Vec<Digest>,
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        self.in_flight.change(&self.digests, |entry| entry.is_doomed = false);
        self.in_flight.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_doomed_by_one_at_a_time_and_never_while_pinned() {
        let in_flight = InFlight::default();
        let (a, b) = ([1; 20], [2; 20]);
        in_flight.pin(b);
        let first = in_flight.doom([a, b]);
        assert_eq!(first.digests, [a]);
        let second = in_flight.doom([a]);
        assert!(second.digests.is_empty());
        drop(second);
        assert!(in_flight.doom([a]).digests.is_empty(), "the first one is not done with it");
        drop(first);
        in_flight.unpin([&b]);
        assert_eq!(in_flight.doom([a, b]).digests, [a, b]);
        assert!(in_flight.blocks().is_empty(), "nothing is in hand any more");
    }
}
