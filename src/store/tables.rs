//! The index's tables inside one write transaction, and the invariants between them.

use std::{borrow::Borrow, collections::HashSet};

use redb::{ReadTransaction, ReadableTable, Table, TableError, WriteTransaction};

use super::{
    RootRecord, StoreError,
    observer::Observers,
    schema::{
        Arrival, BLOCKS, CACHED, DYING, INCOMPLETE, INLINE, LISTS, Location, META, MISSING, ROOTS, Root, Row,
        TOTALS, Totals, UNREFERENCED, digests,
    },
};
use crate::content::{cid::Cid, hash::Digest};

/// Digests in one part of a root's list. The change that drops their references must fit the disk reserve.
const LIST_PART: usize = 1024;

pub(super) struct Tables<'t> {
    blocks: Table<'t, &'static Digest, [u8; Row::LEN]>,
    inline: Table<'t, &'static Digest, &'static [u8]>,
    roots: Table<'t, &'static [u8; Cid::LEN], &'static [u8]>,
    lists: Table<'t, (u64, u32), &'static [u8]>,
    dying: Table<'t, u64, ()>,
    unreferenced: Table<'t, (u64, &'static Digest), ()>,
    cached: Table<'t, (u64, &'static Digest), ()>,
    missing: Table<'t, &'static Digest, ()>,
    incomplete: Table<'t, (&'static Digest, &'static [u8; Cid::LEN]), ()>,
    meta: Table<'t, &'static str, &'static [u8]>,
    pub(super) totals: Totals,
    /// By how many bytes the short blocks in the index have grown.
    pub(super) grown: i64,
    write: &'t WriteTransaction,
    observers: &'t Observers,
}

/// Result of a walk from some block down.
#[derive(Default)]
pub(super) struct Walked {
    /// All blocks, with their lengths where known.
    pub(super) blocks: Vec<Arrival>,
    /// Node blocks that could not be read: the blocks below them are unknown.
    pub(super) unread: Vec<Digest>,
}

/// Returns the totals; `None` means that the index was never written to.
pub(super) fn totals(read: &ReadTransaction) -> Result<Option<Totals>, StoreError> {
    match read.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        meta => meta?.get(TOTALS)?.map(|bytes| Totals::decode(bytes.value())).transpose(),
    }
}

impl<'t> Tables<'t> {
    pub(super) fn open(write: &'t WriteTransaction, observers: &'t Observers) -> Result<Self, StoreError> {
        let meta = write.open_table(META)?;
        let totals = meta.get(TOTALS)?.map(|bytes| Totals::decode(bytes.value())).transpose()?;
        Ok(Self {
            blocks: write.open_table(BLOCKS)?,
            inline: write.open_table(INLINE)?,
            roots: write.open_table(ROOTS)?,
            lists: write.open_table(LISTS)?,
            dying: write.open_table(DYING)?,
            unreferenced: write.open_table(UNREFERENCED)?,
            cached: write.open_table(CACHED)?,
            missing: write.open_table(MISSING)?,
            incomplete: write.open_table(INCOMPLETE)?,
            meta,
            totals: totals.unwrap_or_default(),
            grown: 0,
            write,
            observers,
        })
    }

    pub(super) fn finish(mut self) -> Result<Totals, StoreError> {
        self.meta.insert(TOTALS, self.totals.encode()?.as_slice())?;
        Ok(self.totals)
    }

    pub(super) fn set_meta(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.meta.insert(name, value)?;
        Ok(())
    }

    pub(super) fn row(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        Ok(self.blocks.get(digest)?.map(|row| Row::decode(&row.value())))
    }

    /// Writes or removes a row, and updates the totals and the tables that list rows by state.
    fn set_row(&mut self, digest: &Digest, new: Option<Row>) -> Result<(), StoreError> {
        if let Some(old) = self.row(digest)? {
            self.count(digest, &old, false)?;
        }
        let Some(row) = new else {
            self.blocks.remove(digest)?;
            return Ok(());
        };
        self.blocks.insert(digest, row.encode())?;
        self.count(digest, &row, true)
    }

    fn count(&mut self, digest: &Digest, row: &Row, present: bool) -> Result<(), StoreError> {
        let usage = &mut self.totals.usage;
        let step =
            |total: &mut u64, by: u64| *total = if present { *total + by } else { total.saturating_sub(by) };
        if row.location == Location::Missing {
            step(&mut usage.missing, 1);
            set_member(&mut self.missing, digest, present)?;
        } else {
            step(&mut usage.blocks, 1);
            step(&mut usage.bytes, u64::from(row.len));
        }
        if row.cached {
            step(&mut usage.cached_bytes, u64::from(row.len));
            set_member(&mut self.cached, (row.since, digest), present)?;
        } else if row.refs == 0 {
            step(&mut usage.unreferenced, 1);
            set_member(&mut self.unreferenced, (row.since, digest), present)?;
        }
        Ok(())
    }

