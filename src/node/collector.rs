//! Removing blocks that no file needs.

use super::{
    error::NodeError,
    handles::{BlockingStore, Events},
    report::{Event, GcReport},
};
use crate::store::{Collected, Store, StoreError};

/// Removes unreferenced blocks.
pub(super) struct Collector {
    pub(super) store: BlockingStore,
    pub(super) events: Events,
}

impl Collector {
    /// Removes blocks by [`Store::collect`], [`Store::purge`] or [`Store::drop_cache`].
    pub(super) async fn collect(
        &self,
        remove: fn(&Store) -> Result<Collected, StoreError>,
    ) -> Result<GcReport, NodeError> {
        let (removed, usage) = self.store.run(move |store| Ok((remove(store)?, store.usage()))).await?;
        let Collected { blocks, bytes } = removed;
        if blocks > 0 {
            self.events.emit(Event::Collected { blocks, bytes });
        }
        Ok(GcReport { blocks, bytes, waiting: usage.unreferenced })
    }

    /// Removes block files that are not in the index, and logs how many there were.
    pub(super) async fn sweep(&self) {
        match self.store.run(|store| Ok(store.sweep()?)).await {
            Ok(Collected { blocks: 0, .. }) => {}
            Ok(Collected { blocks, bytes }) => {
                tracing::info!(blocks, bytes, "removed blocks of interrupted uploads");
            }
            Err(error) => tracing::warn!("cannot remove blocks of interrupted uploads: {error}"),
        }
    }
}
