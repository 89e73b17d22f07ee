//! Pages of what is here: of all files, in any order, and of one file's blocks.

use std::{cmp::Ordering, collections::BinaryHeap};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    Node, Reference,
    error::{ErrorCode, NodeError},
    lookup::Found,
    records::describe,
    report::{BlockInfo, BlockKind, BlockList, FileInfo, FileList},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::{RootRecord, Store},
};

/// Roots read at a time.
const PAGE: usize = 512;

/// By what files are sorted; those that are equal in it, by CID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// CID: the order of the index, and the quickest.
    #[default]
    Cid,
    /// Name, letter case aside.
    Name,
    /// Plaintext bytes.
    Size,
    /// When it came here.
    Created,
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
            Sort::Name => (0, record.name.as_deref().unwrap_or_default().to_lowercase()),
            Sort::Size => (record.size.into(), String::new()),
            Sort::Created => (record.created.into(), String::new()),
        };
        Self { number, text, cid: record.cid.to_bytes() }
    }

    /// The order that was asked for.
    fn compare(&self, other: &Self, descending: bool) -> Ordering {
        if descending { other.cmp(self) } else { self.cmp(other) }
    }
}

/// A file that may be on the page; the greatest is the one that goes first when there are too many.
struct Candidate {
    place: Place,
    record: RootRecord,
    descending: bool,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.compare(&other.place, self.descending)
    }
}

impl Node {
    /// A page of the files known here.
    ///
    /// The order of CIDs is read from the index where it stands; any other order looks at every file and keeps no more
    /// than a page of them.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a cursor that belongs to another list, and those of the store.
    pub async fn list(&self, options: ListOptions) -> Result<FileList, NodeError> {
        let after = options.cursor.as_deref().map(parse_cursor).transpose()?;
        self.blocking(move |store| page(store, &options, after.as_ref())).await
    }

    /// A page of the blocks of a file, in their order in its DAG, the root first: at most `limit`, after `cursor` others.
    /// What lies behind a node block that is not here is not known.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where the file's root is not here.
    pub async fn blocks(
        &self,
        reference: &Reference,
        cursor: u64,
        limit: usize,
    ) -> Result<BlockList, NodeError> {
        let Found { link, .. } = self.find(reference).await?;
        self.blocking(move |store| walk(store, link.cid, cursor, limit)).await
    }
}

fn parse_cursor(text: &str) -> Result<Place, NodeError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
        NodeError::new(ErrorCode::BadRequest, "this cursor is none that a list gave out")
            .hint("pass `next` of the page before, or nothing for the first page")
    })
}

fn cursor(place: &Place) -> String {
    BASE64URL_NOPAD.encode(&serde_json::to_vec(place).unwrap_or_default())
}

fn page(store: &Store, options: &ListOptions, after: Option<&Place>) -> Result<FileList, NodeError> {
    let ListOptions { limit, sort, descending, .. } = *options;
    let query = options.query.as_deref().map(str::to_lowercase).filter(|query| !query.is_empty());
    if sort == Sort::Cid && !descending && query.is_none() {
        return page_by_cid(store, limit, after);
    }
    let (mut best, mut total, mut read) = (BinaryHeap::with_capacity(limit + 2), 0, None);
    loop {
        let records = store.roots(read, PAGE)?;
        let Some(last) = records.last() else { break };
        read = Some(last.cid);
        for record in records {
            let name = record.name.as_deref().unwrap_or_default();
            if query.as_ref().is_some_and(|query| !name.to_lowercase().contains(query)) {
                continue;
            }
            total += 1;
            let place = Place::of(&record, sort);
            if after.is_some_and(|after| place.compare(after, descending) != Ordering::Greater) {
                continue;
            }
            best.push(Candidate { place, record, descending });
            if best.len() > limit + 1 {
                best.pop();
            }
        }
    }
    let mut page = best.into_sorted_vec();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|last| cursor(&last.place));
    Ok(FileList { files: describe_all(store, page.iter().map(|one| &one.record))?, next, total })
}

fn page_by_cid(store: &Store, limit: usize, after: Option<&Place>) -> Result<FileList, NodeError> {
    let after = after.map(|place| Cid::from_bytes(&place.cid)).transpose();
    let after = after.map_err(|e| NodeError::new(ErrorCode::BadRequest, format!("cursor: {e}")))?;
    let mut page = store.roots(after, limit + 1)?;
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|last| cursor(&Place::of(last, Sort::Cid)));
    Ok(FileList { files: describe_all(store, page.iter())?, next, total: store.usage().roots })
}

fn describe_all<'a>(
    store: &Store,
    records: impl Iterator<Item = &'a RootRecord> + Clone,
) -> Result<Vec<FileInfo>, NodeError> {
    let cids: Vec<Cid> = records.clone().map(|record| record.cid).collect();
    let missing = store.missing(&cids)?;
    Ok(records.zip(missing).map(|(record, missing)| describe(record, missing)).collect())
}

fn walk(store: &Store, root: Cid, cursor: u64, limit: usize) -> Result<BlockList, NodeError> {
    let block = store.get(&root)?.ok_or_else(|| {
        NodeError::new(ErrorCode::NotFound, format!("the root {root} is not here"))
            .hint("read the file once, or store it here, and its blocks are known")
    })?;
    let mut blocks = Vec::new();
    let mut number = 0;
    let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
    if cursor == 0 {
        blocks.push(BlockInfo { cid: root, len, here: true, kind: BlockKind::Node });
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
            blocks.push(BlockInfo { cid, len, here: store.has(&cid)?, kind });
        }
        if is_node && let Some(block) = store.get(&cid)? {
            open.push((node_block::visible(&block)?, 0));
        }
    }
    Ok(BlockList { blocks, next: None })
}
