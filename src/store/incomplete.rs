//! Roots whose lists of blocks are incomplete.
//!
//! A rebuild finds the blocks of a root through its node blocks. If a node block is missing or damaged, the blocks below
//! it are unknown, unless an old index lists them: the root is incomplete. Its list is completed when the node block comes
//! back. Until then, no block that the rebuild found and that no list names is removed, because the root may need it.

use std::{
    collections::{HashSet, VecDeque},
    sync::PoisonError,
};

use super::{
    Store, StoreError,
    schema::{Arrival, Row, unix_ms},
    tables::Walked,
};
use crate::content::{
    cid::{Cid, Codec},
    node_block::{self, Visible},
};

/// Blocks held in one change.
const BATCH: usize = 256;

impl Store {
    /// Finds all blocks from `top` down, as far as their node blocks are here.
    pub(super) fn walk(&self, top: Cid) -> Result<Walked, StoreError> {
        let mut walked = Walked::default();
        let mut queue = VecDeque::from([(top, 0)]);
        let mut seen = HashSet::from([top]);
        while let Some((cid, len)) = queue.pop_front() {
            let digest = *cid.digest();
            let row = self.inner.index.row(&digest)?;
            let len = row.map_or(len, |row| row.len);
            walked.blocks.push(Arrival { digest, codec: cid.codec(), len, inline: None });
            if cid.codec() == Codec::DagCbor {
                match self.get(&cid) {
                    Ok(Some(bytes)) => {
                        if let Ok(Visible { links, lens, .. }) = node_block::visible(&bytes) {
                            let below = links.into_iter().zip(lens);
                            queue.extend(below.filter(|(link, _)| seen.insert(*link)));
                        }
                    }
                    Ok(None) | Err(StoreError::Corrupt { .. }) => walked.unread.push(digest),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(walked)
    }

    /// Completes the lists of roots whose node blocks have come back. After a crash on the way, the next start tries the
    /// rest again.
    pub(super) fn complete_roots(&self) -> Result<(), StoreError> {
        if self.usage().incomplete == 0 {
            return Ok(());
        }
        let _guard = self.inner.completing.lock().unwrap_or_else(PoisonError::into_inner);
        // A node block below may have come back meanwhile.
        let mut goes_on = true;
        while std::mem::take(&mut goes_on) {
            for (digest, root) in self.inner.index.incomplete_here()? {
                let walked = self.walk(Cid::new(Codec::DagCbor, digest))?;
                if walked.unread.contains(&digest) {
                    continue;
                }
                goes_on = true;
                self.inner
                    .writer
                    .run(move |tables| tables.complete_root(&digest, &root, &walked, unix_ms()))?;
            }
        }
        self.finish_removals()
    }

    /// As [`Store::complete_roots`], but logs an error: the caller has stored something, and that does not depend on this.
    pub(super) fn try_to_complete_roots(&self) {
        if let Err(error) = self.complete_roots() {
            tracing::warn!("incomplete lists of blocks are completed at the next start: {error}");
        }
    }

    /// If any root is incomplete, exempts all unreferenced blocks from collection until none is.
    pub(super) fn hold_unlisted(&self) -> Result<(), StoreError> {
        while self.usage().incomplete > 0 {
            let digests = self.inner.index.unreferenced(0..=Row::HELD - 1, BATCH)?;
            if digests.is_empty() {
                break;
            }
            self.inner.writer.run(move |tables| digests.iter().try_for_each(|digest| tables.hold(digest)))?;
        }
        Ok(())
    }
}
