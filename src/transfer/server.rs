//! The server: answers requests for blocks.
//!
//! Each stream is one task with two halves. The reading half always reads, so that a peer never blocks on a write, and
//! queues requests up to a limit. The writing half answers in order and loads a few blocks ahead. Memory for blocks is
//! limited for each peer and for all. While requests wait for memory, slow streams are ended (`pace`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, Stream, StreamExt, future::try_join,
    stream,
};
use libp2p::PeerId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, RateLimiter, TransferError,
    frames::{FrameReader, STALL, flush, write_all},
    lookup,
    pace::{HeldBlock, MonitoredStream, PaceMonitor, PacedWriter},
    rate_limit::PIECE,
    request_budget::{BudgetedStream, RequestBudget, RequestMemory},
};
use crate::{
    content::cid::Cid,
    net::{IncomingStreams, Net},
    store::Store,
    wire::{MAX_BLOCK, MAX_REQUEST, Message, Request, Response, WireError},
};

/// Maximum unanswered block requests on one stream.
const MAX_QUEUED: usize = 4096;
/// Maximum unanswered messages on one stream.
const MAX_REQUESTS: usize = 1024;
/// Maximum blocks of one stream in memory.
const READ_AHEAD: usize = 3;
/// Time without a request after which a stream is closed.
const IDLE: Duration = Duration::from_secs(300);
/// Time within which a peer must receive a block, which takes memory until then.
const BLOCK_DEADLINE: Duration = Duration::from_secs(600);
/// Memory reserved for one block, in permits.
const BLOCK: usize = MAX_BLOCK as usize;
/// Time after which a peer with too many streams may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// After a walk over a root, its peer gets no other for this many times as long: it takes a quarter of a core at most.
const WALK_PAUSE: u32 = 3;

/// Options of the server.
#[derive(Clone, Default)]
pub struct ServeOptions {
    /// Limit on bytes sent to all peers.
    pub limit: Option<Arc<RateLimiter>>,
    /// Failure domain to report.
    pub region: Option<String>,
    /// Capacity to report, in bytes. `None` means that the disk is the limit.
    pub capacity: Option<u64>,
}

/// Limits for peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum streams of one peer.
    pub(super) streams_per_peer: usize,
    /// Maximum bytes of blocks in memory for all peers.
    pub(super) memory: usize,
    /// Maximum bytes of blocks in memory for one peer.
    pub(super) memory_per_peer: usize,
    /// Maximum bytes of unanswered requests of all peers.
    pub(super) requests: usize,
    /// Maximum bytes of unanswered requests of one peer.
    pub(super) requests_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_peer: 32,
            memory: 32 << 20,
            memory_per_peer: 12 << 20,
            requests: 8 << 20,
            requests_per_peer: 1 << 20,
        }
    }
}

/// Serves the blocks of a store on all incoming streams, until `stop`.
pub async fn serve(
    net: Net,
    mut incoming: IncomingStreams,
    store: Store,
    options: ServeOptions,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let server = Server::new(Some(net), store, options, Limits::default(), counters);
    server.run(stream::poll_fn(move |cx| incoming.poll_recv(cx)), stop).await;
}

/// Serves the blocks of a store.
#[derive(Clone)]
pub(super) struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    /// The network with the provider records. `None` in a test of the protocol alone.
    net: Option<Net>,
    store: Store,
    options: ServeOptions,
    limits: Limits,
    counters: Arc<Counters>,
    memory: Arc<Semaphore>,
    requests: RequestBudget,
    pace: PaceMonitor,
    /// Permits for walks over whole roots, the most expensive requests.
    walks: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<PeerId, PeerUsage>>>,
}

/// The streams and the memory of one peer.
struct PeerUsage {
    streams: usize,
    memory: Arc<Semaphore>,
    /// The permit of its only walk.
    walk: Arc<Semaphore>,
}

/// A stream of a peer, counted until it is dropped.
struct ServedStream<'a> {
    inner: &'a Inner,
    peer: PeerId,
    memory: Arc<Semaphore>,
    walk: Arc<Semaphore>,
    monitored: MonitoredStream<'a>,
    budgeted: BudgetedStream<'a>,
    /// Whether the peer has too many streams, so that requests are answered with `Busy`.
    excess: bool,
}

impl Drop for ServedStream<'_> {
    fn drop(&mut self) {
        if let Some(usage) = lock(&self.inner.peers).get_mut(&self.peer) {
            usage.streams -= 1;
        }
        forget_if_idle(&self.inner.peers, &self.peer);
    }
}

