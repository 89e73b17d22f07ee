//! `index.redb`, open, and opened again after an I/O error.
//!
//! redb answers everything with an error from the first failed read or write on, a full disk included, until the file
//! is opened again. That is done here, so that an error costs the call that met it and no more. Nothing acknowledged is
//! lost by it: a synced change is on disk in two phases (first its pages, then the header that names them), so what
//! opening finds is the last such change, whichever of the two syncs failed. Changes that nobody waited for may be
//! gone, as after a crash.

use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard},
};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError, WriteTransaction,
};

use super::{StoreError, Usage, private, tables::Tables};

/// Memory that the index may use for pages, in bytes.
const PAGE_CACHE: usize = 8 << 20;

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The index's file.
pub(super) struct IndexFile {
    opener: Opener,
    slot: RwLock<Slot>,
    usage: Mutex<Usage>,
}

struct Slot {
    /// None where opening it again failed: the next call tries once more.
    db: Option<Database>,
    /// How often it was opened.
    generation: u64,
}

impl IndexFile {
    /// Opens the file, or makes it, for this user alone.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        Self::open_with(Box::new(move || {
            let file = private::open(&path).map_err(StorageError::from)?;
            Database::builder().set_cache_size(PAGE_CACHE).create_file(file)
        }))
    }

    pub(super) fn open_with(opener: Opener) -> Result<Self, StoreError> {
        let db = opener().map_err(cannot_open)?;
        let usage = match read_usage(&db)? {
            Some(usage) => usage,
            None => create_tables(&db)?,
        };
        let slot = RwLock::new(Slot { db: Some(db), generation: 0 });
        Ok(Self { opener, slot, usage: Mutex::new(usage) })
    }

    /// The totals, as of the last change.
    pub(super) fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it was opened again. What nobody had waited for may be gone then.
    pub(super) fn generation(&self) -> u64 {
        self.slot().generation
    }

    fn set_usage(&self, usage: Usage) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }

    /// Looks at one consistent state. After an I/O error the file is opened again, and `look` runs once more.
    pub(super) fn read<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let once = || self.with(|db| look(&db.begin_read().map_err(StoreError::index)?));
        match once() {
            Err(error) if is_io(&error) => once(),
            result => result,
        }
    }

    /// Makes a change in one transaction; answers with the bytes of short blocks that came, less those that went. After
    /// an I/O error nothing is changed, and the file is opened again.
    pub(super) fn write(
        &self,
        durability: Durability,
        mut change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError>,
    ) -> Result<i64, StoreError> {
        self.with(|db| {
            let write = begin(db, durability)?;
            let mut tables = Tables::open(&write)?;
            change(&mut tables)?;
            let grown = tables.grown;
            let stats = tables.finish()?;
            write.commit().map_err(StoreError::index)?;
            self.set_usage(stats.usage());
            Ok(grown)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let slot = self.slot();
        let Some(db) = &slot.db else {
            let generation = slot.generation;
            drop(slot);
            self.reopen(generation)?;
            return match &self.slot().db {
                Some(db) => act(db),
                None => Err(StoreError::Index("it could not be opened again".into())),
            };
        };
        let (result, generation) = (act(db), slot.generation);
        drop(slot);
        if let Err(error) = &result
            && is_io(error)
        {
            tracing::warn!("{error}; opening the index again");
            if let Err(error) = self.reopen(generation) {
                tracing::warn!("{error}");
            }
        }
        result
    }

    fn slot(&self) -> RwLockReadGuard<'_, Slot> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file again, unless somebody else has done so since `seen`.
    fn reopen(&self, seen: u64) -> Result<(), StoreError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.generation != seen {
            return Ok(());
        }
        // The old one lets go of its lock on the file first.
        drop(slot.db.take());
        let db = (self.opener)().map_err(cannot_open)?;
        if let Some(usage) = read_usage(&db)? {
            self.set_usage(usage);
        }
        slot.db = Some(db);
        slot.generation += 1;
        Ok(())
    }
}

/// Whether redb refuses to go on after this.
fn is_io(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::NoSpace(_))
}

fn cannot_open(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::Storage(StorageError::Io(e)) if e.kind() != io::ErrorKind::InvalidData => {
            StoreError::io("open the index", e)
        }
        error => StoreError::IndexCorrupt(error.to_string()),
    }
}

/// The totals of an index that has its tables. Looking takes no room: a full disk can be opened.
fn read_usage(db: &Database) -> Result<Option<Usage>, StoreError> {
    let read = db.begin_read().map_err(StoreError::index)?;
    super::tables::usage(&read)
}

fn create_tables(db: &Database) -> Result<Usage, StoreError> {
    let write = begin(db, Durability::Immediate)?;
    let stats = Tables::open(&write)?.finish()?;
    write.commit().map_err(StoreError::index)?;
    Ok(stats.usage())
}

fn begin(db: &Database, durability: Durability) -> Result<WriteTransaction, StoreError> {
    let mut write = db.begin_write().map_err(StoreError::index)?;
    // Opening after a crash then takes no walk through the whole index.
    write.set_quick_repair(matches!(durability, Durability::Immediate));
    write.set_durability(durability).map_err(|e| StoreError::Index(e.to_string()))?;
    Ok(write)
}

#[cfg(test)]
#[path = "index_file/tests.rs"]
mod tests;
