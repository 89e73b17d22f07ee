//! Pages of the files that are known here, in any order, and of the blocks of one file.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::{
    damage_cache::DamageCache,
    error::{ErrorCode, NodeError, Reason},
    handles::Walks,
    places::{PlaceCounts, Places, node_links},
    report::{BlockList, FileInfo, FileList},
};
pub use crate::catalogue::Sort;
use crate::{
    catalogue::{Catalogue, Query, SortKey},
    content::cid::Cid,
    store::{RootRecord, Store},
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
    pub(super) walks: Walks,
    pub(super) counts: Arc<PlaceCounts>,
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
        let (records, next, total) =
            self.damage.store.run(move |store| page(store, options, after, damaged.as_deref())).await?;
        let missing = self.damage.missing(records.iter().map(|record| record.cid).collect()).await?;
        let files = records.iter().zip(missing).map(|(record, missing)| FileInfo::of_record(record, missing));
        Ok(FileList { files: files.collect(), next, total, kept })
    }

    /// Lists a page of the blocks of a root: at most `limit`, after the first `cursor`.
    pub(super) async fn blocks(&self, root: Cid, cursor: u64, limit: usize) -> Result<BlockList, NodeError> {
        let counts = Arc::clone(&self.counts);
        self.walks
            .run(move |store, wanted| {
                let len = store.get(&root)?.ok_or_else(|| root_not_here(&root))?.len();
                let nodes = |cid: &Cid| wanted.check().and_then(|()| node_links(store, cid));
                let page = Places::new(&nodes, &counts).page(root, cursor, limit)?;
                page.map(u32::try_from(len).unwrap_or(u32::MAX), |cid| Ok((store.holds(cid)?, None)))
            })
            .await
    }
}

fn parse_cursor(text: &str) -> Result<SortKey, NodeError> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
        NodeError::new(ErrorCode::BadRequest, "invalid cursor: it does not come from a list")
            .reason(Reason::CursorInvalid)
    })
}

/// Returns the records of a page, the cursor of the next one, and the number of files on all pages.
fn page(
    store: &Store,
    options: ListOptions,
    after: Option<SortKey>,
    damaged: Option<&[(Cid, u64)]>,
) -> Result<(Vec<RootRecord>, Option<String>, u64), NodeError> {
    // `damaged` is sorted.
    let is_wanted = |cid: &Cid| {
        damaged.is_none_or(|damaged| {
            damaged.binary_search_by_key(cid, |(cid, _)| *cid).is_ok()
                == (options.health == HealthFilter::Damaged)
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
    Ok((page.records, next, page.total))
}

fn root_not_here(root: &Cid) -> NodeError {
    NodeError::new(ErrorCode::NotFound, format!("the root block {root} is not on this node"))
        .reason(Reason::RootNotHere)
}