fn lock(peers: &Mutex<HashMap<PeerId, PeerUsage>>) -> MutexGuard<'_, HashMap<PeerId, PeerUsage>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops the counts of a peer that has no stream and no walk.
fn forget_if_idle(peers: &Mutex<HashMap<PeerId, PeerUsage>>, peer: &PeerId) {
    let mut peers = lock(peers);
    if peers.get(peer).is_some_and(|usage| usage.streams == 0 && usage.walk.available_permits() == 1) {
        peers.remove(peer);
    }
}

/// A request and its memory. The inner error is the reason to refuse it.
type Queued = (Result<Request, String>, RequestMemory);

/// An answer to send, and the memory that it takes.
enum Answer {
    Message(Response),
    Block { cid: Cid, bytes: Vec<u8>, memory: ([OwnedSemaphorePermit; 2], HeldBlock) },
}

impl Server {
    /// Creates a server for the blocks of a store.
    pub(super) fn new(
        net: Option<Net>,
        store: Store,
        options: ServeOptions,
        limits: Limits,
        counters: Arc<Counters>,
    ) -> Self {
        let memory = Arc::new(Semaphore::new(limits.memory.max(BLOCK)));
        let (walks, peers, pace) = (Arc::new(Semaphore::new(2)), Arc::default(), PaceMonitor::default());
        let requests = RequestBudget::new(limits.requests, limits.requests_per_peer);
        let inner = Inner { net, store, options, limits, counters, memory, requests, pace, walks, peers };
        Self { inner: Arc::new(inner) }
    }

    /// Serves all incoming streams until `incoming` ends or `stop` is cancelled, which drops the streams.
    pub(super) async fn run<S>(&self, incoming: impl Stream<Item = (PeerId, S)>, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut incoming = std::pin::pin!(incoming);
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                next = incoming.next() => match next {
                    Some((peer, stream)) => {
                        let server = self.clone();
                        streams.spawn(async move { server.serve(peer, stream).await });
                    }
                    None => break,
                },
                Some(_) = streams.join_next() => {}
                () = stop.cancelled() => break,
            }
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, peer: PeerId, stream: S) {
        let Some(served) = self.inner.add_stream(peer) else { return };
        let pace = Arc::clone(&served.monitored.pace);
        let done = tokio::select! {
            done = self.inner.answer_all(&served, stream) => done,
            () = pace.ended() => Err(TransferError::Stalled),
            () = served.budgeted.ended() => Err(TransferError::Violation("too many unanswered requests")),
        };
        match done {
            Ok(()) => {}
            Err(error) if error.is_hostile() => {
                tracing::info!(%peer, "transfer stream dropped: {error}");
            }
            Err(error) => tracing::debug!(%peer, "transfer stream failed: {error}"),
        }
    }
}

