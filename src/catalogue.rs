//! The files that this node lists: pages in any order, and search by name.
//!
//! `sort_index` keeps tables of names, sizes and times inside the store's index, in the same transactions as the roots.
//! A page reads the records that it shows, and no others. A search reads all names, and the records that match.

mod sort_index;

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use unicode_normalization::UnicodeNormalization;

pub use sort_index::{Sort, SortKey};

use crate::{
    content::cid::Cid,
    store::{Observers, RootRecord, Store, StoreError},
};
use sort_index::{CidBytes, SortIndex, comparable, lower_name, name_key, names};

/// Names read at a time in a search.
const SEARCH_PAGE: usize = 4096;
/// Names read at a time to look up one name.
const LOOKUP_PAGE: usize = 256;

/// The tables that a store must keep for [`Catalogue`]: see [`crate::store::StoreOptions::observers`].
pub fn observers() -> Observers {
    vec![Arc::new(SortIndex)]
}

/// Reads the files that a store lists. The store must be opened with [`observers`].
pub struct Catalogue<'a> {
    store: &'a Store,
}

/// Which files [`Catalogue::page`] returns.
#[derive(Default)]
pub struct Query<'a> {
    /// The order.
    pub sort: Sort,
    /// Whether the order is reversed.
    pub descending: bool,
    /// Only files behind this position.
    pub after: Option<SortKey>,
    /// Maximum number of files.
    pub limit: usize,
    /// Only names that contain this, ignoring letter case and the Unicode form; empty: all.
    pub name: String,
    /// Only files that it accepts.
    pub filter: Option<&'a dyn Fn(&Cid) -> bool>,
}

/// A page of files.
pub struct Page {
    /// The files, in the order of the query.
    pub records: Vec<RootRecord>,
    /// Position of the last of them; `None` means that there are no more.
    pub next: Option<SortKey>,
    /// Number of files on all pages.
    pub total: u64,
}

impl<'a> Catalogue<'a> {
    /// Reads the files of this store.
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Returns a page of files.
    ///
    /// # Errors
    /// Those of the store.
    pub fn page(&self, query: &Query<'_>) -> Result<Page, StoreError> {
        let Query { sort, descending, limit, .. } = *query;
        // One more than the page holds shows whether there are more.
        let wanted = limit + 1;
        let (mut records, total) = if query.name.is_empty() && query.filter.is_none() {
            let after = query.after.as_ref();
            let records =
                self.store.snapshot(|all| sort_index::page(all, sort, after, descending, wanted))?;
            (records, self.store.usage().roots)
        } else {
            let best = self.search(query, wanted)?;
            let records = best.keys.iter().map(|key| self.record(&key.cid));
            let mut records: Vec<_> = records.filter_map(Result::transpose).collect::<Result<_, _>>()?;
            if descending {
                records.reverse();
            }
            (records, best.total)
        };
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(|last| SortKey::of(last, sort));
        Ok(Page { records, next, total })
    }

    /// Returns the files of this very name, in any Unicode form, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn named(&self, name: &str) -> Result<Vec<RootRecord>, StoreError> {
        let key = name_key(name);
        let is_same = |other: &str| other.nfc().eq(name.nfc());
        let mut found: Vec<RootRecord> = Vec::new();
        // Before all CIDs of the name. Names that differ by letter case alone share a key.
        let mut after = (key.clone(), [0; Cid::LEN]);
        loop {
            let page = self.store.snapshot(|all| names(all, Some(&after), LOOKUP_PAGE))?;
            let same = page.iter().take_while(|(other, _)| *other == key).count();
            for (_, cid) in &page[..same] {
                found.extend(self.record(cid)?.filter(|record| record.name.as_deref().is_some_and(is_same)));
            }
            if same < LOOKUP_PAGE {
                found.sort_by_key(|record| Reverse(record.created));
                return Ok(found);
            }
            after.1 = page[same - 1].1;
        }
    }

    /// Reads all names, and the record of each match if the order needs it.
    fn search(&self, query: &Query<'_>, limit: usize) -> Result<Best, StoreError> {
        let part = comparable(&query.name);
        let mut best = Best { keys: BTreeSet::new(), total: 0 };
        let mut after = None;
        loop {
            let page = self.store.snapshot(|all| names(all, after.as_ref(), SEARCH_PAGE))?;
            let Some(last) = page.last().cloned() else { return Ok(best) };
            after = Some(last);
            for (key, cid) in page {
                let accepts =
                    |filter: &dyn Fn(&Cid) -> bool| Cid::from_bytes(&cid).is_ok_and(|cid| filter(&cid));
                if !lower_name(&key).contains(&part) || !query.filter.is_none_or(accepts) {
                    continue;
                }
                let key = match query.sort {
                    Sort::Cid => Some(SortKey { number: 0, text: String::new(), cid }),
                    Sort::Name => Some(SortKey { number: 0, text: key, cid }),
                    Sort::Size | Sort::Created => {
                        self.record(&cid)?.map(|record| SortKey::of(&record, query.sort))
                    }
                };
                if let Some(key) = key {
                    best.offer(key, query, limit);
                }
            }
        }
    }

    /// Returns the record of a root; `None` means that it was removed meanwhile.
    fn record(&self, cid: &CidBytes) -> Result<Option<RootRecord>, StoreError> {
        self.store.snapshot(|all| all.root(cid))
    }
}

/// The first keys behind a position among those that were offered.
struct Best {
    keys: BTreeSet<SortKey>,
    total: u64,
}

impl Best {
    fn offer(&mut self, key: SortKey, query: &Query<'_>, limit: usize) {
        self.total += 1;
        let is_behind = |after: &SortKey| if query.descending { key < *after } else { key > *after };
        if query.after.as_ref().is_none_or(is_behind) {
            self.keys.insert(key);
            if self.keys.len() > limit {
                drop(if query.descending { self.keys.pop_first() } else { self.keys.pop_last() });
            }
        }
    }
}

#[cfg(test)]
mod tests;
