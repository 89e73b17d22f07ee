//! Storing blocks for one root: pinned while the upload runs, durable together.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    INLINE_MAX, RootRecord, Store, StoreError,
    block_stage::{Event, Stage},
    disk::Durability,
    schema::{Arrival, Location, Row, unix_ms},
};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
    node_block,
};

/// Bytes of short blocks that an upload holds in memory before the index lists them.
pub(super) const FLUSH_BYTES: u64 = 4 << 20;

/// How a block that this upload has put before is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Sealed content: one name, one block (a reader checks it by another hash as well).
    Sealed,
    /// Public content: bytes are compared each time, since two different blocks can share a SHA-1.
    Compare,
}

/// Result of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The block was not here.
    New,
    /// The block was here already, and its bytes are right.
    Known,
}

/// An upload. Its blocks are not collected until it is dropped. Without a [commit](Upload::commit) they are listed without a
/// root then: they count as stored, and the next try finds them. If the disk or the quota was full, what the upload wrote
/// is removed.
pub struct Upload {
    store: Store,
    /// Whether what it wrote is removed if it gives up.
    takes_back: bool,
    state: Mutex<UploadState>,
    /// Held by the thread that lists short blocks; others that have too many of them wait for it.
    flushing: Mutex<()>,
}

#[derive(Default)]
struct UploadState {
    /// Every block of this upload, in order of arrival.
    blocks: Vec<Digest>,
    seen: HashSet<Digest>,
    /// Short blocks to list before they take too much memory.
    short: Vec<Arrival>,
    /// Bytes of the short blocks in memory.
    short_bytes: u64,
    /// The disk or the quota was full, or a sync has failed.
    gives_up: bool,
}

impl Store {
    /// Begins an upload.
    pub fn upload(&self) -> Upload {
        let (state, flushing) = (Mutex::default(), Mutex::default());
        Upload { store: self.clone(), takes_back: true, state, flushing }
    }

    /// Begins to list blocks that are here, all of which stay, whatever happens.
    pub(super) fn listing(&self) -> Upload {
        let mut upload = self.upload();
        upload.takes_back = false;
        upload
    }

    /// Writes the file of a block; returns whether it did. The row comes later.
    pub(super) fn place(&self, cid: &Cid, bytes: &[u8], durability: Durability) -> Result<bool, StoreError> {
        let written = self.with_space(|| self.inner.disk.write(cid.digest(), bytes, durability))?;
        Ok(written.is_some())
    }
}

impl Upload {
    /// Stores a block, or finds that it is stored. Call it from several threads: that is how syncs overlap.
    ///
    /// A block that is here already is compared: one that is damaged is replaced.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]; [`StoreError::OverCapacity`]; [`StoreError::Collision`]; [`StoreError::Io`].
    pub fn put(&self, cid: &Cid, bytes: &[u8], mode: PutMode) -> Result<Put, StoreError> {
        self.noting(self.put_in(cid, bytes, mode, lives_in_index(cid, bytes)))
    }

    /// As [`Upload::put`], for the end of a file whose other blocks are longer. It is a file as those are, however short,
    /// so that they can be read should the index be lost.
    ///
    /// # Errors
    /// As [`Upload::put`].
    pub fn put_last(&self, cid: &Cid, bytes: &[u8], mode: PutMode) -> Result<Put, StoreError> {
        self.noting(self.put_in(cid, bytes, mode, false))
    }

