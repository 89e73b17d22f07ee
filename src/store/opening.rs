//! Opening a data directory, and the checks before anything in it is read, written or removed.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, RwLock},
};

use super::{
    INDEX, Inner, Layout, Store, StoreError, StoreOptions, cache,
    disk::Disk,
    disk_reserve::DiskReserve,
    in_flight::InFlight,
    index::Index,
    index_check,
    journal::{self, Journal, META_BEHIND},
    lock::{self, Lock},
    private, relocate, version,
    writer::Writer,
};

impl Store {
    /// Opens the store in a data directory, or makes one.
    ///
    /// The time that this takes does not depend on how much is stored. If a process was killed while it wrote, the whole
    /// index is checked, and the folders that it may have written to are searched.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::OtherVersion`], [`StoreError::OtherLayout`],
    /// [`StoreError::HalfMoved`], [`StoreError::IndexLost`], [`StoreError::IndexCorrupt`], [`StoreError::Io`].
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let (lock, disk) = Self::enter(&options, version::check)?;
        relocate::check(&options.dir, &disk, options.layout)?;
        check_index_is_there(&options.dir, &disk)?;
        let store = Self::open_index(options, INDEX, disk, lock)?;
        if store.is_index_behind() {
            tracing::warn!("{}", StoreError::IndexBehind);
            match store.set_meta(META_BEHIND, &[1]) {
                Err(error) if store.is_read_only() || matches!(error, StoreError::NoSpace(_)) => {
                    tracing::warn!("{error}");
                }
                noted => noted?,
            }
        } else if let Err(error) = store.list_orphans() {
            tracing::warn!("block files of killed uploads are not listed yet: {error}");
        }
        store.inner.journal.refresh();
        Ok(store)
    }

    /// Whether the data directory is on a read-only file system: files can be read, and nothing can be changed.
    pub fn is_read_only(&self) -> bool {
        self.inner.lock.is_read_only()
    }

    /// Checks a data directory from outside: nothing is locked or changed. Returns what is wrong with the journal, which the
    /// next opening makes again. If a process has the directory, the index is not looked into.
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`StoreError::IndexBehind`].
    pub fn inspect(dir: &Path) -> Result<Option<String>, StoreError> {
        if !dir.exists() {
            return Ok(None);
        }
        version::check(dir)?;
        if relocate::is_half_moved(dir) {
            return Err(StoreError::HalfMoved);
        }
        let disk = Disk::look(dir, Layout::default());
        check_index_is_there(dir, &disk)?;
        if !has_index(dir) || lock::read_lock(dir).is_some() {
            return Ok(None);
        }
        let written = || fs::metadata(dir.join(INDEX)).and_then(|meta| meta.modified()).ok();
        let before = written();
        let found = Self::inspect_index(dir, &disk);
        // A process may have opened and changed the index meanwhile: then the pages that were read do not fit together.
        if lock::read_lock(dir).is_some() || written() != before { Ok(None) } else { found }
    }

    fn inspect_index(dir: &Path, disk: &Disk) -> Result<Option<String>, StoreError> {
        let path = dir.join(INDEX);
        index_check::check(&path)?;
        let index = Index::look(&path)?;
        let (recorded, damage) = journal::replay(dir);
        let next_number = index.next_number()?;
        if index.meta(META_BEHIND)?.is_some() || journal::is_behind(next_number, &recorded, disk)? {
            return Err(StoreError::IndexBehind);
        }
        Ok(damage)
    }

    /// Locks a data directory, and checks its format with `check`.
    pub(super) fn enter(
        options: &StoreOptions,
        check: fn(&Path) -> Result<(), StoreError>,
    ) -> Result<(Arc<Lock>, Disk), StoreError> {
        private::make_private_dir(&options.dir)?;
        let lock = Arc::new(Lock::take(&options.dir)?);
        check(&options.dir)?;
        if lock.is_read_only() {
            let disk = Disk::look(&options.dir, options.layout);
            return Ok((lock, disk));
        }
        version::write(&options.dir)?;
        private::tighten(&options.dir)?;
        let disk = Disk::open(&options.dir, options.layout)?;
        Ok((lock, disk))
    }

    pub(super) fn open_index(
        options: StoreOptions,
        name: &str,
        disk: Disk,
        lock: Arc<Lock>,
    ) -> Result<Self, StoreError> {
        let (path, read_only) = (options.dir.join(name), lock.is_read_only());
        let is_long = has_index(&options.dir) && name == INDEX && !index_check::is_short(&path);
        let open = if read_only { Index::open_read_only } else { Index::open };
        let index = Arc::new(open(&path, &options.observers)?);
        let reserve = if read_only { DiskReserve::none() } else { DiskReserve::open(&options.dir) };
        let writer = Writer::start(Arc::clone(&index), reserve)?;
        let mut journal = Journal::open(&options.dir, Arc::clone(&index), &disk)?;
        if name != INDEX {
            journal.ignore_writes();
        }
        // An index that is behind need not be checked: nothing is removed until it is rebuilt.
        if is_long && !read_only && !journal.is_behind && !journal.was_closed() {
            tracing::info!("the store was not closed; checking the whole index");
            index.check()?;
        }
        let store = Self {
            inner: Arc::new(Inner {
                options,
                disk,
                index,
                writer,
                in_flight: InFlight::default(),
                journal,
                reserved: Arc::default(),
                listing: RwLock::default(),
                comparing: Default::default(),
                touched: Mutex::<cache::Touched>::default(),
                completing: Mutex::default(),
                lock,
            }),
        };
        match store.finish_removals() {
            // A full or read-only disk must not prevent opening: files can still be read.
            Err(error) if read_only || matches!(error, StoreError::NoSpace(_)) => {
                tracing::warn!("a removal waits for space: {error}");
            }
            finished => finished?,
        }
        store.try_to_complete_roots();
        Ok(store)
    }
}

/// Whether there is an index. redb would make a new one of an empty file.
pub(super) fn has_index(dir: &Path) -> bool {
    fs::metadata(dir.join(INDEX)).is_ok_and(|meta| meta.len() > 0)
}

/// Errors: [`StoreError::IndexLost`] if files were stored and the index is missing or empty.
fn check_index_is_there(dir: &Path, disk: &Disk) -> Result<(), StoreError> {
    if has_index(dir) {
        return Ok(());
    }
    let was_there = journal::replay(dir).0.epoch > Some(0) || disk.first_layout()?.is_some();
    if was_there { Err(StoreError::IndexLost) } else { Ok(()) }
}
