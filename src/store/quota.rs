//! Quota: bytes reserved for blocks before they are written, so that `storage.capacity` is a hard limit.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use rustix::fs::statvfs;

use super::{Store, StoreError, Usage};

/// Bytes of cache that are evicted at a time when the disk is full: enough for the next blocks as well.
const EVICT_BYTES: u64 = 32 << 20;
/// Bytes of the disk that the cache leaves free. On a small disk, the size of the disk divided by the fraction.
const CACHE_LEAVES_BYTES: u64 = 64 << 20;
const CACHE_LEAVES_FRACTION: u64 = 16;

/// Bytes reserved for a block. Dropping it ends the reservation.
pub(super) struct Reservation {
    reserved: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Store {
    /// Reserves quota for a block, evicting cache where that helps.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, StoreError> {
        if bytes > 0
            && let Err(over) = self.try_reserve(bytes)
        {
            self.evict(over)?;
            let _none_is_listed = self.inner.listing.write().unwrap_or_else(PoisonError::into_inner);
            if self.try_reserve(bytes).is_err() {
                let Usage { bytes: used, cached_bytes: cached, pending_bytes: pending, .. } = self.usage();
                let (capacity, kept) =
                    (self.inner.options.capacity.unwrap_or(u64::MAX), used.saturating_sub(cached));
                return Err(StoreError::OverCapacity(format!(
                    "storage.capacity is {capacity} bytes; files, and removed files that are not collected yet, take {kept}, \
                     uploads under way {pending}, the cache {cached}, and the next block needs {bytes}"
                )));
            }
        }
        Ok(Reservation { reserved: Arc::clone(&self.inner.reserved), bytes })
    }

    /// Runs an action that needs space on the disk. While the disk is full, evicts cache and tries again.
    pub(super) fn with_space<T>(
        &self,
        mut act: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut done = act();
        while matches!(done, Err(StoreError::NoSpace(_))) {
            self.list_lost()?;
            let before = self.usage().cached_bytes;
            self.evict(EVICT_BYTES)?;
            // Others may evict as well, and use what became free: it is tried again as long as cache is left.
            if before == 0 || self.usage().cached_bytes >= before {
                break;
            }
            done = act();
        }
        done
    }

    /// Whether the cache may take `bytes` of the disk: it leaves some for files that are to be kept.
    pub(super) fn is_cache_welcome(&self, bytes: u64) -> bool {
        // If the system does not say how much is free, it is tried.
        statvfs(&self.inner.options.dir).map_or(true, |disk| {
            let left =
                CACHE_LEAVES_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / CACHE_LEAVES_FRACTION);
            disk.f_bavail.saturating_mul(disk.f_frsize) >= left.saturating_add(bytes)
        })
    }

    /// Errors: how many bytes are missing. Nothing is reserved then, so that no other block is refused for this one.
    fn try_reserve(&self, bytes: u64) -> Result<(), u64> {
        let (inner, mut over) = (&self.inner, 0);
        let reserved = inner.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |reserved| {
            let wanted = reserved + bytes;
            over = inner
                .options
                .capacity
                .map_or(0, |capacity| (inner.index.usage().bytes + wanted).saturating_sub(capacity));
            (over == 0).then_some(wanted)
        });
        reserved.map(drop).map_err(|_| over)
    }
}
