//! A redb database that is opened again after an I/O error.
//!
//! From the first failed read or write on, redb answers every call with an error until the file is opened again. A full
//! disk counts as such a failure. [`IndexFile`] opens the file again, so that an error fails only the call that met it.
//! Nothing acknowledged is lost: redb commits a synced change in two phases (first its pages, then the header that names
//! them), so opening finds the last synced change, whichever of the two syncs failed. Changes without a sync may be lost,
//! as after a crash.
//!
//! redb trusts the pages of its file, and panics on some that are damaged. Such a panic becomes
//! [`StoreError::IndexCorrupt`], which every later call returns as well.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError, WriteTransaction,
};

use super::{StoreError, error::is_damage};

/// Opens the database and prepares what depends on its state.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

pub(super) struct IndexFile {
    opener: Opener,
    on_damage: OnDamage,
    slot: RwLock<Slot>,
}

/// The behaviour after a call has met damage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// Every later call fails, too.
    Refuse,
    /// The next call opens the file again, and may read another part of it.
    Salvage,
}

struct Slot {
    /// `None` if it could not be opened again: the next call tries once more, unless the file is damaged.
    db: Option<Database>,
    /// The damage.
    damage: Option<String>,
    /// How many times it was opened again.
    generation: u64,
}

impl IndexFile {
    pub(super) fn open(opener: Opener, on_damage: OnDamage) -> Result<Self, StoreError> {
        let db = Some(catching(&opener)?);
        let slot = RwLock::new(Slot { db, damage: None, generation: 0 });
        Ok(Self { opener, on_damage, slot })
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
        if let Some(damage) = &slot.damage {
            return Err(StoreError::IndexCorrupt(damage.clone()));
        }
        let Some(db) = &slot.db else {
            let generation = slot.generation;
            drop(slot);
            self.reopen(generation)?;
            return match &self.slot().db {
                Some(db) => catching(|| act(db)),
                None => Err(StoreError::Index("it could not be opened again".into())),
            };
        };
        let (result, generation) = (catching(|| act(db)), slot.generation);
        drop(slot);
        match &result {
            Err(StoreError::IndexCorrupt(damage)) => self.slot_mut().close(damage, self.on_damage),
            Err(error) if is_io(error) => {
                tracing::warn!("opening the index again after an error: {error}");
                if let Err(error) = self.reopen(generation) {
                    tracing::warn!("the index could not be opened again: {error}");
                }
            }
            _ => {}
        }
        result
    }

    /// Reads the whole file and compares all checksums. Other calls wait.
    ///
    /// Errors: [`StoreError::IndexCorrupt`].
    pub(super) fn check(&self) -> Result<(), StoreError> {
        // Opens it again first, if the last attempt failed.
        self.with(|_| Ok(()))?;
        let mut slot = self.slot_mut();
        let Some(db) = &mut slot.db else {
            let damage = slot.damage.clone().map(StoreError::IndexCorrupt);
            return Err(damage.unwrap_or_else(|| StoreError::Index("it could not be opened again".into())));
        };
        let checked = check_integrity(db);
        if let Err(StoreError::IndexCorrupt(damage)) = &checked {
            slot.close(damage, self.on_damage);
        }
        checked
    }

    fn slot(&self) -> RwLockReadGuard<'_, Slot> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot_mut(&self) -> RwLockWriteGuard<'_, Slot> {
        self.slot.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file again, unless another thread has done so since generation `seen`.
    fn reopen(&self, seen: u64) -> Result<(), StoreError> {
        let mut slot = self.slot_mut();
        if slot.generation != seen {
            return Ok(());
        }
        // The old handle must release its lock on the file first.
        drop(slot.db.take());
        slot.db = Some(catching(&self.opener)?);
        slot.generation += 1;
        Ok(())
    }
}

impl Slot {
    /// Closes a damaged file.
    fn close(&mut self, damage: &str, on_damage: OnDamage) {
        if on_damage == OnDamage::Refuse {
            tracing::error!("index.redb is damaged: {damage}");
            self.damage.get_or_insert_with(|| damage.into());
        }
        self.drop_db();
    }

    /// Closes the file. redb reads pages for that, too.
    fn drop_db(&mut self) {
        if let Some(db) = self.db.take()
            && let Err(error) = catching(|| {
                drop(db);
                Ok(())
            })
        {
            tracing::debug!("the index could not be closed: {error}");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.drop_db();
    }
}

thread_local! {
    /// A panic on this thread is caught, and is an error.
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Runs `act`; a panic of redb is damage to the file.
pub(super) fn catching<T>(act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHES.get() {
                tracing::error!("while the index was used: {info}");
            } else {
                print(info);
            }
        }));
    });
    let outer = CATCHES.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(act));
    CATCHES.set(outer);
    result.unwrap_or_else(|panic| Err(StoreError::IndexCorrupt(message(&*panic))))
}

/// Compares all checksums in an open index.
///
/// Errors: [`StoreError::IndexCorrupt`].
pub(super) fn check_integrity(db: &mut Database) -> Result<(), StoreError> {
    let is_sound = catching(|| Ok(db.check_integrity()?))?;
    if is_sound { Ok(()) } else { Err(StoreError::IndexCorrupt("a checksum is wrong".into())) }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("redb panicked").lines().next().unwrap_or_default().into()
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
    matches!(error, StoreError::Io { .. } | StoreError::NoSpace(_) | StoreError::ReadOnly(_))
}

/// Classifies an error of opening the database in this file.
pub(super) fn cannot_open(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            let dir = path.parent().unwrap_or(path).to_owned();
            StoreError::Locked { dir, pid: None }
        }
        DatabaseError::Storage(StorageError::Io(e)) if !is_damage(&e) => {
            StoreError::io(format!("open {}", path.display()), e)
        }
        error => StoreError::IndexCorrupt(error.to_string()),
    }
}
