//! Storing blocks for one root: pinned while in flight, durable together.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use super::{
    INLINE_MAX, RootRecord, Store, StoreError,
    disk::Durability,
    index::{Place, Row},
    tables::Arrival,
    unix_ms,
};
use crate::content::{cid::Cid, hash::Digest};

/// How a block that seems to be stored already is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Sealed content: its name stands for its bytes (a reader checks them by another hash as well).
    Sealed,
    /// Public content: bytes are compared, since two different blocks can share a SHA-1.
    Compare,
}

/// What a put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The block was not here.
    New,
    /// The block was here already.
    Known,
}

/// An upload in flight. Its blocks are safe from collection until it is dropped; without a
/// [commit](Upload::commit) they are unreferenced then, and found again by the next try.
pub struct Upload {
    store: Store,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every block of this upload, in order of arrival.
    blocks: Vec<Digest>,
    /// The same, and what was stored of it by this upload.
    seen: HashMap<Digest, Option<Arrival>>,
    folders: HashSet<PathBuf>,
    /// Bytes written that no row counts yet.
    reserved: u64,
}

/// Bytes promised to a block that is being written.
struct Reservation<'a> {
    store: &'a Store,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.store.inner.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Store {
    /// Begins an upload.
    pub fn upload(&self) -> Upload {
        Upload { store: self.clone(), state: Mutex::default() }
    }

    /// Promises room for a block, evicting cache where that helps.
    fn reserve(&self, bytes: u64) -> Result<Reservation<'_>, StoreError> {
        let before = self.inner.reserved.fetch_add(bytes, Ordering::Relaxed);
        let reservation = Reservation { store: self, bytes };
        if let Some(capacity) = self.inner.options.capacity {
            let wanted = before + bytes;
            let over = (self.usage().bytes + wanted).saturating_sub(capacity);
            if over > 0 {
                self.evict(over)?;
                let usage = self.usage();
                if usage.bytes + wanted > capacity {
                    return Err(StoreError::NoSpace(format!(
                        "{} of {capacity} bytes are in use, and storage.capacity is a hard limit",
                        usage.bytes
                    )));
                }
            }
        }
        Ok(reservation)
    }

    /// Puts a block where it belongs. The row comes later.
    fn place(
        &self,
        cid: &Cid,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(Arrival, Option<PathBuf>), StoreError> {
        let len = u32::try_from(bytes.len()).map_err(|_| StoreError::NoSpace("a block of 4 GiB".into()))?;
        let mut arrival = Arrival { digest: *cid.digest(), codec: cid.codec(), len, inline: None };
        if bytes.len() <= INLINE_MAX {
            arrival.inline = Some(bytes.to_vec());
            return Ok((arrival, None));
        }
        let folder = self.inner.disk.write(cid.digest(), bytes, durability)?;
        Ok((arrival, Some(folder)))
    }

    /// Keeps a block that was fetched for a reader: evictable, not synced, unless a file here had lost it: then it is
    /// mended. The caller has checked it against its CID.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Index`].
    pub fn put_cached(&self, cid: &Cid, bytes: &[u8]) -> Result<(), StoreError> {
        let over =
            (self.usage().cached_bytes + bytes.len() as u64).saturating_sub(self.inner.options.cache_size);
        if over > 0 {
            self.evict(over)?;
        }
        let digest = *cid.digest();
        self.inner.pins.pin(digest);
        let put = self.put_pinned_cached(cid, bytes);
        self.inner.pins.unpin([&digest]);
        put
    }

    fn put_pinned_cached(&self, cid: &Cid, bytes: &[u8]) -> Result<(), StoreError> {
        let row = self.inner.index.row(cid.digest())?;
        if row.is_some_and(|row| row.place != Place::Missing) {
            return Ok(());
        }
        let needed = row.is_some();
        let _room = self.reserve(bytes.len() as u64)?;
        let durability = if needed { Durability::Synced } else { Durability::Cache };
        let (arrival, folder) = self.place(cid, bytes, durability)?;
        if let Some(folder) = folder.filter(|_| needed) {
            self.inner.disk.sync_folders(&HashSet::from([folder]))?;
        }
        if needed {
            return self.inner.writer.run(move |tables| tables.arrive(&arrival, false, unix_ms()));
        }
        self.inner.writer.post(move |tables| tables.arrive(&arrival, true, unix_ms()));
        Ok(())
    }
}

