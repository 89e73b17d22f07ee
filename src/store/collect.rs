//! Collection: removes blocks that nothing needs.

use std::{
    ops::AddAssign,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Store, StoreError,
    disk::BlockFile,
    schema::{Location, Row, unix_ms},
};
use crate::content::hash::Digest;

/// Blocks removed in one transaction.
const BATCH: usize = 256;

/// Result of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes freed.
    pub bytes: u64,
}

impl AddAssign for Collected {
    fn add_assign(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
}

impl Store {
    /// Removes blocks that have been unreferenced for the grace period, and cache in excess of its size. Readers and writers
    /// go on meanwhile. Blocks of uploads in flight stay.
    ///
    /// # Errors
    /// [`StoreError::IndexBehind`], [`StoreError::Io`], [`StoreError::Index`].
    pub fn collect(&self) -> Result<Collected, StoreError> {
        self.inner.end_writes();
        self.list_lost()?;
        let mut removed = self.collect_after(self.inner.options.grace)?;
        removed += self.shrink_cache()?;
        Ok(removed)
    }

    /// Removes all unreferenced blocks and all block files of interrupted uploads, whether their grace period is over or
    /// not. Blocks of uploads in flight stay.
    ///
    /// # Errors
    /// [`StoreError::IndexBehind`], [`StoreError::Io`], [`StoreError::Index`].
    pub fn purge(&self) -> Result<Collected, StoreError> {
        // Files without rows first: removing them needs no space in the index.
        let mut removed = self.sweep_after(Duration::ZERO)?;
        removed += self.collect_after(Duration::ZERO)?;
        removed += self.shrink_cache()?;
        Ok(removed)
    }

    fn collect_after(&self, grace: Duration) -> Result<Collected, StoreError> {
        self.check_not_behind()?;
        let until = unix_ms().saturating_sub(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let mut total = Collected::default();
        let mut limit = BATCH;
        loop {
            let mut candidates = self.inner.index.unreferenced(0..=until, limit)?;
            if candidates.len() < limit && self.usage().incomplete == 0 {
                // All lists are complete now, and none names these blocks.
                let held = Row::HELD..=Row::HELD;
                candidates.extend(self.inner.index.unreferenced(held, limit - candidates.len())?);
            }
            let all = candidates.len() < limit;
            let removed = self.discard(candidates)?;
            total += removed;
            if all {
                return Ok(total);
            }
            // If the whole batch is pinned, look at more blocks than that.
            limit = if removed.blocks == 0 { limit * 2 } else { BATCH };
        }
    }

    /// Removes block files that the index does not list and that are older than the grace period: those of killed
    /// uploads.
    ///
    /// # Errors
    /// [`StoreError::IndexBehind`], [`StoreError::Io`], [`StoreError::Index`].
    pub fn sweep(&self) -> Result<Collected, StoreError> {
        self.sweep_after(self.inner.options.grace)
    }

    fn sweep_after(&self, grace: Duration) -> Result<Collected, StoreError> {
        self.check_not_behind()?;
        // A damaged page may hide rows. The files of kept blocks would then look like orphans.
        self.inner.index.check_rows()?;
        let mut total = Collected::default();
        self.inner.disk.walk(&mut |file| {
            let BlockFile { path, digest, .. } = file;
            let meta = std::fs::metadata(path).ok();
            let age = meta.as_ref().and_then(|meta| meta.modified().ok()?.elapsed().ok());
            if age.is_none_or(|age| age < grace)
                || file.layout != self.inner.options.layout
                || self.inner.index.row(digest)?.is_some()
            {
                return Ok(true);
            }
            let doomed = self.inner.in_flight.doom([*digest]);
            // Doomed blocks cannot be stored meanwhile, so a second look at the row is final.
            if !doomed.digests.is_empty() && self.inner.index.row(digest)?.is_none() {
                total.blocks += 1;
                total.bytes += meta.map_or(0, |meta| meta.len());
                self.inner.disk.remove(digest)?;
                self.inner.in_flight.forget([digest]);
            }
            Ok(true)
        })?;
        Ok(total)
    }

    /// Removes those of `candidates` that nothing needs and no upload has pinned: first their rows, then their files.
    pub(super) fn discard(&self, candidates: Vec<Digest>) -> Result<Collected, StoreError> {
        if self.is_index_behind() {
            // A block that an old index calls cached may belong to a newer file.
            return Ok(Collected::default());
        }
        let doomed = self.inner.in_flight.doom(candidates);
        if doomed.digests.is_empty() {
            return Ok(Collected::default());
        }
        let digests = doomed.digests.clone();
        let removed = Arc::new(Mutex::new(Vec::new()));
        let out = Arc::clone(&removed);
        self.inner.writer.free_space(move |tables| {
            let mut rows = Vec::new();
            for digest in &digests {
                if let Some(row) = tables.drop_unneeded(digest)? {
                    rows.push((*digest, row));
                }
            }
            *out.lock().unwrap_or_else(PoisonError::into_inner) = rows;
            Ok(())
        })?;
        let removed = std::mem::take(&mut *removed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut total = Collected::default();
        for (digest, row) in removed {
            if row.location == Location::File {
                self.inner.disk.remove(&digest)?;
            }
            total.blocks += 1;
            total.bytes += u64::from(row.len);
        }
        Ok(total)
    }
}
