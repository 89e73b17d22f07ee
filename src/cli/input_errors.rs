//! Problems that show only while the input of `provide` is read.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::error::CliError;

/// Bytes read at a time.
pub(super) const PIECE: usize = 512 << 10;

/// A file as it was when the command looked at it. Any write changes it, also one that restores the modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileVersion {
    pub(super) len: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FileVersion {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Self { len: meta.len(), mtime, ctime }
    }
}

/// An item that is not stored.
#[derive(Debug, Clone)]
pub(super) struct Skipped {
    pub(super) path: PathBuf,
    pub(super) why: String,
}

/// Problems with the input, noted while it is sent. The receiver of the stream only sees that it broke off, or nothing.
#[derive(Clone, Default)]
pub(super) struct InputErrors(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    failed: Option<CliError>,
    changed: Vec<PathBuf>,
    skipped: Vec<Skipped>,
    /// An item of a folder that broke off in the middle.
    broken: Option<Skipped>,
}

impl InputErrors {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_failed(&self, error: CliError) {
        self.lock().failed.get_or_insert(error);
    }

    /// Notes an item of a folder that cannot be read, and that the stream goes on without.
    pub(super) fn skip(&self, path: &Path, why: String) {
        self.lock().skipped.push(Skipped { path: path.into(), why });
    }

    /// Notes an item of a folder that ended early: the stream has promised more, and must begin again without it.
    pub(super) fn set_broken(&self, path: &Path, why: String) {
        self.lock().broken = Some(Skipped { path: path.into(), why });
    }

    /// Notes a file that changed since the command looked at it. A file that was removed was still read to its end. The
    /// kernel generates files of length 0, with any time.
    pub(super) fn check_unchanged(&self, path: &Path, before: FileVersion, now: io::Result<fs::Metadata>) {
        if now.is_ok_and(|now| FileVersion::of(&now) != before && (now.len(), before.len) != (0, 0)) {
            self.set_changed(path);
        }
    }

    pub(super) fn set_changed(&self, path: &Path) {
        self.lock().changed.push(path.into());
    }

    pub(super) fn take_failed(&self) -> Option<CliError> {
        self.lock().failed.take()
    }

    pub(super) fn take_skipped(&self) -> Vec<Skipped> {
        std::mem::take(&mut self.lock().skipped)
    }

    pub(super) fn take_broken(&self) -> Option<Skipped> {
        self.lock().broken.take()
    }

    pub(super) fn take_changed(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.lock().changed)
    }
}

pub(super) fn unreadable(path: &Path, e: &io::Error) -> CliError {
    CliError::path("read", path, e)
}
