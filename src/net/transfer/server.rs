//! Answering peers from our store.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::{
    PeerId,
    futures::{AsyncRead, AsyncReadExt, AsyncWrite, StreamExt, stream},
};
use serde_bytes::ByteBuf;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{frame, limit::Limiter};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    net::{IncomingStreams, Net},
    store::Store,
    wire::{MAX_CIDS, Request, Response},
};

/// Streams of one peer that are served at a time.
const STREAMS_PER_PEER: usize = 8;
/// Requests of one stream that wait. Above that, its bytes wait in the network.
const REQUESTS: usize = 16;
/// Blocks read ahead for one stream.
const READ_AHEAD: usize = 2;
/// Memory for blocks on their way out, over all streams, in KiB.
const MEMORY_KIB: usize = 24 << 10;
/// What one block may take of it.
const BLOCK_KIB: u32 = 2 << 10;
/// A stream on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// Blocks of a root that `Have` describes at most.
const MAX_HAVE: usize = 1 << 20;

/// What the server may do.
#[derive(Clone)]
pub struct ServeOptions {
    /// The most to send, all peers together.
    pub limit: Option<Arc<Limiter>>,
    /// Failure domain to report.
    pub region: Option<String>,
    /// Capacity to report.
    pub capacity: Option<u64>,
}

/// Bytes of blocks since start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sent to peers.
    pub sent: AtomicU64,
    /// Received from peers.
    pub received: AtomicU64,
}

struct Server {
    net: Option<Net>,
    store: Store,
    options: ServeOptions,
    counters: Arc<Counters>,
    memory: Semaphore,
    streams: Mutex<HashMap<PeerId, usize>>,
}

/// Serves streams until `stop`.
pub async fn serve(
    net: Net,
    mut incoming: IncomingStreams,
    store: Store,
    options: ServeOptions,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let memory = Semaphore::new(MEMORY_KIB);
    let server = Arc::new(Server {
        net: Some(net),
        store,
        options,
        counters,
        memory,
        streams: Mutex::default(),
    });
    let tasks = TaskTracker::new();
    while let Some(Some((peer, stream))) = stop.run_until_cancelled(incoming.recv()).await {
        let Some(slot) = Slot::take(&server, peer) else {
            continue;
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            let served = stop.run_until_cancelled(slot.server.stream(peer, stream)).await;
            if let Some(Err(error)) = served {
                tracing::debug!(%peer, "a stream ended: {error}");
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// One of a peer's streams.
struct Slot {
    server: Arc<Server>,
    peer: PeerId,
}

impl Slot {
    fn take(server: &Arc<Server>, peer: PeerId) -> Option<Self> {
        let mut streams = server.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.entry(peer).or_default();
        if *count >= STREAMS_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Self {
            server: Arc::clone(server),
            peer,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut streams = self.server.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = streams.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.peer);
            }
        }
    }
}

impl Server {
    /// Reads requests and writes answers, side by side: requests are read while answers wait for the peer.
    async fn stream(&self, peer: PeerId, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let (mut reader, mut writer) = stream.split();
        let (requests, mut queue) = mpsc::channel::<Request>(REQUESTS);
        let reading = async move {
            loop {
                let next = tokio::time::timeout(IDLE, frame::read::<Request>(&mut reader)).await;
                match next.unwrap_or(Ok(None))? {
                    Some(request) => {
                        if requests.send(request).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => return Ok(()),
                }
            }
        };
        let writing = async {
            while let Some(request) = queue.recv().await {
                self.answer(peer, request, &mut writer).await?;
            }
            io::Result::Ok(())
        };
        tokio::try_join!(reading, writing).map(drop)
    }

    async fn answer(
        &self,
        peer: PeerId,
        request: Request,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let answer = match request {
            Request::Get { cids } => return self.send_blocks(cids, writer).await,
            Request::Have { root } => self.have(root).await?,
            Request::Withdraw { root } => {
                if let Some(net) = &self.net {
                    net.drop_provider(root, peer).await;
                }
                Response::Withdrawn { root }
            }
            Request::Put { .. } | Request::Release { .. } => Response::Refused {
                reason: "this node keeps no blocks for others".into(),
            },
            Request::Status {} => Response::Status {
                region: self.options.region.clone(),
                capacity: self.options.capacity,
                free: self.store.disk_free(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
        };
        frame::write(writer, &answer, None).await
    }

    async fn send_blocks(&self, cids: Vec<Cid>, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if cids.len() > MAX_CIDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "too many blocks in one request",
            ));
        }
        let mut blocks = stream::iter(cids).map(|cid| self.block(cid)).buffered(READ_AHEAD);
        while let Some((cid, block, _memory)) = blocks.next().await {
            match block.as_deref().map(|block| (block, u32::try_from(block.len()))) {
                Some((block, Ok(len))) => {
                    if let Some(limit) = &self.options.limit {
                        limit.pass(block.len()).await;
                    }
                    frame::write(writer, &Response::Block { cid, len }, Some(block)).await?;
                    self.counters
                        .sent
                        .fetch_add(block.len() as u64, Ordering::Relaxed);
                }
                _ => frame::write(writer, &Response::Missing { cid }, None).await?,
            }
        }
        Ok(())
    }

    /// A block from the store, checked as it is read. One that is damaged is not there for a peer.
    async fn block(&self, cid: Cid) -> (Cid, Option<Vec<u8>>, Option<tokio::sync::SemaphorePermit<'_>>) {
        let memory = self.memory.acquire_many(BLOCK_KIB).await.ok();
        let store = self.store.clone();
        let block = tokio::task::spawn_blocking(move || store.get(&cid)).await;
        let block = match block {
            Ok(Ok(block)) => block,
            Ok(Err(error)) => {
                tracing::warn!(%cid, "cannot serve a block: {error}");
                None
            }
            Err(_) => None,
        };
        (cid, block, memory)
    }

    async fn have(&self, root: Cid) -> io::Result<Response> {
        let store = self.store.clone();
        let bitmap = tokio::task::spawn_blocking(move || bitmap(&store, root)).await;
        let bitmap = bitmap.map_err(io::Error::other)?;
        Ok(Response::Have {
            root,
            bitmap: ByteBuf::from(bitmap),
        })
    }
}

/// Walks the visible DAG below a root, depth first, and notes for each block whether it is here. What lies below a
/// missing node block is not known, and not counted.
fn bitmap(store: &Store, root: Cid) -> Vec<u8> {
    let (mut bits, mut count) = (Vec::new(), 0_usize);
    let mut seen = HashSet::new();
    let mut stack = vec![root];
    while let Some(cid) = stack.pop() {
        if !seen.insert(cid) || count == MAX_HAVE {
            continue;
        }
        let node = (cid.codec() == Codec::DagCbor)
            .then(|| store.get(&cid).ok().flatten())
            .flatten();
        let here = node.is_some() || store.has(&cid).unwrap_or(false);
        if count.is_multiple_of(8) {
            bits.push(0);
        }
        if here && let Some(last) = bits.last_mut() {
            *last |= 1_u8 << (count % 8);
        }
        count += 1;
        if let Some(visible) = node.and_then(|block| node_block::visible(&block).ok()) {
            stack.extend(visible.links.into_iter().rev());
        }
    }
    bits
}