    /// Notes that a block's bytes are here; `cached`: as evictable cache only, unless it has a row by now.
    pub(super) fn arrive(&mut self, block: &Arrival, cached: bool, now: u64) -> Result<(), StoreError> {
        let Arrival { digest, codec, len, inline } = block;
        let old = self.row(digest)?;
        if cached && old.is_some() {
            return Ok(());
        }
        let location = if let Some(bytes) = inline {
            let old = self.inline.insert(digest, &**bytes)?;
            self.grown += signed(bytes.len()) - old.map_or(0, |old| signed(old.value().len()));
            Location::Inline
        } else {
            self.remove_inline(digest)?;
            Location::File
        };
        let refs = old.map_or(0, |row| row.refs);
        let since = if old.is_some_and(|row| row.is_held()) { Row::HELD } else { now };
        let row = Row { location, codec: *codec, cached, len: *len, refs, since };
        self.set_row(digest, Some(row))
    }

    /// Notes that a block's bytes are gone. The row of a block that a root needs stays, as missing.
    pub(super) fn lose(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else {
            return Ok(());
        };
        self.remove_inline(digest)?;
        self.set_row(digest, (row.refs > 0).then_some(Row { location: Location::Missing, ..row }))
    }

    fn remove_inline(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let old = self.inline.remove(digest)?;
        self.grown -= old.map_or(0, |old| signed(old.value().len()));
        Ok(())
    }

    /// Exempts an unreferenced block from collection while any root is incomplete.
    pub(super) fn hold(&mut self, digest: &Digest) -> Result<(), StoreError> {
        match self.row(digest)? {
            Some(row) if row.refs == 0 && !row.cached => {
                self.set_row(digest, Some(Row { since: Row::HELD, ..row }))
            }
            _ => Ok(()),
        }
    }

    /// Removes the row of a block that nothing needs, and returns it; `None` means that the block stays. The row and the
    /// table of unneeded blocks must agree: they are on different pages, and damage to one must not remove a block.
    pub(super) fn drop_unneeded(&mut self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        match self.row(digest)? {
            Some(row) if row.refs == 0 && !(row.is_held() && self.totals.usage.incomplete > 0) => {
                let unneeded = if row.cached { &self.cached } else { &self.unreferenced };
                if unneeded.get((row.since, digest))?.is_none() {
                    return Ok(None);
                }
                self.remove_inline(digest)?;
                self.set_row(digest, None)?;
                Ok(Some(row))
            }
            _ => Ok(None),
        }
    }

    /// Notes when cached blocks were last used.
    pub(super) fn touch_cached(&mut self, used: &[(Digest, u64)]) -> Result<(), StoreError> {
        for (digest, at) in used {
            if let Some(row) = self.row(digest)?.filter(|row| row.cached) {
                self.set_row(digest, Some(Row { since: *at, ..row }))?;
            }
        }
        Ok(())
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
        if refs == 0 && row.location == Location::Missing {
            return self.set_row(digest, None);
        }
        self.set_row(digest, Some(Row { refs, since: now, cached: false, ..row }))
    }

    /// Returns a root as it is listed. A root whose record is damaged counts as not listed.
    fn root(&self, cid: &Cid) -> Result<Option<Root>, StoreError> {
        Ok(self.roots.get(&cid.to_bytes())?.and_then(|bytes| Root::decode(bytes.value()).ok()))
    }

    /// Lists a root whose blocks all have rows. A root that is listed already is not counted twice. Returns whether the
    /// old list of its blocks must be dropped, as that of a removed root.
    pub(super) fn add_root(
        &mut self,
        record: &RootRecord,
        blocks: &[Digest],
        now: u64,
    ) -> Result<bool, StoreError> {
        let old = self.root(&record.cid)?;
        let number = match &old {
            Some(root) if !record.pinned => root.number,
            Some(root) if root.record.pinned => self.complete_list(root.number, blocks, now)?,
            _ => self.new_list(blocks, now)?,
        };
        let usage = &mut self.totals.usage;
        match &old {
            Some(old) => usage.known = usage.known.saturating_sub(u64::from(!old.record.pinned)),
            None => usage.roots += 1,
        }
        usage.known += u64::from(!record.pinned);
        let root = Root { number, record: record.clone() };
        self.roots.insert(&record.cid.to_bytes(), root.encode()?.as_slice())?;
        self.notify(old.as_ref().map(|old| &old.record), Some(record))?;
        Ok(old.is_some_and(|old| old.record.pinned && old.number != number))
    }

    fn notify(&self, old: Option<&RootRecord>, new: Option<&RootRecord>) -> Result<(), StoreError> {
        self.observers.iter().try_for_each(|observer| observer.root_changed(self.write, old, new))
    }

