//! What uploads leave that come to no end: block files that no row counts.
//!
//! An upload writes its files first and lists them at its end. Where it fails for want of room it takes back what it
//! wrote; where it ends early in another way, what it wrote is listed without a root, counts, and is found by the next
//! try until its grace is over. A process that is killed can do neither: a mark beside the blocks says so, and its files
//! are listed when the store opens next.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    Store, StoreError,
    disk::BlockFile,
    private,
    schema::{Arrival, Location, unix_ms},
};
use crate::content::{cid::Codec, hash::Digest, node_block};

/// The mark: this process, or one that was killed, has written block files that may not be listed.
const MARK: &str = "uploading";
/// Blocks taken back, or listed, in one change.
const BATCH: usize = 256;
/// A file system may date a folder a little earlier than the mark that was made before it.
const SLACK: Duration = Duration::from_secs(2);

/// Block files that uploads of this process have written and nobody has listed.
pub(super) struct Leftovers {
    mark: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    marked: bool,
    /// The mark stands for a killed process, too, whose files have not been listed.
    older: bool,
    fresh: HashSet<Digest>,
    /// A sync has failed after they were written: what is read of them may never reach the disk, whatever a later sync
    /// says. They are written again, or removed.
    unsound: HashSet<Digest>,
    /// How many syncs have failed.
    failures: u64,
}

impl Leftovers {
    pub(super) fn new(dir: &Path) -> Self {
        Self { mark: dir.join(MARK), state: Mutex::default() }
    }

    /// Notes a block file that is about to be written. The first one leaves the mark.
    pub(super) fn begin(&self, digest: Digest) -> Result<(), StoreError> {
        let mut state = self.state();
        if !state.marked {
            // An older mark stays: what it stands for has not been listed.
            private::open(&self.mark)
                .and_then(|_| private::sync_folder(&self.mark))
                .map_err(|e| StoreError::io("mark that uploads are under way", e))?;
            state.marked = true;
        }
        state.fresh.insert(digest);
        Ok(())
    }

    /// A sync has failed: what has been written and is not listed counts as not written, and so do `others`.
    pub(super) fn sync_failed(&self, others: &[Digest]) {
        let mut state = self.state();
        let State { fresh, unsound, failures, .. } = &mut *state;
        *failures += 1;
        unsound.extend(fresh.iter().chain(others));
    }

    /// How many syncs have failed: an upload that sees another number at its end than at its beginning may rest on what
    /// never reached the disk.
    pub(super) fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Whether it has to be written again, although its bytes may look right.
    pub(super) fn is_unsound(&self, digest: &Digest) -> bool {
        self.state().unsound.contains(digest)
    }

