//! Storing blocks for one root: pinned while the upload runs, durable together.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    INLINE_MAX, RootRecord, Store, StoreError,
    disk::Durability,
    quota::Reservation,
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
    /// Syncs that had failed when it began.
    failed_syncs: u64,
    state: Mutex<UploadState>,
    /// Held by the thread that lists short blocks; others that have too many of them wait for it.
    flushing: Mutex<()>,
}

#[derive(Default)]
struct UploadState {
    /// Every block of this upload, in order of arrival.
    blocks: Vec<Digest>,
    seen: HashSet<Digest>,
    /// Blocks that this upload stored and that are not listed yet, each with the bytes reserved for it.
    waiting: HashMap<Digest, (Arrival, u64)>,
    /// Bytes of the short blocks among them.
    short_bytes: u64,
    folders: HashSet<PathBuf>,
    /// Block files to sync before they are listed.
    unsynced: Vec<Digest>,
    /// Bytes reserved for all blocks that are not listed yet.
    reserved: u64,
    /// Blocks that were not here before, or that another upload wrote and has not listed either.
    own: Vec<Digest>,
    /// Listed block files whose bytes were wrong, and whose new bytes are not synced yet.
    replaced: Vec<Digest>,
    /// The disk or the quota was full, or a sync has failed.
    gives_up: bool,
}

impl UploadState {
    /// Adds a block that is to be listed. The upload ends the reservation when the index counts the block.
    fn wait_for_row(&mut self, arrival: Arrival, quota: Reservation<'_>) {
        let bytes = quota.hand_over();
        self.reserved += bytes;
        self.short_bytes += arrival.short_len();
        let digest = arrival.digest;
        if let Some((old, old_bytes)) = self.waiting.insert(digest, (arrival, bytes)) {
            self.short_bytes -= old.short_len();
            if let Some((_, bytes)) = self.waiting.get_mut(&digest) {
                *bytes += old_bytes;
            }
        }
    }

    /// Removes a block that is listed. Returns the bytes that were reserved for it.
    fn has_row(&mut self, digest: &Digest) -> u64 {
        let Some((arrival, bytes)) = self.waiting.remove(digest) else { return 0 };
        self.short_bytes -= arrival.short_len();
        bytes
    }
}

impl Store {
    /// Begins an upload.
    pub fn upload(&self) -> Upload {
        self.begin(true)
    }

    /// Begins to list blocks that are here, all of which stay, whatever happens.
    pub(super) fn listing(&self) -> Upload {
        self.begin(false)
    }

    fn begin(&self, takes_back: bool) -> Upload {
        Upload {
            store: self.clone(),
            takes_back,
            failed_syncs: self.inner.unlisted.failed_syncs(),
            state: Mutex::default(),
            flushing: Mutex::default(),
        }
    }

    /// Puts a block where it belongs. Returns the folder of its file, if one was written. The row comes later.
    pub(super) fn place(
        &self,
        cid: &Cid,
        bytes: &[u8],
        durability: Durability,
        inline: bool,
    ) -> Result<(Arrival, Option<PathBuf>), StoreError> {
        let len = u32::try_from(bytes.len()).map_err(|_| StoreError::NoSpace("a block of 4 GiB".into()))?;
        let mut arrival = Arrival { digest: *cid.digest(), codec: cid.codec(), len, inline: None };
        if inline {
            arrival.inline = Some(bytes.into());
            return Ok((arrival, None));
        }
        let folder = self.with_space(|| self.inner.disk.write(cid.digest(), bytes, durability))?;
        Ok((arrival, folder))
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
        let digest = *cid.digest();
        let waiting = {
            let mut state = self.state();
            if state.seen.insert(digest) {
                // Pinning may wait for the collector, which never waits for an upload.
                self.store.inner.pins.pin(digest);
                state.blocks.push(digest);
            } else if mode == PutMode::Sealed {
                return Ok(Put::Known);
            }
            state.waiting.get(&digest).map(|(arrival, _)| arrival.clone())
        };
        // Read after `waiting`: a block that was listed in between is seen here.
        let row = self.store.inner.index.row(&digest)?;
        if self.is_here(cid, bytes, waiting.as_ref(), row, mode, inline)? {
            return Ok(Put::Known);
        }
        // Bytes that a row counts need no quota: the block is pinned, and so is its row.
        let counted = row.filter(|row| row.location != Location::Missing).map_or(0, |row| u64::from(row.len));
        let quota = self.store.reserve((bytes.len() as u64).saturating_sub(counted))?;
        // A file without a row that has other bytes is damaged and unlisted: it is overwritten.
        let is_own = row.is_none();
        if is_own {
            // Before it is there, so that a part of it is found, too.
            self.state().own.push(digest);
            if !inline {
                self.store.inner.unlisted.insert(digest);
                let begun = self.store.inner.journal.begin_writes();
                begun.inspect_err(|_| self.store.inner.unlisted.remove([&digest]))?;
            }
        }
        let (arrival, folder, synced) = self.write(cid, bytes, inline)?;
        let too_many = {
            let mut state = self.state();
            if !synced {
                state.unsynced.push(digest);
            }
            if folder.is_some() && !is_own {
                state.replaced.push(digest);
            }
            state.folders.extend(folder);
            state.wait_for_row(arrival, quota);
            state.short_bytes >= FLUSH_BYTES
        };
        if too_many {
            self.flush()?;
        }
        let known = row.is_some_and(|row| row.cached);
        Ok(if known { Put::Known } else { Put::New })
    }