impl Upload {
    /// Stores a block, or finds that it is stored. Call it from several threads: that is how syncs overlap.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]; [`StoreError::Collision`] in [`PutMode::Compare`]; [`StoreError::Io`].
    pub fn put(&self, cid: &Cid, bytes: &[u8], mode: PutMode) -> Result<Put, StoreError> {
        let digest = *cid.digest();
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if mode == PutMode::Sealed && state.seen.contains_key(&digest) {
                return Ok(Put::Known);
            }
            if let std::collections::hash_map::Entry::Vacant(e) = state.seen.entry(digest) {
                // Pinning may wait for the collector, which never waits for an upload.
                self.store.inner.pins.pin(digest);
                e.insert(None);
                state.blocks.push(digest);
            }
        }
        let row = self.store.inner.index.row(&digest)?;
        if self.is_here(cid, bytes, row, mode)? {
            return Ok(Put::Known);
        }
        let room = self.store.reserve(bytes.len() as u64)?;
        let (arrival, folder) = self.store.place(cid, bytes, Durability::Synced)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.folders.extend(folder);
        state.seen.insert(digest, Some(arrival));
        // From now on the upload answers for the bytes, until rows count them.
        state.reserved += room.bytes;
        std::mem::forget(room);
        let known = row.is_some_and(|row| row.cached);
        Ok(if known { Put::Known } else { Put::New })
    }

    /// Whether the block need not be written.
    fn is_here(&self, cid: &Cid, bytes: &[u8], row: Option<Row>, mode: PutMode) -> Result<bool, StoreError> {
        let inner = &self.store.inner;
        let digest = cid.digest();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match row {
            // Written by this upload a moment ago, or left by one that was killed: the index does not know it yet.
            None => {
                let earlier = {
                    let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.seen.get(digest).cloned().flatten()
                };
                if let Some(Arrival { inline: Some(old), .. }) = &earlier {
                    return same(cid, old == bytes, mode);
                }
                if bytes.len() <= INLINE_MAX || inner.disk.len(digest) != Some(u64::from(len)) {
                    return Ok(false);
                }
                let Some(old) = inner.disk.read(digest, len)? else {
                    return Ok(false);
                };
                if old != bytes {
                    let damaged = !cid.matches(&old);
                    return if damaged { Ok(false) } else { same(cid, false, mode) };
                }
                // It may be cache that a crash took off the list: nobody has synced that.
                inner.disk.sync(digest)?;
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let path = inner.disk.path(digest);
                state.folders.extend(path.parent().map(PathBuf::from));
                let arrival = Arrival { digest: *digest, codec: cid.codec(), len, inline: None };
                state.seen.insert(*digest, Some(arrival));
                Ok(true)
            }
            Some(row) => match row.place {
                Place::Missing => Ok(false),
                // Cache is not synced: it is written again, for good.
                _ if row.cached && mode == PutMode::Sealed => Ok(false),
                _ if mode == PutMode::Compare => {
                    let old = if row.place == Place::Inline {
                        inner.index.inline(digest)?
                    } else {
                        inner.disk.read(digest, row.len)?
                    };
                    match old {
                        Some(old) if old == bytes => Ok(!row.cached),
                        Some(old) if cid.matches(&old) => same(cid, false, mode),
                        _ => Ok(false),
                    }
                }
                Place::Inline => Ok(true),
                Place::File => Ok(inner.disk.len(digest) == Some(u64::from(row.len))),
            },
        }
    }

    /// Lists the root. When this returns, all of it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Index`]; nothing is listed then.
    pub fn commit(&self, record: RootRecord) -> Result<(), StoreError> {
        let (blocks, arrivals) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.folders.is_empty() {
                self.store.inner.disk.sync_folders(&state.folders)?;
                state.folders.clear();
            }
            let arrivals: Vec<Arrival> = state.seen.values().flatten().cloned().collect();
            (state.blocks.clone(), arrivals)
        };
        self.store.inner.writer.run(move |tables| {
            let now = unix_ms();
            for arrival in &arrivals {
                tables.arrive(arrival, false, now)?;
            }
            tables.add_root(&record, &blocks, now)
        })?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for arrival in state.seen.values_mut() {
            *arrival = None;
        }
        self.release(&mut state);
        Ok(())
    }

    fn release(&self, state: &mut State) {
        self.store.inner.reserved.fetch_sub(std::mem::take(&mut state.reserved), Ordering::Relaxed);
    }
}

/// In compare mode, different bytes under one name are a collision. In sealed mode they cannot be told apart from the
/// right ones here; a reader can.
fn same(cid: &Cid, equal: bool, mode: PutMode) -> Result<bool, StoreError> {
    match (equal, mode) {
        (true, _) => Ok(true),
        (false, PutMode::Compare) => Err(StoreError::Collision { cid: *cid }),
        (false, PutMode::Sealed) => Ok(false),
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        let left: Vec<Arrival> = state.seen.values().flatten().cloned().collect();
        if !left.is_empty() {
            // Not committed: the blocks are listed as unreferenced, and wait out the grace period.
            let listed = self.store.inner.writer.run(move |tables| {
                let now = unix_ms();
                left.iter().try_for_each(|arrival| tables.arrive(arrival, false, now))
            });
            if let Err(error) = listed {
                tracing::warn!("blocks of an upload that ended early wait for the sweep: {error}");
            }
        }
        self.release(&mut state);
        self.store.inner.pins.unpin(&state.blocks);
    }
}
