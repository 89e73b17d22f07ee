//! Roots in other orders than that of their CIDs: tables that name each root under its name, its size and its time. They
//! are changed in the same transactions as the roots. An index that was made without them gets them when they are first
//! needed.

use std::{ops::Bound, sync::atomic::Ordering};

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError};

use super::{
    RootRecord, Store, StoreError,
    index::{Index, ROOTS, Root, decode_root},
    tables::Tables,
};
use crate::content::cid::Cid;

type CidBytes = [u8; Cid::LEN];

/// (name in lower case, CID); the empty name where there is none.
pub(super) const BY_NAME: TableDefinition<(&str, &CidBytes), ()> = TableDefinition::new("roots_by_name");
/// (plaintext bytes, CID).
pub(super) const BY_SIZE: TableDefinition<(u64, &CidBytes), ()> = TableDefinition::new("roots_by_size");
/// (microseconds since 1970, CID).
pub(super) const BY_CREATED: TableDefinition<(i64, &CidBytes), ()> = TableDefinition::new("roots_by_created");

/// By what roots are put in order; those that are equal in it, by CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// CID.
    Cid,
    /// Name, letter case aside.
    Name,
    /// Plaintext bytes.
    Size,
    /// When it came here.
    Created,
}

/// Where a root stands in an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its size or time, where the order is by one.
    pub number: i128,
    /// Its name in lower case, where the order is by name.
    pub text: String,
    /// Its CID.
    pub cid: CidBytes,
}

/// The name under which a root is found.
pub fn sort_name(record: &RootRecord) -> String {
    record.name.as_deref().unwrap_or_default().to_lowercase()
}

/// The first `limit` CIDs of a table of pairs after `$after`, one way or the other.
macro_rules! cids {
    ($read:expr, $table:ident, $after:expr, $descending:expr, $limit:expr) => {{
        let table = $read.open_table($table).map_err(StoreError::index)?;
        let after = $after;
        let edge = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = if $descending { (Bound::Unbounded, edge) } else { (edge, Bound::Unbounded) };
        let mut range = table.range(range).map_err(StoreError::index)?;
        let mut found = Vec::new();
        while found.len() < $limit {
            let next = if $descending { range.next_back() } else { range.next() };
            let Some(item) = next else { break };
            let (key, _) = item.map_err(StoreError::index)?;
            found.push(*key.value().1);
        }
        found
    }};
}

impl Store {
    /// Up to `limit` roots after `after`, in this order or, where `descending`, in the one turned round.
    ///
    /// # Errors
    /// [`StoreError::Index`], and [`StoreError::NoSpace`] where an index of an older make has to be completed first.
    pub fn roots_by(
        &self,
        order: Order,
        after: Option<&Standing>,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<RootRecord>, StoreError> {
        self.complete_orders()?;
        let roots = self.inner.index.roots_by(order, after, descending, limit)?;
        Ok(roots.into_iter().map(|root| root.record).collect())
    }

    /// Up to `limit` roots after `after`, by name: names in lower case and CIDs, without reading the records.
    ///
    /// # Errors
    /// As [`Store::roots_by`].
    pub fn names(
        &self,
        after: Option<&(String, CidBytes)>,
        limit: usize,
    ) -> Result<Vec<(String, CidBytes)>, StoreError> {
        self.complete_orders()?;
        self.inner.index.names(after, limit)
    }

    /// Records of roots that were read since the store was opened: what lists cost.
    pub fn records_read(&self) -> u64 {
        self.inner.index.records_read.load(Ordering::Relaxed)
    }

    fn complete_orders(&self) -> Result<(), StoreError> {
        if self.inner.index.has_orders()? {
            return Ok(());
        }
        // A path to the method is not general enough in its lifetime.
        #[allow(clippy::redundant_closure_for_method_calls)]
        self.inner.writer.run(|tables| tables.complete_orders())
    }

    /// Lists many roots at once, without blocks.
    #[cfg(test)]
    pub(crate) fn add_roots(&self, records: Vec<RootRecord>) {
        let add = move |tables: &mut Tables<'_>| {
            records.iter().try_for_each(|record| tables.add_root(record, &[], 0).map(drop))
        };
        self.inner.writer.run(add).expect("listed");
    }
}

impl Index {
    /// Whether every root has its place in each order.
    fn has_orders(&self) -> Result<bool, StoreError> {
        self.file.read(|read| {
            let roots = len(read.open_table(ROOTS))?.unwrap_or(0);
            let orders = [
                len(read.open_table(BY_NAME))?,
                len(read.open_table(BY_SIZE))?,
                len(read.open_table(BY_CREATED))?,
            ];
            // An index of an earlier version has none of them, not even for no files.
            Ok(orders.iter().all(|len| *len == Some(roots)))
        })
    }

