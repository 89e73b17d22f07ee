//! The readable parts of an old index, for a rebuild.
//!
//! Damage may show at any point, also as a panic inside redb. It costs the rows on the pages that it hit: a part of a table
//! that cannot be read is divided until its readable halves are found.

use std::{cell::Cell, collections::VecDeque, path::Path};

use super::{
    INDEX, StoreError,
    index::Index,
    index_check,
    journal::META_BEHIND,
    opening::has_index,
    schema::{Root, TOTALS},
};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
};

/// Rows read at a time.
const PAGE: usize = 256;
/// Parts of a table that are divided at most because they cannot be read.
const MAX_DIVIDED: u32 = 1024;
/// Unreadable parts of one list after which the rest of it is given up.
const MAX_LOST_PARTS: u32 = 64;

/// An index that a rebuild reads. Nothing in it is changed.
pub(super) struct OldIndex {
    index: Option<Index>,
    /// Some part could not be read, so that what is not found may have been there.
    pub(super) is_damaged: Cell<bool>,
}

impl OldIndex {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let with = |index: Option<Index>| Self { is_damaged: Cell::new(index.is_none()), index };
        if !has_index(dir) {
            return Ok(with(None));
        }
        let path = dir.join(INDEX);
        let is_sound = path.is_file()
            && match index_check::check(&path) {
                Err(StoreError::IndexCorrupt(_)) => false,
                checked => checked.map(|()| true)?,
            };
        match Index::look(&path) {
            Ok(index) => Ok(Self { index: Some(index), is_damaged: Cell::new(!is_sound) }),
            Err(StoreError::IndexCorrupt(_) | StoreError::Index(_)) => Ok(with(None)),
            Err(error) => Err(error),
        }
    }

    /// Returns the result of `look`, or nothing if that part cannot be read.
    pub(super) fn read<T: Default>(&self, look: impl FnOnce(&Index) -> Result<T, StoreError>) -> T {
        let Some(index) = &self.index else { return T::default() };
        look(index).unwrap_or_else(|error| self.note(&error))
    }

    fn note<T: Default>(&self, error: &StoreError) -> T {
        tracing::debug!("a part of the old index cannot be read: {error}");
        self.is_damaged.set(true);
        T::default()
    }

    /// Calls `visit` with each short block.
    pub(super) fn each_short_block(
        &self,
        visit: impl FnMut(Digest, Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.each(|index, first, last| index.inline_between(&first, &last, PAGE), visit)
    }

    /// Calls `visit` with each root.
    pub(super) fn each_root(
        &self,
        mut visit: impl FnMut(Root) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        [Codec::Raw, Codec::DagCbor].into_iter().try_for_each(|codec| {
            let page = |index: &Index, first, last| {
                index.roots_between(Cid::new(codec, first), Cid::new(codec, last), PAGE)
            };
            self.each(page, |_, root: Option<Root>| root.map_or(Ok(()), &mut visit))
        })
    }

    /// Calls `visit` with each row of a table. `page` returns the first [`PAGE`] rows from one digest to another. A part
    /// that cannot be read is divided into halves, until the readable parts show that it is too short for a row.
    fn each<T>(
        &self,
        page: impl Fn(&Index, Digest, Digest) -> Result<Vec<(Digest, T)>, StoreError>,
        mut visit: impl FnMut(Digest, T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(index) = &self.index else { return Ok(()) };
        // Of digests, the first 8 bytes.
        let mut parts = VecDeque::from([(0, u64::MAX)]);
        let (mut rows, mut covered, mut divided) = (0, 0, 0);
        while let Some((first, last)) = parts.pop_front() {
            match page(index, bound(first, 0), bound(last, 0xff)).and_then(|rows| in_order(rows, first, last))
            {
                Ok(found) => {
                    let is_full = found.len() == PAGE;
                    let next = found.last().filter(|_| is_full).map(|(digest, _)| start(digest));
                    let next = next.filter(|next| *next > first);
                    covered += u128::from(next.unwrap_or(last) - first);
                    for (digest, row) in found {
                        // The next page begins with these.
                        if Some(start(&digest)) != next {
                            rows += 1;
                            visit(digest, row)?;
                        }
                    }
                    parts.extend(next.map(|next| (next, last)));
                }
                Err(error) => {
                    self.note::<()>(&error);
                    divided += 1;
                    let expected = u128::from(last - first).saturating_mul(rows) / (covered / 8).max(1);
                    if first < last && (expected > 0 || covered == 0) && divided <= MAX_DIVIDED {
                        let middle = first + (last - first) / 2;
                        parts.extend([(first, middle), (middle + 1, last)]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether it lists this block. `false` if that part cannot be read.
    pub(super) fn knew(&self, digest: &Digest) -> bool {
        self.read(|index| index.row(digest)).is_some()
    }

    /// Returns the blocks of a root, as far as its list can be read.
    pub(super) fn list(&self, number: u64) -> Vec<Digest> {
        let mut lost = 0;
        let part = |part| match &self.index {
            Some(index) => index.list(number, part).unwrap_or_else(|error| {
                lost += 1;
                self.note::<()>(&error);
                (lost < MAX_LOST_PARTS).then(Vec::new)
            }),
            None => None,
        };
        (0..).map_while(part).flatten().collect()
    }

    /// Returns all named values of other modules.
    pub(super) fn meta(&self) -> Vec<(String, Vec<u8>)> {
        // One letter at a time: damage to a page costs the values on that page.
        let named = |letter| self.read(|index| index.meta_from(letter));
        let mut all: Vec<_> = (b'a'..=b'z').flat_map(named).collect();
        all.retain(|(name, _)| name != TOTALS && name != META_BEHIND);
        all
    }
}

/// The first digest that starts with these 8 bytes, or with `rest` 0xff the last one.
fn bound(start: u64, rest: u8) -> Digest {
    let mut digest = [rest; 20];
    digest[..8].copy_from_slice(&start.to_be_bytes());
    digest
}

fn start(digest: &Digest) -> u64 {
    digest.first_chunk().map_or(0, |start| u64::from_be_bytes(*start))
}

/// Errors: rows out of order or outside of the part, which only a damaged page has.
fn in_order<T>(rows: Vec<(Digest, T)>, first: u64, last: u64) -> Result<Vec<(Digest, T)>, StoreError> {
    let is_inside = |(digest, _): &(Digest, T)| (first..=last).contains(&start(digest));
    if rows.is_sorted_by(|(a, _), (b, _)| a < b) && rows.iter().all(is_inside) {
        Ok(rows)
    } else {
        Err(StoreError::IndexCorrupt("rows are out of order".into()))
    }
}