    /// Makes the upload give up if the disk or the quota was full.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::NoSpace(_) | StoreError::OverCapacity(_))) {
            self.state().gives_up = true;
        }
        result
    }

    fn put_in(&self, cid: &Cid, bytes: &[u8], mode: PutMode, inline: bool) -> Result<Put, StoreError> {
        let (inner, digest) = (&self.store.inner, *cid.digest());
        {
            let mut state = self.state();
            if state.seen.insert(digest) {
                // Pinning may wait for the collector, which never waits for an upload.
                inner.in_flight.pin(digest);
                state.blocks.push(digest);
            } else if mode == PutMode::Sealed {
                return Ok(Put::Known);
            }
        }
        let held = inner.in_flight.look(&digest, |held| (held.stage, held.arrival.clone()));
        // Read after that: a block that was listed in between is seen here.
        let row = inner.index.row(&digest)?;
        if self.is_here(cid, bytes, held, row, mode, inline)? {
            return Ok(Put::Known);
        }
        // Bytes that a row counts need no quota: the block is pinned, and so is its row.
        let counted = row.filter(|row| row.location != Location::Missing).map_or(0, |row| u64::from(row.len));
        let quota = self.store.reserve((bytes.len() as u64).saturating_sub(counted))?;
        let arrival = Arrival::of(cid, bytes, inline)?;
        inner.in_flight.hold(arrival.clone(), quota);
        if inline {
            self.list_short(arrival)?;
        } else {
            // Before it is there, so that a part of it is found, too.
            inner.journal.begin_writes()?;
            let written = self.write(cid, bytes)?;
            inner.in_flight.note([&digest], written);
        }
        let known = row.is_some_and(|row| row.cached);
        Ok(if known { Put::Known } else { Put::New })
    }

    /// Writes the file of a block, unless a short one is there already.
    pub(super) fn write(&self, cid: &Cid, bytes: &[u8]) -> Result<Event, StoreError> {
        let (inner, digest) = (&self.store.inner, cid.digest());
        // Short ones are synced together at the end: a folder of many files has many of them. So they do not replace a file
        // that is there: another upload may have synced it, and have been acknowledged.
        if bytes.len() <= INLINE_MAX && !inner.in_flight.is_unsound(digest) {
            if self.store.place(cid, bytes, Durability::New)? {
                return Ok(Event::Written);
            }
            if let Some(there) = inner.disk.read(digest, len_of(bytes))?
                && same(cid, &there, bytes)?
            {
                return Ok(Event::Written);
            }
        }
        self.store.place(cid, bytes, Durability::Synced)?;
        Ok(Event::Replaced)
    }

    /// Whether the block need not be written. It must be where its bytes are not those at hand.
    fn is_here(
        &self,
        cid: &Cid,
        bytes: &[u8],
        held: Option<(Stage, Arrival)>,
        row: Option<Row>,
        mode: PutMode,
        inline: bool,
    ) -> Result<bool, StoreError> {
        let (inner, digest) = (&self.store.inner, cid.digest());
        let is_in_place = match held {
            Some((Stage::Reserved | Stage::Unsound, _)) => return Ok(false),
            Some((_, Arrival { inline: Some(old), .. })) => return same(cid, &old, bytes),
            Some((Stage::Written | Stage::Synced, _)) => true,
            Some((Stage::Listed, _)) | None => false,
        };
        let lane = &inner.comparing[usize::from(digest[0]) % inner.comparing.len()];
        let _turn;
        let old = match row.filter(|_| !is_in_place) {
            Some(row) if row.location == Location::Missing => return Ok(false),
            // Cache is not synced: it is written again, for good.
            Some(row) if row.cached && mode == PutMode::Sealed => return Ok(false),
            Some(row) if row.location == Location::Inline => inner.index.inline(digest)?,
            None if inline => return Ok(false),
            row => {
                // Few at a time, so that comparing takes no more memory than writing.
                _turn = lane.lock().unwrap_or_else(PoisonError::into_inner);
                inner.disk.read(digest, row.map_or(len_of(bytes), |row| row.len))?
            }
        };
        let Some(old) = old else { return Ok(false) };
        if !same(cid, &old, bytes)? {
            if row.is_some() {
                tracing::warn!(%cid, "a block is damaged and written again");
            }
            return Ok(false);
        }
        if row.is_none() && !is_in_place {
            // A killed upload left it, or a crash took its row: it may never have been synced.
            let quota = self.store.reserve(bytes.len() as u64)?;
            inner.in_flight.hold(Arrival::of(cid, bytes, false)?, quota);
            inner.in_flight.note([digest], Event::Written);
            inner.disk.sync(digest).map_err(|error| self.sync_failed(error))?;
            inner.in_flight.note([digest], Event::Synced);
        }
        Ok(is_in_place || row.is_none_or(|row| !row.cached))
    }

    /// Lists short blocks when there are many, so that memory stays bounded. No root needs them yet: until then this
    /// upload's pins keep them.
    fn list_short(&self, arrival: Arrival) -> Result<(), StoreError> {
        let is_enough = {
            let mut state = self.state();
            state.short_bytes += arrival.short_len();
            state.short.push(arrival);
            state.short_bytes >= FLUSH_BYTES
        };
        if is_enough {
            let _turn = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            let short = {
                let mut state = self.state();
                if state.short_bytes < FLUSH_BYTES {
                    return Ok(());
                }
                std::mem::take(&mut state.short)
            };
            let bytes: u64 = short.iter().map(Arrival::short_len).sum();
            self.list(short, None)?;
            self.state().short_bytes -= bytes;
        }
        Ok(())
    }

    /// Lists the root. When this returns, all of it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Index`]; nothing is listed then.
    pub fn commit(&self, record: RootRecord) -> Result<(), StoreError> {
        let root = record.cid;
        self.noting(self.try_commit(record))?;
        self.store.inner.journal.record_pin(&root);
        self.store.try_to_complete_roots();
        Ok(())
    }

    fn try_commit(&self, record: RootRecord) -> Result<(), StoreError> {
        let (blocks, arrivals) = self.sync()?;
        // An old list that lacked some blocks may be replaced by this: its references are dropped now, or later.
        if self.list(arrivals, Some((record, blocks)))?
            && let Err(error) = self.store.finish_removals()
        {
            tracing::warn!("an old list of blocks waits for the next start: {error}");
        }
        Ok(())
    }

    /// Lists the blocks without a root: they are unreferenced until one needs them.
    pub(super) fn keep(&self) -> Result<(), StoreError> {
        let (_, arrivals) = self.sync()?;
        if !arrivals.is_empty() {
            self.list(arrivals, None)?;
            self.store.try_to_complete_roots();
        }
        Ok(())
    }

    /// Makes rows of arrivals, durably, and lists a root. Returns whether that takes the place of an old list.
    fn list(
        &self,
        arrivals: Vec<Arrival>,
        root: Option<(RootRecord, Vec<Digest>)>,
    ) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let _listing = inner.listing.read().unwrap_or_else(PoisonError::into_inner);
        let change = Arc::new((arrivals, root, AtomicBool::new(false)));
        self.store.with_space(|| {
            let change = Arc::clone(&change);
            inner.writer.run(move |tables| {
                let (arrivals, root, replaces) = &*change;
                let now = unix_ms();
                arrivals.iter().try_for_each(|arrival| tables.arrive(arrival, false, now))?;
                if let Some((record, blocks)) = root {
                    replaces.store(tables.add_root(record, blocks, now)?, Ordering::Relaxed);
                }
                Ok(())
            })
        })?;
        let (arrivals, _, replaces) = &*change;
        inner.in_flight.note(arrivals.iter().map(|arrival| &arrival.digest), Event::Listed);
        Ok(replaces.load(Ordering::Relaxed))
    }

    /// Makes all files durable. Returns all blocks, and what the index is to list of them.
    fn sync(&self) -> Result<(Vec<Digest>, Vec<Arrival>), StoreError> {
        let (inner, blocks) = (&self.store.inner, self.state().blocks.clone());
        let mut files = self.unlisted(&blocks)?;
        files.retain(|(_, arrival)| arrival.inline.is_none());
        let folder = |(_, file): &(Stage, Arrival)| inner.disk.path(&file.digest).parent().map(PathBuf::from);
        let folders: HashSet<PathBuf> = files.iter().filter_map(folder).collect();
        if !folders.is_empty() {
            let mut written = files.iter().filter(|(stage, _)| *stage == Stage::Written);
            let synced = inner.disk.sync_folders(&folders).and_then(|()| {
                // After a sync of the whole file system, this only reports errors.
                written.try_for_each(|(_, file)| inner.disk.sync(&file.digest))
            });
            synced.map_err(|error| self.sync_failed(error))?;
            inner.in_flight.note(files.iter().map(|(_, file)| &file.digest), Event::Synced);
        }
        let synced = self.unlisted(&blocks)?.into_iter().filter(|(stage, _)| *stage == Stage::Synced);
        Ok((blocks, synced.map(|(_, arrival)| arrival).collect()))
    }

    /// Returns those of `blocks` that are here and that the index does not list.
    ///
    /// Errors: some sync has failed since one of them was written.
    fn unlisted(&self, blocks: &[Digest]) -> Result<Vec<(Stage, Arrival)>, StoreError> {
        let unlisted = self.store.inner.in_flight.look_at_all(blocks, |held| {
            let is_unlisted = !matches!(held.stage, Stage::Reserved | Stage::Listed);
            is_unlisted.then(|| (held.stage, held.arrival.clone()))
        });
        if unlisted.iter().any(|(stage, _)| *stage == Stage::Unsound) {
            self.state().gives_up = true;
            let source = std::io::Error::other("bytes written before may not have reached the disk");
            return Err(StoreError::Io { what: "sync blocks".into(), source });
        }
        Ok(unlisted)
    }

    fn sync_failed(&self, error: StoreError) -> StoreError {
        self.store.inner.in_flight.note_failed_sync();
        self.state().gives_up = true;
        error
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        self.state().short_bytes
    }

    fn state(&self) -> MutexGuard<'_, UploadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a block lives in the index: a short one does. A node block that leads to block files is a file like them:
