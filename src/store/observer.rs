//! Tables of other modules in the index: they change in the same transactions as the roots, and are read in one snapshot
//! with them.

use std::{
    collections::HashSet,
    fmt,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{
    Database, Durability, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, TableHandle, Value, WriteTransaction,
};

use super::{
    RootRecord, StoreError, index_file,
    schema::{ROOTS, Root},
};
use crate::content::cid::Cid;

/// Keeps tables of its own in step with the roots.
///
/// An observer opens only its own tables. It must be given to every [`super::Store::open`] and [`super::Store::rebuild`]
/// of a data directory.
pub trait RootObserver: fmt::Debug + Send + Sync {
    /// Returns the names of its tables. If an index lacks one of them, they are made and filled when it is opened.
    fn tables(&self) -> &'static [&'static str];

    /// Makes the tables that do not exist.
    ///
    /// # Errors
    /// Those of the database.
    fn create(&self, write: &WriteTransaction) -> Result<(), StoreError>;

    /// Called inside the transaction that adds (`old` is `None`), changes or removes (`new` is `None`) a root.
    ///
    /// # Errors
    /// Those of the database. The transaction is aborted then.
    fn root_changed(
        &self,
        write: &WriteTransaction,
        old: Option<&RootRecord>,
        new: Option<&RootRecord>,
    ) -> Result<(), StoreError>;
}

/// The observers of a store.
pub type Observers = Vec<Arc<dyn RootObserver>>;

/// Makes the tables of observers that an index lacks, and fills them from the roots: an earlier version had others.
pub(super) fn complete(db: &Database, observers: &Observers) -> Result<(), StoreError> {
    if observers.is_empty() {
        return Ok(());
    }
    let read = db.begin_read()?;
    let made: HashSet<String> = read.list_tables()?.map(|table| table.name().to_owned()).collect();
    let lacks =
        |observer: &&Arc<dyn RootObserver>| observer.tables().iter().any(|name| !made.contains(*name));
    let lacking: Vec<_> = observers.iter().filter(lacks).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    tracing::info!("the index lacks tables of this version; making them from the list of files");
    index_file::write(db, Durability::Immediate, |write| {
        lacking.iter().try_for_each(|observer| observer.create(write))?;
        for item in write.open_table(ROOTS)?.iter()? {
            // A root whose record is damaged counts as not listed.
            if let Ok(Root { record, .. }) = Root::decode(item?.1.value()) {
                lacking.iter().try_for_each(|observer| observer.root_changed(write, None, Some(&record)))?;
            }
        }
        Ok(())
    })
}

/// One consistent state of the roots and of the observers' tables.
pub struct Snapshot<'a> {
    pub(super) read: &'a ReadTransaction,
    pub(super) records_read: &'a AtomicU64,
}

impl Snapshot<'_> {
    /// Opens a table of an observer.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, StoreError> {
        Ok(self.read.open_table(table)?)
    }

    /// Returns the record of a root; `None` means that it is not listed.
    ///
    /// # Errors
    /// Those of the database.
    pub fn root(&self, cid: &[u8; Cid::LEN]) -> Result<Option<RootRecord>, StoreError> {
        Ok(self.root_row(cid)?.map(|root| root.record))
    }

    /// Returns up to `limit` records of roots after `after`, by CID.
    ///
    /// # Errors
    /// Those of the database.
    pub fn roots(
        &self,
        after: Option<&[u8; Cid::LEN]>,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<RootRecord>, StoreError> {
        let rows = self.root_rows(after, descending, limit)?;
        Ok(rows.into_iter().map(|root| root.record).collect())
    }

    pub(super) fn root_row(&self, cid: &[u8; Cid::LEN]) -> Result<Option<Root>, StoreError> {
        let roots = self.read.open_table(ROOTS)?;
        roots.get(cid)?.map(|bytes| self.decode(bytes.value())).transpose()
    }

    pub(super) fn root_rows(
        &self,
        after: Option<&[u8; Cid::LEN]>,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<Root>, StoreError> {
        let roots = self.read.open_table(ROOTS)?;
        let edge = after.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = if descending { (Bound::Unbounded, edge) } else { (edge, Bound::Unbounded) };
        let mut range = roots.range::<&[u8; Cid::LEN]>(bounds)?;
        let next = || if descending { range.next_back() } else { range.next() };
        std::iter::from_fn(next).take(limit).map(|item| self.decode(item?.1.value())).collect()
    }

    fn decode(&self, bytes: &[u8]) -> Result<Root, StoreError> {
        self.records_read.fetch_add(1, Ordering::Relaxed);
        Root::decode(bytes)
    }
}
