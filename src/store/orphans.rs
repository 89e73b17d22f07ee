//! Orphans: block files that the index does not list.
//!
//! An upload writes block files first and lists them at its end. If it fails because the disk or the quota is full, it
//! removes what it wrote. If it ends early for another reason, it lists its blocks without a root: they count, and the next
//! try finds them until their grace period is over. A process that is killed can do neither. The journal then says that
//! it was writing, and the next process lists its files.

use std::{
    fs::{self, File},
    io,
    time::{Duration, SystemTime},
};

use super::{
    Store, StoreError,
    disk::BlockFile,
    schema::{Arrival, Location, unix_ms},
};
use crate::content::{cid::Codec, hash::Digest, node_block};

/// Blocks listed or removed in one change.
const BATCH: usize = 256;
/// Folders are searched that changed this much before the time in question: file systems date changes by a coarse clock.
const SLACK: Duration = Duration::from_secs(2);

impl Store {
    /// Lists, without a root, the block files that a killed process left. On a disk too full even for that, removes them.
    pub(super) fn list_orphans(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let Some(since) = inner.journal.orphans_since() else { return Ok(()) };
        let found = self.find_unlisted(since)?;
        // No process has waited for their bytes to reach the disk. Listed blocks have reached it.
        if !found.is_empty()
            && let Err(error) = inner.disk.sync_file_system()
        {
            for arrival in found {
                inner.in_flight.hold(arrival, self.reserve(0)?);
            }
            inner.in_flight.note_failed_sync();
            return Err(error);
        }
        for batch in found.chunks(BATCH) {
            match self.list_found(batch, false) {
                Err(StoreError::NoSpace(_)) => {
                    batch.iter().try_for_each(|arrival| inner.disk.remove(&arrival.digest))?;
                }
                listed => listed?,
            }
        }
        if !found.is_empty() {
            let bytes: u64 = found.iter().map(|arrival| u64::from(arrival.len)).sum();
            tracing::info!(count = found.len(), bytes, "blocks of killed uploads are kept for the next try");
        }
        inner.journal.orphans_listed();
        Ok(())
    }

    /// Lists as cache the block files whose rows were lost in an I/O error of the index, if there were any: so they count,
    /// and are evicted when space is needed.
    pub(super) fn list_lost(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        if self.is_index_behind() {
            // A file may need blocks that an old index does not list.
            return Ok(());
        }
        let Some(since) = inner.writer.take_lost_since() else { return Ok(()) };
        for batch in self.find_unlisted(since)?.chunks(BATCH) {
            match self.list_found(batch, true) {
                // As cache, they are evicted.
                Err(StoreError::NoSpace(_)) => {
                    let doomed = inner.in_flight.doom(batch.iter().map(|arrival| arrival.digest));
                    for digest in &doomed.digests {
                        if inner.index.row(digest)?.is_none() {
                            inner.disk.remove(digest)?;
                        }
                    }
                }
                listed => listed?,
            }
        }
        Ok(())
    }

    /// Finds block files without a row, and without an upload, in folders that have changed since then.
    fn find_unlisted(&self, since: SystemTime) -> Result<Vec<Arrival>, StoreError> {
        let (inner, mut found) = (&self.inner, Vec::new());
        let since = since.checked_sub(SLACK).unwrap_or(SystemTime::UNIX_EPOCH);
        inner.disk.walk_since(Some(since), &mut |file| {
            let digest = &file.digest;
            let is_here = file.layout == inner.options.layout && !inner.in_flight.contains(digest);
            if is_here && inner.index.row(digest)?.is_none() {
                found.extend(inspect(file)?);
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Lists blocks without a root.
    fn list_found(&self, found: &[Arrival], as_cache: bool) -> Result<(), StoreError> {
        let found = found.to_vec();
        self.inner.writer.run(move |tables| {
            let now = unix_ms();
            found.iter().try_for_each(|arrival| tables.arrive(arrival, as_cache, now))
        })
    }

    /// Removes blocks that an upload wrote, and that no other upload has in hand or has listed.
    pub(super) fn take_back(&self, written: &[Digest]) -> Result<(), StoreError> {
        let inner = &self.inner;
        for batch in written.chunks(BATCH) {
            let doomed = inner.in_flight.doom(batch.iter().copied());
            let (mut unneeded, mut lost) = (Vec::new(), Vec::new());
            for digest in &doomed.digests {
                match inner.index.row(digest)? {
                    // The upload may have found it there, and a file that an old index does not know may need it.
                    None if self.is_index_behind() => {}
                    None => inner.disk.remove(digest)?,
                    Some(row) if row.location == Location::Inline && row.refs == 0 && !row.cached => {
                        unneeded.push(*digest);
                    }
                    // It was replaced and may never have reached the disk: it is missing, as it was before.
                    Some(_) if inner.in_flight.is_unsound(digest) => {
                        inner.disk.remove(digest)?;
                        lost.push(*digest);
                    }
                    Some(_) => {}
                }
            }
            if !(unneeded.is_empty() && lost.is_empty()) {
                inner.writer.free_space(move |tables| {
                    unneeded.iter().try_for_each(|digest| tables.drop_unneeded(digest).map(drop))?;
                    lost.iter().try_for_each(|digest| tables.lose(digest))
                })?;
            }
            inner.in_flight.forget(&doomed.digests);
        }
        Ok(())
    }
}

/// Returns what the index is to list of a block file; `None` means that the file is gone by now.
fn inspect(file: &BlockFile) -> Result<Option<Arrival>, StoreError> {
    let fail = |e| StoreError::io("inspect a block file", e);
    let mut open = match File::open(&file.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        open => open.map_err(fail)?,
    };
    let meta = open.metadata().map_err(fail)?;
    let Ok(len) = u32::try_from(meta.len()) else { return Ok(None) };
    // Node blocks are recognised by their first byte, so data blocks need not be read.
    let mut bytes = [0; 1];
    let head = io::Read::read(&mut open, &mut bytes).map_err(fail)?;
    let is_map = head == 1 && bytes[0] >> 5 == 5 && meta.len() <= node_block::MAX_NODE_LEN as u64;
    let is_node = is_map && fs::read(&file.path).is_ok_and(|bytes| node_block::visible(&bytes).is_ok());
    let codec = if is_node { Codec::DagCbor } else { Codec::Raw };
    Ok(Some(Arrival { digest: file.digest, codec, len, inline: None }))
}
