//! Pages of the files that are known here, in any order, and of the blocks of one file.

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
    store::Store,
};

/// Selects files by their blocks on this disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthFilter {
    /// All files.
    #[default]
    All,
    /// Files that lack no blocks here; a file that is not kept lacks none.
    Ok,
    /// Kept files that lack blocks here.
    Damaged,
}

/// Options of [`Node::list`](super::Node::list).
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// [`FileList::next`] of the previous page with the same options; `None` means the first page.
    pub cursor: Option<String>,
    /// Maximum number of files.
    pub limit: usize,
    /// Only names that contain this text, ignoring case.
    pub query: Option<String>,
    /// Selects files by their blocks here. Anything but `All` checks every block file.
    pub health: HealthFilter,
    /// The order.
    pub sort: Sort,
    /// Whether the order is reversed.
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
            HealthFilter::All => None,
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
        NodeError::new(ErrorCode::BadRequest, "invalid cursor: it does not come from a list")
            .reason(Reason::CursorInvalid)
    })
}

fn page(
    store: &Store,
    options: ListOptions,
    after: Option<SortKey>,
    damaged: Option<&[Cid]>,
) -> Result<FileList, NodeError> {
    // `damaged` is sorted.
    let is_wanted = |cid: &Cid| {
        damaged.is_none_or(|damaged| {
            damaged.binary_search(cid).is_ok() == (options.health == HealthFilter::Damaged)
        })
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
    let next = page.next.map(|key| BASE64URL_NOPAD.encode(&serde_json::to_vec(&key).unwrap_or_default()));
    let cids: Vec<Cid> = page.records.iter().map(|record| record.cid).collect();
    let files = page.records.iter().zip(store.missing(&cids)?);
    let files = files.map(|(record, missing)| FileInfo::of_record(record, missing)).collect();
    Ok(FileList { files, next, total: page.total, kept: None })
}

fn walk(store: &Store, root: Cid, cursor: u64, limit: usize) -> Result<BlockList, NodeError> {
    let block = store.get(&root)?.ok_or_else(|| {
        NodeError::new(ErrorCode::NotFound, format!("the root block {root} is not on this node"))
            .reason(Reason::RootNotHere)
    })?;
    let mut blocks = Vec::new();
    let mut number = 0;
    let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
    if cursor == 0 {
        blocks.push(BlockInfo { cid: root, len, here: true, kind: BlockKind::Node, holders: None });
    }
    // Opened node blocks, each with the index of its next link.
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