impl Inner {
    /// Counts one more stream of a peer. `None` means that it has more than twice the maximum.
    fn add_stream(&self, peer: PeerId) -> Option<ServedStream<'_>> {
        let mut peers = lock(&self.peers);
        let max = self.limits.memory_per_peer.max(BLOCK);
        let new = || PeerUsage {
            streams: 0,
            memory: Arc::new(Semaphore::new(max)),
            walk: Arc::new(Semaphore::new(1)),
        };
        let usage = peers.entry(peer).or_insert_with(new);
        if usage.streams >= 2 * self.limits.streams_per_peer {
            return None;
        }
        usage.streams += 1;
        let excess = usage.streams > self.limits.streams_per_peer;
        let (memory, walk) = (Arc::clone(&usage.memory), Arc::clone(&usage.walk));
        let (monitored, budgeted) = (self.pace.add(), self.requests.add(peer));
        Some(ServedStream { inner: self, peer, memory, walk, monitored, budgeted, excess })
    }

    async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        served: &ServedStream<'_>,
        stream: S,
    ) -> Result<(), TransferError> {
        let (reader, writer) = stream.split();
        let mut writer = PacedWriter::new(writer, Arc::clone(&served.monitored.pace));
        let mut reader = FrameReader::new(reader);
        let (queue, requests) = mpsc::channel(MAX_REQUESTS);
        let queued = AtomicUsize::new(0);
        let reading = async {
            // Moved in, so that it closes with this half.
            let queue = queue;
            while wait_for_request(&mut reader, &queued).await? {
                let (request, memory) = read_request(&mut reader, &served.budgeted).await?;
                let cost = match &request {
                    Ok(Request::Get { cids }) => cids.len(),
                    _ => 1,
                };
                if queued.fetch_add(cost, Ordering::Relaxed) + cost > MAX_QUEUED
                    || queue.try_send((request, memory)).is_err()
                {
                    return Err(TransferError::Violation("too many unanswered requests"));
                }
            }
            Ok(())
        };
        let writing = async {
            let mut answers = std::pin::pin!(self.answers(served, requests).buffered(READ_AHEAD));
            loop {
                // Flushed when the next answer is not ready.
                let next = if let Some(next) = answers.next().now_or_never() {
                    next
                } else {
                    flush(&mut writer).await?;
                    answers.next().await
                };
                let Some(answer) = next else { break };
                self.send(served.peer, &mut writer, answer?).await?;
                queued.fetch_sub(1, Ordering::Relaxed);
                if served.excess {
                    break;
                }
            }
            Ok(timeout(STALL, writer.close()).await.map_err(|_| TransferError::Stalled)??)
        };
        if served.excess {
            return tokio::select! { done = writing => done, Err(error) = reading => Err(error) };
        }
        try_join(reading, writing).await.map(drop)
    }

    /// Returns a future for each answer, in the order of the requests.
    fn answers<'a>(
        &'a self,
        served: &'a ServedStream<'_>,
        requests: mpsc::Receiver<Queued>,
    ) -> impl Stream<Item = impl Future<Output = Result<Answer, TransferError>> + 'a> + 'a {
        let requests =
            stream::unfold(requests, |mut requests| async { Some((requests.recv().await?, requests)) });
        requests
            .flat_map(|(request, memory)| {
                let memory = Arc::new(memory);
                let parts = match request {
                    Ok(Request::Get { cids }) => stream::iter(cids).map(Ok).left_stream(),
                    other => stream::iter([Err(other)]).right_stream(),
                };
                parts.map(move |part| (part, Arc::clone(&memory)))
            })
            .map(move |(part, memory)| async move {
                // Until the last part of the request has an answer.
                let _memory = memory;
                match part {
                    _ if served.excess => Ok(Answer::Message(busy())),
                    Ok(cid) => self.load(served, cid).await,
                    Err(other) => self.answer(served, other).await.map(Answer::Message),
                }
            })
    }

    /// Loads a block, with permits for its memory.
    async fn load(&self, served: &ServedStream<'_>, cid: Cid) -> Result<Answer, TransferError> {
        let closed = |_| TransferError::Refused("the node is shutting down".into());
        // The limit of the peer comes first, so that others do not wait for it.
        let mut own = Arc::clone(&served.memory).acquire_many_owned(MAX_BLOCK).await.map_err(closed)?;
        // Held from here on: memory can be granted while this stream sends an earlier answer.
        let hold = served.monitored.pace.hold();
        let all = Arc::clone(&self.memory).acquire_many_owned(MAX_BLOCK);
        let mut all = self.pace.wait_for(all).await.map_err(closed)?;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.get(&cid)).await;
        let bytes = match found {
            Ok(Ok(Some(bytes))) if bytes.len() <= BLOCK => bytes,
            Ok(Ok(_)) => return Ok(Answer::Message(Response::Missing { cid })),
            Ok(Err(error)) => {
                tracing::warn!(%cid, "a block cannot be served: {error}");
                return Ok(Answer::Message(Response::Missing { cid }));
            }
            Err(error) => return Err(TransferError::Refused(error.to_string())),
        };
        // A small block returns the rest, but keeps at least one permit.
        let unused = BLOCK - bytes.len().max(1);
        drop([own.split(unused), all.split(unused)]);
        Ok(Answer::Block { cid, bytes, memory: ([own, all], hold) })
    }

    /// Returns the answer to a request other than `Get`.
    async fn answer(
        &self,
        served: &ServedStream<'_>,
        request: Result<Request, String>,
    ) -> Result<Response, TransferError> {
        let refuse = |reason: &str| Response::Refused { reason: reason.into() };
        let request = match request {
            Ok(request) => request,
            Err(reason) => return Ok(refuse(&reason)),
        };
        Ok(match request {
            Request::Have { root } => self.have(served, root).await?,
            Request::Status {} if self.net.as_ref().is_some_and(|net| net.is_stranger(&served.peer)) => {
                refuse("this node tells its region and its space only to its cluster and its own network")
            }
            Request::Status {} => {
                lookup::status(&self.store, self.options.region.as_deref(), self.options.capacity)
            }
            Request::Withdraw { root } => {
                if let Some(net) = &self.net {
                    net.drop_provider(root, served.peer).await;
                }
                Response::Withdrawn {}
            }
            Request::Put { .. } | Request::Release { .. } => unreachable!("refused when read"),
            Request::Get { .. } => unreachable!("answered block by block"),
        })
    }

    /// Walks a root for a peer: one walk of a peer at a time, and few in all. It ends when this future is dropped.
    async fn have(&self, served: &ServedStream<'_>, root: Cid) -> Result<Response, TransferError> {
        let own = Arc::clone(&served.walk).acquire_owned().await.map_err(|_| TransferError::Busy)?;
        let all = Arc::clone(&self.walks).acquire_owned().await.map_err(|_| TransferError::Busy)?;
        let (store, abandoned) = (self.store.clone(), CancellationToken::new());
        let _guard = abandoned.clone().drop_guard();
        let (peers, peer) = (Arc::clone(&self.peers), served.peer);
        let walk = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let have = lookup::have(&store, &root, &abandoned);
            drop(all);
            let pause = begun.elapsed() * WALK_PAUSE;
            // Also if the stream has ended: another one would be no way around the pause.
            tokio::runtime::Handle::current().spawn(async move {
                tokio::time::sleep(pause).await;
                drop(own);
                forget_if_idle(&peers, &peer);
            });
            have
        });
        let have = walk.await.unwrap_or_else(|error| Err(error.to_string()));
        Ok(have.unwrap_or_else(|reason| Response::Refused { reason }))
    }

    async fn send<W: AsyncWrite + Unpin>(
        &self,
        peer: PeerId,
        writer: &mut W,
        answer: Answer,
    ) -> Result<(), TransferError> {
        // The memory is released after sending.
        let (cid, bytes, _memory) = match answer {
            Answer::Message(response) => return write_all(writer, &response.encode()?).await,
            Answer::Block { cid, bytes, memory } => (cid, bytes, memory),
        };
        let len = u32::try_from(bytes.len()).expect("at most 2 MiB");
        let sending = async {
            write_all(writer, &Response::Block { cid, len }.encode()?).await?;
            let Some(limit) = &self.options.limit else {
                return write_all(writer, &bytes).await;
            };
            for piece in bytes.chunks(PIECE) {
                limit.acquire(piece.len()).await;
                write_all(writer, piece).await?;
                flush(writer).await?;
            }
            Ok(())
        };
        timeout(BLOCK_DEADLINE, sending).await.map_err(|_| TransferError::Stalled)??;
        self.counters.add_sent(peer, u64::from(len));
        Ok(())
    }
}

