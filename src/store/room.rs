//! Room for blocks: bytes promised before they are written, so that `capacity` is a hard limit.

use std::sync::{PoisonError, atomic::Ordering};

use rustix::fs::statvfs;

use super::{Store, StoreError, Usage};

/// Cache evicted at a time where the disk is full, in bytes: enough for the next blocks as well.
const AT_A_TIME: u64 = 32 << 20;
/// Bytes of the disk that the cache leaves free, and the part of a small disk: one in so many bytes.
const LEFT_FREE: u64 = 64 << 20;
const OF_DISK: u64 = 16;

/// Bytes promised to a block that is being written.
pub(super) struct Reservation<'a> {
    store: &'a Store,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.store.inner.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Reservation<'_> {
    /// Leaves the promise to somebody who answers for it from now on.
    pub(super) fn hand_over(self) -> u64 {
        let bytes = self.bytes;
        std::mem::forget(self);
        bytes
    }
}

impl Store {
    /// Promises room for a block, evicting cache where that helps.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation<'_>, StoreError> {
        if bytes > 0
            && let Err(over) = self.try_reserve(bytes)
        {
            self.evict(over)?;
            // Blocks that are being listed count twice for a moment, as rows and as promised.
            let _settled = self.inner.settling.write().unwrap_or_else(PoisonError::into_inner);
            if self.try_reserve(bytes).is_err() {
                let Usage { bytes: used, pending_bytes: pending, .. } = self.usage();
                let capacity = self.inner.options.capacity.unwrap_or(u64::MAX);
                return Err(StoreError::NoSpace(format!(
                    "{used} of {capacity} bytes are in use, uploads under way take {pending}, and the next block needs \
                     {bytes}: storage.capacity is a hard limit"
                )));
            }
        }
        Ok(Reservation { store: self, bytes })
    }

    /// Does what needs room on the disk. Where there is none, cache goes until there is, or until none is left.
    pub(super) fn with_room<T>(
        &self,
        mut act: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut done = act();
        while matches!(done, Err(StoreError::NoSpace(_))) {
            self.list_lost()?;
            let before = self.usage().cached_bytes;
            self.evict(AT_A_TIME)?;
            // Others may evict as well, and use up what came free: as long as there is some, it is tried again.
            if before == 0 || self.usage().cached_bytes >= before {
                break;
            }
            done = act();
        }
        done
    }

    /// Whether the cache may take so many bytes of the disk: it leaves some for what is to be kept.
    pub(super) fn is_cache_welcome(&self, bytes: u64) -> bool {
        // A disk that does not say is tried.
        statvfs(&self.inner.options.dir).map_or(true, |disk| {
            let left = LEFT_FREE.min(disk.f_blocks.saturating_mul(disk.f_frsize) / OF_DISK);
            disk.f_bavail.saturating_mul(disk.f_frsize) >= left.saturating_add(bytes)
        })
    }

    /// Promises room where there is some, and nothing where there is not: nobody else is refused for a block that is.
    /// Answers then with how many bytes there are too few.
    fn try_reserve(&self, bytes: u64) -> Result<(), u64> {
        let (inner, mut over) = (&self.inner, 0);
        let promised = inner.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |promised| {
            let wanted = promised + bytes;
            over = inner
                .options
                .capacity
                .map_or(0, |capacity| (inner.index.usage().bytes + wanted).saturating_sub(capacity));
            (over == 0).then_some(wanted)
        });
        promised.map(drop).map_err(|_| over)
    }
}
