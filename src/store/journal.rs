//! The journal: an append-only file beside the index that tells the next process what the index alone cannot.
//!
//! - **Pins.** Which roots this store keeps. If the index is lost, blocks alone do not show it: a file that was stored by
//!   itself and in a folder looks like a part of the folder, and a damaged root is not recognised as one.
//! - **Epoch.** How far the index had come: each new list of blocks takes the next number. An older index that is put in
//!   the place of the newest one has not come so far. It does not know newer blocks, so nothing may be removed by it. The
//!   blocks carry the same number (see `epoch_mark`). If that is lost, the index may be older, too.
//! - **Writes.** Since when uploads have written block files that the index does not list yet. After a kill, the next
//!   process looks for such files (see `orphans`).
//!
//! Records have a checksum each ([`record`]). Pins and epochs are synced with the first record of a process, every ten
//! minutes and at the end, so a power cut may take some; a kill may come between a change of the index and its record.
//! Therefore pins count as complete only in a journal that was closed. Any other is written anew from the index when the
//! store opens, and so is one that has become long.

mod record;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use record::Record;
pub(super) use record::Replayed;

use super::{StoreError, disk::Disk, epoch_mark::EpochMark, index::Index, private, schema::unix_ms_at};
use crate::content::cid::Cid;

const FILE: &str = "journal";
/// Name of the value in the index that marks it as older than the journal.
pub(super) const META_BEHIND: &str = "behind";
/// A journal with more records than this, plus two for each root, is written anew.
const SLACK: u64 = 4096;
/// Roots read from the index at a time.
const PAGE: usize = 256;
/// How long records may stay without a sync while further ones are appended.
const SYNC_AFTER: Duration = Duration::from_secs(600);

/// The journal of an open store. Dropping it closes the journal.
pub(super) struct Journal {
    path: PathBuf,
    index: Arc<Index>,
    mark: EpochMark,
    /// Whether the index may have been older than the blocks when the store was opened.
    pub(super) is_behind: bool,
    /// The damage of the file that was found when the store was opened.
    pub(super) damage: Option<String>,
    log: Mutex<Log>,
}

/// The file, and what is known of it.
struct Log {
    /// `None` until this process appends its first record.
    file: Option<File>,
    /// Length in bytes of all whole records.
    len: u64,
    /// The pins in the file are those of the index.
    is_complete: bool,
    /// Since when block files may exist that the index does not list, in milliseconds since 1970.
    writes_begun: Option<u64>,
    /// An earlier process was killed, and its block files are not listed yet.
    has_orphans: bool,
    /// `None` until this process syncs the file.
    synced: Option<Instant>,
}

/// Reads the journal in a data directory, and the mark among the blocks. Also returns what is wrong with the journal. If
/// it is lost or cannot be read, uploads may have written at any time.
pub(super) fn replay(dir: &Path) -> (Replayed, Option<String>) {
    let path = dir.join(FILE);
    let lost = |damage| (Replayed { writes_begun: Some(0), ..Replayed::default() }, Some(damage));
    let (mut replayed, mut damage) = match private::read_own(&path) {
        Ok(Some(bytes)) => (record::replay(&bytes), None),
        Ok(None) => lost("it is gone".into()),
        Err(e) => lost(e.to_string()),
    };
    if replayed.damaged > 0 {
        damage = Some(format!("damaged records: {}", replayed.damaged));
    } else if damage.is_none() && replayed.epoch.is_none() {
        damage = Some("it is empty".into());
        replayed.writes_begun = Some(0);
    }
    let marked = EpochMark::open(dir).epoch();
    replayed.is_marked = marked.is_some();
    if marked > replayed.epoch {
        // A power cut took its last records, or an older journal was put in its place.
        replayed.lacks_later_records();
        replayed.epoch = marked;
    }
    (replayed, damage)
}

