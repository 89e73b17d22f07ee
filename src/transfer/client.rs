//! The client: requests blocks and answers from peers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};

use super::{
    PROTOCOL,
    counters::Counters,
    request_stream::{BlockRequest, Failure, RequestStream},
};
use crate::{
    content::cid::Cid,
    net::{Net, NetError},
    wire::{Request, Response},
};

/// Maximum requests queued for a peer's stream.
const QUEUE: usize = 64;
/// Maximum time to connect and open a stream.
const OPEN: Duration = Duration::from_secs(10);

/// The result of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawn {
    /// Number of peers that dropped the record.
    pub dropped: u32,
    /// Number of peers that may have the record and did not answer.
    pub missed: u32,
}

/// The blocks of a root that a peer reports to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    count: u32,
    bitmap: Vec<u8>,
}

impl Holding {
    #[cfg(test)]
    pub(crate) fn of(blocks: &[bool]) -> Self {
        Self { count: u32::try_from(blocks.len()).expect("few"), bitmap: super::lookup::bitmap(blocks) }
    }

    /// Returns whether the peer has each block, in [`Preorder`](crate::content::preorder::Preorder). Blocks below a node block
    /// that the peer lacks are left out.
    pub fn iter(&self) -> impl Iterator<Item = bool> {
        (0..self.count).map(|at| self.bitmap[at as usize / 8] >> (7 - at % 8) & 1 == 1)
    }
}

/// The status that a peer reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Failure domain, if its operator has named it.
    pub region: Option<String>,
    /// Free bytes for blocks. `None` means that it does not report them.
    pub free: Option<u64>,
}

/// Receives the answer to a block request. A dropped sender means that the peer was lost.
pub type PendingBlock = oneshot::Receiver<Result<Vec<u8>, Failure>>;

/// The handle of the task that owns a stream.
struct StreamHandle {
    queue: mpsc::Sender<BlockRequest>,
    /// Count of received bytes. `None` before the stream is open.
    received: Option<Arc<AtomicU64>>,
}

/// The streams to peers, opened when needed. Cheap to clone.
#[derive(Clone)]
pub struct Transfers {
    net: Net,
    counters: Arc<Counters>,
    peers: Arc<Mutex<HashMap<PeerId, StreamHandle>>>,
}

impl Transfers {
    /// Creates a client over a network.
    pub fn new(net: Net, counters: Arc<Counters>) -> Self {
        Self { net, counters, peers: Arc::default() }
    }

    /// Returns the network.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Requests a block. Returns when the request is queued on the peer's stream. The bytes of the answer have the given
    /// length, and their hash is not checked. `None` means that there can be no stream.
    pub async fn request(&self, peer: PeerId, cid: Cid, len: Option<u32>) -> Option<PendingBlock> {
        let (reply, answer) = oneshot::channel();
        let mut request = BlockRequest { cid, len, reply };
        // A stream that is being closed as idle is replaced once.
        for _ in 0..2 {
            match self.stream(peer).send(request).await {
                Ok(()) => return Some(answer),
                Err(mpsc::error::SendError(unsent)) => request = unsent,
            }
        }
        None
    }

    /// Returns the bytes received on the current stream of a peer, including incomplete blocks.
    pub fn received(&self, peer: &PeerId) -> u64 {
        let peers = self.peers();
        let received = peers.get(peer).and_then(|stream| stream.received.as_ref());
        received.map_or(0, |received| received.load(Ordering::Relaxed))
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, StreamHandle>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self, peer: PeerId) -> mpsc::Sender<BlockRequest> {
        let mut peers = self.peers();
        if let Some(stream) = peers.get(&peer).filter(|stream| !stream.queue.is_closed()) {
            return stream.queue.clone();
        }
        let (queue, requests) = mpsc::channel(QUEUE);
        peers.insert(peer, StreamHandle { queue: queue.clone(), received: None });
        let (this, handle) = (self.clone(), queue.clone());
        tokio::spawn(async move {
            this.run(peer, &handle, requests).await;
            let mut peers = this.peers();
            if peers.get(&peer).is_some_and(|stream| stream.queue.same_channel(&handle)) {
                peers.remove(&peer);
            }
        });
        queue
    }

    /// Owns one stream until it fails or is idle.
    async fn run(
        &self,
        peer: PeerId,
        handle: &mpsc::Sender<BlockRequest>,
        mut requests: mpsc::Receiver<BlockRequest>,
    ) {
        let mut stream = match tokio::time::timeout(OPEN, self.net.open(peer, PROTOCOL)).await {
            Ok(Ok(stream)) => RequestStream::new(stream),
            Ok(Err(error)) if !matches!(error, NetError::Dial { .. } | NetError::NoAddress(_)) => {
                tracing::debug!(%peer, "{error}");
                return;
            }
            unreachable => {
                tracing::debug!(%peer, "no connection: {unreachable:?}");
                requests.close();
                while let Ok(request) = requests.try_recv() {
                    drop(request.reply.send(Err(Failure::Unreachable)));
                }
                return;
            }
        };
        if let Some(stream_handle) =
            self.peers().get_mut(&peer).filter(|known| known.queue.same_channel(handle))
        {
            stream_handle.received = Some(stream.received());
        }
        match stream.get(requests, |len| self.counters.add_received(peer, len)).await {
            Ok(()) => {}
            Err(error) if error.is_hostile() => {
                tracing::warn!(%peer, "a peer breaks the transfer protocol: {error}");
            }
            Err(error) => tracing::debug!(%peer, "a transfer stream failed: {error}"),
        }
    }

    /// Asks the peers that hold the provider record of this node for a root to drop it.
    pub async fn withdraw(&self, root: Cid) -> Withdrawn {
        self.net.unprovide(root).await;
        let peers = self.net.closest_peers(root).await.unwrap_or_default();
        let dropped = peers.into_iter().map(|peer| self.withdraw_from(peer, root));
        let dropped = libp2p::futures::future::join_all(dropped).await;
        let count = |wanted| dropped.iter().filter(|done| **done == wanted).count().try_into();
        Withdrawn { dropped: count(true).unwrap_or(u32::MAX), missed: count(false).unwrap_or(u32::MAX) }
    }

    async fn withdraw_from(&self, peer: PeerId, root: Cid) -> bool {
        matches!(self.call(peer, &Request::Withdraw { root }, OPEN).await, Some(Response::Withdrawn {}))
    }

    /// Returns the blocks of a root that a peer has. `None` means no answer in time.
    pub async fn have(&self, peer: PeerId, root: Cid, timeout: Duration) -> Option<Holding> {
        match self.call(peer, &Request::Have { root }, timeout).await {
            Some(Response::Have { blocks, bitmap }) => {
                Some(Holding { count: blocks, bitmap: bitmap.into_vec() })
            }
            _ => None,
        }
    }

    /// Returns the status of a peer. `None` means no answer in time.
    pub async fn status(&self, peer: PeerId, timeout: Duration) -> Option<PeerStatus> {
        match self.call(peer, &Request::Status {}, timeout).await {
            Some(Response::Status { region, free, .. }) => Some(PeerStatus { region, free }),
            _ => None,
        }
    }

    /// Sends one request on a stream of its own.
    async fn call(&self, peer: PeerId, request: &Request, timeout: Duration) -> Option<Response> {
        let exchange = async {
            let mut stream = RequestStream::new(self.net.open(peer, PROTOCOL).await.ok()?);
            stream.call(request).await.ok()
        };
        tokio::time::timeout(timeout, exchange).await.ok().flatten()
    }
}
