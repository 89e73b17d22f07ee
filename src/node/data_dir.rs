//! A data directory, and what its index remembers of the small files beside it: if such a file is lost, the node notices it.

use std::path::Path;

use crate::store::{Store, StoreError};

/// Name of the peer id in the index.
pub(super) const META_PEER: &str = "peer";
/// Name of the id of the cluster in the index. An empty one means that the node is in none.
pub(super) const META_CLUSTER: &str = "cluster";

/// A data directory.
#[derive(Clone, Copy)]
pub enum DataDir<'a> {
    /// This process has it open.
    Open(&'a Store),
    /// This process has not opened it.
    Closed(&'a Path),
}

impl DataDir<'_> {
    /// Returns its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Open(store) => store.dir(),
            Self::Closed(path) => path,
        }
    }

    /// Returns what the index remembers under this name.
    pub(super) fn recall(self, name: &str) -> Result<Option<String>, StoreError> {
        let value = match self {
            Self::Open(store) => store.meta(name)?,
            Self::Closed(path) => Store::peek_meta(path, name)?,
        };
        Ok(value.and_then(|value| String::from_utf8(value).ok()).filter(|value| !value.is_empty()))
    }
}

/// Makes the index remember a value. A failure is logged: a full or read-only disk must not prevent the start.
pub(super) fn remember(store: &Store, name: &str, value: &str) {
    let noted = match DataDir::Open(store).recall(name) {
        Ok(known) if known.as_deref().unwrap_or_default() == value => Ok(()),
        known => known.and_then(|_| store.set_meta(name, value.as_bytes())),
    };
    if let Err(error) = noted {
        tracing::warn!("{error}");
    }
}