/// Whether an index with this next number may be older than the blocks beside it. Where the blocks have no mark, the journal
/// may be as old as the index.
pub(super) fn is_behind(next_number: u64, recorded: &Replayed, disk: &Disk) -> Result<bool, StoreError> {
    let is_older = next_number < recorded.epoch.unwrap_or(0);
    let is_unknown = recorded.epoch.is_none() && next_number > 0;
    Ok(is_older || is_unknown || !recorded.is_marked && disk.first_layout()?.is_some())
}

impl Journal {
    /// Reads the journal in a data directory and compares the index with it. Nothing is written yet, but a folder in the
    /// place of the file is moved away.
    pub(super) fn open(dir: &Path, index: Arc<Index>, disk: &Disk) -> Result<Self, StoreError> {
        let (recorded, damage) = replay(dir);
        let path = dir.join(FILE);
        let next_number = index.next_number()?;
        // An index that was found to be behind catches up with the number, and still does not know what it missed.
        let is_behind = index.meta(META_BEHIND)?.is_some() || is_behind(next_number, &recorded, disk)?;
        let Replayed { epoch, writes_begun, is_complete, .. } = recorded;
        let is_new = epoch.is_none() && !is_behind;
        let damage = damage.filter(|_| !is_new);
        if let Some(damage) = &damage {
            tracing::warn!("{} is made again from the index: {damage}", path.display());
        }
        if let Err(error) = private::make_way(&path) {
            // On a read-only file system, for one.
            tracing::warn!("{error}");
        }
        let len = fs::metadata(&path).map_or(0, |meta| meta.len() / record::LEN as u64 * record::LEN as u64);
        let writes_begun = writes_begun.filter(|_| !is_new);
        let log = Log {
            file: None,
            len,
            // An older journal was put in the place of the newest one.
            is_complete: is_complete && epoch >= Some(next_number),
            writes_begun,
            has_orphans: writes_begun.is_some(),
            synced: None,
        };
        Ok(Self { path, index, mark: EpochMark::open(dir), is_behind, damage, log: Mutex::new(log) })
    }

