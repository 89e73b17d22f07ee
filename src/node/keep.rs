//! Keeping a file that was only read: its blocks are stored for good, and it is listed and announced like a file that was
//! stored here.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use libp2p::PeerId;

use super::{
    announcements::Announcements,
    clock::unix_micros,
    damage_cache::DamageCache,
    error::NodeError,
    handles::Tasks,
    lookup::Found,
    read::{Reads, Source},
    report::{Event, FileInfo},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::{PutMode, RootRecord, Upload},
    wire::MAX_BLOCK,
};

/// Blocks fetched and stored at the same time.
const CONCURRENT: usize = 16;

/// Keeps files.
#[derive(Clone)]
pub(super) struct Keeping {
    pub(super) reads: Reads,
    pub(super) announcements: Announcements,
    pub(super) damage: DamageCache,
    pub(super) owner: PeerId,
}

/// A block to store.
struct Wanted {
    cid: Cid,
    len: Option<u32>,
    /// Whether it is the last of several chunks.
    is_last: bool,
}

/// A stored block: its length, and the blocks that it lists.
struct Stored {
    len: u64,
    below: Vec<Wanted>,
}

impl Keeping {
    /// Keeps a file. No effect on one that is kept already. Goes on if the caller stops waiting.
    pub(super) async fn keep(&self, found: Found) -> Result<FileInfo, NodeError> {
        let (this, Tasks { tracker, stop }) = (self.clone(), self.reads.tasks.clone());
        let kept = tracker.spawn(async move { stop.run_until_cancelled(this.store_and_list(found)).await });
        kept.await.map_err(|_| NodeError::worker_failed())?.ok_or_else(NodeError::shutting_down)?
    }

    async fn store_and_list(&self, found: Found) -> Result<FileInfo, NodeError> {
        let Found { link, record, .. } = found;
        if let Some(kept) = record.filter(|record| record.pinned) {
            let missing = self.damage.missing(vec![kept.cid]).await?;
            return Ok(FileInfo::of_record(&kept, missing.first().copied().unwrap_or(0)));
        }
        let opened = self.reads.open(&link, None).await?;
        let info = opened.describe();
        let mut record = RootRecord {
            cid: link.cid,
            public: link.key.is_none(),
            key: link.key,
            kind: info.kind.into(),
            name: info.name,
            size: opened.metadata().size,
            blocks: 0,
            stored_len: 0,
            media_type: info.media_type,
            created: unix_micros(),
            pinned: true,
            owner: self.owner.to_bytes(),
        };
        let mode = if record.public { PutMode::Compare } else { PutMode::Sealed };
        let upload = Arc::new(self.reads.store.0.upload());
        let stored = self.store_blocks(&upload, link.cid, mode).await;
        // Also after an error, because an upload lists its blocks when it ends.
        let record = self.reads.store.run(move |_| {
            (record.blocks, record.stored_len) = stored?;
            upload.commit(record.clone())?;
            Ok(record)
        });
        let record = record.await?;
        self.damage.invalidate();
        self.announcements.announce(record.cid).await;
        self.reads.events.emit(Event::Stored { cid: record.cid, size: record.size });
        Ok(FileInfo::of_record(&record, 0))
    }

    /// Stores the blocks of a root, each once. Returns the number of their places, and the bytes in all places. A node block
    /// that occurs again counts as one place.
    async fn store_blocks(
        &self,
        upload: &Arc<Upload>,
        root: Cid,
        mode: PutMode,
    ) -> Result<(u64, u64), NodeError> {
        let source = self.reads.source(root, self.reads.timeout);
        let mut pending = vec![Wanted { cid: root, len: None, is_last: false }];
        let (mut seen, mut blocks, mut bytes) = (HashSet::from([root]), 1, 0);
        while !pending.is_empty() {
            let next = pending.split_off(pending.len().saturating_sub(CONCURRENT));
            let stored: Vec<Stored> = stream::iter(next.into_iter().rev())
                .map(|wanted| self.store_block(&source, upload, wanted, mode))
                .buffered(CONCURRENT)
                .try_collect()
                .await?;
            for Stored { len, below } in stored {
                // The lengths of all others are in the blocks that list them.
                bytes += if blocks == 1 { len } else { 0 };
                blocks += below.len() as u64;
                bytes += below.iter().map(|wanted| u64::from(wanted.len.unwrap_or(0))).sum::<u64>();
                pending.extend(below.into_iter().rev().filter(|wanted| seen.insert(wanted.cid)));
            }
        }
        Ok((blocks, bytes))
    }

    async fn store_block(
        &self,
        source: &Source,
        upload: &Arc<Upload>,
        Wanted { cid, len, is_last }: Wanted,
        mode: PutMode,
    ) -> Result<Stored, NodeError> {
        let _memory = source.reserve_memory(len.unwrap_or(MAX_BLOCK)).await;
        let block = source.block(&cid, len).await?;
        let upload = Arc::clone(upload);
        self.reads
            .store
            .run(move |_| {
                let put = if is_last { Upload::put_last } else { Upload::put };
                put(&upload, &cid, &block, mode)?;
                let below = if cid.codec() == Codec::DagCbor { below(&block)? } else { Vec::new() };
                Ok(Stored { len: block.len() as u64, below })
            })
            .await
    }
}

/// Returns the blocks that a node block lists.
fn below(block: &[u8]) -> Result<Vec<Wanted>, NodeError> {
    let node_block::Visible { links, lens, .. } = node_block::visible(block)?;
    let last = links.len().saturating_sub(1);
    let wanted = |(at, (cid, len)): (usize, (Cid, u32))| {
        let is_last = at > 0 && at == last && cid.codec() == Codec::Raw;
        Wanted { cid, len: Some(len), is_last }
    };
    Ok(links.into_iter().zip(lens).enumerate().map(wanted).collect())
}
