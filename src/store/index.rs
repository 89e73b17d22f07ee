//! `index.redb`: what is where. Readers here, the one writer in `writer`.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{ReadTransaction, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{RootRecord, StoreError, Usage, index_file::IndexFile, spare::Spare, writer::Writer};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
};

/// Digest → [`Row`].
pub(super) const BLOCKS: TableDefinition<&[u8; 20], [u8; Row::LEN]> = TableDefinition::new("blocks");
/// Digest → bytes, for small blocks.
pub(super) const INLINE: TableDefinition<&[u8; 20], &[u8]> = TableDefinition::new("inline");
/// CID → [`Root`] in DAG-CBOR.
pub(super) const ROOTS: TableDefinition<&[u8; Cid::LEN], &[u8]> = TableDefinition::new("roots");
/// (root's number, part) → the digests of its blocks, one after the other.
pub(super) const LISTS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("root_blocks");
/// Numbers of removed roots whose references are still to be dropped.
pub(super) const DYING: TableDefinition<u64, ()> = TableDefinition::new("dying");
/// (since when, digest) of unreferenced blocks.
pub(super) const UNREFERENCED: TableDefinition<(u64, &[u8; 20]), ()> = TableDefinition::new("unreferenced");
/// (last use, digest) of cached blocks.
pub(super) const CACHED: TableDefinition<(u64, &[u8; 20]), ()> = TableDefinition::new("cached");
/// Digests of blocks that a root needs and that are not here.
pub(super) const MISSING: TableDefinition<&[u8; 20], ()> = TableDefinition::new("missing");
/// Small named values.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Where a block's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    File,
    Inline,
    /// Lost, while a file here still needs it.
    Missing,
}

/// What the index knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) codec: Codec,
    /// Evictable: not referenced, not synced.
    pub(super) cached: bool,
    pub(super) len: u32,
    /// Roots that need it.
    pub(super) refs: u32,
    /// Milliseconds since 1970: since when it is unreferenced, or when a cached one was last used.
    pub(super) since: u64,
}

impl Row {
    pub(super) const LEN: usize = 19;
    /// Since when a block is unreferenced that may be below a torn root: it is kept until none is torn.
    pub(super) const HELD: u64 = u64::MAX;

    /// Whether a file needs it.
    pub(super) fn is_kept(&self) -> bool {
        !self.cached && self.refs > 0
    }

    /// Whether it is kept while a root is torn.
    pub(super) fn is_held(&self) -> bool {
        !self.cached && self.refs == 0 && self.since == Self::HELD
    }

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = match self.place {
            Place::File => 0,
            Place::Inline => 1,
            Place::Missing => 2,
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
            place: match bytes[0] {
                0 => Place::File,
                1 => Place::Inline,
                _ => Place::Missing,
            },
            codec: if bytes[1] == Codec::DagCbor as u8 { Codec::DagCbor } else { Codec::Raw },
            cached: bytes[2] != 0,
            len: word(3),
            refs: word(7),
            since: u64::from(word(11)) | u64::from(word(15)) << 32,
        }
    }
}

/// A root's record and the number under which its list of blocks is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) number: u64,
    pub(super) record: RootRecord,
}

/// Read access. Each call sees one consistent state, and waits for nobody (but where the file is opened again after an
/// I/O error).
pub(super) struct Index {
    pub(super) file: Arc<IndexFile>,
    /// Records of roots that were read.
    pub(super) records_read: AtomicU64,
}

/// Opens or makes the index in a data directory, and starts its writer.
pub(super) fn open(dir: &Path, name: &str) -> Result<(Index, Writer), StoreError> {
    let index = Index::open(&dir.join(name))?;
    let writer = Writer::start(Arc::clone(&index.file), Spare::open(dir))?;
    Ok((index, writer))
}

