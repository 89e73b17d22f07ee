//! Looking into an index file that may be damaged, without changing it.
//!
//! redb repairs and closes what it opens, which would cost a damaged index what is still readable in it. So the file is
//! opened through [`Overlay`], which keeps all writes in memory.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{Database, DatabaseError, StorageBackend};

use super::{
    StoreError,
    index_file::{cannot_open, catching, check_integrity},
};

/// An index of up to this many bytes is checked whenever it is opened, a longer one after an unclean end.
const SHORT: u64 = 16 << 20;
const PAGE: usize = 4096;

/// Whether the index at `path` is there, and short enough to be checked whenever it is opened.
pub(super) fn is_short(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && (1..=SHORT).contains(&meta.len()))
}

/// Compares all checksums in the index at `path`.
///
/// Errors: [`StoreError::IndexCorrupt`], [`StoreError::Locked`], [`StoreError::Io`].
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    catching(|| check_integrity(&mut open(path)?))
}

/// Opens the index at `path`; changes stay in memory.
///
/// Errors: [`StoreError::Locked`], [`StoreError::IndexCorrupt`], [`StoreError::Io`].
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let fail = |e: io::Error| cannot_open(path, e.into());
    let file = File::open(path).map_err(fail)?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => return Err(cannot_open(path, DatabaseError::DatabaseAlreadyOpen)),
        // A lock that is kept would refuse a node that starts meanwhile. [`Store::inspect`](super::Store::inspect) notices
        // one; all other callers hold the lock of the data directory.
        Ok(()) => file.unlock().map_err(fail)?,
        Err(TryLockError::Error(_)) => {}
    }
    let len = file.metadata().map_err(fail)?.len();
    let overlay = Overlay { file, state: Mutex::new(State { len, pages: BTreeMap::new() }) };
    Database::builder().create_with_backend(overlay).map_err(|e| cannot_open(path, e))
}

/// A file whose changes stay in memory.
#[derive(Debug)]
struct Overlay {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// Pages that differ from the file, by their number.
    pages: BTreeMap<u64, [u8; PAGE]>,
}

impl Overlay {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a page; bytes behind the end of the file are zero.
    fn page(&self, state: &State, number: u64) -> io::Result<[u8; PAGE]> {
        if let Some(page) = state.pages.get(&number) {
            return Ok(*page);
        }
        let (mut page, mut filled) = ([0; PAGE], 0);
        while filled < PAGE {
            match self.file.read_at(&mut page[filled..], number * PAGE as u64 + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(page)
    }
}

/// Calls `visit` with the number of each page of a range, the range within it, and the range within the caller's bytes.
fn each_page(
    offset: u64,
    len: usize,
    mut visit: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let from = usize::try_from(at % PAGE as u64).unwrap_or(0);
        let count = (PAGE - from).min(len - done);
        visit(at / PAGE as u64, from..from + count, done..done + count)?;
        done += count;
    }
    Ok(())
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        each_page(offset, out.len(), |number, inside, outside| {
            out[outside].copy_from_slice(&self.page(&state, number)?[inside]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.len = state.len.max(offset + data.len() as u64);
        each_page(offset, data.len(), |number, inside, outside| {
            let mut page = self.page(&state, number)?;
            page[inside].copy_from_slice(&data[outside]);
            state.pages.insert(number, page);
            Ok(())
        })
    }
}