fn busy() -> Response {
    Response::Busy { retry_after_ms: u32::try_from(RETRY_AFTER.as_millis()).expect("a second") }
}

/// Waits for a request. Returns `false` if the peer has closed the stream or is idle.
async fn wait_for_request<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    queued: &AtomicUsize,
) -> Result<bool, TransferError> {
    loop {
        match timeout(IDLE, reader.readable()).await {
            Ok(readable) => return readable,
            // Answers are still being sent.
            Err(_) if queued.load(Ordering::Relaxed) > 0 => {}
            Err(_) => return Ok(false),
        }
    }
}

/// Reads the next request, after there is memory for it.
async fn read_request<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    budget: &BudgetedStream<'_>,
) -> Result<Queued, TransferError> {
    let len = reader.message_len(MAX_REQUEST).await?;
    let memory = budget.reserve(len).await?;
    // One deadline for the whole message, which takes memory until it is complete.
    let message = timeout(STALL, reader.message_of(len)).await.map_err(|_| TransferError::Stalled)?;
    let refused = "this node does not store blocks for other nodes";
    let request = match message {
        Ok(Request::Put { blocks, .. }) => {
            reader.skip(blocks.iter().map(|block| u64::from(block.len)).sum()).await?;
            Err(refused.into())
        }
        Ok(Request::Release { .. }) => Err(refused.into()),
        Ok(request) => Ok(request),
        // A newer peer may send requests that this version does not know.
        Err(TransferError::Wire(error @ WireError::UnknownKind(_))) => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok((request, memory))
}
