//! Where a reader's blocks come from: the store, and in a node with a network the providers.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::{Chunk, TRIES, Wanted};
use crate::{
    content::{
        ContentError,
        cid::Cid,
        decoder::{Root, open_root},
        link::Link,
        seal::{Entry, open_chunk},
    },
    fetch::{READ_AHEAD, Session},
    node::{
        Node,
        error::{ErrorCode, NodeError, Reason},
    },
    store::Store,
};

/// How long a block that its key does not open is looked for elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(3);

/// Blocks of one root. Cheap to clone.
#[derive(Clone)]
pub(super) enum Source {
    /// The store first, then every provider of the root.
    Swarm(Session),
    /// The store alone: the node is offline.
    Here(Store),
}

impl Source {
    pub(super) fn new(node: &Node, root: Cid, timeout: Duration) -> Self {
        match &node.inner.network {
            Some(network) => Self::Swarm(network.fetcher.session(root, timeout)),
            None => Self::Here(node.inner.store.clone()),
        }
    }

    /// One block, checked against its CID.
    pub(super) async fn block(&self, cid: &Cid, len: Option<u32>) -> Result<Vec<u8>, NodeError> {
        match self {
            Self::Swarm(session) => Ok(session.block(cid, len).await?),
            Self::Here(store) => {
                let (store, cid) = (store.clone(), *cid);
                let read = tokio::task::spawn_blocking(move || store.get(&cid)).await;
                read.map_err(|_| NodeError::lost_worker())??.ok_or_else(|| {
                    NodeError::new(
                        ErrorCode::NotFound,
                        format!("block {cid} is not here, and this node is offline"),
                    )
                    .reason(Reason::Offline)
                })
            }
        }
    }

    /// A block whose bytes hash to its CID, and still are not what its key or its parent says: SHA-1 alone does not
    /// decide. Where a peer has just sent it, it is dropped, that peer is not asked again, and another try makes sense.
    async fn reject(&self, cid: &Cid) -> bool {
        match self {
            Self::Swarm(session) => session.reject(cid).await,
            Self::Here(_) => false,
        }
    }

    /// Fetches a node block and hands it to `accept`; tries again elsewhere where that finds it forged.
    pub(super) async fn node<T>(
        &self,
        cid: &Cid,
        len: u32,
        mut accept: impl FnMut(&[u8]) -> Result<T, ContentError>,
    ) -> Result<T, NodeError> {
        let found = match accept(&self.block(cid, Some(len)).await?) {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        let mut elsewhere = Elsewhere::new(self, *cid, Some(len));
        while let Some(block) = elsewhere.next().await {
            if let Ok(accepted) = accept(&block) {
                return Ok(accepted);
            }
        }
        Err(found.into())
    }

    /// Fetches and opens a root block.
    pub(super) async fn root(&self, link: &Link) -> Result<Root, NodeError> {
        let found = match open_root(link, &self.block(&link.cid, None).await?) {
            Err(error) if !matches!(error, ContentError::NoKey) => error,
            done => return Ok(done?),
        };
        // A wrong link and a forged block look the same.
        let mut elsewhere = Elsewhere::new(self, link.cid, None);
        while let Some(block) = elsewhere.next().await {
            if let Ok(root) = open_root(link, &block) {
                return Ok(root);
            }
        }
        Err(found.into())
    }

    /// The plaintext of `wanted`, in order, read ahead.
    pub(super) fn chunks(
        &self,
        wanted: impl Stream<Item = Result<Wanted, NodeError>> + Send + 'static,
    ) -> impl Stream<Item = Result<Chunk, NodeError>> + Send {
        let source = self.clone();
        wanted
            .map_ok(move |wanted| {
                let source = source.clone();
                async move {
                    let room = source.room(wanted.entry.len).await;
                    let bytes = source.chunk(&wanted.entry).await?;
                    Ok(Chunk { offset: wanted.offset, bytes, room })
                }
            })
            .try_buffered(READ_AHEAD)
    }

    /// Whether this is the reader's own memory, and no share of what all readers have in common.
    pub(super) fn is_own(&self, room: &OwnedSemaphorePermit) -> bool {
        match self {
            Self::Swarm(session) => session.is_own(room),
            Self::Here(_) => false,
        }
    }

    async fn room(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Swarm(session) => session.room(len).await,
            Self::Here(_) => None,
        }
    }

    async fn chunk(&self, entry: &Entry) -> Result<Bytes, NodeError> {
        let found = match open(entry, self.block(&entry.cid, Some(entry.len)).await?).await? {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        let mut elsewhere = Elsewhere::new(self, entry.cid, Some(entry.len));
        while let Some(block) = elsewhere.next().await {
            if let Ok(bytes) = open(entry, block).await? {
                return Ok(bytes);
            }
        }
        Err(found.into())
    }
}

/// Opens a chunk on a thread that may compute.
async fn open(entry: &Entry, block: Vec<u8>) -> Result<Result<Bytes, ContentError>, NodeError> {
    let entry = entry.clone();
    let opened = tokio::task::spawn_blocking(move || open_chunk(&entry, block)).await;
    Ok(opened.map_err(|_| NodeError::lost_worker())?.map(Bytes::from))
}

/// Other copies of a block that its key did not open, for a short while. Whoever finds none says what was found first:
/// that nobody else has the block says less than that the key does not fit it.
struct Elsewhere<'a> {
    source: &'a Source,
    cid: Cid,
    len: Option<u32>,
    tries: usize,
    until: tokio::time::Instant,
}

impl<'a> Elsewhere<'a> {
    fn new(source: &'a Source, cid: Cid, len: Option<u32>) -> Self {
        Self { source, cid, len, tries: TRIES - 1, until: tokio::time::Instant::now() + ELSEWHERE }
    }

    /// Drops the copy that was no good, and fetches another one.
    async fn next(&mut self) -> Option<Vec<u8>> {
        self.tries = self.tries.checked_sub(1)?;
        let other = async {
            if !self.source.reject(&self.cid).await {
                return None;
            }
            self.source.block(&self.cid, self.len).await.ok()
        };
        tokio::time::timeout_at(self.until, other).await.ok().flatten()
    }
}
