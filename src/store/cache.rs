//! The cache: evictable blocks, the least recently used first.

use std::collections::HashMap;

use super::{
    Collected, PutMode, Store, StoreError,
    disk::Durability,
    schema::{Arrival, Location, unix_ms},
    upload::lives_in_index,
};
use crate::content::{cid::Cid, hash::Digest};

/// Uses noted in memory before they are written together.
const NOTED: usize = 1024;
/// Blocks evicted in one transaction.
const BATCH: usize = 256;

/// Uses of cached blocks that the index does not have yet. Losing them only makes a later eviction choose worse.
#[derive(Default)]
pub(super) struct Touched(HashMap<Digest, u64>);

impl Touched {
    /// Notes a use; returns all noted uses when they are enough for a write.
    pub(super) fn note(&mut self, digest: Digest) -> Option<Vec<(Digest, u64)>> {
        self.0.insert(digest, unix_ms());
        (self.0.len() >= NOTED).then(|| self.0.drain().collect())
    }
}

impl Store {
    /// Drops a block that no file and no upload needs; returns whether the block is gone.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`].
    pub fn drop_cached(&self, cid: &Cid) -> Result<bool, StoreError> {
        let dropped = self.discard(vec![*cid.digest()])?;
        Ok(dropped.blocks > 0 || self.inner.index.row(cid.digest())?.is_none())
    }

    /// Drops the blocks of a file that were only read.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`].
    pub fn drop_cached_file(&self, root: &Cid) -> Result<Collected, StoreError> {
        self.settle_cache()?;
        let (mut total, mut cached) = (Collected::default(), Vec::new());
        for block in self.walk(*root)?.blocks {
            if self.inner.index.row(&block.digest)?.is_some_and(|row| row.cached) {
                cached.push(block.digest);
            }
        }
        for batch in cached.chunks(BATCH) {
            total += self.discard(batch.to_vec())?;
        }
        Ok(total)
    }

    /// Drops all blocks that were only read.
    ///
    /// # Errors
    /// [`StoreError::IndexBehind`], [`StoreError::Io`], [`StoreError::Index`].
    pub fn drop_cache(&self) -> Result<Collected, StoreError> {
        self.check_not_behind()?;
        self.settle_cache()?;
        self.evict(u64::MAX)
    }

    /// Waits until the blocks that were cached so far are listed.
    fn settle_cache(&self) -> Result<(), StoreError> {
        self.inner.writer.free_space(|_| Ok(()))
    }

    /// Drops what exceeds the size of the cache, which may be less than it was.
    pub(super) fn shrink_cache(&self) -> Result<Collected, StoreError> {
        match self.usage().cached_bytes.saturating_sub(self.inner.options.cache_size) {
            0 => Ok(Collected::default()),
            over => self.evict(over),
        }
    }

    /// Evicts cached blocks until about `bytes` are freed, or only blocks of running uploads are left.
    pub(super) fn evict(&self, bytes: u64) -> Result<Collected, StoreError> {
        let mut evicted = Collected::default();
        if self.is_index_behind() {
            // A block that an old index calls cached may belong to a newer file.
            return Ok(evicted);
        }
        let goal = self.usage().cached_bytes.saturating_sub(bytes);
        let (begun, mut after) = (unix_ms(), None);
        while self.usage().cached_bytes > goal {
            let oldest = self.inner.index.evictable(after, BATCH)?;
            let Some(last) = oldest.last() else { break };
            after = Some(*last);
            let (in_hand, mut free): (Vec<_>, Vec<_>) =
                oldest.into_iter().partition(|(_, digest)| self.inner.in_flight.contains(digest));
            // Evict no more of the batch than needed: the rest is still useful.
            let left = self.usage().cached_bytes.saturating_sub(goal);
            let wanted = usize::try_from(left / (64 << 10)).unwrap_or(BATCH).clamp(1, BATCH);
            if free.len() > wanted {
                free.truncate(wanted);
                after = free.last().copied();
            }
            if !in_hand.is_empty() {
                // Uploads use these blocks. As recently used ones, they do not slow down the next eviction.
                let used: Vec<_> = in_hand.into_iter().map(|(_, digest)| (digest, begun)).collect();
                self.inner.writer.post(move |tables| tables.touch_cached(&used));
            }
            evicted += self.discard(free.into_iter().map(|(_, digest)| digest).collect())?;
        }
        Ok(evicted)
    }

    /// Caches a block that was fetched for a reader: evictable and not synced. If a file here has lost this block, it is
    /// stored for good instead. The caller has checked the bytes against the CID.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::OverCapacity`], [`StoreError::Io`], [`StoreError::Index`].
    pub fn put_cached(&self, cid: &Cid, bytes: &[u8]) -> Result<(), StoreError> {
        let over =
            (self.usage().cached_bytes + bytes.len() as u64).saturating_sub(self.inner.options.cache_size);
        if over > 0 {
            self.evict(over)?;
        }
        let digest = *cid.digest();
        self.inner.in_flight.pin(digest);
        let put = self.put_pinned_cached(cid, bytes);
        self.inner.in_flight.unpin([&digest]);
        put
    }

    fn put_pinned_cached(&self, cid: &Cid, bytes: &[u8]) -> Result<(), StoreError> {
        let digest = *cid.digest();
        match self.inner.index.row(&digest)? {
            Some(row) if row.location != Location::Missing => return Ok(()),
            Some(_) => {
                let upload = self.upload();
                upload.put(cid, bytes, PutMode::Sealed)?;
                return upload.keep();
            }
            None => {}
        }
        let len = bytes.len() as u64;
        if !self.is_cache_welcome(len) {
            self.evict(len)?;
            if !self.is_cache_welcome(len) {
                return Ok(());
            }
        }
        let _room = self.reserve(len)?;
        let arrival = Arrival::of(cid, bytes, lives_in_index(cid, bytes))?;
        if arrival.inline.is_none() && !self.place(cid, bytes, Durability::New)? {
            // A file is there already. If an upload of this process wrote it, that upload lists it, too.
            if self.inner.in_flight.look(&digest, |_| ()).is_some() {
                return Ok(());
            }
            let there = self.inner.disk.read(&digest, arrival.len)?;
            if !there.is_some_and(|there| cid.matches(&there)) {
                // A crash has truncated it. Replace it with a synced file, in case an upload comes to rely on it meanwhile.
                self.place(cid, bytes, Durability::Synced)?;
            }
        }
        self.list_as_cache(arrival);
        Ok(())
    }
}
