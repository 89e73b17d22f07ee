//! A redb database that is opened again after an I/O error.
//!
//! From the first failed read or write on, redb answers every call with an error until the file is opened again. A full
//! disk counts as such a failure. [`IndexFile`] opens the file again, so that an error fails only the call that met it.
//! Nothing acknowledged is lost: redb commits a synced change in two phases (first its pages, then the header that names
//! them), so opening finds the last synced change, whichever of the two syncs failed. Changes without a sync may be lost,
//! as after a crash.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError, WriteTransaction,
};

use super::StoreError;

/// Opens the database and prepares what depends on its state.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

pub(super) struct IndexFile {
    opener: Opener,
    slot: RwLock<Slot>,
}

struct Slot {
    /// `None` if it could not be opened again: the next call tries once more.
    db: Option<Database>,
    /// How many times it was opened again.
    generation: u64,
}

impl IndexFile {
    pub(super) fn open(opener: Opener) -> Result<Self, StoreError> {
        let slot = RwLock::new(Slot { db: Some(opener()?), generation: 0 });
        Ok(Self { opener, slot })
    }

    /// Returns how many times the file was opened again. Each time may have lost changes without a sync.
    pub(super) fn generation(&self) -> u64 {
        self.slot().generation
    }

    /// Runs `look` on one consistent state. After an I/O error it opens the file again and runs `look` once more.
    pub(super) fn read<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let once = || self.with(|db| look(&db.begin_read()?));
        match once() {
            Err(error) if is_io(&error) => once(),
            result => result,
        }
    }

    /// Runs `act`. After an I/O error it also opens the file again.
    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
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
            tracing::warn!("opening the index again after an error: {error}");
            if let Err(error) = self.reopen(generation) {
                tracing::warn!("the index could not be opened again: {error}");
            }
        }
        result
    }

    fn slot(&self) -> RwLockReadGuard<'_, Slot> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file again, unless another thread has done so since generation `seen`.
    fn reopen(&self, seen: u64) -> Result<(), StoreError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.generation != seen {
            return Ok(());
        }
        // The old handle must release its lock on the file first.
        drop(slot.db.take());
        slot.db = Some((self.opener)()?);
        slot.generation += 1;
        Ok(())
    }
}

/// Runs `change` in one transaction. After an error nothing is changed.
pub(super) fn write<T>(
    db: &Database,
    durability: Durability,
    change: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut write = db.begin_write()?;
    // Opening after a crash then need not walk the whole index.
    write.set_quick_repair(matches!(durability, Durability::Immediate));
    write.set_durability(durability).map_err(|e| StoreError::Index(e.to_string()))?;
    let done = change(&write)?;
    write.commit()?;
    Ok(done)
}

/// Whether redb refuses all further calls after this error.
fn is_io(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::NoSpace(_))
}

/// Classifies an error of opening the database: I/O, or damage.
pub(super) fn cannot_open(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::Storage(StorageError::Io(e)) if e.kind() != std::io::ErrorKind::InvalidData => {
            StoreError::io("open the index", e)
        }
        error => StoreError::IndexCorrupt(error.to_string()),
    }
}
