//! The kept files that lack blocks on this disk: the one source for lists, descriptions, repairs and the status.
//!
//! A scan checks every block file, so its result is cached for a while, or until it is invalidated. The filter by health and
//! the repair need a recent result. The status, lists and descriptions are polled, and use an older one.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{error::NodeError, handles::BlockingStore};
use crate::{content::cid::Cid, store::Store};

/// For [`DamageCache::summary`], a result stays valid for this many times as long as the scan took.
const VALID_FACTOR: u32 = 20;
/// Upper bound of that time, unless the scan itself took longer.
const MAX_VALID: Duration = Duration::from_secs(60);
/// For [`DamageCache::recent`], a result stays valid for this long, or this many times as long as the scan took if that is longer.
const MIN_RECENT: Duration = Duration::from_secs(600);
const RECENT_FACTOR: u32 = 10;
/// Roots read from the store at a time.
const PAGE: usize = 256;
/// How long a call that needs no exact result waits for a scan.
const SHORT_SCAN: Duration = Duration::from_millis(500);
/// Maximum number of missing blocks to remember, so that each is counted once. Later ones count once for each file.
const MAX_COUNTED_ONCE: usize = 1 << 20;

/// Caches the result of the last scan.
#[derive(Clone)]
pub(super) struct DamageCache {
    pub(super) store: BlockingStore,
    /// Locked during a scan, even if its caller stops waiting: two scans never run at the same time.
    scanning: Arc<tokio::sync::Mutex<()>>,
    /// Incremented by each invalidation.
    generation: Arc<AtomicU64>,
    /// The last result, whether or not it is still valid.
    last: Arc<Mutex<Option<Scan>>>,
}

/// A result and what it depends on.
#[derive(Clone)]
struct Scan {
    summary: DamageSummary,
    generation: u64,
    /// The missing blocks that the store knew of before the scan.
    known_missing: u64,
    ended: Instant,
    took: Duration,
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
        Self { store, scanning: Arc::default(), generation: Arc::default(), last: Arc::default() }
    }

    /// Drops the cached result: the next call scans again.
    pub(super) fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn last(&self) -> Option<Scan> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the last result unless it is older than `max_age`, which depends on the duration of its scan, or invalidated.
    fn valid(&self, max_age: impl Fn(Duration) -> Duration) -> Option<DamageSummary> {
        let is_valid = |last: &Scan| {
            last.generation == self.generation.load(Ordering::Relaxed)
                && last.known_missing == self.store.0.usage().missing
                && last.ended.elapsed() < max_age(last.took)
        };
        self.last().filter(is_valid).map(|last| last.summary)
    }

    /// Returns the cached result, or scans.
    pub(super) async fn summary(&self) -> Result<DamageSummary, NodeError> {
        self.scanned(valid_for).await
    }

    async fn scanned(&self, max_age: fn(Duration) -> Duration) -> Result<DamageSummary, NodeError> {
        let scanning = Arc::clone(&self.scanning).lock_owned().await;
        if let Some(summary) = self.valid(max_age) {
            return Ok(summary);
        }
        let (generation, last) = (Arc::clone(&self.generation), Arc::clone(&self.last));
        self.store
            .run(move |store| {
                let _scanning = scanning;
                let (begun, generation) = (Instant::now(), generation.load(Ordering::Relaxed));
                let known_missing = store.usage().missing;
                let summary = scan(store)?;
                let (ended, took) = (Instant::now(), begun.elapsed());
                let scan = Scan { summary: summary.clone(), generation, known_missing, ended, took };
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(scan);
                Ok(summary)
            })
            .await
    }

    /// Returns the cached result, which may be older than that of [`DamageCache::summary`], or scans. If the scan takes long, it
    /// continues in the background and the previous result is returned; `None` if there is none yet.
    pub(super) async fn recent(&self) -> Result<Option<DamageSummary>, NodeError> {
        if let Some(summary) = self.valid(recent_for) {
            return Ok(Some(summary));
        }
        let is_slow = self.last().is_some_and(|last| last.took > SHORT_SCAN);
        let wait = if is_slow { Duration::ZERO } else { SHORT_SCAN };
        match tokio::time::timeout(wait, self.scanned(recent_for)).await {
            Ok(summary) => summary.map(Some),
            Err(_) => Ok(self.last().map(|last| last.summary)),
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

/// Returns how long it stays valid for [`DamageCache::recent`].
fn recent_for(scan: Duration) -> Duration {
    MIN_RECENT.max(scan * RECENT_FACTOR)
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
            let mut lacks = 0;
            store.each_missing(&record.cid, |cid| {
                lacks += 1;
                missing += u64::from(counted.len() >= MAX_COUNTED_ONCE || counted.insert(*cid.digest()));
                true
            })?;
            if lacks > 0 {
                damaged.push((record.cid, lacks));
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

    #[test]
    fn a_scan_for_a_poll_takes_at_most_a_tenth_of_the_time() {
        for (scan_s, valid_s) in [(0, 600), (60, 600), (300, 3000)] {
            assert_eq!(recent_for(Duration::from_secs(scan_s)), Duration::from_secs(valid_s));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_poll_is_content_with_an_old_result_and_a_question_is_not() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let cache = &node.services.listing.damage;
        let summary = DamageSummary { damaged: Arc::default(), missing: 7, kept: 99 };
        let (ended, took) = (Instant::now(), Duration::ZERO);
        let scan = Scan { summary, generation: 0, known_missing: 0, ended, took };
        *cache.last.lock().expect("locked") = Some(scan);
        assert_eq!(node.status().await.expect("asked").missing, 7);
        assert_eq!(cache.summary().await.expect("scanned").missing, 0);
        assert_eq!(node.status().await.expect("asked").missing, 0, "the new result is for all");
        node.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_repair_and_a_removal_invalidate_the_cached_result() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let cache = &node.services.listing.damage;
        let plant = || {
            let generation = cache.generation.load(Ordering::Relaxed);
            let summary = DamageSummary { damaged: Arc::default(), missing: 0, kept: 99 };
            let (ended, took) = (Instant::now(), Duration::from_secs(60));
            *cache.last.lock().expect("locked") =
                Some(Scan { summary, generation, known_missing: 0, ended, took });
        };
        let kept = async || cache.summary().await.expect("scanned").kept;
        assert_eq!(kept().await, 0);
        plant();
        assert_eq!(kept().await, 99);
        node.repair(None).await.expect("nothing to repair");
        assert_eq!(kept().await, 0);
        plant();
        let report = node.put(&b"x"[..], PutOptions::named("x")).await.expect("stored");
        node.remove(&report.link.as_str().into()).await.expect("removed");
        assert_eq!(kept().await, 0);
        node.shutdown().await;
    }
}