    /// Lists a root that is only known. A root that is kept stays kept, and takes the key and name if it has lost its own.
    pub(super) fn learn_root(&mut self, record: &RootRecord, now: u64) -> Result<(), StoreError> {
        let kept = self.root(&record.cid)?.map(|root| root.record).filter(|kept| kept.pinned);
        let learned = match kept {
            None => RootRecord { pinned: false, ..record.clone() },
            Some(kept) if kept.key.is_none() && record.key.is_some() => RootRecord {
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

    /// Writes a list of blocks and references each of them; returns the number of the list.
    fn new_list(&mut self, blocks: &[Digest], now: u64) -> Result<u64, StoreError> {
        let number = self.totals.next_number;
        self.totals.next_number += 1;
        for (part, digests) in (0_u32..).zip(blocks.chunks(LIST_PART)) {
            self.lists.insert((number, part), digests.as_flattened())?;
            for digest in digests {
                self.change_refs(digest, true, now)?;
            }
        }
        Ok(number)
    }

    /// Returns the number of a list that has all of `blocks`: the old list, or a new one if the old list lacks some. The
    /// references of the old list are then dropped later, as if its root had been removed.
    fn complete_list(&mut self, number: u64, blocks: &[Digest], now: u64) -> Result<u64, StoreError> {
        let mut all = Vec::new();
        for item in self.lists.range((number, 0)..=(number, u32::MAX))? {
            all.extend(digests(item?.1.value()));
        }
        let old: HashSet<Digest> = all.iter().copied().collect();
        all.extend(blocks.iter().filter(|digest| !old.contains(*digest)));
        if all.len() == old.len() {
            return Ok(number);
        }
        let completed = self.new_list(&all, now)?;
        self.dying.insert(number, ())?;
        Ok(completed)
    }

    /// Removes a root. [`Tables::drop_part`] drops its references, part by part.
    pub(super) fn remove_root(&mut self, cid: &Cid) -> Result<(), StoreError> {
        let removed = self.root(cid)?;
        if self.roots.remove(&cid.to_bytes())?.is_none() {
            return Ok(());
        }
        let usage = &mut self.totals.usage;
        usage.roots = usage.roots.saturating_sub(1);
        if let Some(root) = removed {
            usage.known = usage.known.saturating_sub(u64::from(!root.record.pinned));
            self.notify(Some(&root.record), None)?;
            self.dying.insert(root.number, ())?;
        }
        self.forget_incomplete(cid)
    }

    /// Drops the references of the first remaining part of a removed root's list. After the last part, the list is gone.
    pub(super) fn drop_part(&mut self, number: u64, now: u64) -> Result<(), StoreError> {
        let parts = (number, 0)..=(number, u32::MAX);
        let mut left = self.lists.extract_from_if(parts.clone(), |_, _| true)?;
        let digests = left.next().map(|part| Ok::<_, StoreError>(digests(part?.1.value()))).transpose()?;
        drop(left);
        for digest in digests.iter().flatten() {
            self.change_refs(digest, false, now)?;
        }
        if self.lists.range(parts)?.next().is_none() {
            self.dying.remove(number)?;
        }
        Ok(())
    }

    /// Lists a root with what a walk has found. Blocks without a row are listed as missing, also those that were here
    /// during the walk. The root is incomplete at each node block that could not be read.
    pub(super) fn add_walked(
        &mut self,
        record: &RootRecord,
        walked: &Walked,
        now: u64,
    ) -> Result<(), StoreError> {
        for Arrival { digest, codec, len, .. } in &walked.blocks {
            if self.row(digest)?.is_none() {
                let (location, codec, len) = (Location::Missing, *codec, *len);
                let row = Row { location, codec, cached: false, len, refs: 0, since: now };
                self.set_row(digest, Some(row))?;
            }
        }
        let digests: Vec<Digest> = walked.blocks.iter().map(|block| block.digest).collect();
        self.add_root(record, &digests, now)?;
        let root = record.cid.to_bytes();
        for digest in &walked.unread {
            let is_new = set_member(&mut self.incomplete, (digest, &root), true)?;
            self.totals.usage.incomplete += u64::from(is_new);
        }
        Ok(())
    }

    /// Completes the list of a root with the blocks below a node block that has come back. Does nothing for a root that
    /// was removed or completed meanwhile.
    pub(super) fn complete_root(
        &mut self,
        digest: &Digest,
        root: &Cid,
        walked: &Walked,
        now: u64,
    ) -> Result<(), StoreError> {
        if !set_member(&mut self.incomplete, (digest, &root.to_bytes()), false)? {
            return Ok(());
        }
        let usage = &mut self.totals.usage;
        usage.incomplete = usage.incomplete.saturating_sub(1);
        match self.root(root)?.filter(|root| root.record.pinned) {
            Some(root) => self.add_walked(&root.record, walked, now),
            None => Ok(()),
        }
    }

    fn forget_incomplete(&mut self, root: &Cid) -> Result<(), StoreError> {
        if self.totals.usage.incomplete > 0 {
            let key = root.to_bytes();
            let mut gone = 0;
            self.incomplete.retain(|(_, root), ()| {
                gone += u64::from(*root == key);
                *root != key
            })?;
            self.totals.usage.incomplete = self.totals.usage.incomplete.saturating_sub(gone);
        }
        Ok(())
    }
}

/// Adds a key to a table without values, or removes it; returns whether that changed the table.
fn set_member<'k, K: redb::Key + 'static>(
    table: &mut Table<'_, K, ()>,
    key: impl Borrow<K::SelfType<'k>>,
    present: bool,
) -> Result<bool, StoreError> {
    Ok(if present { table.insert(key, ())?.is_none() } else { table.remove(key)?.is_some() })
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
