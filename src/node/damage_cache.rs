//! The kept files that lack blocks on this disk: the one source for health, lists, descriptions and the status. A scan checks
//! every block file, so its result is cached for a while, or until it is invalidated.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError,
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
/// How long a call that needs no exact result waits for a scan.
const SHORT_SCAN: Duration = Duration::from_millis(500);
/// Missing blocks up to which one that several files lack is counted once.
const MAX_COUNTED_ONCE: usize = 1 << 20;

/// Caches the result of the last scan.
#[derive(Clone)]
pub(super) struct DamageCache {
    pub(super) store: BlockingStore,
    /// Locked during a scan, even if its caller stops waiting: two scans never run at the same time.
    cached: Arc<Mutex<Option<Cached>>>,
    /// Incremented by each invalidation.
    generation: Arc<AtomicU64>,
    /// The last result, whether or not it is still valid, and how long its scan took.
    last: Arc<std::sync::Mutex<Option<(DamageSummary, Duration)>>>,
}

struct Cached {
    summary: DamageSummary,
    generation: u64,
    /// The missing blocks that the store knew of before the scan.
    known_missing: u64,
    expires: Instant,
}

/// The kept files at the time of a scan.
#[derive(Clone)]
pub(super) struct DamageSummary {
    /// Files that lack blocks and the number of these blocks, sorted by CID.
    pub(super) damaged: Arc<[(Cid, u64)]>,
    /// Blocks that kept files lack.
    pub(super) missing: u64,
    /// Number of kept files, the damaged ones included.
    pub(super) kept: u64,
}

impl DamageSummary {
    /// Returns how many blocks a file lacks.
    pub(super) fn missing_of(&self, root: &Cid) -> u64 {
        self.damaged.binary_search_by_key(root, |(cid, _)| *cid).map_or(0, |at| self.damaged[at].1)
    }
}

impl DamageCache {
    pub(super) fn new(store: BlockingStore) -> Self {
        Self { store, cached: Arc::default(), generation: Arc::default(), last: Arc::default() }
    }

    /// Drops the cached result: the next call scans again.
    pub(super) fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the cached result, or scans.
    pub(super) async fn summary(&self) -> Result<DamageSummary, NodeError> {
        let mut cached = Arc::clone(&self.cached).lock_owned().await;
        let generation = Arc::clone(&self.generation);
        let known_missing = self.store.0.usage().missing;
        let is_valid = |cached: &&Cached| {
            cached.generation == generation.load(Ordering::Relaxed)
                && cached.known_missing == known_missing
                && Instant::now() < cached.expires
        };
        if let Some(cached) = cached.as_ref().filter(is_valid) {
            return Ok(cached.summary.clone());
        }
        let last = Arc::clone(&self.last);
        self.store
            .run(move |store| {
                let (begun, generation) = (Instant::now(), generation.load(Ordering::Relaxed));
                let summary = scan(store)?;
                let took = begun.elapsed();
                let expires = Instant::now() + valid_for(took);
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((summary.clone(), took));
                *cached = Some(Cached { summary: summary.clone(), generation, known_missing, expires });
                Ok(summary)
            })
            .await
    }

    /// Returns the cached result, or scans. Where that takes long, the scan goes on, and the result is the one before; `None`
    /// if there is none yet.
    pub(super) async fn recent(&self) -> Result<Option<DamageSummary>, NodeError> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_slow = last().is_some_and(|(_, took)| took > SHORT_SCAN);
        let wait = if is_slow { Duration::ZERO } else { SHORT_SCAN };
        match tokio::time::timeout(wait, self.summary()).await {
            Ok(summary) => summary.map(Some),
            Err(_) => Ok(last().map(|(summary, _)| summary)),
        }
    }

    /// Returns how many blocks each of these files lacks, as [`DamageCache::recent`] or else the index knows it.
    pub(super) async fn missing(&self, roots: Vec<Cid>) -> Result<Vec<u64>, NodeError> {
        match self.recent().await? {
            Some(summary) => Ok(roots.iter().map(|root| summary.missing_of(root)).collect()),
            None => self.store.run(move |store| Ok(store.missing(&roots)?)).await,
        }
    }
}

/// Returns how long the result of a scan of this duration stays valid.
fn valid_for(scan: Duration) -> Duration {
    (scan * VALID_FACTOR).min(MAX_VALID.max(scan))
}

fn scan(store: &Store) -> Result<DamageSummary, NodeError> {
    let (mut damaged, mut kept, mut after) = (Vec::new(), 0, None);
    let (mut missing, mut counted) = (0, HashSet::new());
    loop {
        let page = store.roots(after, PAGE)?;
        let Some(last) = page.last() else {
            damaged.sort_unstable();
            return Ok(DamageSummary { damaged: damaged.into(), missing, kept });
        };
        after = Some(last.cid);
        for record in page {
            kept += u64::from(record.pinned);
            let lacks = store.lacks(&record.cid, usize::MAX)?;
            if lacks.is_empty() {
                continue;
            }
            damaged.push((record.cid, lacks.len() as u64));
            for cid in lacks {
                missing += u64::from(counted.len() >= MAX_COUNTED_ONCE || counted.insert(*cid.digest()));
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
            let summary = DamageSummary { damaged: Arc::default(), missing: 0, kept: 99 };
            let expires = Instant::now() + Duration::from_secs(3600);
            *cache.cached.lock().await = Some(Cached { summary, generation, known_missing: 0, expires });
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
