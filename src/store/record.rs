//! The record of each listed file and folder.

use serde::{Deserialize, Serialize};

use crate::content::{cid::Cid, secret::Key};

/// Kind of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootKind {
    /// A file.
    File,
    /// A folder.
    Dir,
}

/// A file or folder that this store lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// The root block.
    pub cid: Cid,
    /// The read key; `None` if it is unknown or the content is public.
    pub key: Option<Key>,
    /// File or folder.
    pub kind: RootKind,
    /// Name, if known.
    pub name: Option<String>,
    /// Plaintext bytes.
    pub size: u64,
    /// Blocks in its DAG; 0 if unknown.
    pub blocks: u64,
    /// Bytes of these blocks; 0 if unknown.
    pub stored_len: u64,
    /// Media type, if known.
    pub media_type: Option<String>,
    /// When it was added here, in microseconds since 1970. For display, and to find the newest of several files with one name.
    pub created: i64,
    /// Whether its blocks are kept here. A root that is not pinned is only known by its link.
    pub pinned: bool,
    /// Peer id of the node that stored it.
    #[serde(with = "serde_bytes")]
    pub owner: Vec<u8>,
    /// Whether it is stored without encryption.
    pub public: bool,
}
