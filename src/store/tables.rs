//! The index's tables inside one transaction, and the invariants between them.

use std::{collections::HashSet, sync::Arc};

use redb::{ReadTransaction, ReadableTable, Table, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{
    StoreError, Usage,
    index::{BLOCKS, CACHED, DYING, INLINE, LISTS, META, MISSING, Place, ROOTS, Root, Row, UNREFERENCED},
    orders::{BY_CREATED, BY_NAME, BY_SIZE},
    torn::TORN,
};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
};

/// Digests per part of a root's list: so many references are dropped in one change, which has to fit the spare room.
const LIST_PART: usize = 1024;
/// The name of the totals among the small named values.
pub(super) const STATS: &str = "stats";

/// Totals, kept in the same transactions as what they count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stats {
    blocks: u64,
    bytes: u64,
    cached_bytes: u64,
    roots: u64,
    unreferenced: u64,
    pub(super) quarantined: u64,
    /// The number of the next list.
    pub(super) next_number: u64,
    #[serde(default)]
    missing: u64,
    #[serde(default)]
    pub(super) torn: u64,
    /// Of the roots, those that are not kept. An index of an earlier version has counted none.
    #[serde(default)]
    known: u64,
}

impl Stats {
    pub(super) fn usage(&self) -> Usage {
        Usage {
            blocks: self.blocks,
            bytes: self.bytes,
            cached_bytes: self.cached_bytes,
            roots: self.roots,
            known: self.known,
            unreferenced: self.unreferenced,
            quarantined: self.quarantined,
            missing: self.missing,
            torn: self.torn,
            pending_bytes: 0,
        }
    }
}

/// The index's tables inside one transaction, and the invariants between them.
pub(super) struct Tables<'t> {
    blocks: Table<'t, &'static [u8; 20], [u8; Row::LEN]>,
    inline: Table<'t, &'static [u8; 20], &'static [u8]>,
    pub(super) roots: Table<'t, &'static [u8; Cid::LEN], &'static [u8]>,
    pub(super) by_name: Table<'t, (&'static str, &'static [u8; Cid::LEN]), ()>,
    pub(super) by_size: Table<'t, (u64, &'static [u8; Cid::LEN]), ()>,
    pub(super) by_created: Table<'t, (i64, &'static [u8; Cid::LEN]), ()>,
    lists: Table<'t, (u64, u32), &'static [u8]>,
    dying: Table<'t, u64, ()>,
    unreferenced: Table<'t, (u64, &'static [u8; 20]), ()>,
    cached: Table<'t, (u64, &'static [u8; 20]), ()>,
    missing: Table<'t, &'static [u8; 20], ()>,
    pub(super) torn: Table<'t, (&'static [u8; 20], &'static [u8; Cid::LEN]), ()>,
    meta: Table<'t, &'static str, &'static [u8]>,
    pub(super) stats: Stats,
    /// Bytes of short blocks that came, less those that went.
    pub(super) grown: i64,
}

/// A block that has just been stored.
#[derive(Clone)]
pub(super) struct Arrival {
    pub(super) digest: Digest,
    pub(super) codec: Codec,
    pub(super) len: u32,
    /// Its bytes, where it lives in the index.
    pub(super) inline: Option<Arc<[u8]>>,
}

