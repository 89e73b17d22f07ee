//! Tables of `index.redb`, and what their rows hold.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use super::{RootRecord, StoreError};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
};

/// Digest → [`Row`].
pub(super) const BLOCKS: TableDefinition<&Digest, [u8; Row::LEN]> = TableDefinition::new("blocks");
/// Digest → bytes of a small block.
pub(super) const INLINE: TableDefinition<&Digest, &[u8]> = TableDefinition::new("inline");
/// CID → [`Root`] in DAG-CBOR.
pub(super) const ROOTS: TableDefinition<&[u8; Cid::LEN], &[u8]> = TableDefinition::new("roots");
/// (number of the list, part) → digests of a root's blocks, concatenated.
pub(super) const LISTS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("root_blocks");
/// Numbers of lists whose roots were removed and whose references are not all dropped yet.
pub(super) const DYING: TableDefinition<u64, ()> = TableDefinition::new("dying");
/// (unreferenced since, digest) of each unreferenced block.
pub(super) const UNREFERENCED: TableDefinition<(u64, &Digest), ()> = TableDefinition::new("unreferenced");
/// (last use, digest) of each cached block.
pub(super) const CACHED: TableDefinition<(u64, &Digest), ()> = TableDefinition::new("cached");
/// Digests of blocks that a root needs and that are not stored here.
pub(super) const MISSING: TableDefinition<&Digest, ()> = TableDefinition::new("missing");
/// (digest of a missing node block, root whose list of blocks is incomplete without it).
pub(super) const INCOMPLETE: TableDefinition<(&Digest, &[u8; Cid::LEN]), ()> =
    TableDefinition::new("incomplete");
/// Named values: [`TOTALS`], and those of [`super::Store::set_meta`].
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Key of the [`Totals`] in [`META`].
pub(super) const TOTALS: &str = "totals";

/// Location of the bytes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Location {
    File,
    Inline,
    /// Nowhere: the block is lost, and a root still needs it.
    Missing,
}

/// A row of the index: one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) location: Location,
    pub(super) codec: Codec,
    /// Evictable: not referenced, not synced.
    pub(super) cached: bool,
    pub(super) len: u32,
    /// Number of roots that need it.
    pub(super) refs: u32,
    /// Milliseconds since 1970: since when it is unreferenced, or when a cached block was last used.
    pub(super) since: u64,
}

impl Row {
    pub(super) const LEN: usize = 19;
    /// Value of `since` that exempts an unreferenced block from collection while any root is incomplete.
    pub(super) const HELD: u64 = u64::MAX;

    /// Whether a root needs it.
    pub(super) fn is_kept(&self) -> bool {
        !self.cached && self.refs > 0
    }

    /// Whether it must stay while any root is incomplete.
    pub(super) fn is_held(&self) -> bool {
        !self.cached && self.refs == 0 && self.since == Self::HELD
    }

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = match self.location {
            Location::File => 0,
            Location::Inline => 1,
            Location::Missing => 2,
        };
        out[1] = self.codec as u8;
        out[2] = u8::from(self.cached);
        out[3..7].copy_from_slice(&self.len.to_le_bytes());
        out[7..11].copy_from_slice(&self.refs.to_le_bytes());
        out[11..].copy_from_slice(&self.since.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            location: match bytes[0] {
                0 => Location::File,
                1 => Location::Inline,
                _ => Location::Missing,
            },
            codec: if bytes[1] == Codec::DagCbor as u8 { Codec::DagCbor } else { Codec::Raw },
            cached: bytes[2] != 0,
            len: word(3),
            refs: word(7),
            since: u64::from(word(11)) | u64::from(word(15)) << 32,
        }
    }
}

/// A block that was just stored.
#[derive(Clone)]
pub(super) struct Arrival {
    pub(super) digest: Digest,
    pub(super) codec: Codec,
    pub(super) len: u32,
    /// Its bytes, if the index stores them.
    pub(super) inline: Option<Arc<[u8]>>,
}

impl Arrival {
    /// Errors: [`StoreError::NoSpace`] for 4 GiB or more.
    pub(super) fn of(cid: &Cid, bytes: &[u8], is_inline: bool) -> Result<Self, StoreError> {
        let len = u32::try_from(bytes.len()).map_err(|_| StoreError::NoSpace("a block of 4 GiB".into()))?;
        let inline = is_inline.then(|| bytes.into());
        Ok(Self { digest: *cid.digest(), codec: cid.codec(), len, inline })
    }

    /// Bytes that it takes in memory and in the index.
    pub(super) fn short_len(&self) -> u64 {
        self.inline.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

/// A root's record, and the number of its list of blocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) number: u64,
    pub(super) record: RootRecord,
}

impl Root {
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        serde_ipld_dagcbor::to_vec(self).map_err(|e| StoreError::Index(e.to_string()))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_ipld_dagcbor::from_slice(bytes)
            .map_err(|e| StoreError::IndexCorrupt(format!("a root's record is damaged: {e}")))
    }
}

/// Decodes a part of a root's list of blocks.
pub(super) fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.as_chunks::<20>().0.to_vec()
}

/// How much is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Blocks stored here.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// Bytes of the evictable blocks among them.
    pub cached_bytes: u64,
    /// Files and folders listed.
    pub roots: u64,
    /// Files and folders among them that are only known by their links, not kept.
    pub known: u64,
    /// Blocks that no file needs, in their grace period.
    pub unreferenced: u64,
    /// Blocks that were found damaged and moved to quarantine.
    pub quarantined: u64,
    /// Blocks that a file needs and that are not stored here: lost, or damaged and not repaired yet.
    pub missing: u64,
    /// Node blocks among them whose children are unknown. While there are any, no block that may be a child is removed.
    pub incomplete: u64,
    /// Bytes that running uploads have written or reserved, and that are not listed yet.
    #[serde(skip)]
    pub pending_bytes: u64,
}

/// Totals, updated in the same transactions as the rows that they count.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) usage: Usage,
    /// Number of the next list of a root's blocks. It grows with each file that is stored.
    pub(super) next_number: u64,
}

impl Totals {
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        serde_ipld_dagcbor::to_vec(self).map_err(|e| StoreError::Index(e.to_string()))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_ipld_dagcbor::from_slice(bytes)
            .map_err(|e| StoreError::IndexCorrupt(format!("its totals are damaged: {e}")))
    }
}

/// Returns the time in milliseconds since 1970. A clock that is off only makes blocks wait longer or shorter for
/// collection.
pub(super) fn unix_ms() -> u64 {
    unix_ms_at(SystemTime::now())
}

pub(super) fn unix_ms_at(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_encoding_and_decoding() {
        for location in [Location::File, Location::Inline, Location::Missing] {
            let row = Row {
                location,
                codec: Codec::DagCbor,
                cached: true,
                len: 7,
                refs: u32::MAX,
                since: u64::MAX - 3,
            };
            assert_eq!(Row::decode(&row.encode()), row);
        }
    }
}
