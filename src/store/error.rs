//! What can go wrong in the store.

use std::{io, path::PathBuf};

use super::Layout;
use crate::content::cid::Cid;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the data directory.
    #[error("{} is in use by process {}", dir.display(), pid.map_or_else(|| "(unknown)".into(), |pid| pid.to_string()))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// Who holds it, where it says so.
        pid: Option<u32>,
    },
    /// The data directory was written by a newer program.
    #[error(
        "the data directory has format {found}, this program knows {known} at most: use a newer storgo-node"
    )]
    NewerVersion {
        /// The format on disk.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// The blocks are laid out in another way than the settings say.
    #[error(
        "the blocks in this data directory are laid out as {found}, and storage.layout says {asked}: set it to {found}, \
         or move them with `storgo-node verify --rebuild-index`"
    )]
    OtherLayout {
        /// The layout of the blocks.
        found: Layout,
        /// The layout in the settings.
        asked: Layout,
    },
    /// Moving blocks to another layout has not come to its end.
    #[error(
        "moving the blocks of this data directory to another layout was interrupted: finish it with `storgo-node verify \
         --rebuild-index`"
    )]
    HalfMoved,
    /// The index cannot be read.
    #[error("index.redb is damaged ({0}): rebuild it with `storgo-node verify --rebuild-index`")]
    IndexCorrupt(String),
    /// There are blocks and no index: a new one would call them the rest of interrupted uploads.
    #[error(
        "index.redb is gone, and there are blocks: make it anew with `storgo-node verify --rebuild-index`"
    )]
    IndexLost,
    /// The index is older than the blocks: newer ones would seem to be needed by nobody.
    #[error(
        "index.redb is older than the blocks, as if an earlier copy had been put in its place: nothing is removed until it \
         is made anew with `storgo-node verify --rebuild-index`"
    )]
    IndexBehind,
    /// A block was damaged on disk; it is in quarantine now.
    #[error("block {cid} was damaged on disk and is set aside")]
    Corrupt {
        /// The block.
        cid: Cid,
    },
    /// Two different blocks with one SHA-1.
    #[error("another block with the CID {cid} is stored already: this is a SHA-1 collision")]
    Collision {
        /// The name of both.
        cid: Cid,
    },
    /// No room.
    #[error("no space: {0}")]
    NoSpace(String),
    /// The operating system said no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The index failed.
    #[error("the index failed: {0}")]
    Index(String),
}

impl StoreError {
    /// An error of the operating system; a full disk is told apart.
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace(format!("cannot {what}: {source}"))
            }
            _ => Self::Io { what, source },
        }
    }

    /// The same error once more, for each one who waits for it.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::NoSpace(what) => Self::NoSpace(what.clone()),
            Self::Corrupt { cid } => Self::Corrupt { cid: *cid },
            Self::Collision { cid } => Self::Collision { cid: *cid },
            Self::IndexBehind => Self::IndexBehind,
            other => Self::Index(other.to_string()),
        }
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(source) => Self::io("use the index", source),
            redb::Error::PreviousIo => {
                Self::io("use the index", io::Error::other("an earlier read or write failed"))
            }
            error => Self::Index(error.to_string()),
        }
    }
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

from_redb!(CommitError, StorageError, TableError, TransactionError);
