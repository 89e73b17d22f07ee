//! Answers from the store: which blocks of a root this node has, and its status.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::{
    content::{
        cid::{Cid, Codec},
        node_block::visible,
        preorder::Preorder,
    },
    store::Store,
    wire::{MAX_MESSAGE, Response},
};

/// Maximum blocks of one bitmap, which must fit into a message.
const MAX_BLOCKS: usize = (MAX_MESSAGE - 64) * 8;

/// Maximum duration of one walk. Clients wait only seconds, and the walk takes disk time from others.
const DEADLINE: Duration = Duration::from_secs(10);

/// Walks a root, each node block once, as far as its node blocks are here. A block is here if the disk has its full length,
/// whatever the index says. Blocks the thread on disk reads, until `abandoned` is cancelled.
///
/// Errors: why there is no answer, for the peer.
pub(super) fn have(store: &Store, root: &Cid, abandoned: &CancellationToken) -> Result<Response, String> {
    let mut here = Vec::new();
    let until = Instant::now() + DEADLINE;
    let mut walk = Preorder::new(*root);
    while let Some((cid, _)) = walk.visit_next() {
        here.push(match cid.codec() {
            Codec::Raw => store.holds(&cid).map_err(|e| e.to_string())?,
            Codec::DagCbor => match store.get(&cid) {
                Ok(Some(block)) => {
                    walk.descend(&visible(&block).map_err(|e| e.to_string())?);
                    true
                }
                _ => false,
            },
        });
        if here.len().max(walk.pending().len()) > MAX_BLOCKS {
            return Err("too many blocks for one answer".into());
        }
        let checks = cid.codec() == Codec::DagCbor || here.len().is_multiple_of(1024);
        if checks && (abandoned.is_cancelled() || Instant::now() > until) {
            return Err("the lookup takes too long".into());
        }
    }
    let blocks = u32::try_from(here.len()).expect("at most MAX_BLOCKS");
    Ok(Response::Have { blocks, bitmap: bitmap(&here).into() })
}

/// Packs booleans into bytes, highest bit first.
pub(super) fn bitmap(bits: &[bool]) -> Vec<u8> {
    let byte = |part: &[bool]| part.iter().enumerate().map(|(at, bit)| u8::from(*bit) << (7 - at)).sum();
    bits.chunks(8).map(byte).collect()
}

/// Returns the status that this node reports.
pub(super) fn status(store: &Store, region: Option<&str>, capacity: Option<u64>) -> Response {
    let usage = store.usage();
    let used = usage.bytes + usage.pending_bytes;
    let unused = capacity.map(|capacity| capacity.saturating_sub(used));
    let free = match (unused, store.disk_free()) {
        (Some(unused), Some(disk)) => Some(unused.min(disk)),
        (unused, disk) => unused.or(disk),
    };
    Response::Status {
        region: region.map(Into::into),
        capacity,
        free,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}
