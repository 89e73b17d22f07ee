//! Pages of what is here: of all files, in any order, and of one file's blocks.

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    damage_cache::DamageCache,
    error::{ErrorCode, NodeError, Reason},
    handles::BlockingStore,
    report::{BlockInfo, BlockKind, BlockList, FileInfo, FileList},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::{Order, RootRecord, Standing, Store, sort_name},
};

/// Names looked at at a time.
const PAGE: usize = 4096;

/// By what files are sorted; those that are equal in it, by CID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// CID.
    #[default]
    Cid,
    /// Name, letter case aside.
    Name,
    /// Plaintext bytes.
    Size,
    /// When it came here.
    Created,
}

/// Which files, by what of them is on this disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// All files.
    #[default]
    All,
    /// Those that lack no block here; files that are only known have none to lack.
    Ok,
    /// Kept files with blocks that are not here.
    Damaged,
}

/// Which files [`Node::list`] lists.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Goes on from here: [`FileList::next`] of the page before, with the same options.
    pub cursor: Option<String>,
    /// Files at most.
    pub limit: usize,
    /// Only names that contain this, letter case aside.
    pub query: Option<String>,
    /// Only files that are whole here, or that are not. Looks for every block of every file, by its name and length.
    pub health: Whole,
    /// The order.
    pub sort: Sort,
    /// Whether the order is turned round.
    pub descending: bool,
}

/// Where a file stands in an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    number: i128,
    text: String,
    cid: [u8; Cid::LEN],
}

impl Place {
    fn of(record: &RootRecord, sort: Sort) -> Self {
        let (number, text) = match sort {
            Sort::Cid => (0, String::new()),
            Sort::Name => (0, sort_name(record)),
            Sort::Size => (record.size.into(), String::new()),
            Sort::Created => (record.created.into(), String::new()),
        };
        Self { number, text, cid: record.cid.to_bytes() }
    }
}

impl From<&Place> for Standing {
    fn from(place: &Place) -> Self {
        Self { number: place.number, text: place.text.clone(), cid: place.cid }
    }
}

impl From<Sort> for Order {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Cid => Self::Cid,
            Sort::Name => Self::Name,
            Sort::Size => Self::Size,
            Sort::Created => Self::Created,
        }
    }
}

/// The first so many places of those that were offered, one way or the other.
struct Best {
    limit: usize,
    descending: bool,
    after: Option<Place>,
    ascending: BTreeSet<Place>,
    total: u64,
}

impl Best {
    fn offer(&mut self, place: Place) {
        self.total += 1;
        let beyond = |after: &Place| if self.descending { place < *after } else { place > *after };
        if self.after.as_ref().is_none_or(beyond) {
            self.ascending.insert(place);
            if self.ascending.len() > self.limit {
                let worst =
                    if self.descending { self.ascending.pop_first() } else { self.ascending.pop_last() };
                drop(worst);
            }
        }
    }

    fn places(self) -> Vec<Place> {
        let ascending = self.ascending.into_iter();
        if self.descending { ascending.rev().collect() } else { ascending.collect() }
    }
}

/// Lists files and blocks, page by page.
pub(super) struct Listing {
    pub(super) store: BlockingStore,
    pub(super) damage: DamageCache,
}

impl Listing {
    /// Lists a page of the files known here.
    pub(super) async fn files(&self, options: ListOptions) -> Result<FileList, NodeError> {
        let after = options.cursor.as_deref().map(parse_cursor).transpose()?;
        let summary = match options.health {
            Whole::All => None,
            _ => Some(self.damage.summary().await?),
        };
        let kept = summary.as_ref().map(|summary| summary.kept);
        let damaged = summary.map(|summary| summary.damaged);
        let list =
            self.store.run(move |store| page(store, &options, damaged.as_deref(), after.as_ref())).await?;
        Ok(FileList { kept, ..list })
    }

    /// Lists a page of the blocks of a root in preorder: at most `limit`, after the first `cursor`.
    pub(super) async fn blocks(&self, root: Cid, cursor: u64, limit: usize) -> Result<BlockList, NodeError> {
        self.store.run(move |store| walk(store, root, cursor, limit)).await
    }
}

