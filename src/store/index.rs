//! `index.redb`: which blocks and roots are stored here. Readers use [`Index`] directly; all changes go through the one
//! writer in `writer`.

use std::{
    ops::{Bound, RangeInclusive},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use redb::{
    AccessGuard, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
};

use super::{
    StoreError, Usage, index_check,
    index_file::{self, IndexFile, OnDamage},
    observer::{self, Observers, Snapshot},
    private,
    schema::{
        BLOCKS, CACHED, DYING, INCOMPLETE, INLINE, LISTS, Location, META, MISSING, ROOTS, Root, Row,
        UNREFERENCED, digests,
    },
    tables::{self, Tables},
};
use crate::content::{cid::Cid, hash::Digest};

/// Memory that redb may use for pages, in bytes.
const PAGE_CACHE: usize = 8 << 20;

/// The index of one store. Each read sees one consistent state and waits for no writer.
pub(super) struct Index {
    file: IndexFile,
    /// As of the last change.
    usage: Arc<Mutex<Usage>>,
    observers: Observers,
    /// How many records of roots were read.
    records_read: AtomicU64,
    /// The file system is read-only. Changes are refused: they would be made in memory only.
    is_read_only: Arc<AtomicBool>,
}

impl Index {
    /// Opens the index at `path`, or makes it, readable by this user alone. A short one is checked as a whole. If the file
    /// system becomes read-only later, reads go on and changes are refused.
    ///
    /// Errors: [`StoreError::IndexCorrupt`]; [`StoreError::Locked`] if another process has it open.
    pub(super) fn open(path: &Path, observers: &Observers) -> Result<Self, StoreError> {
        if index_check::is_short(path) {
            index_check::check(path)?;
        }
        let is_read_only = Arc::<AtomicBool>::default();
        let opener = {
            let (path, is_read_only) = (path.to_owned(), Arc::clone(&is_read_only));
            move || match private::open(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                    is_read_only.store(true, Ordering::Relaxed);
                    index_check::open(&path)
                }
                file => {
                    is_read_only.store(false, Ordering::Relaxed);
                    let file = file.map_err(|e| index_file::cannot_open(&path, e.into()))?;
                    let db = Database::builder().set_cache_size(PAGE_CACHE).create_file(file);
                    db.map_err(|e| index_file::cannot_open(&path, e))
                }
            }
        };
        let index = Self::open_with(observers, OnDamage::Refuse, opener)?;
        Ok(Self { is_read_only, ..index })
    }

    /// Opens the index at `path` and refuses changes.
    ///
    /// Errors: [`StoreError::IndexCorrupt`].
    pub(super) fn open_read_only(path: &Path, observers: &Observers) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let index = Self::open_with(observers, OnDamage::Refuse, move || index_check::open(&path))?;
        index.is_read_only.store(true, Ordering::Relaxed);
        Ok(index)
    }

    /// Opens the index at `path` for reading what can be read of it, and changes nothing. Its usage is not known.
    pub(super) fn look(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opener = Box::new(move || index_check::open(&path));
        Ok(Self {
            file: IndexFile::open(opener, OnDamage::Salvage)?,
            usage: Arc::default(),
            observers: Observers::new(),
            records_read: AtomicU64::new(0),
            is_read_only: Arc::default(),
        })
    }

    pub(super) fn open_with(
        observers: &Observers,
        on_damage: OnDamage,
        open: impl Fn() -> Result<Database, StoreError> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let usage = Arc::<Mutex<Usage>>::default();
        let opener: index_file::Opener = Box::new({
            let (usage, observers) = (Arc::clone(&usage), observers.clone());
            move || {
                let db = open()?;
                // Reading first: an existing index then opens on a full disk, too.
                let totals = match tables::totals(&db.begin_read()?)? {
                    Some(totals) => {
                        observer::complete(&db, &observers)?;
                        totals
                    }
                    None => index_file::write(&db, Durability::Immediate, |write| {
                        observers.iter().try_for_each(|observer| observer.create(write))?;
                        Tables::open(write, &observers)?.finish()
                    })?,
                };
                *usage.lock().unwrap_or_else(PoisonError::into_inner) = totals.usage;
                Ok(db)
            }
        });
        Ok(Self {
            file: IndexFile::open(opener, on_damage)?,
            usage,
            observers: observers.clone(),
            records_read: AtomicU64::new(0),
            is_read_only: Arc::default(),
        })
    }

    /// Checks the whole index, which redb does not do by itself: it trusts the pages that it reads. Other calls wait, on a
    /// long index for minutes.
    ///
    /// Errors: [`StoreError::IndexCorrupt`].
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.file.check()
    }

    /// Checks that each row of a block is found both in order and by its digest, and that none is missing. Other calls go on
    /// meanwhile.
    ///
    /// Errors: [`StoreError::IndexCorrupt`].
    pub(super) fn check_rows(&self) -> Result<(), StoreError> {
        self.file.read(|read| {
            let usage = tables::totals(read)?.unwrap_or_default().usage;
            let table = read.open_table(BLOCKS)?;
            let (mut count, mut last) = (0, None);
            for item in table.iter()? {
                let digest = *item?.0.value();
                if last >= Some(digest) || table.get(&digest)?.is_none() {
                    return Err(StoreError::IndexCorrupt("rows of blocks are out of order".into()));
                }
                (count, last) = (count + 1, Some(digest));
            }
            if count == usage.blocks + usage.missing {
                Ok(())
            } else {
                Err(StoreError::IndexCorrupt("its number of blocks is not that of their rows".into()))
            }
        })
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    /// Makes a change in one transaction. Returns by how many bytes the short blocks in the index have grown. After an
    /// error nothing is changed; after an I/O error the file is opened again.
    pub(super) fn write(
        &self,
        durability: Durability,
        mut change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError>,
    ) -> Result<i64, StoreError> {
        self.file.with(|db| {
            if self.is_read_only() {
                return Err(StoreError::ReadOnly("change the index".into()));
            }
            let (totals, grown) = index_file::write(db, durability, |write| {
                let mut tables = Tables::open(write, &self.observers)?;
                change(&mut tables)?;
                let grown = tables.grown;
                Ok((tables.finish()?, grown))
            })?;
            *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = totals.usage;
            Ok(grown)
        })
    }

    /// Runs `look` on one consistent state. It may run twice, after an I/O error.
    pub(super) fn snapshot<T>(
        &self,
        look: impl Fn(&Snapshot<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.file.read(|read| look(&Snapshot { read, records_read: &self.records_read }))
    }

    /// Returns how many times the file was opened again. Each time may have lost changes without a sync.
    pub(super) fn generation(&self) -> u64 {
        self.file.generation()
    }

    /// Returns how many records of roots were read since the index was opened.
    pub(super) fn records_read(&self) -> u64 {
        self.records_read.load(Ordering::Relaxed)
    }

    /// Returns the totals as of the last change.
    pub(super) fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn row(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(BLOCKS)?;
            Ok(table.get(digest)?.map(|row| Row::decode(&row.value())))
        })
    }

    pub(super) fn inline(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(INLINE)?;
            Ok(table.get(digest)?.map(|bytes| bytes.value().to_vec()))
        })
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.read(|read| Ok(read.open_table(META)?.get(name)?.map(|bytes| bytes.value().to_vec())))
    }

    /// Returns the named values whose names start with an ASCII letter.
    pub(super) fn meta_from(&self, letter: u8) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let [start, end] = [letter, letter + 1].map(|letter| char::from(letter).to_string());
        self.file.read(|read| {
            let table = read.open_table(META)?;
            let pair = |item: Result<(AccessGuard<'_, &str>, AccessGuard<'_, &[u8]>), StorageError>| {
                let (name, value) = item?;
                Ok((name.value().to_owned(), value.value().to_vec()))
            };
            table.range::<&str>(&*start..&*end)?.map(pair).collect()
        })
    }

    pub(super) fn root(&self, cid: &Cid) -> Result<Option<Root>, StoreError> {
        self.snapshot(|snapshot| snapshot.root_row(&cid.to_bytes()))
    }

    /// Returns up to `limit` roots after `after`, by CID.
    pub(super) fn roots(&self, after: Option<Cid>, limit: usize) -> Result<Vec<Root>, StoreError> {
        let after = after.map(Cid::to_bytes);
        self.snapshot(|snapshot| snapshot.root_rows(after.as_ref(), false, limit))
    }

    /// Returns up to `limit` roots from one CID to another, by digest. The record of a root may be damaged.
    pub(super) fn roots_between(
        &self,
        first: Cid,
        last: Cid,
        limit: usize,
    ) -> Result<Vec<(Digest, Option<Root>)>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(ROOTS)?;
            let rows = table.range::<&[u8; Cid::LEN]>(&first.to_bytes()..=&last.to_bytes())?;
            let mut found = Vec::new();
            for item in rows.take(limit) {
                let (key, value) = item?;
                let cid =
                    Cid::from_bytes(key.value()).map_err(|e| StoreError::IndexCorrupt(e.to_string()))?;
                let root = Root::decode(value.value()).ok().filter(|root| root.record.cid == cid);
                found.push((*cid.digest(), root));
            }
            Ok(found)
        })
    }

    /// Returns up to `limit` short blocks from one digest to another.
    pub(super) fn inline_between(
        &self,
        first: &Digest,
        last: &Digest,
        limit: usize,
    ) -> Result<Vec<(Digest, Vec<u8>)>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(INLINE)?;
            let row = |item: Result<(AccessGuard<'_, &Digest>, AccessGuard<'_, &[u8]>), StorageError>| {
                let (digest, bytes) = item?;
                Ok((*digest.value(), bytes.value().to_vec()))
            };
            table.range::<&Digest>(first..=last)?.take(limit).map(row).collect()
        })
    }

    /// Returns a part of the list of a root's blocks; `None` means that there are no more parts.
    pub(super) fn list(&self, number: u64, part: u32) -> Result<Option<Vec<Digest>>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(LISTS)?;
            Ok(table.get((number, part))?.map(|bytes| digests(bytes.value())))
        })
    }

    /// Returns up to `limit` blocks after `after`, by digest.
    pub(super) fn blocks(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, Row)>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(BLOCKS)?;
            let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut found = Vec::new();
            for item in table.range::<&Digest>((start, Bound::Unbounded))?.take(limit) {
                let (digest, row) = item?;
                found.push((*digest.value(), Row::decode(&row.value())));
            }
            Ok(found)
        })
    }

    /// Returns up to `limit` blocks that have been unreferenced since a time in `since`, oldest first.
    pub(super) fn unreferenced(
        &self,
        since: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(UNREFERENCED)?;
            let range = table.range((*since.start(), &[0; 20])..=(*since.end(), &[0xff; 20]))?;
            range.take(limit).map(|item| Ok(*item?.0.value().1)).collect()
        })
    }

    /// Returns up to `limit` cached blocks after `after`, least recently used first, each with its last use.
    pub(super) fn evictable(
        &self,
        after: Option<(u64, Digest)>,
        limit: usize,
    ) -> Result<Vec<(u64, Digest)>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(CACHED)?;
            let start = after.as_ref().map(|(used, digest)| (*used, digest));
            let range = table.range((start.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))?;
            let mut found = Vec::new();
            for item in range.take(limit) {
                let (key, _) = item?;
                let (used, digest) = key.value();
                found.push((used, *digest));
            }
            Ok(found)
        })
    }

    /// Returns the number of the next list of a root's blocks.
    pub(super) fn next_number(&self) -> Result<u64, StoreError> {
        Ok(self.file.read(tables::totals)?.map_or(0, |totals| totals.next_number))
    }

    /// Returns how many blocks of each of these roots are missing; 0 for a root that is not listed.
    pub(super) fn missing(&self, roots: &[Cid]) -> Result<Vec<u64>, StoreError> {
        self.file.read(|read| roots.iter().map(|cid| missing_of(read, cid)).collect())
    }

    /// Returns the missing node blocks that have come back since, each with a root that is incomplete without it.
    pub(super) fn incomplete_here(&self) -> Result<Vec<(Digest, Cid)>, StoreError> {
        self.file.read(|read| {
            let (incomplete, blocks) = (read.open_table(INCOMPLETE)?, read.open_table(BLOCKS)?);
            let mut here = Vec::new();
            for item in incomplete.iter()? {
                let (key, _) = item?;
                let (digest, root) = key.value();
                let row = blocks.get(digest)?.map(|row| Row::decode(&row.value()));
                if row.is_some_and(|row| row.location != Location::Missing)
                    && let Ok(root) = Cid::from_bytes(root)
                {
                    here.push((*digest, root));
                }
            }
            Ok(here)
        })
    }

    /// Returns the number of some list whose root was removed and whose references are not all dropped yet.
    pub(super) fn dying(&self) -> Result<Option<u64>, StoreError> {
        self.file.read(|read| Ok(read.open_table(DYING)?.first()?.map(|(number, _)| number.value())))
    }
}

fn missing_of(read: &ReadTransaction, root: &Cid) -> Result<u64, StoreError> {
    let (missing, lists) = (read.open_table(MISSING)?, read.open_table(LISTS)?);
    let Some(root) = read.open_table(ROOTS)?.get(&root.to_bytes())? else { return Ok(0) };
    let Root { number, .. } = Root::decode(root.value())?;
    let mut count = 0;
    for part in lists.range((number, 0)..=(number, u32::MAX))? {
        for digest in digests(part?.1.value()) {
            count += u64::from(missing.get(&digest)?.is_some());
        }
    }
    Ok(count)
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