    /// These were written again in whole, or are gone.
    pub(super) fn written_again<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state();
        for digest in digests {
            state.unsound.remove(digest);
        }
    }

    /// Whether an upload of this process wrote it, and nobody has listed it since.
    pub(super) fn is_fresh(&self, digest: &Digest) -> bool {
        self.state().fresh.contains(digest)
    }

    /// These are listed, or gone.
    pub(super) fn settled<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut state = self.state();
        for digest in digests {
            state.fresh.remove(digest);
        }
    }

    /// Takes the mark away where nothing is under way and nothing is left: the next upload makes a younger one, so that
    /// after a kill only what has changed since is looked through.
    pub(super) fn rest(&self) {
        let mut state = self.state();
        if state.marked && !state.older && state.fresh.is_empty() {
            self.unmark();
            state.marked = false;
        }
    }

    fn unmark(&self) {
        match fs::remove_file(&self.mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} cannot be removed: {e}", self.mark.display());
            }
            _ => {}
        }
    }

    /// Since when a process may have left files; none where none was killed.
    fn since(&self) -> Option<SystemTime> {
        let marked = fs::metadata(&self.mark).and_then(|meta| meta.modified()).ok()?;
        Some(marked.checked_sub(SLACK).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Lists, without a root, the block files that a killed process has left: they count, the next try finds them, and
    /// they are collected like others. On a disk too full even for that, they go.
    pub(super) fn list_leftovers(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let Some(since) = inner.leftovers.since() else { return Ok(()) };
        inner.leftovers.state().older = true;
        let (mut left, mut bytes) = (Vec::new(), 0);
        inner.disk.walk_since(Some(since), &mut |file| {
            if file.layout == inner.options.layout && inner.index.row(&file.digest)?.is_none() {
                left.extend(look_at(file)?);
            }
            Ok(true)
        })?;
        if !left.is_empty() {
            // Nobody has waited for their bytes to reach the disk; what is listed has.
            inner.disk.sync_file_system().inspect_err(|_| {
                let digests: Vec<Digest> = left.iter().map(|arrival| arrival.digest).collect();
                inner.leftovers.sync_failed(&digests);
            })?;
        }
        let count = left.len();
        while !left.is_empty() {
            let batch: Vec<Arrival> = left.drain(..left.len().min(BATCH)).collect();
            bytes += batch.iter().map(|arrival| u64::from(arrival.len)).sum::<u64>();
            let digests: Vec<Digest> = batch.iter().map(|arrival| arrival.digest).collect();
            let listed = inner.writer.run(move |tables| {
                let now = unix_ms();
                batch.iter().try_for_each(|arrival| tables.arrive(arrival, false, now))
            });
            match listed {
                Err(StoreError::NoSpace(_)) => {
                    digests.iter().try_for_each(|digest| inner.disk.remove(digest))?;
                }
                listed => listed?,
            }
        }
        if count > 0 {
            tracing::info!(count, bytes, "blocks of uploads that were killed are kept for the next try");
        }
        inner.leftovers.unmark();
        inner.leftovers.state().older = false;
        Ok(())
    }

    /// Lists as cache the block files whose rows were lost with an error of the index, if any: so they count, and go when
    /// room is needed.
    pub(super) fn list_lost(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        if self.is_index_behind() {
            // What no row names may be a file's.
            return Ok(());
        }
        let Some(since) = inner.writer.lost_since() else { return Ok(()) };
        let mut lost = Vec::new();
        let since = since.checked_sub(SLACK).unwrap_or(SystemTime::UNIX_EPOCH);
        inner.disk.walk_since(Some(since), &mut |file| {
            let digest = &file.digest;
            let is_uploads = inner.leftovers.is_fresh(digest) || inner.pins.is_pinned(digest);
            if file.layout == inner.options.layout && !is_uploads && inner.index.row(digest)?.is_none() {
                lost.extend(look_at(file)?);
            }
            Ok(true)
        })?;
        for batch in lost.chunks(BATCH) {
            let batch = batch.to_vec();
            let digests: Vec<Digest> = batch.iter().map(|arrival| arrival.digest).collect();
            let listed = inner.writer.run(move |tables| {
                let now = unix_ms();
                batch.iter().try_for_each(|arrival| match tables.row(&arrival.digest)? {
                    Some(_) => Ok(()),
                    None => tables.arrive(arrival, true, now),
                })
            });
            match listed {
                // No room even for that: as cache goes, they go.
                Err(StoreError::NoSpace(_)) => {
                    let doomed = inner.pins.doom(digests);
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

    /// Removes blocks that an upload wrote anew and that nobody else has in hand or has listed.
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
                    // Listed by somebody else meanwhile: it is not this upload's any more.
                    Some(_) => {}
                }
            }
            if !short.is_empty() {
                inner.writer.let_go(move |tables| {
                    short.iter().try_for_each(|digest| tables.drop_unneeded(digest).map(drop))
                })?;
            }
            inner.leftovers.settled(&doomed.digests);
            inner.leftovers.written_again(&doomed.digests);
        }
        Ok(())
    }

    /// Removes blocks that were put right, and may never have reached the disk: they are missing, as they were before.
    pub(super) fn lose_again(&self, mended: &[Digest]) -> Result<(), StoreError> {
        let inner = &self.inner;
        for batch in mended.chunks(BATCH) {
            let doomed = inner.pins.doom(batch.iter().copied());
            // Somebody may have written it again, and kept it.
            let unsound = |digest: &&Digest| inner.leftovers.is_unsound(digest);
            let lost: Vec<Digest> = doomed.digests.iter().filter(unsound).copied().collect();
            lost.iter().try_for_each(|digest| inner.disk.remove(digest))?;
            inner.leftovers.written_again(&lost);
            inner.writer.let_go(move |tables| lost.iter().try_for_each(|digest| tables.lose(digest)))?;
        }
        Ok(())
    }
}

/// What is to be listed of a block file; none where it is gone by now.
fn look_at(file: &BlockFile) -> Result<Option<Arrival>, StoreError> {
    let fail = |e| StoreError::io("look at a block", e);
    let mut open = match File::open(&file.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        open => open.map_err(fail)?,
    };
    let meta = open.metadata().map_err(fail)?;
    let Ok(len) = u32::try_from(meta.len()) else { return Ok(None) };
    // A node block says what it is, from its first byte on; anything else is data, and need not be read.
    let mut bytes = [0; 1];
    let head = io::Read::read(&mut open, &mut bytes).map_err(fail)?;
    let is_map = head == 1 && bytes[0] >> 5 == 5 && meta.len() <= node_block::MAX_NODE_LEN as u64;
    let is_node = is_map && fs::read(&file.path).is_ok_and(|bytes| node_block::visible(&bytes).is_ok());
    let codec = if is_node { Codec::DagCbor } else { Codec::Raw };
    Ok(Some(Arrival { digest: file.digest, codec, len, inline: None }))
}
