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
        error::{ErrorCode, NodeError},
    },
    store::Store,
};

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

    /// Fetches a node block and hands it to `accept`; tries again elsewhere while `accept` finds it forged.
    pub(super) async fn node<T>(
        &self,
        cid: &Cid,
        len: u32,
        mut accept: impl FnMut(&[u8]) -> Result<T, ContentError>,
    ) -> Result<T, NodeError> {
        let mut tries = TRIES;
        loop {
            let block = self.block(cid, Some(len)).await?;
            tries -= 1;
            match accept(&block) {
                Ok(accepted) => return Ok(accepted),
                Err(error) if tries == 0 || !self.reject(cid).await => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    /// Fetches and opens a root block.
    pub(super) async fn root(&self, link: &Link) -> Result<Root, NodeError> {
        let mut tries = TRIES;
        loop {
            let block = self.block(&link.cid, None).await?;
            tries -= 1;
            match open_root(link, &block) {
                Ok(root) => return Ok(root),
                Err(ContentError::NoKey) => return Err(ContentError::NoKey.into()),
                // A wrong link and a forged block look the same.
                Err(error) if tries == 0 || !self.reject(&link.cid).await => return Err(error.into()),
                Err(_) => {}
            }
        }
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
                    Ok(Chunk { offset: wanted.offset, bytes, _room: room })
                }
            })
            .try_buffered(READ_AHEAD)
    }

    async fn room(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Swarm(session) => session.room(len).await,
            Self::Here(_) => None,
        }
    }

    async fn chunk(&self, entry: &Entry) -> Result<Bytes, NodeError> {
        let mut tries = TRIES;
        loop {
            let block = self.block(&entry.cid, Some(entry.len)).await?;
            tries -= 1;
            let checked = entry.clone();
            let opened = tokio::task::spawn_blocking(move || open_chunk(&checked, block)).await;
            match opened.map_err(|_| NodeError::lost_worker())? {
                Ok(bytes) => return Ok(Bytes::from(bytes)),
                Err(error) if tries == 0 || !self.reject(&entry.cid).await => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
}
