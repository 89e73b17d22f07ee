//! The source of the blocks of a read: the store and, in a node with a network, the providers.

use std::{future::ready, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    content::{
        ContentError,
        cid::Cid,
        decoder::{DirTree, FileTree, Placed, Root, Step, open_root},
        encoder::DirEntry,
        link::Link,
        seal::{Entry, open_chunk},
    },
    fetch::{READ_AHEAD, Session},
    node::{
        error::{ErrorCode, NodeError, Reason},
        handles::BlockingStore,
        network::Network,
    },
};

/// Time limit for finding another copy of a block that its key does not open.
const OTHER_COPIES_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of copies of one block that are tried.
const MAX_COPIES: usize = 4;

/// Position and plaintext of a chunk.
pub(super) struct Chunk {
    /// Offset in the file, in bytes.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    /// Counts the plaintext as memory of the readers.
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// Blocks of one root. Cheap to clone.
#[derive(Clone)]
pub(in crate::node) enum Source {
    /// The store first, then every provider of the root.
    Swarm(Session),
    /// The store alone: the node is offline.
    Local(BlockingStore),
}

impl Source {
    pub(super) fn new(
        network: Option<&Arc<Network>>,
        store: &BlockingStore,
        root: Cid,
        timeout: Duration,
    ) -> Self {
        match network {
            Some(network) => Self::Swarm(network.fetcher.session(root, timeout)),
            None => Self::Local(store.clone()),
        }
    }

    /// Returns one block, checked against its CID.
    pub(in crate::node) async fn block(&self, cid: &Cid, len: Option<u32>) -> Result<Vec<u8>, NodeError> {
        match self {
            Self::Swarm(session) => Ok(session.block(cid, len).await?),
            Self::Local(store) => {
                let cid = *cid;
                store.run(move |store| Ok(store.get(&cid)?)).await?.ok_or_else(|| {
                    let message = format!("block {cid} is not on this node, which is offline");
                    NodeError::new(ErrorCode::NotFound, message).reason(Reason::Offline)
                })
            }
        }
    }

    /// Rejects a block that matches its CID and not its key or parent, which SHA-1 alone cannot rule out. If a peer has just
    /// sent it, the block is dropped and that peer is not asked again. Returns whether another try makes sense.
    async fn reject(&self, cid: &Cid) -> bool {
        match self {
            Self::Swarm(session) => session.reject(cid).await,
            Self::Local(_) => false,
        }
    }