    fn roots_by(
        &self,
        order: Order,
        after: Option<&Standing>,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<Root>, StoreError> {
        self.file.read(|read| {
            let cids = ordered(read, order, after, descending, limit)?;
            let roots = read.open_table(ROOTS).map_err(StoreError::index)?;
            let mut found = Vec::with_capacity(cids.len());
            for cid in &cids {
                if let Some(bytes) = roots.get(cid).map_err(StoreError::index)? {
                    self.records_read.fetch_add(1, Ordering::Relaxed);
                    found.push(decode_root(bytes.value())?);
                }
            }
            Ok(found)
        })
    }

    fn names(
        &self,
        after: Option<&(String, CidBytes)>,
        limit: usize,
    ) -> Result<Vec<(String, CidBytes)>, StoreError> {
        self.file.read(|read| {
            let table = read.open_table(BY_NAME).map_err(StoreError::index)?;
            let edge = after.map(|(name, cid)| (name.as_str(), cid));
            let edge = edge.map_or(Bound::Unbounded, Bound::Excluded);
            let range =
                table.range::<(&str, &CidBytes)>((edge, Bound::Unbounded)).map_err(StoreError::index)?;
            range
                .take(limit)
                .map(|item| {
                    let (key, _) = item.map_err(StoreError::index)?;
                    let (name, cid) = key.value();
                    Ok((name.to_owned(), *cid))
                })
                .collect()
        })
    }
}

/// Entries of a table; none where there is no such table.
fn len<T: ReadableTableMetadata>(table: Result<T, TableError>) -> Result<Option<u64>, StoreError> {
    match table {
        Ok(table) => table.len().map(Some).map_err(StoreError::index),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(StoreError::index(error)),
    }
}

fn ordered(
    read: &ReadTransaction,
    order: Order,
    after: Option<&Standing>,
    descending: bool,
    limit: usize,
) -> Result<Vec<CidBytes>, StoreError> {
    Ok(match order {
        Order::Name => {
            cids!(read, BY_NAME, after.map(|at| (at.text.as_str(), &at.cid)), descending, limit)
        }
        Order::Size => {
            let number = |at: &Standing| u64::try_from(at.number.max(0)).unwrap_or(u64::MAX);
            cids!(read, BY_SIZE, after.map(|at| (number(at), &at.cid)), descending, limit)
        }
        Order::Created => {
            let number = |at: &Standing| i64::try_from(at.number).unwrap_or(i64::MAX);
            cids!(read, BY_CREATED, after.map(|at| (number(at), &at.cid)), descending, limit)
        }
        Order::Cid => {
            let table = read.open_table(ROOTS).map_err(StoreError::index)?;
            let edge = after.map_or(Bound::Unbounded, |at| Bound::Excluded(&at.cid));
            let range = if descending { (Bound::Unbounded, edge) } else { (edge, Bound::Unbounded) };
            let mut range = table.range::<&CidBytes>(range).map_err(StoreError::index)?;
            let mut found = Vec::new();
            while found.len() < limit {
                let next = if descending { range.next_back() } else { range.next() };
                let Some(item) = next else { break };
                found.push(*item.map_err(StoreError::index)?.0.value());
            }
            found
        }
    })
}

impl Tables<'_> {
    /// Gives a root its place in each order, or takes it away.
    pub(super) fn place(&mut self, record: &RootRecord, listed: bool) -> Result<(), StoreError> {
        let (name, cid) = (sort_name(record), record.cid.to_bytes());
        let (by_name, by_size, by_created) =
            ((name.as_str(), &cid), (record.size, &cid), (record.created, &cid));
        if listed {
            self.by_name.insert(by_name, ()).map_err(StoreError::index)?;
            self.by_size.insert(by_size, ()).map_err(StoreError::index)?;
            self.by_created.insert(by_created, ()).map_err(StoreError::index)?;
        } else {
            self.by_name.remove(by_name).map_err(StoreError::index)?;
            self.by_size.remove(by_size).map_err(StoreError::index)?;
            self.by_created.remove(by_created).map_err(StoreError::index)?;
        }
        Ok(())
    }

    /// Gives every root its place anew.
    fn complete_orders(&mut self) -> Result<(), StoreError> {
        self.by_name.retain(|_, ()| false).map_err(StoreError::index)?;
        self.by_size.retain(|_, ()| false).map_err(StoreError::index)?;
        self.by_created.retain(|_, ()| false).map_err(StoreError::index)?;
        let mut after: Option<CidBytes> = None;
        loop {
            let edge = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut page = Vec::new();
            for item in
                self.roots.range::<&CidBytes>((edge, Bound::Unbounded)).map_err(StoreError::index)?.take(512)
            {
                page.push(decode_root(item.map_err(StoreError::index)?.1.value())?.record);
            }
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.cid.to_bytes());
            page.iter().try_for_each(|record| self.place(record, true))?;
        }
    }
}
