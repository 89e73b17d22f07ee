//! Evictable blocks: least recently used goes first.

use std::collections::HashMap;

use super::{Store, StoreError, unix_ms};
use crate::content::{cid::Cid, hash::Digest};

/// Uses that are noted in memory before they are written together.
const NOTED: usize = 1024;
/// Blocks evicted in one transaction.
const BATCH: usize = 256;

/// When cached blocks were used, until it is written down. Losing this costs nothing but a worse choice.
#[derive(Default)]
pub(super) struct Touched(HashMap<Digest, u64>);

impl Touched {
    /// Notes a use; hands everything over when enough has come together.
    pub(super) fn note(&mut self, digest: Digest) -> Option<Vec<(Digest, u64)>> {
        self.0.insert(digest, unix_ms());
        (self.0.len() >= NOTED).then(|| self.0.drain().collect())
    }
}

impl Store {
    /// Drops a block that nothing here needs; answers whether it is gone. What a file or an upload needs stays.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Index`].
    pub fn drop_cached(&self, cid: &Cid) -> Result<bool, StoreError> {
        let dropped = self.discard(vec![*cid.digest()])?;
        Ok(dropped.blocks > 0 || self.inner.index.row(cid.digest())?.is_none())
    }

    /// Evicts cached blocks until about `bytes` are free, or none is left.
    pub(super) fn evict(&self, bytes: u64) -> Result<(), StoreError> {
        let goal = self.usage().cached_bytes.saturating_sub(bytes);
        while self.usage().cached_bytes > goal {
            let before = self.usage().cached_bytes;
            // No more of a batch than is needed: the rest is still useful.
            let wanted = usize::try_from((before - goal) / (64 << 10)).unwrap_or(BATCH).clamp(1, BATCH);
            self.discard(self.inner.index.evictable(wanted)?)?;
            if self.usage().cached_bytes == before {
                break;
            }
        }
        Ok(())
    }
}
