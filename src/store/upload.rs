//! Storing blocks for one root: pinned while in flight, durable together.

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
    room::Reservation,
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

/// What a put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The block was not here.
    New,
    /// The block was here already, and its bytes are right.
    Known,
}

/// An upload in flight. Its blocks are safe from collection until it is dropped. Without a [commit](Upload::commit) they
/// are unreferenced then, count as stored, and are found again by the next try; where it failed for want of room, what it
/// wrote goes with it.
pub struct Upload {
    store: Store,
    /// What it wrote goes where there is no room for all of it.
    takes_back: bool,
    /// Syncs that had failed when this began.
    failures: u64,
    state: Mutex<State>,
    /// Held by the thread that lists short blocks; the others that have too many of them wait for it.
    flushing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Every block of this upload, in order of arrival.
    blocks: Vec<Digest>,
    seen: HashSet<Digest>,
    /// What was stored by this upload and is not listed yet, each with the bytes promised to it.
    waiting: HashMap<Digest, (Arrival, u64)>,
    /// Bytes of the short blocks that wait.
    short_bytes: u64,
    folders: HashSet<PathBuf>,
    /// Block files to sync before they get a row.
    unsynced: Vec<Digest>,
    /// Bytes written that no row counts yet.
    reserved: u64,
    /// Blocks that were not here before, or that another upload wrote which has not listed them either.
    own: Vec<Digest>,
    /// Block files with a row whose bytes were wrong, and are not synced yet.
    mended: Vec<Digest>,
    /// What this upload wrote is to go with it: there was no room for something, or a sync has failed.
    gives_up: bool,
}

impl State {
    /// From now on the upload answers for the room, until rows count the bytes.
    fn wait_for_row(&mut self, arrival: Arrival, room: Reservation<'_>) {
        let room = room.hand_over();
        self.reserved += room;
        self.short_bytes += arrival.short_len();
        let digest = arrival.digest;
        if let Some((old, promised)) = self.waiting.insert(digest, (arrival, room)) {
            self.short_bytes -= old.short_len();
            if let Some((_, room)) = self.waiting.get_mut(&digest) {
                *room += promised;
            }
        }
    }

    /// Answers with the bytes that were promised to it.
    fn has_row(&mut self, digest: &Digest) -> u64 {
        let Some((arrival, promised)) = self.waiting.remove(digest) else { return 0 };
        self.short_bytes -= arrival.short_len();
        promised
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
        let failures = self.inner.leftovers.failures();
        Upload {
            store: self.clone(),
            takes_back,
            failures,
            state: Mutex::default(),
            flushing: Mutex::default(),
        }
    }

    /// Puts a block where it belongs; answers with the folder of its file, where one was written. The row comes later.
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
        let folder = self.with_room(|| self.inner.disk.write(cid.digest(), bytes, durability))?;
        Ok((arrival, folder))
    }
}

impl Upload {
    /// Stores a block, or finds that it is stored. Call it from several threads: that is how syncs overlap.
    ///
    /// What is here already is compared: a damaged block is put right.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]; [`StoreError::Collision`]; [`StoreError::Io`].
    pub fn put(&self, cid: &Cid, bytes: &[u8], mode: PutMode) -> Result<Put, StoreError> {
        self.noting(self.put_in(cid, bytes, mode, lives_in_index(cid, bytes)))
    }

    /// As [`Upload::put`], for the end of a file whose other blocks are longer: it is a file as those are, however short,
    /// so that they are not read without it should the index be lost.
    ///
    /// # Errors
    /// As [`Upload::put`].
    pub fn put_last(&self, cid: &Cid, bytes: &[u8], mode: PutMode) -> Result<Put, StoreError> {
        self.noting(self.put_in(cid, bytes, mode, false))
    }

