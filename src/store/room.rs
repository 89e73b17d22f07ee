//! Room for blocks: bytes promised before they are written, so that `capacity` is a hard limit.

use std::sync::{PoisonError, atomic::Ordering};

use super::{Store, StoreError, Usage};

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