fn parse_cursor(text: &str) -> Result<Place, NodeError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
        NodeError::new(ErrorCode::BadRequest, "this cursor is none that a list gave out")
            .reason(Reason::CursorInvalid)
            .hint("pass `next` of the page before, or nothing for the first page")
    })
}

fn cursor(place: &Place) -> String {
    BASE64URL_NOPAD.encode(&serde_json::to_vec(place).unwrap_or_default())
}

fn page(
    store: &Store,
    options: &ListOptions,
    damaged: Option<&[Cid]>,
    after: Option<&Place>,
) -> Result<FileList, NodeError> {
    let ListOptions { limit, sort, descending, health, .. } = *options;
    let query = options.query.as_deref().map(str::to_lowercase).filter(|query| !query.is_empty());
    // One more than is shown tells whether there are more.
    let wanted = limit + 1;
    let (mut records, total) = if query.is_none() && damaged.is_none() {
        let after = after.map(Standing::from);
        (store.roots_by(sort.into(), after.as_ref(), descending, wanted)?, store.usage().roots)
    } else {
        let best =
            Best { limit: wanted, descending, after: after.cloned(), ascending: BTreeSet::new(), total: 0 };
        let query = query.as_deref().unwrap_or_default();
        // In the order of CIDs, as the census left them.
        let is_wanted = |cid: &Cid| {
            damaged.is_none_or(|damaged| damaged.binary_search(cid).is_ok() == (health == Whole::Damaged))
        };
        let best = search(store, sort, best, query, &is_wanted)?;
        let total = best.total;
        let records = best.places().into_iter().map(|place| record(store, &place.cid));
        (records.collect::<Result<Vec<_>, NodeError>>()?.into_iter().flatten().collect(), total)
    };
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|last| cursor(&Place::of(last, sort)));
    Ok(FileList { files: describe_all(store, records.iter())?, next, total, kept: None })
}

/// Looks at every name, and only at the records of those that match where the order needs them.
fn search(
    store: &Store,
    sort: Sort,
    mut best: Best,
    query: &str,
    is_wanted: &dyn Fn(&Cid) -> bool,
) -> Result<Best, NodeError> {
    let mut after = None;
    loop {
        let names = store.names(after.as_ref(), PAGE)?;
        let Some(last) = names.last().cloned() else { return Ok(best) };
        after = Some(last);
        for (name, bytes) in names {
            if !name.contains(query) || !Cid::from_bytes(&bytes).is_ok_and(|cid| is_wanted(&cid)) {
                continue;
            }
            let place = match sort {
                Sort::Cid => Some(Place { number: 0, text: String::new(), cid: bytes }),
                Sort::Name => Some(Place { number: 0, text: name, cid: bytes }),
                Sort::Size | Sort::Created => record(store, &bytes)?.map(|record| Place::of(&record, sort)),
            };
            if let Some(place) = place {
                best.offer(place);
            }
        }
    }
}

/// What is kept of a root; none where it was removed meanwhile.
fn record(store: &Store, cid: &[u8; Cid::LEN]) -> Result<Option<RootRecord>, NodeError> {
    match Cid::from_bytes(cid) {
        Ok(cid) => Ok(store.root(&cid)?),
        Err(_) => Ok(None),
    }
}

fn describe_all<'a>(
    store: &Store,
    records: impl Iterator<Item = &'a RootRecord> + Clone,
) -> Result<Vec<FileInfo>, NodeError> {
    let cids: Vec<Cid> = records.clone().map(|record| record.cid).collect();
    let missing = store.missing(&cids)?;
    Ok(records.zip(missing).map(|(record, missing)| FileInfo::of_record(record, missing)).collect())
}

