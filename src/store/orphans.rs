//! Orphans: block files that the index does not list.
//!
//! An upload writes block files first and lists them at its end. If it fails because the disk or the quota is full, it
//! removes what it wrote. If it ends early for another reason, it lists its blocks without a root: they count, and the next
//! try finds them until their grace period is over. A process that is killed can do neither. The journal then says that
//! it was writing, and the next process lists its files.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    sync::{Mutex, MutexGuard, PoisonError},
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

/// Block files that uploads of this process have written and that the index does not list.
#[derive(Default)]
pub(super) struct Unlisted(Mutex<UnlistedState>);

#[derive(Default)]
struct UnlistedState {
    files: HashSet<Digest>,
    /// A sync has failed after they were written: their bytes may never reach the disk, whatever a later sync says. They
    /// have to be written again, or removed.
    unsound: HashSet<Digest>,
    failed_syncs: u64,
}

impl Unlisted {
    /// Adds a block file that is about to be written.
    pub(super) fn insert(&self, digest: Digest) {
        self.state().files.insert(digest);
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.state().files.contains(digest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().files.is_empty()
    }

    /// Removes blocks that the index lists, or that are gone.
    pub(super) fn remove<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state();
        for digest in digests {
            state.files.remove(digest);
        }
    }

    /// Notes that a sync has failed: all block files that are not listed are unsound, and so are `others`.
    pub(super) fn sync_failed(&self, others: &[Digest]) {
        let mut state = self.state();
        let UnlistedState { files, unsound, failed_syncs } = &mut *state;
        *failed_syncs += 1;
        unsound.extend(files.iter().chain(others));
    }

    /// Returns how many syncs have failed. An upload that sees another number at its end than at its beginning may rely on
    /// bytes that never reached the disk.
    pub(super) fn failed_syncs(&self) -> u64 {
        self.state().failed_syncs
    }

    /// Whether a block has to be written again, although its bytes may look right.
    pub(super) fn is_unsound(&self, digest: &Digest) -> bool {
        self.state().unsound.contains(digest)
    }

    /// Notes blocks that were written again completely, or that are gone.
    pub(super) fn written_again<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state();
        for digest in digests {
            state.unsound.remove(digest);
        }
    }

    fn state(&self) -> MutexGuard<'_, UnlistedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Lists, without a root, the block files that a killed process left. On a disk too full even for that, removes them.
    pub(super) fn list_orphans(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let Some(since) = inner.journal.orphans_since() else { return Ok(()) };
        let found = self.find_unlisted(since, |_| false)?;
        if !found.is_empty() {
            // No process has waited for their bytes to reach the disk. Listed blocks have reached it.
            inner.disk.sync_file_system().inspect_err(|_| {
                let digests: Vec<Digest> = found.iter().map(|arrival| arrival.digest).collect();
                inner.unlisted.sync_failed(&digests);
            })?;
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
        let is_in_hand = |digest: &Digest| inner.unlisted.contains(digest) || inner.pins.is_pinned(digest);
        for batch in self.find_unlisted(since, is_in_hand)?.chunks(BATCH) {
            match self.list_found(batch, true) {
                // As cache, they are evicted.
                Err(StoreError::NoSpace(_)) => {
                    let doomed = inner.pins.doom(batch.iter().map(|arrival| arrival.digest));
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

    /// Finds block files without a row in folders that have changed since then.
    fn find_unlisted(
        &self,
        since: SystemTime,
        is_in_hand: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<Arrival>, StoreError> {
        let (inner, mut found) = (&self.inner, Vec::new());
        let since = since.checked_sub(SLACK).unwrap_or(SystemTime::UNIX_EPOCH);
        inner.disk.walk_since(Some(since), &mut |file| {
            let digest = &file.digest;
            let is_here = file.layout == inner.options.layout && !is_in_hand(digest);
            if is_here && inner.index.row(digest)?.is_none() {
                found.extend(inspect(file)?);
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Lists blocks without a root, unless they are listed by now.
    fn list_found(&self, found: &[Arrival], as_cache: bool) -> Result<(), StoreError> {
        let found = found.to_vec();
        self.inner.writer.run(move |tables| {
            let now = unix_ms();
            found.iter().try_for_each(|arrival| match tables.row(&arrival.digest)? {
                Some(_) => Ok(()),
                None => tables.arrive(arrival, as_cache, now),
            })
        })
    }

    /// Removes blocks that an upload wrote and that no other upload has in hand or has listed.
    pub(super) fn take_back(&self, own: &[Digest]) -> Result<(), StoreError> {
        let inner = &self.inner;
        for batch in own.chunks(BATCH) {
            let doomed = inner.pins.doom(batch.iter().copied());
            let mut short = Vec::new();
            for digest in &doomed.digests {
                match inner.index.row(digest)? {
                    None => inner.disk.remove(digest)?,
                    Some(row) if row.location == Location::Inline && row.refs == 0 && !row.cached => {
                        short.push(*digest);
                    }
                    // Another upload has listed it.
                    Some(_) => {}
                }
            }
            if !short.is_empty() {
                inner.writer.free_space(move |tables| {
                    short.iter().try_for_each(|digest| tables.drop_unneeded(digest).map(drop))
                })?;
            }
            inner.unlisted.remove(&doomed.digests);
            inner.unlisted.written_again(&doomed.digests);
        }
        Ok(())
    }

    /// Removes blocks that were replaced and may never have reached the disk: they are missing, as they were before.
    pub(super) fn lose_again(&self, replaced: &[Digest]) -> Result<(), StoreError> {
        let inner = &self.inner;
        for batch in replaced.chunks(BATCH) {
            let doomed = inner.pins.doom(batch.iter().copied());
            // Another upload may have written it again.
            let is_unsound = |digest: &&Digest| inner.unlisted.is_unsound(digest);
            let lost: Vec<Digest> = doomed.digests.iter().filter(is_unsound).copied().collect();
            lost.iter().try_for_each(|digest| inner.disk.remove(digest))?;
            inner.unlisted.written_again(&lost);
            inner.writer.free_space(move |tables| lost.iter().try_for_each(|digest| tables.lose(digest)))?;
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
