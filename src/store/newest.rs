//! How far the index has come, written down beside it: so that an older one that is put in its place is known as such.
//!
//! Each stored file takes the next number in the index. The number is written to a file of its own now and then: with the
//! first file that a process stores, every ten minutes, and when the store closes. An index that has not come as far as
//! that knows nothing of newer blocks, and must not decide what nobody needs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Store, StoreError, private};

const RECORD: &str = "index.newest";
/// Name of the value by which an index that was found to be old stays known as such.
pub(super) const META_BEHIND: &str = "behind";
/// How often the number is written down while files are stored.
const EVERY: Duration = Duration::from_secs(600);

/// The number on record, and whether the index lags behind it.
pub(super) struct Newest {
    path: PathBuf,
    behind: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    written: Option<Instant>,
    /// Files were stored since.
    stale: bool,
}

impl Newest {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join(RECORD), behind: AtomicBool::new(false), state: Mutex::default() }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }
}

/// The number on record in a data directory; 0 where there is none.
pub(super) fn on_record(dir: &Path) -> u64 {
    fs::read_to_string(dir.join(RECORD)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

impl Store {
    /// Whether the index is older than the blocks: an earlier one was put in its place. Then nothing is removed until
    /// [`Store::rebuild`] has made a new one.
    pub fn is_index_behind(&self) -> bool {
        self.inner.newest.is_behind()
    }

    /// Refuses to decide what nobody needs by an index that cannot know.
    pub(super) fn check_not_behind(&self) -> Result<(), StoreError> {
        if self.is_index_behind() { Err(StoreError::IndexBehind) } else { Ok(()) }
    }

    /// Compares the index with what is on record beside it.
    pub(super) fn compare_with_record(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let known = inner.index.meta(META_BEHIND)?.is_some();
        if !known && on_record(self.dir()) <= inner.index.next_number()? {
            return Ok(());
        }
        inner.newest.behind.store(true, Ordering::Relaxed);
        tracing::error!("{}", StoreError::IndexBehind);
        // It would come as far as that by itself, and still not know what it missed.
        match self.set_meta(META_BEHIND, &[1]) {
            Err(error @ StoreError::NoSpace(_)) => tracing::warn!("{error}"),
            noted => noted?,
        }
        Ok(())
    }

    /// A file was stored.
    pub(super) fn note_stored(&self) {
        let mut state = self.inner.newest.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stale = true;
        if state.written.is_none_or(|at| at.elapsed() >= EVERY) {
            // Tried again as late where it fails: the next one is as good.
            state.written = Some(Instant::now());
            state.stale = !self.inner.write_record();
        }
    }
}

impl super::Inner {
    /// Writes down how far the index has come; answers whether that is done.
    fn write_record(&self) -> bool {
        if self.newest.is_behind() {
            return true;
        }
        let written = self.index.next_number().and_then(|number| {
            let written = private::replace(&self.newest.path, format!("{number}\n").as_bytes());
            written.map_err(|e| StoreError::io("write down how far the index has come", e))
        });
        if let Err(error) = &written {
            tracing::warn!("{error}");
        }
        written.is_ok()
    }
}

impl Drop for super::Inner {
    fn drop(&mut self) {
        self.leftovers.rest();
        let stale = self.newest.state.get_mut().unwrap_or_else(PoisonError::into_inner).stale;
        if stale {
            self.write_record();
        }
        self.close_kept();
    }
}