    /// Notes where there was no room.
    fn noting<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::NoSpace(_))) {
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
        // Asked after what waits: a block that has got its row in between is seen here.
        let row = self.store.inner.index.row(&digest)?;
        if self.is_here(cid, bytes, waiting.as_ref(), row, mode, inline)? {
            return Ok(Put::Known);
        }
        // What a row counts has its room: it is pinned, and so is its row.
        let counted = row.filter(|row| row.location != Location::Missing).map_or(0, |row| u64::from(row.len));
        let room = self.store.reserve((bytes.len() as u64).saturating_sub(counted))?;
        // A file without a row whose bytes are others is nobody's: it is written over.
        let is_own = row.is_none();
        if is_own {
            // Noted before it is there: what fails half-way is looked for, too.
            self.state().own.push(digest);
            if !inline {
                self.store.inner.leftovers.begin(digest)?;
            }
        }
        let (arrival, folder, synced) = self.write(cid, bytes, inline)?;
        let too_many = {
            let mut state = self.state();
            if !synced {
                state.unsynced.push(digest);
            }
            if folder.is_some() && !is_own {
                state.mended.push(digest);
            }
            state.folders.extend(folder);
            state.wait_for_row(arrival, room);
            state.short_bytes >= FLUSH_BYTES
        };
        if too_many {
            self.flush()?;
        }
        let known = row.is_some_and(|row| row.cached);
        Ok(if known { Put::Known } else { Put::New })
    }

    /// Puts a block in place. Answers with the folder of its file, and whether nothing but that is to be synced.
    pub(super) fn write(
        &self,
        cid: &Cid,
        bytes: &[u8],
        inline: bool,
    ) -> Result<(Arrival, Option<PathBuf>, bool), StoreError> {
        let (inner, digest) = (&self.store.inner, cid.digest());
        // Short ones are synced together at the end: a folder of many files has many of them. So they take no place from
        // a file that is there: it may be another upload's, which has synced it and was acknowledged.
        if bytes.len() <= INLINE_MAX && !inline && !inner.leftovers.is_unsound(digest) {
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
        inner.leftovers.written_again([digest]);
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
        if inner.leftovers.is_unsound(digest) {
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
            // Left by an upload that was killed, or cache that a crash took off the list: nobody has synced that.
            if let Err(error) = inner.disk.sync(digest) {
                self.state().own.push(*digest);
                return Err(self.sync_failed(error));
            }
            let room = self.store.reserve(u64::from(len))?;
            let mut state = self.state();
            if inner.leftovers.is_fresh(digest) {
                // Another upload has just written it. Whichever of the two ends last answers for it.
                state.own.push(*digest);
            }
            state.folders.extend(inner.disk.path(digest).parent().map(PathBuf::from));
            let arrival = Arrival { digest: *digest, codec: cid.codec(), len, inline: None };
            state.wait_for_row(arrival, room);
        }
        Ok(row.is_none_or(|row| !row.cached))
    }

    /// Has the index list the short blocks that wait, so that memory stays bounded. No root needs them yet: until one
    /// does, it is this upload's pins that keep them.
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
        self.store.note_kept(&root);
        self.store.note_stored();
        self.store.try_to_complete_roots();
        Ok(())
    }

    fn try_commit(&self, record: RootRecord) -> Result<(), StoreError> {
        self.sync_folders()?;
        let blocks = self.state().blocks.clone();
        let arrivals = self.arrivals();
        // A list that lacked some blocks may be replaced by this: what it held is let go now, or later.
        if self.list(arrivals, Some((record, blocks)))?
            && let Err(error) = self.store.finish_removals()
        {
            tracing::warn!("an old list of blocks waits for the next start: {error}");
        }
        Ok(())
    }

    /// Lists what was put, without a root: it is unreferenced until one needs it.
    pub(super) fn keep(&self) -> Result<(), StoreError> {
        self.sync_folders()?;
        self.list(self.arrivals(), None)?;
        self.store.try_to_complete_roots();
        Ok(())
    }

    /// What waits for a row.
    fn arrivals(&self) -> Vec<Arrival> {
        self.state().waiting.values().map(|(arrival, _)| arrival.clone()).collect()
    }

    /// Makes rows of what has arrived, durably, and lists a root; answers whether that takes the place of an old list.
    fn list(
        &self,
        arrivals: Vec<Arrival>,
        root: Option<(RootRecord, Vec<Digest>)>,
    ) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let _settling = inner.settling.read().unwrap_or_else(PoisonError::into_inner);
        let (arrivals, is_all) = (Arc::<[Arrival]>::from(arrivals), root.is_some());
        let listed = Arc::clone(&arrivals);
        let replaces = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&replaces);
        let root = root.map(Arc::new);
        self.store.with_room(|| {
            let (listed, root, told) = (Arc::clone(&listed), root.clone(), Arc::clone(&told));
            inner.writer.run(move |tables| {
                let now = unix_ms();
                listed.iter().try_for_each(|arrival| tables.arrive(arrival, false, now))?;
                if let Some((record, blocks)) = root.as_deref() {
                    told.store(tables.add_root(record, blocks, now)?, Ordering::Relaxed);
                }
                Ok(())
            })
        })?;
        inner.leftovers.settled(arrivals.iter().map(|arrival| &arrival.digest));
        let mut state = self.state();
        let counted: u64 = arrivals.iter().map(|arrival| state.has_row(&arrival.digest)).sum();
        let counted = if is_all { state.reserved } else { counted };
        state.reserved -= counted;
        inner.reserved.fetch_sub(counted, Ordering::Relaxed);
        Ok(replaces.load(Ordering::Relaxed))
    }

    /// Makes durable what was written. An error is told once, and to one alone: after it the page cache may hold for clean
    /// what never reached the disk, and every later sync may say that all is well. So what is not listed then is unsound,
    /// of this upload and of all others that are under way.
    fn sync_folders(&self) -> Result<(), StoreError> {
        let inner = &self.store.inner;
        let mut state = self.state();
        let mut synced = Ok(());
        if !state.folders.is_empty() {
            synced = inner.disk.sync_folders(&state.folders).and_then(|()| {
                // Where that was a sync of the whole file system, this asks for errors and does nothing else.
                state.unsynced.iter().try_for_each(|digest| inner.disk.sync(digest))
            });
        }
        if synced.is_ok() && inner.leftovers.failures() != self.failures {
            let source = std::io::Error::other("what was written may not have reached the disk");
            synced = Err(StoreError::Io { what: "sync blocks".into(), source });
        }
        if synced.is_ok() {
            state.folders.clear();
            state.unsynced.clear();
            state.mended.clear();
        }
        drop(state);
        synced.map_err(|error| self.sync_failed(error))
    }

    fn sync_failed(&self, error: StoreError) -> StoreError {
        let mut state = self.state();
        self.store.inner.leftovers.sync_failed(&state.mended);
        state.gives_up = true;
        error
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        self.state().short_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
        // Not committed: the blocks are listed as unreferenced, and wait out the grace period. The next upload takes what
        // is listed for durable.
        if unlisted
            && !(gives_up && self.takes_back)
            && let Err(error) = self.noting(self.keep())
        {
            tracing::warn!("blocks of an upload that ended early are not listed: {error}");
        }
        let state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.store.inner.pins.unpin(&state.blocks);
        if state.gives_up && self.takes_back {
            let unsound = self.store.inner.leftovers.failures() != self.failures;
            let mended = if unsound { &*state.mended } else { &[] };
            if let Err(error) = self.store.take_back(&state.own).and_then(|()| self.store.lose_again(mended))
            {
                tracing::warn!("blocks of an upload that gave up wait for the next start: {error}");
            }
        }
        // As long as its files are there, they count.
        self.store.inner.reserved.fetch_sub(state.reserved, Ordering::Relaxed);
    }
}
