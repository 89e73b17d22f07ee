//! Answers that are looked up: which blocks of a root are here, and what this node is.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use crate::{
    content::{
        cid::{Cid, Codec},
        node_block::visible,
    },
    store::Store,
    wire::{MAX_MESSAGE, Response},
};

/// Most blocks that one bitmap can tell of: it has to fit into a message.
const MAX_BLOCKS: usize = (MAX_MESSAGE - 64) * 8;

/// How long one walk may take. Who asks waits no longer than seconds, and a disk that is asked for so many lengths has others
/// to serve.
const LONGEST: Duration = Duration::from_secs(10);

/// Which blocks of a root are here: one bit per block, highest bit first.
pub(super) struct Have {
    pub(super) blocks: u32,
    pub(super) bitmap: Vec<u8>,
}

/// Walks a root in preorder as far as its node blocks are here. What is said to be here is: in its full length on the disk,
/// whatever the index says. Blocks on disk: not for an async thread.
///
/// # Errors
/// Says why there is no answer.
pub(super) fn have(store: &Store, root: &Cid) -> Result<Have, String> {
    let mut bits = Bits::default();
    let until = Instant::now() + LONGEST;
    // What is still to be looked at, the next one last.
    let mut open = vec![*root];
    while let Some(cid) = open.pop() {
        let here = match cid.codec() {
            Codec::Raw => store.holds(&cid).map_err(|e| e.to_string())?,
            Codec::DagCbor => match store.get(&cid) {
                Ok(Some(block)) => {
                    let links = visible(&block).map_err(|e| e.to_string())?.links;
                    open.extend(links.into_iter().rev());
                    true
                }
                _ => false,
            },
        };
        if bits.push(here).is_break() || open.len() > MAX_BLOCKS {
            return Err("too many blocks for one answer".into());
        }
        if bits.count.is_multiple_of(1024) && Instant::now() > until {
            return Err("this takes too long to look up".into());
        }
    }
    Ok(Have { blocks: bits.count, bitmap: bits.bytes })
}

#[derive(Default)]
struct Bits {
    count: u32,
    bytes: Vec<u8>,
}

impl Bits {
    fn push(&mut self, bit: bool) -> ControlFlow<()> {
        if self.count as usize >= MAX_BLOCKS {
            return ControlFlow::Break(());
        }
        if self.count.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (7 - self.count % 8);
        }
        self.count += 1;
        ControlFlow::Continue(())
    }
}

/// What this node says of itself.
pub(super) fn status(store: &Store, region: Option<&str>, capacity: Option<u64>) -> Response {
    let usage = store.usage();
    let used = usage.bytes + usage.pending_bytes;
    let room = capacity.map(|capacity| capacity.saturating_sub(used));
    let free = match (room, store.disk_free()) {
        (Some(room), Some(disk)) => Some(room.min(disk)),
        (room, disk) => room.or(disk),
    };
    Response::Status {
        region: region.map(Into::into),
        capacity,
        free,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}