/// should the index be lost, it is needed to read them.
pub(super) fn lives_in_index(cid: &Cid, bytes: &[u8]) -> bool {
    let leads_to_files = || {
        let is_file =
            |(link, len): (&Cid, &u32)| link.codec() == Codec::DagCbor || *len as usize > INLINE_MAX;
        node_block::visible(bytes).is_ok_and(|visible| visible.links.iter().zip(&visible.lens).any(is_file))
    };
    bytes.len() <= INLINE_MAX && !(cid.codec() == Codec::DagCbor && leads_to_files())
}

/// Whether the bytes of a stored block are those at hand. Others that have the same name are a collision; any others are
/// damage.
fn same(cid: &Cid, stored: &[u8], bytes: &[u8]) -> Result<bool, StoreError> {
    match stored == bytes {
        false if cid.matches(stored) => Err(StoreError::Collision { cid: *cid }),
        equal => Ok(equal),
    }
}

fn len_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl Drop for Upload {
    fn drop(&mut self) {
        let gives_back = || self.takes_back && self.state().gives_up;
        // Not committed: the blocks are listed without a root, and wait for the end of their grace period.
        if !gives_back()
            && let Err(error) = self.noting(self.keep())
        {
            tracing::warn!("blocks of an upload that ended early are not listed: {error}");
        }
        let in_flight = &self.store.inner.in_flight;
        let blocks = std::mem::take(&mut self.state().blocks);
        let written = in_flight.look_at_all(&blocks, |held| Some(held.arrival.digest));
        in_flight.unpin(&blocks);
        if gives_back()
            && let Err(error) = self.store.take_back(&written)
        {
            tracing::warn!("blocks of an upload that gave up wait for the next start: {error}");
        }
    }
}
