//! Roots whose lists of blocks may not be whole.
//!
//! A rebuild finds what a root needs by its node blocks. What is below one that is missing or damaged, nobody can say then,
//! unless an old index lists it: the root is torn there. When the node block is back, the list is completed; until then
//! nothing that the rebuild found, and that no list names, is removed: it may be just that.

use std::{
    collections::{HashSet, VecDeque},
    sync::PoisonError,
};

use redb::{ReadableTable, TableDefinition, TableError};

use super::{
    RootRecord, Store, StoreError,
    index::{BLOCKS, Index, Place, Row, decode_root},
    tables::{Arrival, Tables},
    unix_ms,
};
use crate::content::{
    cid::{Cid, Codec},
    hash::Digest,
    node_block::{self, Visible},
};

/// (digest of a node block that is missing, root).
pub(super) const TORN: TableDefinition<(&[u8; 20], &[u8; Cid::LEN]), ()> = TableDefinition::new("torn");
/// Blocks held in one change.
const BATCH: usize = 256;

/// What was found of a DAG from some block down.
#[derive(Default)]
pub(super) struct Walked {
    /// All blocks, with their lengths where they are known.
    pub(super) blocks: Vec<Arrival>,
    /// Node blocks that could not be read, so that nobody knows what is below.
    pub(super) torn: Vec<Digest>,
}

impl Store {
    /// Finds all blocks from `top` down, as far as node blocks are here.
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
                    Ok(None) | Err(StoreError::Corrupt { .. }) => walked.torn.push(digest),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(walked)
    }

    /// Completes the lists of torn roots, as far as their node blocks are back. A crash on the way loses nothing: what is
    /// not completed stays torn, and is tried again when the store opens next.
    pub(super) fn mend_torn(&self) -> Result<(), StoreError> {
        if self.usage().torn == 0 {
            return Ok(());
        }
        let _turn = self.inner.mending.lock().unwrap_or_else(PoisonError::into_inner);
        // What is found below may have come back meanwhile.
        let mut goes_on = true;
        while std::mem::take(&mut goes_on) {
            for (digest, root) in self.inner.index.torn_here()? {
                let walked = self.walk(Cid::new(Codec::DagCbor, digest))?;
                if walked.torn.contains(&digest) {
                    continue;
                }
                goes_on = true;
                self.inner.writer.run(move |tables| tables.mend(&digest, &root, &walked, unix_ms()))?;
            }
        }
        self.finish_removals()
    }

    /// As [`Store::mend_torn`], where something has been stored: that it is stored does not depend on this.
    pub(super) fn try_to_mend_torn(&self) {
        if let Err(error) = self.mend_torn() {
            tracing::warn!("lists of blocks wait for the next start to be completed: {error}");
        }
    }

    /// Where a root is torn, keeps all blocks that no list names, until none is.
    pub(super) fn hold_unlisted(&self) -> Result<(), StoreError> {
        while self.usage().torn > 0 {
            let digests = self.inner.index.unreferenced(Row::HELD - 1, BATCH)?;
            if digests.is_empty() {
                break;
            }
            self.inner.writer.run(move |tables| digests.iter().try_for_each(|digest| tables.hold(digest)))?;
        }
        Ok(())
    }
}

impl Index {
    /// Node blocks below which roots are torn, and which are here by now.
    fn torn_here(&self) -> Result<Vec<(Digest, Cid)>, StoreError> {
        self.file.read(|read| {
            let torn = match read.open_table(TORN) {
                // An index of an earlier version.
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                torn => torn.map_err(StoreError::index)?,
            };
            let blocks = read.open_table(BLOCKS).map_err(StoreError::index)?;
            let mut here = Vec::new();
            for item in torn.iter().map_err(StoreError::index)? {
                let (key, _) = item.map_err(StoreError::index)?;
                let (digest, root) = key.value();
                let row = blocks.get(digest).map_err(StoreError::index)?;
                if row.is_some_and(|row| Row::decode(&row.value()).place != Place::Missing)
                    && let Ok(root) = Cid::from_bytes(root)
                {
                    here.push((*digest, root));
                }
            }
            Ok(here)
        })
    }
}

impl Tables<'_> {
    /// Lists a root with what a walk has found of it.
    pub(super) fn add_walked(
        &mut self,
        record: &RootRecord,
        walked: &Walked,
        now: u64,
    ) -> Result<(), StoreError> {
        // Also of what was here when it was walked: it may have gone since.
        walked.blocks.iter().try_for_each(|block| self.lack(block, now))?;
        let digests: Vec<Digest> = walked.blocks.iter().map(|block| block.digest).collect();
        self.add_root(record, &digests, now)?;
        let root = record.cid.to_bytes();
        for digest in &walked.torn {
            let known = self.torn.insert((digest, &root), ()).map_err(StoreError::index)?;
            self.stats.torn += u64::from(known.is_none());
        }
        Ok(())
    }

    /// Completes the list of a root with what is below a node block that is back.
    fn mend(&mut self, digest: &Digest, root: &Cid, walked: &Walked, now: u64) -> Result<(), StoreError> {
        let key = root.to_bytes();
        let torn = self.torn.remove((digest, &key)).map_err(StoreError::index)?.is_some();
        self.stats.torn = self.stats.torn.saturating_sub(u64::from(torn));
        let listed = match self.roots.get(&key).map_err(StoreError::index)? {
            Some(bytes) => Some(decode_root(bytes.value())?.record),
            None => None,
        };
        match listed.filter(|record| torn && record.pinned) {
            Some(record) => self.add_walked(&record, walked, now),
            // Removed meanwhile, or mended.
            None => Ok(()),
        }
    }

    /// Nobody waits for what is below a root that is removed.
    pub(super) fn forget_torn(&mut self, root: &Cid) -> Result<(), StoreError> {
        if self.stats.torn > 0 {
            let key = root.to_bytes();
            let mut gone = 0;
            let retained = self.torn.retain(|(_, torn), ()| {
                gone += u64::from(*torn == key);
                *torn != key
            });
            retained.map_err(StoreError::index)?;
            self.stats.torn = self.stats.torn.saturating_sub(gone);
        }
        Ok(())
    }
}