    /// Fetches a block and passes it to `accept`. If that finds it forged, tries other copies; if none is accepted, returns the
    /// first error, because a wrong key says more than a missing copy.
    async fn accepted<T, F>(
        &self,
        cid: &Cid,
        len: Option<u32>,
        mut accept: impl FnMut(Vec<u8>) -> F,
    ) -> Result<T, NodeError>
    where
        F: Future<Output = Result<Result<T, ContentError>, NodeError>>,
    {
        let found = match accept(self.block(cid, len).await?).await? {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        let until = Instant::now() + OTHER_COPIES_TIMEOUT;
        for _ in 1..MAX_COPIES {
            let other = async { if self.reject(cid).await { self.block(cid, len).await.ok() } else { None } };
            let Ok(Some(block)) = timeout_at(until, other).await else { break };
            if let Ok(accepted) = accept(block).await? {
                return Ok(accepted);
            }
        }
        Err(found.into())
    }

    /// Fetches a node block that `accept` finds genuine.
    pub(super) async fn node<T>(
        &self,
        cid: &Cid,
        len: Option<u32>,
        mut accept: impl FnMut(&[u8]) -> Result<T, ContentError>,
    ) -> Result<T, NodeError> {
        self.accepted(cid, len, |block| ready(Ok(accept(&block)))).await
    }

    /// Fetches and opens a root block. A wrong link and a forged block cannot be told apart, so other copies are tried.
    pub(super) async fn root(&self, link: &Link) -> Result<Root, NodeError> {
        let open = |block: &[u8]| match open_root(link, block) {
            // No other copy can be read without the key either.
            Err(ContentError::NoKey) => Ok(None),
            opened => opened.map(Some),
        };
        let opened = self.node(&link.cid, None, open).await.map_err(|error| match error.reason {
            // At the root, the caller gave the wrong key. Below it, the folder itself has a wrong key, which is damage.
            Some(Reason::KeyWrong) => {
                let message = "the read key is wrong: it does not open this file".into();
                NodeError { code: ErrorCode::Denied, message, ..error }
            }
            Some(Reason::Offline) => {
                NodeError { message: "the file is not on this node, which is offline".into(), ..error }
            }
            _ => error,
        });
        Ok(opened?.ok_or(ContentError::NoKey)?)
    }

    /// Returns the chunks of a file, in order, from the position of `tree` up to offset `end`. Reads ahead.
    pub(super) fn chunks(
        &self,
        tree: FileTree,
        end: u64,
    ) -> impl Stream<Item = Result<Chunk, NodeError>> + Send + use<> {
        let source = self.clone();
        self.wanted(tree, end)
            .map_ok(move |Placed { item: entry, offset }| {
                let source = source.clone();
                async move {
                    let memory = source.reserve_memory(entry.len).await;
                    let bytes = source.chunk(&entry).await?;
                    Ok(Chunk { offset, bytes, memory })
                }
            })
            .try_buffered(READ_AHEAD)
    }

    /// Fetches all blocks of a file and drops them. They stay in the store.
    ///
    /// Errors: the first block that is missing or damaged.
    pub(super) async fn check(&self, tree: FileTree) -> Result<(), NodeError> {
        let end = tree.metadata().size;
        let blocks = self.wanted(tree, end).map_ok(|Placed { item: entry, .. }| async move {
            let _memory = self.reserve_memory(entry.len).await;
            self.block(&entry.cid, Some(entry.len)).await.map(drop)
        });
        blocks.try_buffered(READ_AHEAD).try_for_each(|()| ready(Ok(()))).await
    }

    /// Lists the chunks of a file from the position of `tree` up to offset `end`. Fetches list nodes on the way.
    fn wanted(
        &self,
        tree: FileTree,
        end: u64,
    ) -> impl Stream<Item = Result<Placed<Entry>, NodeError>> + Send + use<> {
        stream::try_unfold((self.clone(), tree), move |(source, mut tree)| async move {
            loop {
                match tree.step()? {
                    Step::Item(chunk) if chunk.offset < end => return Ok(Some((chunk, (source, tree)))),
                    Step::Need { cid, len } => source.node(&cid, Some(len), |block| tree.feed(block)).await?,
                    Step::Item(_) | Step::End => return Ok(None),
                }
            }
        })
    }

    /// Returns the next entry of a folder. Fetches list nodes on the way.
    pub(super) async fn next_entry(&self, tree: &mut DirTree) -> Result<Option<DirEntry>, NodeError> {
        loop {
            match tree.step()? {
                Step::Item(placed) => return Ok(Some(placed.item)),
                Step::Need { cid, len } => self.node(&cid, Some(len), |block| tree.feed(block)).await?,
                Step::End => return Ok(None),
            }
        }
    }

    /// Whether this memory is reserved for this reader, not taken from the share of all readers.
    pub(super) fn is_reserved(&self, memory: &OwnedSemaphorePermit) -> bool {
        match self {
            Self::Swarm(session) => session.owns_memory(memory),
            Self::Local(_) => false,
        }
    }

    /// Reserves memory for a block of `len` bytes.
    pub(in crate::node) async fn reserve_memory(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Swarm(session) => session.reserve_memory(len).await,
            Self::Local(_) => None,
        }
    }

    async fn chunk(&self, entry: &Entry) -> Result<Bytes, NodeError> {
        self.accepted(&entry.cid, Some(entry.len), |block| open(entry.clone(), block)).await
    }
}

/// Decrypts a chunk on a thread that may compute.
async fn open(entry: Entry, block: Vec<u8>) -> Result<Result<Bytes, ContentError>, NodeError> {
    let opened = tokio::task::spawn_blocking(move || open_chunk(&entry, block)).await;
    Ok(opened.map_err(|_| NodeError::worker_failed())?.map(Bytes::from))
}
