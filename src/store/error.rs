//! Errors of the store.

use std::{io, path::PathBuf};

use super::Layout;
use crate::content::cid::Cid;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the data directory.
    #[error("{} is in use by {}", dir.display(), holder(*pid))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, if the lock file names it.
        pid: Option<u32>,
    },
    /// The data directory was written by another version of storgo.
    #[error("the data directory has format {found}; this program supports format {known}")]
    OtherVersion {
        /// The format on disk.
        found: u32,
        /// The format of this program.
        known: u32,
    },
    /// The file that says by which version of storgo the data directory was written is damaged.
    #[error("the file version in the data directory is damaged: it holds no number")]
    VersionDamaged,
    /// The layout of the blocks differs from the settings.
    #[error("the blocks in this data directory are laid out as {found}, but storage.layout says {asked}")]
    OtherLayout {
        /// The layout of the blocks.
        found: Layout,
        /// The layout in the settings.
        asked: Layout,
    },
    /// A move of blocks to another layout was interrupted.
    #[error("moving the blocks of this data directory to another layout was interrupted")]
    HalfMoved,
    /// The index cannot be read.
    #[error("index.redb is damaged: {0}")]
    IndexCorrupt(String),
    /// The index is gone or empty, but files were stored: with a new one, all blocks would be orphans.
    #[error("index.redb is gone or empty, but there are files")]
    IndexLost,
    /// The index may be older than the blocks: then it does not know which files need newer blocks.
    #[error("index.redb may be older than the blocks, so nothing is removed until it is rebuilt")]
    IndexBehind,
    /// A block was damaged on disk. It is in quarantine now.
    #[error("block {cid} was damaged on disk and moved to quarantine")]
    Corrupt {
        /// The block.
        cid: Cid,
    },
    /// Two different blocks have the same SHA-1.
    #[error("another block with the CID {cid} is stored already: this is a SHA-1 collision")]
    Collision {
        /// The CID of both.
        cid: Cid,
    },
    /// The disk is full.
    #[error("no space: {0}")]
    NoSpace(String),
    /// The quota is full.
    #[error("no space: {0}")]
    OverCapacity(String),
    /// The file system of the data directory is read-only.
    #[error("cannot {0}: the file system is read-only")]
    ReadOnly(String),
    /// The operating system reported an error.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The index failed.
    #[error("the index failed: {0}")]
    Index(String),
}

impl StoreError {
    /// Converts an error of the operating system; a full and a read-only disk have variants of their own.
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace(format!("cannot {what}: {source}"))
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(what),
            _ => Self::Io { what, source },
        }
    }

    /// Copies the error for each caller that waits for the same change.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::NoSpace(what) => Self::NoSpace(what.clone()),
            Self::OverCapacity(what) => Self::OverCapacity(what.clone()),
            Self::ReadOnly(what) => Self::ReadOnly(what.clone()),
            Self::Corrupt { cid } => Self::Corrupt { cid: *cid },
            Self::Collision { cid } => Self::Collision { cid: *cid },
            Self::IndexBehind => Self::IndexBehind,
            Self::IndexCorrupt(what) => Self::IndexCorrupt(what.clone()),
            other => Self::Index(other.to_string()),
        }
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        use redb::Error;
        match error {
            Error::Io(source) if is_damage(&source) => Self::IndexCorrupt(source.to_string()),
            Error::Io(source) => Self::io("use the index", source),
            Error::PreviousIo => {
                Self::io("use the index", io::Error::other("an earlier read or write failed"))
            }
            Error::Corrupted(_)
            | Error::TableTypeMismatch { .. }
            | Error::TableIsMultimap(_)
            | Error::TableIsNotMultimap(_)
            | Error::TypeDefinitionChanged { .. }
            | Error::TableDoesNotExist(_)
            | Error::LockPoisoned(_)
            | Error::UpgradeRequired(_)
            | Error::RepairAborted => Self::IndexCorrupt(error.to_string()),
            error => Self::Index(error.to_string()),
        }
    }
}

/// Names the process that holds a lock.
pub(super) fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// Whether an I/O error of redb means that the file was cut or holds something else.
pub(super) fn is_damage(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::IsADirectory
    )
}

/// Lets `?` convert the errors of redb's calls.
macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

from_redb!(CommitError, DatabaseError, StorageError, TableError, TransactionError);
