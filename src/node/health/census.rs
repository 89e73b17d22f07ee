//! The kept files at a glance: how many there are, and which of them lack blocks on this disk. Looking costs a look at every
//! block file, so what was found is good for a while, unless it is known to have changed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::super::{Node, error::NodeError};
use crate::{content::cid::Cid, store::Store};

/// What is known stays good for so many times as long as it took to find out.
const REST: u32 = 20;
/// But no longer than this, where that is longer than it took.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Roots read at a time.
const PAGE: usize = 256;

/// What was found, for a while.
#[derive(Default)]
pub(in super::super) struct Census {
    /// Held by whoever counts, to the end: who gives up waiting leaves nothing that runs beside the next one.
    known: Arc<Mutex<Option<Known>>>,
    /// Another number after each change that makes what is known wrong.
    changes: Arc<AtomicU64>,
}

struct Known {
    count: Count,
    changes: u64,
    until: Instant,
}

/// The kept files.
#[derive(Clone)]
pub(in super::super) struct Count {
    /// Those with blocks that are not here, in the order of CIDs.
    pub(in super::super) damaged: Arc<[Cid]>,
    /// How many there are, these included.
    pub(in super::super) kept: u64,
}

impl Census {
    /// Something has changed: the next one who asks counts anew.
    pub(in super::super) fn forget(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Node {
    /// The kept files: how many they are, and those with blocks that are not on this disk.
    pub(in super::super) async fn census(&self) -> Result<Count, NodeError> {
        let mut known = Arc::clone(&self.inner.census.known).lock_owned().await;
        let changes = Arc::clone(&self.inner.census.changes);
        let is_good =
            |known: &&Known| known.changes == changes.load(Ordering::Relaxed) && Instant::now() < known.until;
        if let Some(known) = known.as_ref().filter(is_good) {
            return Ok(known.count.clone());
        }
        self.blocking(move |store| {
            let (begun, changes) = (Instant::now(), changes.load(Ordering::Relaxed));
            let count = count(store)?;
            let until = Instant::now() + rest(begun.elapsed());
            *known = Some(Known { count: count.clone(), changes, until });
            Ok(count)
        })
        .await
    }
}

/// How long an answer is good that took so long to find.
fn rest(took: Duration) -> Duration {
    (took * REST).min(LONGEST_REST.max(took))
}

fn count(store: &Store) -> Result<Count, NodeError> {
    let (mut damaged, mut kept, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.roots(after, PAGE)?;
        let Some(last) = page.last() else {
            damaged.sort_unstable();
            return Ok(Count { damaged: damaged.into(), kept });
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
    use crate::node::{NodeOptions, PutOptions};

    #[test]
    fn an_answer_is_good_for_a_minute_or_as_long_as_it_took_to_find() {
        for (took_ms, rest_ms) in [(1, 20), (2_000, 40_000), (10_000, 60_000), (300_000, 300_000)] {
            assert_eq!(rest(Duration::from_millis(took_ms)), Duration::from_millis(rest_ms));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_known_is_asked_until_it_is_known_to_have_changed() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let plant = async || {
            let census = &node.inner.census;
            let changes = census.changes.load(Ordering::Relaxed);
            let count = Count { damaged: Arc::default(), kept: 99 };
            let until = Instant::now() + Duration::from_secs(3600);
            *census.known.lock().await = Some(Known { count, changes, until });
        };
        let kept = async || node.census().await.expect("counted").kept;
        assert_eq!(kept().await, 0);
        plant().await;
        assert_eq!(kept().await, 99);
        // A repair believes nothing that was known before.
        node.repair(None).await.expect("nothing to do");
        assert_eq!(kept().await, 0);
        plant().await;
        let report = node.put(&b"x"[..], PutOptions::named("x")).await.expect("stored");
        node.remove(&report.link.as_str().into()).await.expect("removed");
        assert_eq!(kept().await, 0);
        node.shutdown().await;
    }
}
