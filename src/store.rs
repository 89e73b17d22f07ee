//! Block storage: files on disk, and an index of them.
//!
//! ```text
//! Upload::put ─ pin ─ write, fdatasync, rename ─┐                     ┌─ index.redb: blocks, roots, references
//! Upload::commit ─ folders synced ──────────────┴─▶ one index writer ─┤  (group commit: one sync for many)
//! get ─ index (a snapshot) ─ read ─ SHA-1 ─▶ bytes                    └─ readers never wait
//! collect ─ unreferenced, past grace, not pinned ─▶ row removed ─▶ file removed
//! ```
//! The order of these steps makes it safe: a block is durable before a row lists it, and its row is gone before its file
//! is. All calls block; callers run them on threads made for that.
//!
//! A block is one file (`disk`), unless it is short: short blocks live in the index. A short block without which longer
//! files could not be read is a file, too, so that it outlives a lost index. Blocks are identified by the SHA-1 digest in
//! their CID. The journal beside the index (`journal`) holds what must outlive it.

mod block_stage;
mod cache;
mod collect;
mod direct;
mod disk;
mod disk_reserve;
mod disk_state;
mod epoch_mark;
mod error;
mod in_flight;
mod incomplete;
mod index;
mod index_check;
mod index_file;
mod journal;
mod layout;
mod lock;
mod observer;
mod opening;
mod orphans;
mod private;
mod quota;
mod rebuild;
mod record;
mod relocate;
mod roots;
mod salvage;
mod schema;
mod tables;
mod upload;
mod verify;
mod version;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};

pub use collect::Collected;
pub use direct::DirectFile;
pub use disk_state::write_problem;
pub use error::StoreError;
pub use layout::Layout;
pub use lock::{LockNote, read_lock};
pub use observer::{Observers, RootObserver, Snapshot};
pub use private::{read, replace, set_aside, write_new};
pub use rebuild::Rebuilt;
pub use record::{RootKind, RootRecord};
pub use schema::Usage;
pub use upload::{Put, PutMode, Upload};
pub use verify::{Presence, Verified};

use crate::content::cid::Cid;
use disk::Disk;
use in_flight::InFlight;
use index::Index;
use journal::Journal;
use lock::Lock;
use schema::{Location, Row, unix_ms};
use writer::Writer;

/// Blocks up to this many bytes live in the index, except those without which longer files could not be read.
const INLINE_MAX: usize = 16 << 10;
/// The name of the index in a data directory.
const INDEX: &str = "index.redb";

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data directory. It is made if it does not exist.
    pub dir: PathBuf,
    /// How block files are laid out. Only [`Store::rebuild`] changes the layout of an existing directory.
    pub layout: Layout,
    /// Hard limit in bytes for all blocks. `None`: the disk is the limit.
    pub capacity: Option<u64>,
    /// Bytes of evictable cache.
    pub cache_size: u64,
    /// How long an unreferenced block stays.
    pub grace: Duration,
    /// Tables of other modules that change together with the roots. The same for each opening of a data directory.
    pub observers: Observers,
}

impl StoreOptions {
    /// The defaults, with this data directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            layout: Layout::default(),
            capacity: None,
            cache_size: 10 << 30,
            grace: Duration::from_secs(3600),
            observers: Observers::new(),
        }
    }
}

/// A handle to an open store. Dropping the last one closes the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    options: StoreOptions,
    disk: Disk,
    index: Arc<Index>,
    writer: Writer,
    in_flight: InFlight,
    journal: Journal,
    /// Quota reserved for blocks that the index does not list yet, in bytes.
    reserved: Arc<AtomicU64>,
    /// Held shared while reserved bytes become rows, and so count twice: no block is refused in between.
    listing: RwLock<()>,
    /// Held, one by the digest, while a stored block is compared with other bytes: few at a time, to bound memory.
    comparing: [Mutex<()>; 4],
    touched: Mutex<cache::Touched>,
    /// Held while lists of incomplete roots are completed.
    completing: Mutex<()>,
    lock: Arc<Lock>,
}

