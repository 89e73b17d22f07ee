//! Pages of what is here: of all files, in any order, and of one file's blocks.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    damage_cache::DamageCache,
    error::{ErrorCode, NodeError, Reason},
    report::{BlockInfo, BlockKind, BlockList, FileInfo, FileList},
};
pub use crate::catalogue::Sort;
use crate::{
    catalogue::{Catalogue, Query, SortKey},
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::{RootRecord, Store},
};

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

/// Lists files and blocks, page by page.
pub(super) struct Listing {
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
            self.damage.store.run(move |store| page(store, options, after, damaged.as_deref())).await?;
        Ok(FileList { kept, ..list })
    }

    /// Lists a page of the blocks of a root in preorder: at most `limit`, after the first `cursor`.
    pub(super) async fn blocks(&self, root: Cid, cursor: u64, limit: usize) -> Result<BlockList, NodeError> {
        self.damage.store.run(move |store| walk(store, root, cursor, limit)).await
    }
}

fn parse_cursor(text: &str) -> Result<SortKey, NodeError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
        NodeError::new(ErrorCode::BadRequest, "this cursor is none that a list gave out")
            .reason(Reason::CursorInvalid)
            .hint("pass `next` of the page before, or nothing for the first page")
    })
}

fn cursor(key: &SortKey) -> String {
    BASE64URL_NOPAD.encode(&serde_json::to_vec(key).unwrap_or_default())
}

fn page(
    store: &Store,
    options: ListOptions,
    after: Option<SortKey>,
    damaged: Option<&[Cid]>,
) -> Result<FileList, NodeError> {
    // `damaged` is in the order of CIDs.
    let is_wanted = |cid: &Cid| {
        damaged.is_none_or(|damaged| damaged.binary_search(cid).is_ok() == (options.health == Whole::Damaged))
    };
    let query = Query {
        sort: options.sort,
        descending: options.descending,
        after,
        limit: options.limit,
        name: options.query.unwrap_or_default(),
        filter: damaged.is_some().then_some(&is_wanted),
    };
    let page = Catalogue::new(store).page(&query)?;
    let next = page.next.as_ref().map(cursor);
    Ok(FileList { files: describe_all(store, page.records.iter())?, next, total: page.total, kept: None })
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