    /// Writes a block. Returns the folder of its file, and whether nothing but that folder needs a sync.
    pub(super) fn write(
        &self,
        cid: &Cid,
        bytes: &[u8],
        inline: bool,
    ) -> Result<(Arrival, Option<PathBuf>, bool), StoreError> {
        let (inner, digest) = (&self.store.inner, cid.digest());
        // Short ones are synced together at the end: a folder of many files has many of them. So they do not replace a file
        // that is there: another upload may have synced it, and have been acknowledged.
        if bytes.len() <= INLINE_MAX && !inline && !inner.unlisted.is_unsound(digest) {
            let (arrival, folder) = self.store.place(cid, bytes, Durability::New, inline)?;
            if folder.is_some() {
                return Ok((arrival, folder, false));
            }
            if let Some(there) = inner.disk.read(digest, arrival.len)?
                && same(cid, &there, bytes)?
            {
                return Ok((arrival, inner.disk.path(digest).parent().map(PathBuf::from), false));
            }
        }
        let (arrival, folder) = self.store.place(cid, bytes, Durability::Synced, inline)?;
        inner.unlisted.written_again([digest]);
        Ok((arrival, folder, true))
    }

    /// Whether the block need not be written. It must be where its bytes are not those at hand.
    fn is_here(
        &self,
        cid: &Cid,
        bytes: &[u8],
        waiting: Option<&Arrival>,
        row: Option<Row>,
        mode: PutMode,
        inline: bool,
    ) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let digest = cid.digest();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some(old) = waiting.and_then(|arrival| arrival.inline.as_ref()) {
            return same(cid, old, bytes);
        }
        if inner.unlisted.is_unsound(digest) {
            return Ok(false);
        }
        let lane = &inner.comparing[usize::from(digest[0]) % inner.comparing.len()];
        let _turn;
        let old = match row {
            Some(row) if row.location == Location::Missing => return Ok(false),
            // Cache is not synced: it is written again, for good.
            Some(row) if row.cached && mode == PutMode::Sealed => return Ok(false),
            Some(row) if row.location == Location::Inline => inner.index.inline(digest)?,
            None if inline => return Ok(false),
            row => {
                // Few at a time, so that comparing takes no more memory than writing.
                _turn = lane.lock().unwrap_or_else(PoisonError::into_inner);
                inner.disk.read(digest, row.map_or(len, |row| row.len))?
            }
        };
        let Some(old) = old else { return Ok(false) };
        if !same(cid, &old, bytes)? {
            if row.is_some() {
                tracing::warn!(%cid, "a block is damaged and written again");
            }
            return Ok(false);
        }
        if row.is_none() && waiting.is_none() {
            // A killed upload left it, or a crash took its row: it may never have been synced.
            if let Err(error) = inner.disk.sync(digest) {
                self.state().own.push(*digest);
                return Err(self.sync_failed(error));
            }
            let quota = self.store.reserve(u64::from(len))?;
            let mut state = self.state();
            if inner.unlisted.contains(digest) {
                // Another upload has just written it. The last one of the two that ends removes or lists it.
                state.own.push(*digest);
            }
            state.folders.extend(inner.disk.path(digest).parent().map(PathBuf::from));
            let arrival = Arrival { digest: *digest, codec: cid.codec(), len, inline: None };
            state.wait_for_row(arrival, quota);
        }
        Ok(row.is_none_or(|row| !row.cached))
    }

    /// Lists the short blocks, so that memory stays bounded. No root needs them yet: until then this upload's pins keep them.
    fn flush(&self) -> Result<(), StoreError> {
        let _turn = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let short: Vec<Arrival> = {
            let state = self.state();
            if state.short_bytes < FLUSH_BYTES {
                return Ok(());
            }
            let short = state.waiting.values().filter(|(arrival, _)| arrival.inline.is_some());
            short.map(|(arrival, _)| arrival.clone()).collect()
        };
        self.list(short, None).map(drop)
    }

    /// Lists the root. When this returns, all of it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Index`]; nothing is listed then.
    pub fn commit(&self, record: RootRecord) -> Result<(), StoreError> {
        let root = record.cid;
        self.noting(self.try_commit(record))?;
        let mut state = self.state();
        (state.own, state.gives_up) = (Vec::new(), false);
        drop(state);
        self.store.inner.journal.record_pin(&root);
        self.store.try_to_complete_roots();
        Ok(())
    }

    fn try_commit(&self, record: RootRecord) -> Result<(), StoreError> {
        self.sync_folders()?;
        let blocks = self.state().blocks.clone();
        let arrivals = self.arrivals();
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
        self.sync_folders()?;
        self.list(self.arrivals(), None)?;
        self.store.try_to_complete_roots();
        Ok(())
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.state().waiting.values().map(|(arrival, _)| arrival.clone()).collect()
    }

    /// Makes rows of arrivals, durably, and lists a root. Returns whether that takes the place of an old list.
    fn list(
        &self,
        arrivals: Vec<Arrival>,
        root: Option<(RootRecord, Vec<Digest>)>,
    ) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let _listing = inner.listing.read().unwrap_or_else(PoisonError::into_inner);
        let is_all = root.is_some();
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
        inner.unlisted.remove(arrivals.iter().map(|arrival| &arrival.digest));
        let mut state = self.state();
        let counted: u64 = arrivals.iter().map(|arrival| state.has_row(&arrival.digest)).sum();
        let counted = if is_all { state.reserved } else { counted };
        state.reserved -= counted;
        inner.reserved.fetch_sub(counted, Ordering::Relaxed);
        Ok(replaces.load(Ordering::Relaxed))
    }

    /// Makes the files of this upload durable. The system reports an error once, and to one caller alone: after it the page
    /// cache may hold as clean what never reached the disk, and every later sync may succeed. So all block files that are
    /// not listed are unsound then, of this upload and of all others.
    fn sync_folders(&self) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let mut state = self.state();
        let mut synced = Ok(());
        if !state.folders.is_empty() {
            synced = inner.disk.sync_folders(&state.folders).and_then(|()| {
                // After a sync of the whole file system, this only reports errors.
                state.unsynced.iter().try_for_each(|digest| inner.disk.sync(digest))
            });
        }
        if synced.is_ok() && inner.unlisted.failed_syncs() != self.failed_syncs {
            let source = std::io::Error::other("bytes written before may not have reached the disk");
            synced = Err(StoreError::Io { what: "sync blocks".into(), source });
        }
        if synced.is_ok() {
            state.folders.clear();
            state.unsynced.clear();
            state.replaced.clear();
        }
        drop(state);
        synced.map_err(|error| self.sync_failed(error))
    }

    fn sync_failed(&self, error: StoreError) -> StoreError {
        let mut state = self.state();
        self.store.inner.unlisted.sync_failed(&state.replaced);
        state.gives_up = true;
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

impl Drop for Upload {
    fn drop(&mut self) {
        let (gives_up, unlisted) = {
            let state = self.state();
            (state.gives_up, !state.waiting.is_empty())
        };
        // Not committed: the blocks are listed without a root, and wait for the end of their grace period.
        if unlisted
            && !(gives_up && self.takes_back)
            && let Err(error) = self.noting(self.keep())
        {
            tracing::warn!("blocks of an upload that ended early are not listed: {error}");
        }
        let state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.store.inner.pins.unpin(&state.blocks);
        if state.gives_up && self.takes_back {
            let unsound = self.store.inner.unlisted.failed_syncs() != self.failed_syncs;
            let replaced = if unsound { &*state.replaced } else { &[] };
            if let Err(error) =
                self.store.take_back(&state.own).and_then(|()| self.store.lose_again(replaced))
            {
                tracing::warn!("blocks of an upload that gave up wait for the next start: {error}");
            }
        }
        // Its files count as long as they are there.
        self.store.inner.reserved.fetch_sub(state.reserved, Ordering::Relaxed);
    }
}