impl Store {
    /// Whether the index may be older than the blocks, because an earlier one was put in its place. Then nothing is removed
    /// until [`Store::rebuild`] has made a new one.
    pub fn is_index_behind(&self) -> bool {
        self.inner.journal.is_behind
    }

    /// The damage of the journal that was found when the store was opened. The journal was made again from the index.
    pub fn journal_damage(&self) -> Option<&str> {
        self.inner.journal.damage.as_deref()
    }

    /// Errors: [`StoreError::IndexBehind`] for an index that cannot know which blocks are needed.
    fn check_not_behind(&self) -> Result<(), StoreError> {
        if self.is_index_behind() { Err(StoreError::IndexBehind) } else { Ok(()) }
    }

    /// Writes the address of the HTTP API into the lock file, for other processes that look for the running node.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn set_lock_note(&self, http: &str) -> Result<(), StoreError> {
        self.inner.lock.note(Some(http))
    }

    /// Returns the bytes of a block, checked against its CID; `None` means that it is not here.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it was here and is damaged: it is moved to quarantine, and missing from now on.
    pub fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = cid.digest();
        let Some(row) = self.inner.index.row(digest)? else {
            return self.adopt_cached(cid);
        };
        if row.location == Location::Missing {
            return Ok(None);
        }
        match self.read(digest, row)? {
            Some(bytes) if cid.matches(&bytes) => {
                if row.cached {
                    self.touch(digest);
                }
                Ok(Some(bytes))
            }
            bytes => match self.give_up(cid) {
                Ok(Some(mended)) => Ok(Some(mended)),
                Ok(None) if !row.is_kept() || bytes.is_none() => Ok(None),
                Err(error) if bytes.is_none() => Err(error),
                given_up => {
                    if let Err(error) = given_up {
                        tracing::warn!(%cid, "a damaged block could not be moved to quarantine: {error}");
                    }
                    Err(StoreError::Corrupt { cid: *cid })
                }
            },
        }
    }

    fn read(&self, digest: &[u8; 20], row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        match row.location {
            Location::Missing => Ok(None),
            Location::Inline => self.inner.index.inline(digest),
            Location::File => self.inner.disk.read(digest, row.len),
        }
    }

    /// Lists as cache a block file without a row: a block that was fetched or stored just before a crash.
    fn adopt_cached(&self, cid: &Cid) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = *cid.digest();
        let Some(len) = self.inner.disk.len(&digest).and_then(|len| u32::try_from(len).ok()) else {
            return Ok(None);
        };
        let bytes = self.inner.disk.read(&digest, len)?;
        let Some(bytes) = bytes.filter(|bytes| cid.matches(bytes)) else {
            return Ok(None);
        };
        self.list_as_cache(schema::Arrival { digest, codec: cid.codec(), len, inline: None });
        Ok(Some(bytes))
    }

    /// Lists a block as cache, soon, unless it is listed by then.
    fn list_as_cache(&self, arrival: schema::Arrival) {
        self.inner.writer.post(move |tables| tables.arrive(&arrival, true, unix_ms()));
    }

    /// Whether the index lists a block as present. Its bytes are not looked at.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.inner.index.row(cid.digest())?.is_some_and(|row| row.location != Location::Missing))
    }

    /// Drops a block whose bytes are wrong or gone; if files need it, lists it as missing. Returns its bytes if they are right
    /// by now: an upload may have replaced it meanwhile.
    fn give_up(&self, cid: &Cid) -> Result<Option<Vec<u8>>, StoreError> {
        let digest = *cid.digest();
        let doomed = self.inner.in_flight.doom([digest]);
        // If an upload has it pinned, that one compares the bytes and replaces them.
        let row = if doomed.digests.is_empty() { None } else { self.inner.index.row(&digest)? };
        let Some(row) = row.filter(|row| row.location != Location::Missing) else {
            return Ok(None);
        };
        let bytes = self.read(&digest, row)?;
        if bytes.as_ref().is_some_and(|bytes| cid.matches(bytes)) {
            return Ok(bytes);
        }
        // A cached block is not synced, nor are orphans: after a crash it may be truncated or empty, which is no damage.
        let set_aside = bytes.is_some() && row.is_kept();
        match (row.location, bytes) {
            (_, None) => tracing::warn!(%cid, "the file of a block is gone"),
            _ if !set_aside => self.inner.disk.remove(&digest)?,
            (Location::Inline, Some(bytes)) => self.inner.disk.quarantine_bytes(&digest, &bytes)?,
            _ => self.inner.disk.quarantine(&digest)?,
        }
        if set_aside {
            tracing::warn!(%cid, "a damaged block was moved to quarantine");
        }
        self.inner.writer.free_space(move |tables| {
            tables.totals.usage.quarantined += u64::from(set_aside);
            tables.lose(&digest)
        })?;
        Ok(None)
    }

    /// Returns how much is stored.
    pub fn usage(&self) -> Usage {
        let pending_bytes = self.inner.reserved.load(std::sync::atomic::Ordering::Relaxed);
        Usage { pending_bytes, ..self.inner.index.usage() }
    }

    /// Returns the bytes that are free on the disk for this user; `None` means that the system does not say.
    pub fn disk_free(&self) -> Option<u64> {
        let stats = rustix::fs::statvfs(&self.inner.options.dir).ok()?;
        stats.f_bavail.checked_mul(stats.f_frsize)
    }

    /// Returns why nothing can be stored at this moment; `None` means that nothing is known to be wrong.
    pub fn write_problem(&self) -> Option<&'static str> {
        disk_state::write_problem(&self.inner.options.dir)
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.inner.options.dir
    }

    /// Runs `look` on one consistent state of the roots and of the observers' tables. It may run twice, after an I/O error.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Io`], and those of `look`.
    pub fn snapshot<T>(
        &self,
        look: impl Fn(&Snapshot<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.index.snapshot(look)
    }

    /// Returns how many records of roots were read since the store was opened: the cost of listings.
    pub fn records_read(&self) -> u64 {
        self.inner.index.records_read()
    }

    /// Returns a small named value in a data directory that this process has not opened; `None` if there is no index.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if a process has it open, [`StoreError::IndexCorrupt`].
    pub fn peek_meta(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if opening::has_index(dir) { Index::look(&dir.join(INDEX))?.meta(name) } else { Ok(None) }
    }

    /// Returns a small named value.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.index.meta(name)
    }

    /// Sets a small named value, durably.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn set_meta(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.inner.writer.run(move |tables| tables.set_meta(&name, &value))
    }

    /// As [`Store::set_meta`], but uses the disk reserve on a full disk: for values without which nothing can be removed.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn set_meta_to_free_space(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.inner.writer.free_space(move |tables| tables.set_meta(&name, &value))
    }

    /// Lists many roots at once, without blocks.
    #[cfg(test)]
    pub(crate) fn add_roots(&self, records: Vec<RootRecord>) {
        let add = move |tables: &mut tables::Tables<'_>| {
            records.iter().try_for_each(|record| tables.add_root(record, &[], 0).map(drop))
        };
        self.inner.writer.run(add).expect("listed");
    }

    fn touch(&self, digest: &[u8; 20]) {
        let full = self.inner.touched.lock().unwrap_or_else(PoisonError::into_inner).note(*digest);
        if let Some(batch) = full {
            self.inner.writer.post(move |tables| tables.touch_cached(&batch));
        }
    }
}

impl Inner {
    /// Records in the journal that the index lists all block files, if it does.
    fn end_writes(&self) {
        self.journal.end_writes(|| !self.in_flight.has_unlisted_files());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_writes();
    }
}

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;
