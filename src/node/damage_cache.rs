//! The kept files that lack blocks on this disk. A scan checks every block file, so its result is cached for a while, or until
//! it is invalidated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::{error::NodeError, handles::BlockingStore};
use crate::{content::cid::Cid, store::Store};

/// A result stays valid for this many times as long as the scan took.
const VALID_FACTOR: u32 = 20;
/// Upper bound of that time, unless the scan itself took longer.
const MAX_VALID: Duration = Duration::from_secs(60);
/// Roots read from the store at a time.
const PAGE: usize = 256;

/// Caches the result of the last scan.
#[derive(Clone)]
pub(super) struct DamageCache {
    pub(super) store: BlockingStore,
    /// Locked during a scan, even if its caller stops waiting: two scans never run at the same time.
    cached: Arc<Mutex<Option<Cached>>>,
    /// Incremented by each invalidation.
    generation: Arc<AtomicU64>,
}

struct Cached {
    summary: DamageSummary,
    generation: u64,
    expires: Instant,
}

/// The kept files at the time of a scan.
#[derive(Clone)]
pub(super) struct DamageSummary {
    /// Files that lack blocks, sorted by CID.
    pub(super) damaged: Arc<[Cid]>,
    /// Number of kept files, the damaged ones included.
    pub(super) kept: u64,
}

impl DamageCache {
    pub(super) fn new(store: BlockingStore) -> Self {
        Self { store, cached: Arc::default(), generation: Arc::default() }
    }

    /// Drops the cached result: the next call scans again.
    pub(super) fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the cached result, or scans.
    pub(super) async fn summary(&self) -> Result<DamageSummary, NodeError> {
        let mut cached = Arc::clone(&self.cached).lock_owned().await;
        let generation = Arc::clone(&self.generation);
        let is_valid = |cached: &&Cached| {
            cached.generation == generation.load(Ordering::Relaxed) && Instant::now() < cached.expires
        };
        if let Some(cached) = cached.as_ref().filter(is_valid) {
            return Ok(cached.summary.clone());
        }
        self.store
            .run(move |store| {
                let (begun, generation) = (Instant::now(), generation.load(Ordering::Relaxed));
                let summary = scan(store)?;
                let expires = Instant::now() + valid_for(begun.elapsed());
                *cached = Some(Cached { summary: summary.clone(), generation, expires });
                Ok(summary)
            })
            .await
    }
}

/// Returns how long the result of a scan of this duration stays valid.
fn valid_for(scan: Duration) -> Duration {
    (scan * VALID_FACTOR).min(MAX_VALID.max(scan))
}

fn scan(store: &Store) -> Result<DamageSummary, NodeError> {
    let (mut damaged, mut kept, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.roots(after, PAGE)?;
        let Some(last) = page.last() else {
            damaged.sort_unstable();
            return Ok(DamageSummary { damaged: damaged.into(), kept });
        };
        after = Some(last.cid);
        for record in page {
            kept += u64::from(record.pinned);
            if !store.lacks(&record.cid, 1)?.is_empty() {
                damaged.push(record.cid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, NodeOptions, PutOptions};

    #[test]
    fn a_result_is_valid_for_a_minute_or_as_long_as_the_scan_took() {
        for (scan_ms, valid_ms) in [(1, 20), (2_000, 40_000), (10_000, 60_000), (300_000, 300_000)] {
            assert_eq!(valid_for(Duration::from_millis(scan_ms)), Duration::from_millis(valid_ms));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_repair_and_a_removal_invalidate_the_cached_result() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let cache = &node.services.listing.damage;
        let plant = async || {
            let generation = cache.generation.load(Ordering::Relaxed);
            let summary = DamageSummary { damaged: Arc::default(), kept: 99 };
            let expires = Instant::now() + Duration::from_secs(3600);
            *cache.cached.lock().await = Some(Cached { summary, generation, expires });
        };
        let kept = async || cache.summary().await.expect("scanned").kept;
        assert_eq!(kept().await, 0);
        plant().await;
        assert_eq!(kept().await, 99);
        node.repair(None).await.expect("nothing to repair");
        assert_eq!(kept().await, 0);
        plant().await;
        let report = node.put(&b"x"[..], PutOptions::named("x")).await.expect("stored");
        node.remove(&report.link.as_str().into()).await.expect("removed");
        assert_eq!(kept().await, 0);
        node.shutdown().await;
    }
}
