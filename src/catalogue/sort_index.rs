//! Tables that list each root under its name, its size and its time.

use std::{iter, ops::Bound};

use redb::{TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::{
    content::cid::Cid,
    store::{RootObserver, RootRecord, Snapshot, StoreError},
};

pub(super) type CidBytes = [u8; Cid::LEN];

const NAME_TABLE: &str = "roots_by_natural_name";
const SIZE_TABLE: &str = "roots_by_size";
const CREATED_TABLE: &str = "roots_by_created";
/// ([`name_key`], CID); the name of a root without one is empty.
const BY_NAME: TableDefinition<(&str, &CidBytes), ()> = TableDefinition::new(NAME_TABLE);
/// (plaintext bytes, CID).
const BY_SIZE: TableDefinition<(u64, &CidBytes), ()> = TableDefinition::new(SIZE_TABLE);
/// (microseconds since 1970, CID).
const BY_CREATED: TableDefinition<(i64, &CidBytes), ()> = TableDefinition::new(CREATED_TABLE);

/// The order of files. Files that are equal in it are ordered by CID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// By CID.
    #[default]
    Cid,
    /// By name, ignoring letter case and the Unicode form; numbers in names are compared by their value.
    Name,
    /// By plaintext bytes.
    Size,
    /// By the time when it came here.
    Created,
}

/// Position of a file in an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SortKey {
    /// Its size or time, in an order by one of them.
    pub number: i128,
    /// The `name_key` of its name, in an order by name.
    pub text: String,
    /// Its CID.
    pub cid: CidBytes,
}

impl SortKey {
    /// Returns the position of a file.
    pub fn of(record: &RootRecord, sort: Sort) -> Self {
        let (number, text) = match sort {
            Sort::Cid => (0, String::new()),
            Sort::Name => (0, sort_name(record)),
            Sort::Size => (record.size.into(), String::new()),
            Sort::Created => (record.created.into(), String::new()),
        };
        Self { number, text, cid: record.cid.to_bytes() }
    }
}

fn sort_name(record: &RootRecord) -> String {
    name_key(record.name.as_deref().unwrap_or_default())
}

/// Returns the text by which a name is ordered: `photo 2` comes before `photo 12`, and letter case is ignored. A name with
/// digits is kept, as [`comparable`] makes it, at its end, after NUL, for searches.
pub(super) fn name_key(name: &str) -> String {
    let lower = comparable(name);
    if !lower.contains(|c: char| c.is_ascii_digit()) {
        return lower;
    }
    let mut key = String::with_capacity(2 * lower.len() + 4);
    let mut rest = lower.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(start);
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let digits = number[..end].trim_start_matches('0');
        key.push_str(before);
        // The count of digits comes first, so that a number with fewer of them is the smaller one: a 9 for every nine, then
        // the rest.
        key.extend(iter::repeat_n('9', digits.len() / 9));
        key.push_str(&(digits.len() % 9).to_string());
        key.push_str(digits);
        rest = &number[end..];
    }
    key.push_str(rest);
    key.push('\0');
    key.push_str(&lower);
    key
}

/// Returns the name in lower case of a [`name_key`].
pub(super) fn lower_name(key: &str) -> &str {
    key.rsplit('\0').next().unwrap_or_default()
}

/// Returns a name in lower case, with composed characters (NFC): file systems and keyboards differ in how they spell `é`.
pub(super) fn comparable(name: &str) -> String {
    name.to_lowercase().nfc().collect()
}

/// Keeps the tables in step with the roots.
#[derive(Debug)]
pub(super) struct SortIndex;

impl RootObserver for SortIndex {
    fn tables(&self) -> &'static [&'static str] {
        &[NAME_TABLE, SIZE_TABLE, CREATED_TABLE]
    }

    fn create(&self, write: &WriteTransaction) -> Result<(), StoreError> {
        write.open_table(BY_NAME)?;
        write.open_table(BY_SIZE)?;
        write.open_table(BY_CREATED)?;
        Ok(())
    }

    fn root_changed(
        &self,
        write: &WriteTransaction,
        old: Option<&RootRecord>,
        new: Option<&RootRecord>,
    ) -> Result<(), StoreError> {
        let mut by_name = write.open_table(BY_NAME)?;
        let mut by_size = write.open_table(BY_SIZE)?;
        let mut by_created = write.open_table(BY_CREATED)?;
        if let Some(old) = old {
            let cid = old.cid.to_bytes();
            by_name.remove((sort_name(old).as_str(), &cid))?;
            by_size.remove((old.size, &cid))?;
            by_created.remove((old.created, &cid))?;
        }
        if let Some(new) = new {
            let cid = new.cid.to_bytes();
            by_name.insert((sort_name(new).as_str(), &cid), ())?;
            by_size.insert((new.size, &cid), ())?;
            by_created.insert((new.created, &cid), ())?;
        }
        Ok(())
    }
}

/// Reads the first CIDs of a table of (key, CID) pairs behind a pair. A function cannot be generic over redb's keys here.
macro_rules! cids {
    ($snapshot:expr, $table:ident, $after:expr, $descending:expr, $limit:expr) => {{
        let table = $snapshot.open_table($table)?;
        let edge = $after.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = if $descending { (Bound::Unbounded, edge) } else { (edge, Bound::Unbounded) };
        let mut range = table.range(bounds)?;
        let next = || if $descending { range.next_back() } else { range.next() };
        let cids = std::iter::from_fn(next).take($limit).map(|item| Ok(*item?.0.value().1));
        cids.collect::<Result<Vec<CidBytes>, StoreError>>()?
    }};
}

/// Returns up to `limit` roots behind `after`.
pub(super) fn page(
    snapshot: &Snapshot<'_>,
    sort: Sort,
    after: Option<&SortKey>,
    descending: bool,
    limit: usize,
) -> Result<Vec<RootRecord>, StoreError> {
    let cids = match sort {
        Sort::Cid => return snapshot.roots(after.map(|at| &at.cid), descending, limit),
        Sort::Name => {
            cids!(snapshot, BY_NAME, after.map(|at| (at.text.as_str(), &at.cid)), descending, limit)
        }
        Sort::Size => {
            let size = |at: &SortKey| u64::try_from(at.number.max(0)).unwrap_or(u64::MAX);
            cids!(snapshot, BY_SIZE, after.map(|at| (size(at), &at.cid)), descending, limit)
        }
        Sort::Created => {
            let created = |at: &SortKey| i64::try_from(at.number).unwrap_or(i64::MAX);
            cids!(snapshot, BY_CREATED, after.map(|at| (created(at), &at.cid)), descending, limit)
        }
    };
    cids.iter().filter_map(|cid| snapshot.root(cid).transpose()).collect()
}

/// Returns up to `limit` [`name_key`]s behind `after`, each with its CID. Reads no records.
pub(super) fn names(
    snapshot: &Snapshot<'_>,
    after: Option<&(String, CidBytes)>,
    limit: usize,
) -> Result<Vec<(String, CidBytes)>, StoreError> {
    let table = snapshot.open_table(BY_NAME)?;
    let edge = after.map_or(Bound::Unbounded, |(name, cid)| Bound::Excluded((name.as_str(), cid)));
    let mut found = Vec::new();
    for item in table.range::<(&str, &CidBytes)>((edge, Bound::Unbounded))?.take(limit) {
        let (key, _) = item?;
        let (name, cid) = key.value();
        found.push((name.to_owned(), *cid));
    }
    Ok(found)
}
