//! What is kept of each file and folder.

use serde::{Deserialize, Serialize};

use crate::content::{cid::Cid, secret::Key};

/// What a root is.
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
    /// The read key, where known; none for public content.
    pub key: Option<Key>,
    /// File or folder.
    pub kind: RootKind,
    /// Its name.
    pub name: Option<String>,
    /// Plaintext bytes.
    pub size: u64,
    /// Blocks in its DAG; 0 where unknown.
    pub blocks: u64,
    /// Bytes of these blocks; 0 where unknown.
    pub stored_len: u64,
    /// Media type.
    pub media_type: Option<String>,
    /// When it came here, microseconds since 1970. For display, and to tell the newest of several with one name.
    pub created: i64,
    /// Whether its blocks are kept here. A root that is not pinned is only known.
    pub pinned: bool,
    /// Peer id of who stored it.
    #[serde(with = "serde_bytes")]
    pub owner: Vec<u8>,
    /// Whether it is stored without encryption.
    pub public: bool,
}
