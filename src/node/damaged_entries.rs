//! Which entries of a folder lack blocks on this disk.

use std::collections::HashSet;

use super::{error::NodeError, handles::Wanted};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::{Store, StoreError},
};

/// Maximum number of blocks that are looked at. Entries behind them are taken for complete.
const MAX_BLOCKS: usize = 200_000;

/// Returns for each of `roots` whether a block of it is missing here. Block files are judged by their length.
pub(super) fn lacking(store: &Store, roots: &[Cid], wanted: &Wanted) -> Result<Vec<bool>, NodeError> {
    // Node blocks below which nothing is missing: entries may share them.
    let mut complete = HashSet::new();
    let mut left = MAX_BLOCKS;
    let lacks = |root: &Cid| {
        wanted.check()?;
        lacks(store, *root, &mut complete, &mut left)
    };
    roots.iter().map(lacks).collect()
}

fn lacks(store: &Store, root: Cid, complete: &mut HashSet<Cid>, left: &mut usize) -> Result<bool, NodeError> {
    let mut visited = HashSet::new();
    let mut pending = vec![root];
    while let Some(cid) = pending.pop() {
        if complete.contains(&cid) || !visited.insert(cid) {
            continue;
        }
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        if cid.codec() != Codec::DagCbor {
            if !store.holds(&cid)? {
                return Ok(true);
            }
            continue;
        }
        match store.get(&cid) {
            Ok(Some(block)) => pending.extend(node_block::visible(&block)?.links),
            Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    complete.extend(visited.into_iter().filter(|cid| cid.codec() == Codec::DagCbor));
    Ok(false)
}