impl Index {
    /// Opens or makes an index that nobody writes to.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { file: Arc::new(IndexFile::open(path)?), records_read: AtomicU64::new(0) })
    }

    /// The totals.
    pub(super) fn usage(&self) -> Usage {
        self.file.usage()
    }

    pub(super) fn row(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(BLOCKS).map_err(StoreError::index)?;
            Ok(table.get(digest).map_err(StoreError::index)?.map(|row| Row::decode(&row.value())))
        })
    }

    pub(super) fn inline(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(INLINE).map_err(StoreError::index)?;
            Ok(table.get(digest).map_err(StoreError::index)?.map(|bytes| bytes.value().to_vec()))
        })
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(META).map_err(StoreError::index)?;
            Ok(table.get(name).map_err(StoreError::index)?.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// All small named values.
    pub(super) fn all_meta(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(META).map_err(StoreError::index)?;
            let all = table.iter().map_err(StoreError::index)?;
            all.map(|item| {
                let (name, value) = item.map_err(StoreError::index)?;
                Ok((name.value().to_owned(), value.value().to_vec()))
            })
            .collect()
        })
    }

    pub(super) fn root(&self, cid: &Cid) -> Result<Option<Root>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(ROOTS).map_err(StoreError::index)?;
            let found = table.get(&cid.to_bytes()).map_err(StoreError::index)?;
            self.records_read.fetch_add(1, Ordering::Relaxed);
            found.map(|bytes| decode_root(bytes.value())).transpose()
        })
    }

    /// Up to `limit` roots after `after`, by CID.
    pub(super) fn roots(&self, after: Option<Cid>, limit: usize) -> Result<Vec<Root>, StoreError> {
        use std::ops::Bound;

        self.file.read(|read| {
            let table = read.open_table(ROOTS).map_err(StoreError::index)?;
            let start = after.map(Cid::to_bytes);
            let start = start.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let range =
                table.range::<&[u8; Cid::LEN]>((start, Bound::Unbounded)).map_err(StoreError::index)?;
            let read = |item: Result<_, redb::StorageError>| {
                self.records_read.fetch_add(1, Ordering::Relaxed);
                let (_, bytes): (redb::AccessGuard<'_, &[u8; Cid::LEN]>, redb::AccessGuard<'_, &[u8]>) =
                    item.map_err(StoreError::index)?;
                decode_root(bytes.value())
            };
            range.take(limit).map(read).collect()
        })
    }

    /// A part of the list of a root's blocks.
    pub(super) fn list(&self, number: u64, part: u32) -> Result<Option<Vec<Digest>>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(LISTS).map_err(StoreError::index)?;
            Ok(table.get((number, part)).map_err(StoreError::index)?.map(|bytes| digests(bytes.value())))
        })
    }

    /// Up to `limit` blocks after `after`, by digest.
    pub(super) fn blocks(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, Row)>, StoreError> {
        use std::ops::Bound;

        self.file.read(|read| {
            let table = read.open_table(BLOCKS).map_err(StoreError::index)?;
            let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let range = table.range::<&[u8; 20]>((start, Bound::Unbounded)).map_err(StoreError::index)?;
            range
                .take(limit)
                .map(|item| {
                    let (digest, row) = item.map_err(StoreError::index)?;
                    Ok((*digest.value(), Row::decode(&row.value())))
                })
                .collect()
        })
    }

    /// Up to `limit` blocks that have been unreferenced since `until` or longer, oldest first.
    pub(super) fn unreferenced(&self, until: u64, limit: usize) -> Result<Vec<Digest>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(UNREFERENCED).map_err(StoreError::index)?;
            oldest(&table, until, limit)
        })
    }

    /// Up to `limit` blocks that were kept while a root was torn.
    pub(super) fn held(&self, limit: usize) -> Result<Vec<Digest>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(UNREFERENCED).map_err(StoreError::index)?;
            let held = table.range((Row::HELD, &[0; 20])..).map_err(StoreError::index)?;
            held.take(limit).map(|item| Ok(*item.map_err(StoreError::index)?.0.value().1)).collect()
        })
    }

    /// Up to `limit` cached blocks after `after`, least recently used first, each with its last use.
    pub(super) fn evictable(
        &self,
        after: Option<(u64, Digest)>,
        limit: usize,
    ) -> Result<Vec<(u64, Digest)>, StoreError> {
        use std::ops::Bound;

        self.file.read(|read| {
            let table = read.open_table(CACHED).map_err(StoreError::index)?;
            let start = after.as_ref().map(|(used, digest)| (*used, digest));
            let range = table.range((start.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
            let mut found = Vec::new();
            for item in range.map_err(StoreError::index)?.take(limit) {
                let (key, _) = item.map_err(StoreError::index)?;
                let (used, digest) = key.value();
                found.push((used, *digest));
            }
            Ok(found)
        })
    }

    /// The number of the next list of a root's blocks.
    pub(super) fn next_number(&self) -> Result<u64, StoreError> {
        self.file.read(super::tables::next_number)
    }

    /// How many blocks of each of these roots are missing; 0 of one that is not listed.
    pub(super) fn missing(&self, roots: &[Cid]) -> Result<Vec<u64>, StoreError> {
        self.file.read(|read| roots.iter().map(|cid| missing_of(read, cid)).collect())
    }

    /// Numbers of removed roots whose references are still to be dropped.
    pub(super) fn dying(&self) -> Result<Vec<u64>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(DYING).map_err(StoreError::index)?;
            let all = table.iter().map_err(StoreError::index)?;
            all.map(|item| Ok(item.map_err(StoreError::index)?.0.value())).collect()
        })
    }

    /// Whether references of this removed root are still to be dropped.
    pub(super) fn is_dying(&self, number: u64) -> Result<bool, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(DYING).map_err(StoreError::index)?;
            Ok(table.get(number).map_err(StoreError::index)?.is_some())
        })
    }
}

fn missing_of(read: &ReadTransaction, root: &Cid) -> Result<u64, StoreError> {
    let missing = read.open_table(MISSING).map_err(StoreError::index)?;
    let roots = read.open_table(ROOTS).map_err(StoreError::index)?;
    let Some(root) = roots.get(&root.to_bytes()).map_err(StoreError::index)? else { return Ok(0) };
    let Root { number, .. } = decode_root(root.value())?;
    let lists = read.open_table(LISTS).map_err(StoreError::index)?;
    let mut count = 0;
    for part in lists.range((number, 0)..=(number, u32::MAX)).map_err(StoreError::index)? {
        for digest in digests(part.map_err(StoreError::index)?.1.value()) {
            count += u64::from(missing.get(&digest).map_err(StoreError::index)?.is_some());
        }
    }
    Ok(count)
}

fn oldest(
    table: &impl ReadableTable<(u64, &'static [u8; 20]), ()>,
    until: u64,
    limit: usize,
) -> Result<Vec<Digest>, StoreError> {
    let all = table.iter().map_err(StoreError::index)?;
    let mut found = Vec::new();
    for item in all.take(limit) {
        let (key, ()) = item.map(|(key, _)| (key, ())).map_err(StoreError::index)?;
        let (since, digest) = key.value();
        if since > until {
            break;
        }
        found.push(*digest);
    }
    Ok(found)
}

pub(super) fn decode_root(bytes: &[u8]) -> Result<Root, StoreError> {
    serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|e| StoreError::Index(format!("a root's record is damaged: {e}")))
}

pub(super) fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.as_chunks::<20>().0.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        for place in [Place::File, Place::Inline, Place::Missing] {
            let row = Row {
                place,
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