    /// Records no writes of block files: for an index that is being made. If that is interrupted, nothing may have changed.
    pub(super) fn ignore_writes(&mut self) {
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner);
        (log.writes_begun, log.has_orphans) = (Some(0), true);
    }

    /// Whether the last process that wrote it has closed it.
    pub(super) fn was_closed(&self) -> bool {
        self.log().is_complete
    }

    /// Marks the epoch, and writes the journal anew if its pins may not be those of the index, or if it has become long. A
    /// failure is logged: it matters only when the index is lost or set back.
    pub(super) fn refresh(&self) {
        let mut log = self.log();
        // An older index says less than the journal.
        if self.is_behind || self.index.is_read_only() {
            return;
        }
        let is_long = log.len / record::LEN as u64 > 2 * self.index.usage().roots + SLACK;
        let written =
            if is_long || !log.is_complete { self.rewrite(&mut log) } else { self.epoch().map(drop) };
        log.is_complete = written.inspect_err(|error| tracing::warn!("{error}")).is_ok();
    }

    fn rewrite(&self, log: &mut Log) -> Result<(), StoreError> {
        let (mut records, mut after) = (vec![self.epoch()?], None);
        records.extend(log.writes_begun.map(Record::WritesBegun));
        loop {
            let page = self.index.roots(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.record.cid);
            let pinned = page.iter().filter(|root| root.record.pinned);
            records.extend(pinned.map(|root| Record::Pinned(root.record.cid)));
        }
        records.push(Record::Closed);
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        private::replace(&self.path, &bytes).map_err(failed)?;
        (log.file, log.len, log.synced) = (None, bytes.len() as u64, None);
        Ok(())
    }

    /// Records whether a root is pinned by now, and how far the index has come. A failure is logged, as in
    /// [`Journal::refresh`].
    pub(super) fn record_pin(&self, cid: &Cid) {
        let mut log = self.log();
        // The index is read under the lock: of two changes, the later one is recorded last.
        let recorded = self.index.root(cid).and_then(|root| {
            let is_pinned = root.is_some_and(|root| root.record.pinned);
            let pin = if is_pinned { Record::Pinned(*cid) } else { Record::Unpinned(*cid) };
            log.append(&self.path, &[pin, self.epoch()?])
        });
        if let Err(error) = recorded {
            log.is_complete = false;
            tracing::warn!("{error}");
        }
    }

    /// Records that block files are about to be written which the index does not list. Returns when that is durable.
    pub(super) fn begin_writes(&self) -> Result<(), StoreError> {
        let mut log = self.log();
        if log.writes_begun.is_none() {
            log.append(&self.path, &[self.epoch()?])?;
            // The file system's clock dates the folders, too.
            let now = fs::metadata(&self.path).and_then(|meta| meta.modified()).map_err(failed)?;
            let now = unix_ms_at(now);
            log.append(&self.path, &[Record::WritesBegun(now)])?;
            log.sync()?;
            log.writes_begun = Some(now);
        }
        Ok(())
    }

    /// Records that the index lists all block files, if `is_all_listed` says so: after a kill, only folders that have
    /// changed since are searched.
    pub(super) fn end_writes(&self, is_all_listed: impl FnOnce() -> bool) {
        let mut log = self.log();
        if log.writes_begun.is_some() && !log.has_orphans && is_all_listed() {
            match log.append(&self.path, &[Record::WritesListed]) {
                Ok(()) => log.writes_begun = None,
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// Since when an earlier process may have left block files that the index does not list.
    pub(super) fn orphans_since(&self) -> Option<SystemTime> {
        let log = self.log();
        log.writes_begun.filter(|_| log.has_orphans).map(|ms| UNIX_EPOCH + Duration::from_millis(ms))
    }

    /// Records that the index lists the block files of earlier processes. No upload is under way yet.
    pub(super) fn orphans_listed(&self) {
        self.log().has_orphans = false;
        self.end_writes(|| true);
    }

    /// Makes the next process write the journal anew: another index takes the place of this one.
    pub(super) fn invalidate(&self) -> Result<(), StoreError> {
        let mut log = self.log();
        log.is_complete = false;
        // Not the epoch of the new index: the old one would look older than it, if this process ends before the new one is
        // in its place.
        log.append(&self.path, &[Record::Opened])?;
        log.sync()
    }

    /// Returns the record of how far the index has come, and marks it among the blocks.
    fn epoch(&self) -> Result<Record, StoreError> {
        let epoch = self.index.next_number()?;
        // One of the two is enough.
        if let Err(error) = self.mark.raise(epoch) {
            tracing::warn!("{error}");
        }
        Ok(Record::Epoch(epoch))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner);
        if log.file.is_some() {
            // One sync for all: if a power cut takes an earlier record, that one is damaged.
            let is_whole = log.is_complete && !self.is_behind;
            let closed = if is_whole { log.append(&self.path, &[Record::Closed]) } else { Ok(()) };
            if let Err(error) = closed.and_then(|()| log.sync()) {
                tracing::warn!("{error}");
            }
        }
    }
}

impl Log {
    fn append(&mut self, path: &Path, records: &[Record]) -> Result<(), StoreError> {
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        if self.file.is_none() {
            let file = private::open(path).map_err(failed)?;
            private::sync_folder(path).map_err(failed)?;
            self.file = Some(file);
        }
        let Some(file) = &self.file else { return Ok(()) };
        // At the end of the last whole record: what a failed or torn write left there is overwritten.
        file.write_all_at(&bytes, self.len).map_err(failed)?;
        self.len += bytes.len() as u64;
        if self.synced.is_none_or(|at| at.elapsed() >= SYNC_AFTER) { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(file) = &self.file {
            file.sync_data().map_err(failed)?;
            self.synced = Some(Instant::now());
        }
        Ok(())
    }
}

fn failed(e: io::Error) -> StoreError {
    StoreError::io("write the journal", e)
}