fn walk(store: &Store, root: Cid, cursor: u64, limit: usize) -> Result<BlockList, NodeError> {
    let block = store.get(&root)?.ok_or_else(|| {
        NodeError::new(ErrorCode::NotFound, format!("the root {root} is not here"))
            .reason(Reason::RootNotHere)
            .hint("read the file once, or store it here, and its blocks are known")
    })?;
    let mut blocks = Vec::new();
    let mut number = 0;
    let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
    if cursor == 0 {
        blocks.push(BlockInfo { cid: root, len, here: true, kind: BlockKind::Node, holders: None });
    }
    // Node blocks that have been opened, and how far each has been read.
    let mut open = vec![(node_block::visible(&block)?, 0)];
    while let Some((node, at)) = open.last_mut() {
        let (Some(cid), Some(len)) = (node.links.get(*at).copied(), node.lens.get(*at).copied()) else {
            open.pop();
            continue;
        };
        *at += 1;
        number += 1;
        let is_node = cid.codec() == Codec::DagCbor;
        if number >= cursor {
            if blocks.len() == limit {
                return Ok(BlockList { blocks, next: Some(number.to_string()) });
            }
            let kind = if is_node { BlockKind::Node } else { BlockKind::Data };
            blocks.push(BlockInfo { cid, len, here: store.holds(&cid)?, kind, holders: None });
        }
        if is_node && let Some(block) = store.get(&cid)? {
            open.push((node_block::visible(&block)?, 0));
        }
    }
    Ok(BlockList { blocks, next: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RootKind, StoreOptions};

    const FILES: u64 = 100_000;

    fn file(number: u64) -> RootRecord {
        let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        RootRecord {
            cid: Cid::of(Codec::DagCbor, &number.to_le_bytes()),
            key: None,
            kind: RootKind::File,
            name: (!number.is_multiple_of(10))
                .then(|| format!("File {:05}.{}", scattered % FILES, number % 7)),
            size: scattered % 1000,
            blocks: 1,
            stored_len: 1,
            media_type: None,
            created: i64::try_from(scattered >> 20).expect("small"),
            pinned: false,
            owner: Vec::new(),
            public: false,
        }
    }

    #[test]
    fn a_page_of_a_hundred_thousand_files_reads_a_page_of_records() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path())).expect("opened");
        let mut files: Vec<RootRecord> = (0..FILES).map(file).collect();
        store.add_roots(files.clone());
        // Listed again under another name: it has one place.
        files[7].name = Some("renamed".into());
        store.add_roots(vec![files[7].clone()]);
        store.remove_root(&files[8].cid).expect("removed");
        files.remove(8);
        for sort in [Sort::Cid, Sort::Name, Sort::Size, Sort::Created] {
            files.sort_by_key(|file| Place::of(file, sort));
            for descending in [false, true] {
                let mut options = ListOptions { limit: 100, sort, descending, ..ListOptions::default() };
                let in_order = |at: usize| &files[if descending { files.len() - 1 - at } else { at }];
                let mut after = None;
                for first in [0, 100, 200] {
                    let before = store.records_read();
                    let list = page(&store, &options, None, after.as_ref()).expect("a page");
                    assert!(
                        store.records_read() - before <= 101,
                        "{sort:?}: {}",
                        store.records_read() - before
                    );
                    assert_eq!(list.total, FILES - 1);
                    for (at, found) in list.files.iter().enumerate() {
                        assert_eq!(found.cid, in_order(first + at).cid, "{sort:?} {descending} {at}");
                    }
                    after = list.next.as_deref().map(|next| parse_cursor(next).expect("a cursor"));
                }
                // From the middle of the order, too.
                let middle = Place::of(in_order(50_000), sort);
                let list = page(&store, &options, None, Some(&middle)).expect("a page");
                assert_eq!(list.files[0].cid, in_order(50_001).cid, "{sort:?} {descending}");
                // Whoever searches reads the records that match, twice at most.
                options.query = Some("012".into());
                let name = |file: &&RootRecord| sort_name(file).contains("012");
                let matching = files.iter().filter(name).count() as u64;
                let before = store.records_read();
                let list = page(&store, &options, None, None).expect("a page");
                assert!(matching > 20 && list.total == matching, "{matching}");
                assert!(store.records_read() - before <= 2 * matching);
                let mut wanted: Vec<_> = files.iter().filter(name).map(|file| file.cid).collect();
                if descending {
                    wanted.reverse();
                }
                wanted.truncate(100);
                assert_eq!(list.files.iter().map(|file| file.cid).collect::<Vec<_>>(), wanted);
            }
        }
    }
}
