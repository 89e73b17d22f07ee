//! The server: answers requests for blocks.
//!
//! Each stream is one task with two halves. The reading half always reads, so that a peer never blocks on a write, and
//! queues requests up to a limit. The writing half answers in order and loads a few blocks ahead. Memory for requests and
//! blocks is limited (`peer_limits`). While requests wait for memory, slow streams are ended (`pace`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, Stream, StreamExt, future::try_join,
    stream,
};
use libp2p::PeerId;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, RateLimiter, TransferError,
    frames::{FrameReader, STALL, flush, write_all},
    lookup,
    pace::{HeldBlock, MonitoredStream, PaceMonitor, PacedWriter},
    peer_limits::{Left, LimitedStream, Limits, PeerLimits, RequestMemory, closing},
    rate_limit::PIECE,
};
use crate::{
    content::cid::Cid,
    net::{Group, IncomingStreams, Net},
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
    counters: Arc<Counters>,
    peers: Arc<PeerLimits>,
    pace: PaceMonitor,
}

/// A stream of a peer, counted until it is dropped.
struct ServedStream<'a> {
    limited: LimitedStream<'a>,
    monitored: MonitoredStream<'a>,
}

/// A request and its memory. The inner error is the reason to refuse it.
type Queued = (Result<Request, String>, RequestMemory);

/// An answer to send, and the memory that it takes.
enum Answer {
    Message(Response),
    Block { cid: Cid, bytes: Vec<u8>, memory: ([OwnedSemaphorePermit; 3], HeldBlock) },
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
        let (peers, pace) = (Arc::new(PeerLimits::new(limits)), PaceMonitor::default());
        let inner = Inner { net, store, options, counters, peers, pace };
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
            () = served.limited.ended() => Err(TransferError::Violation("too many unanswered requests")),
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
    /// Counts one more stream of a peer. `None` means that it has too many.
    fn add_stream(&self, peer: PeerId) -> Option<ServedStream<'_>> {
        let group = self.net.as_ref().map_or(Group::Peer(peer), |net| net.group(peer));
        let limited = self.peers.add(peer, group)?;
        Some(ServedStream { limited, monitored: self.pace.add(group) })
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
                let (request, memory) = read_request(&mut reader, &served.limited).await?;
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
                self.send(served.limited.peer, &mut writer, answer?).await?;
                queued.fetch_sub(1, Ordering::Relaxed);
                if served.limited.excess {
                    break;
                }
            }
            Ok(timeout(STALL, writer.close()).await.map_err(|_| TransferError::Stalled)??)
        };
        if served.limited.excess {
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
                    _ if served.limited.excess => Ok(Answer::Message(busy())),
                    Ok(cid) => self.load(served, cid).await,
                    Err(other) => self.answer(served, other).await.map(Answer::Message),
                }
            })
    }

    /// Loads a block, with permits for its memory.
    async fn load(&self, served: &ServedStream<'_>, cid: Cid) -> Result<Answer, TransferError> {
        let (limited, pace) = (&served.limited, &served.monitored.pace);
        let take = |left: &Left| Arc::clone(&left.blocks).acquire_many_owned(MAX_BLOCK);
        // The limit of the peer comes first, so that others do not wait for it.
        let mut own = take(&limited.own).await.map_err(|_| closing())?;
        // Held from here on: memory can be granted while this stream sends an earlier answer.
        let hold = pace.hold();
        let of_group = self.pace.wait_for(take(&limited.of_group), Some(limited.group));
        let mut of_group = of_group.await.map_err(|_| closing())?;
        let mut of_all = self.pace.wait_for(take(&limited.all), None).await.map_err(|_| closing())?;
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
        drop([&mut own, &mut of_group, &mut of_all].map(|memory| memory.split(unused)));
        Ok(Answer::Block { cid, bytes, memory: ([own, of_group, of_all], hold) })
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
            Request::Status {}
                if self.net.as_ref().is_some_and(|net| net.is_stranger(&served.limited.peer)) =>
            {
                refuse("this node tells its region and its space only to its cluster and its own network")
            }
            Request::Status {} => {
                lookup::status(&self.store, self.options.region.as_deref(), self.options.capacity)
            }
            Request::Withdraw { root } => {
                if let Some(net) = &self.net {
                    net.drop_provider(root, served.limited.peer).await;
                }
                Response::Withdrawn {}
            }
            Request::Put { .. } | Request::Release { .. } => unreachable!("refused when read"),
            Request::Get { .. } => unreachable!("answered block by block"),
        })
    }

    /// Walks a root for a peer. The walk ends when this future is dropped.
    async fn have(&self, served: &ServedStream<'_>, root: Cid) -> Result<Response, TransferError> {
        let walk = served.limited.begin_walk().await?;
        let (store, abandoned) = (self.store.clone(), CancellationToken::new());
        let _guard = abandoned.clone().drop_guard();
        let walked = tokio::task::spawn_blocking(move || {
            let have = lookup::have(&store, &root, &abandoned);
            drop(walk);
            have
        });
        let have = walked.await.unwrap_or_else(|error| Err(error.to_string()));
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
    limited: &LimitedStream<'_>,
) -> Result<Queued, TransferError> {
    let len = reader.message_len(MAX_REQUEST).await?;
    let memory = limited.reserve(len).await?;
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