impl Arrival {
    /// Bytes that it takes in memory, and in the index.
    pub(super) fn short_len(&self) -> u64 {
        self.inline.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

/// The totals of an index that has been written to.
pub(super) fn usage(read: &ReadTransaction) -> Result<Option<Usage>, StoreError> {
    match read.open_table(META) {
        Ok(meta) => Ok(stats(&meta)?.map(|stats| stats.usage())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(StoreError::index(error)),
    }
}

/// The number of the next list: it grows with each file that is stored.
pub(super) fn next_number(read: &ReadTransaction) -> Result<u64, StoreError> {
    match read.open_table(META) {
        Ok(meta) => Ok(stats(&meta)?.map_or(0, |stats| stats.next_number)),
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(StoreError::index(error)),
    }
}

fn stats(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Option<Stats>, StoreError> {
    let bytes = meta.get(STATS).map_err(StoreError::index)?;
    let decode = |bytes: redb::AccessGuard<'_, &[u8]>| serde_ipld_dagcbor::from_slice(bytes.value());
    bytes
        .map(decode)
        .transpose()
        .map_err(|e| StoreError::IndexCorrupt(format!("its totals are damaged: {e}")))
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

impl<'t> Tables<'t> {
    pub(super) fn open(write: &'t WriteTransaction) -> Result<Self, StoreError> {
        let meta = write.open_table(META).map_err(StoreError::index)?;
        let stats = stats(&meta)?.unwrap_or_default();
        Ok(Self {
            blocks: write.open_table(BLOCKS).map_err(StoreError::index)?,
            inline: write.open_table(INLINE).map_err(StoreError::index)?,
            roots: write.open_table(ROOTS).map_err(StoreError::index)?,
            by_name: write.open_table(BY_NAME).map_err(StoreError::index)?,
            by_size: write.open_table(BY_SIZE).map_err(StoreError::index)?,
            by_created: write.open_table(BY_CREATED).map_err(StoreError::index)?,
            lists: write.open_table(LISTS).map_err(StoreError::index)?,
            dying: write.open_table(DYING).map_err(StoreError::index)?,
            unreferenced: write.open_table(UNREFERENCED).map_err(StoreError::index)?,
            cached: write.open_table(CACHED).map_err(StoreError::index)?,
            missing: write.open_table(MISSING).map_err(StoreError::index)?,
            torn: write.open_table(TORN).map_err(StoreError::index)?,
            meta,
            stats,
            grown: 0,
        })
    }

    pub(super) fn finish(mut self) -> Result<Stats, StoreError> {
        let bytes = serde_ipld_dagcbor::to_vec(&self.stats).map_err(|e| StoreError::Index(e.to_string()))?;
        self.meta.insert(STATS, bytes.as_slice()).map_err(StoreError::index)?;
        Ok(self.stats)
    }

    pub(super) fn set_meta(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.meta.insert(name, value).map_err(StoreError::index).map(drop)
    }

    pub(super) fn row(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        Ok(self.blocks.get(digest).map_err(StoreError::index)?.map(|row| Row::decode(&row.value())))
    }

    /// Writes a row, and keeps the totals and the two lists by age in step with it.
    fn set(&mut self, digest: &Digest, new: Option<Row>) -> Result<(), StoreError> {
        let old = self.row(digest)?;
        if let Some(old) = old {
            self.count(&old, false);
            if old.cached {
                self.cached.remove((old.since, digest)).map_err(StoreError::index)?;
            } else if old.refs == 0 {
                self.unreferenced.remove((old.since, digest)).map_err(StoreError::index)?;
            }
            // The list decides what is counted: an index of an earlier version has such rows, and no list.
            if self.missing.remove(digest).map_err(StoreError::index)?.is_some() {
                self.stats.missing = self.stats.missing.saturating_sub(1);
            }
        }
        match new {
            None => drop(self.blocks.remove(digest).map_err(StoreError::index)?),
            Some(row) => {
                self.blocks.insert(digest, row.encode()).map_err(StoreError::index)?;
                self.count(&row, true);
                if row.cached {
                    self.cached.insert((row.since, digest), ()).map_err(StoreError::index)?;
                } else if row.refs == 0 {
                    self.unreferenced.insert((row.since, digest), ()).map_err(StoreError::index)?;
                }
                if row.place == Place::Missing {
                    self.missing.insert(digest, ()).map_err(StoreError::index)?;
                    self.stats.missing += 1;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, row: &Row, up: bool) {
        let step =
            |total: &mut u64, by: u64| *total = if up { *total + by } else { total.saturating_sub(by) };
        if row.place != Place::Missing {
            step(&mut self.stats.blocks, 1);
            step(&mut self.stats.bytes, u64::from(row.len));
        }
        if row.cached {
            step(&mut self.stats.cached_bytes, u64::from(row.len));
        } else if row.refs == 0 {
            step(&mut self.stats.unreferenced, 1);
        }
    }

    /// Notes that a block's bytes are here. `cached`: only as evictable cache.
    pub(super) fn arrive(&mut self, block: &Arrival, cached: bool, now: u64) -> Result<(), StoreError> {
        let Arrival { digest, codec, len, inline } = block;
        let old = self.row(digest)?;
        let place = if let Some(bytes) = inline {
            let old = self.inline.insert(digest, &**bytes).map_err(StoreError::index)?;
            self.grown += signed(bytes.len()) - old.map_or(0, |old| signed(old.value().len()));
            Place::Inline
        } else {
            self.remove_inline(digest)?;
            Place::File
        };
        let kept = old.is_some_and(|row| !row.cached);
        let refs = old.map_or(0, |row| row.refs);
        let since = if old.is_some_and(|row| row.is_held()) { Row::HELD } else { now };
        let row = Row { place, codec: *codec, cached: cached && !kept, len: *len, refs, since };
        self.set(digest, Some(row))
    }

    /// Notes a block that a root needs and that is not here.
    pub(super) fn lack(&mut self, block: &Arrival, now: u64) -> Result<(), StoreError> {
        if self.row(&block.digest)?.is_some() {
            return Ok(());
        }
        let Arrival { digest, codec, len, .. } = block;
        let row = Row { place: Place::Missing, codec: *codec, cached: false, len: *len, refs: 0, since: now };
        self.set(digest, Some(row))
    }

    /// Lists a block among the missing ones, where its row says that it is one.
    pub(super) fn list_missing(&mut self, digest: &Digest) -> Result<(), StoreError> {
        match self.row(digest)? {
            Some(row) if row.place == Place::Missing => self.set(digest, Some(row)),
            _ => Ok(()),
        }
    }

    /// Makes an index of an earlier version of this one: it has rows of missing blocks, and no list of them.
    #[cfg(test)]
    pub(super) fn forget_missing(&mut self) -> Result<(), StoreError> {
        self.stats.missing = 0;
        self.missing.retain(|_, ()| false).map_err(StoreError::index)
    }

    /// Notes that a block's bytes are gone: where a root needs it, the row stays as missing.
    pub(super) fn lose(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else {
            return Ok(());
        };
        self.remove_inline(digest)?;
        let left = (row.refs > 0).then_some(Row { place: Place::Missing, ..row });
        self.set(digest, left)
    }

    fn remove_inline(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let old = self.inline.remove(digest).map_err(StoreError::index)?;
        self.grown -= old.map_or(0, |old| signed(old.value().len()));
        Ok(())
    }

    /// Keeps a block that nothing needs while a root is torn.
    pub(super) fn hold(&mut self, digest: &Digest) -> Result<(), StoreError> {
        match self.row(digest)? {
            Some(row) if row.refs == 0 && !row.cached => {
                self.set(digest, Some(Row { since: Row::HELD, ..row }))
            }
            _ => Ok(()),
        }
    }

    /// Drops a block that nothing needs; answers whether it was one.
    pub(super) fn drop_unneeded(&mut self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        match self.row(digest)? {
            Some(row) if row.refs == 0 && !(row.is_held() && self.stats.torn > 0) => {
                self.remove_inline(digest)?;
                self.set(digest, None)?;
                Ok(Some(row))
            }
            _ => Ok(None),
        }
    }

    fn change_refs(&mut self, digest: &Digest, up: bool, now: u64) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else {
            return if up {
                Err(StoreError::Index("a block of a new root is not listed".into()))
            } else {
                Ok(())
            };
        };
        let refs = if up { row.refs.saturating_add(1) } else { row.refs.saturating_sub(1) };
        if refs == 0 && row.place == Place::Missing {
            return self.set(digest, None);
        }
        self.set(digest, Some(Row { refs, since: now, cached: false, ..row }))
    }

    /// Lists a root whose blocks have all arrived. A root that is listed already is not counted twice. Answers whether
    /// its old list of blocks is to be let go, part by part, as that of a removed root.
    pub(super) fn add_root(
        &mut self,
        record: &super::RootRecord,
        blocks: &[Digest],
        now: u64,
    ) -> Result<bool, StoreError> {
        let key = record.cid.to_bytes();
        let old = match self.roots.get(&key).map_err(StoreError::index)? {
            Some(bytes) => serde_ipld_dagcbor::from_slice::<Root>(bytes.value()).ok(),
            None => None,
        };
        let number = match &old {
            Some(root) if !record.pinned => root.number,
            Some(root) if root.record.pinned => self.complete(root.number, blocks, now)?,
            _ => self.new_list(blocks, now)?,
        };
        match &old {
            Some(old) => {
                self.place(&old.record, false)?;
                self.stats.known = self.stats.known.saturating_sub(u64::from(!old.record.pinned));
            }
            None => self.stats.roots += 1,
        }
        self.place(record, true)?;
        self.stats.known += u64::from(!record.pinned);
        let root = Root { number, record: record.clone() };
        let bytes = serde_ipld_dagcbor::to_vec(&root).map_err(|e| StoreError::Index(e.to_string()))?;
        self.roots.insert(&key, bytes.as_slice()).map_err(StoreError::index)?;
        Ok(old.is_some_and(|old| old.record.pinned && old.number != number))
    }

    /// Lists a root that is only known. One that is kept stays so, and gets its key and name where it had lost them.
    pub(super) fn learn_root(&mut self, record: &super::RootRecord, now: u64) -> Result<(), StoreError> {
        let key = record.cid.to_bytes();
        let kept = match self.roots.get(&key).map_err(StoreError::index)? {
            Some(bytes) => serde_ipld_dagcbor::from_slice::<Root>(bytes.value()).ok(),
            None => None,
        };
        let learned = match kept.map(|root| root.record).filter(|kept| kept.pinned) {
            None => super::RootRecord { pinned: false, ..record.clone() },
            Some(kept) if kept.key.is_none() && record.key.is_some() => super::RootRecord {
                pinned: true,
                created: kept.created,
                blocks: kept.blocks,
                stored_len: kept.stored_len,
                owner: kept.owner,
                ..record.clone()
            },
            Some(_) => return Ok(()),
        };
        self.add_root(&learned, &[], now).map(drop)
    }

    /// Keeps a list of blocks, and a reference to each; answers with its number.
    fn new_list(&mut self, blocks: &[Digest], now: u64) -> Result<u64, StoreError> {
        let number = self.stats.next_number;
        self.stats.next_number += 1;
        for (part, digests) in (0_u32..).zip(blocks.chunks(LIST_PART)) {
            self.lists.insert((number, part), digests.as_flattened()).map_err(StoreError::index)?;
            for digest in digests {
                self.change_refs(digest, true, now)?;
            }
        }
        Ok(number)
    }

    /// The list of a root that is stored again: the old one, unless that was made when some blocks were lost. The new
    /// one then has them all, and the references of the old one are dropped later, as if its root had been removed.
    fn complete(&mut self, number: u64, blocks: &[Digest], now: u64) -> Result<u64, StoreError> {
        let mut all = Vec::new();
        for item in self.lists.range((number, 0)..=(number, u32::MAX)).map_err(StoreError::index)? {
            all.extend(super::index::digests(item.map_err(StoreError::index)?.1.value()));
        }
        let old: HashSet<Digest> = all.iter().copied().collect();
        all.extend(blocks.iter().filter(|digest| !old.contains(*digest)));
        if all.len() == old.len() {
            return Ok(number);
        }
        let completed = self.new_list(&all, now)?;
        self.dying.insert(number, ()).map_err(StoreError::index)?;
        Ok(completed)
    }

    /// Takes a root off the list. Its references are dropped part by part, by [`Tables::drop_part`].
    pub(super) fn remove_root(&mut self, cid: &Cid) -> Result<(), StoreError> {
        let removed = match self.roots.remove(&cid.to_bytes()).map_err(StoreError::index)? {
            Some(bytes) => serde_ipld_dagcbor::from_slice::<Root>(bytes.value()).ok(),
            None => return Ok(()),
        };
        self.stats.roots = self.stats.roots.saturating_sub(1);
        if let Some(root) = removed {
            self.place(&root.record, false)?;
            self.stats.known = self.stats.known.saturating_sub(u64::from(!root.record.pinned));
            self.dying.insert(root.number, ()).map_err(StoreError::index)?;
        }
        self.forget_torn(cid)
    }

    /// Drops the references of the first part that is left of a removed root's list; after the last one, the root itself.
    pub(super) fn drop_part(&mut self, number: u64, now: u64) -> Result<(), StoreError> {
        let mut left = self
            .lists
            .extract_from_if((number, 0)..=(number, u32::MAX), |_, _| true)
            .map_err(StoreError::index)?;
        let digests = match left.next() {
            Some(part) => super::index::digests(part.map_err(StoreError::index)?.1.value()),
            None => Vec::new(),
        };
        drop(left);
        for digest in &digests {
            self.change_refs(digest, false, now)?;
        }
        let more =
            self.lists.range((number, 0)..=(number, u32::MAX)).map_err(StoreError::index)?.next().is_some();
        if !more {
            self.dying.remove(number).map_err(StoreError::index)?;
        }
        Ok(())
    }

    /// Notes when cached blocks were last used.
    pub(super) fn touch_cached(&mut self, used: &[(Digest, u64)]) -> Result<(), StoreError> {
        for (digest, at) in used {
            if let Some(row) = self.row(digest)?.filter(|row| row.cached) {
                self.set(digest, Some(Row { since: *at, ..row }))?;
            }
        }
        Ok(())
    }
}
