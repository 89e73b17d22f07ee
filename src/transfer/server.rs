//! The answering side: streams in, blocks out.
//!
//! Each stream is one task with two halves. The reading half always reads, so that a peer can never be stuck on us; what
//! is asked waits in a bounded queue. The writing half answers in order and loads a little ahead. Bytes on their way
//! from disk to peers are counted, over all peers and for each: that bounds memory, whatever the peers do. Who takes them
//! slowly while others wait for memory is let go (`pace`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
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
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, Limiter, TransferError,
    answers::{self, Have},
    frames::{FrameReader, STALL, flush, write_all},
    limit::PIECE,
    pace::{Hold, PacedWriter, Paces, Watched},
};
use crate::{
    content::cid::Cid,
    net::{IncomingStreams, Net},
    store::Store,
    wire::{MAX_BLOCK, MAX_REQUEST, Message, Request, Response, WireError},
};

/// Blocks that may be asked for and not answered on one stream.
const MAX_QUEUED: usize = 4096;
/// Requests that may be asked and not answered on one stream.
const MAX_REQUESTS: usize = 1024;
/// Blocks of one stream that are loaded or being sent.
const READ_AHEAD: usize = 3;
/// A stream on which nothing is asked for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A peer that takes longer than this for one block is dropped: it would hold our memory for ever.
const BLOCK_DEADLINE: Duration = Duration::from_secs(600);
/// What a block may take of the memory, as the semaphores count.
const BLOCK: usize = MAX_BLOCK as usize;
/// What a stream too many hears.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the server may do.
#[derive(Clone, Default)]
pub struct ServeOptions {
    /// The most to send, all peers together.
    pub limit: Option<Arc<Limiter>>,
    /// Failure domain to report.
    pub region: Option<String>,
    /// Capacity to report, in bytes; none: the disk is the limit.
    pub capacity: Option<u64>,
}

/// How much peers may take of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Streams that one peer may have open.
    pub(super) streams_per_peer: usize,
    /// Bytes of blocks in memory on their way out, for all peers together.
    pub(super) memory: usize,
    /// The same, for one peer.
    pub(super) memory_per_peer: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { streams_per_peer: 32, memory: 32 << 20, memory_per_peer: 12 << 20 }
    }
}

/// Serves the blocks of a store on every stream that comes in, until `stop`.
pub async fn serve(
    net: Net,
    mut incoming: IncomingStreams,
    store: Store,
    options: ServeOptions,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let server = Server::new(Some(net), store, options, Bounds::default(), counters);
    server.run(stream::poll_fn(move |cx| incoming.poll_recv(cx)), stop).await;
}

/// Serves the blocks of a store.
#[derive(Clone)]
pub(super) struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where provider records are; none in a test of the protocol alone.
    net: Option<Net>,
    store: Store,
    options: ServeOptions,
    bounds: Bounds,
    counters: Arc<Counters>,
    memory: Arc<Semaphore>,
    paces: Paces,
    /// Walks over whole roots, which are the dearest question.
    walks: Semaphore,
    peers: Mutex<HashMap<PeerId, Guest>>,
}

/// What a peer has of us.
struct Guest {
    streams: usize,
    memory: Arc<Semaphore>,
}

/// A stream that a peer has open; gives its place back when dropped.
struct Seat<'a> {
    inner: &'a Inner,
    peer: PeerId,
    memory: Arc<Semaphore>,
    watched: Watched<'a>,
    /// One stream more than the peer may have.
    excess: bool,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut peers = self.inner.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = peers.get_mut(&self.peer) {
            guest.streams -= 1;
            if guest.streams == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// An answer that is ready to go out, and the memory that it takes.
enum Ready {
    Short(Response),
    Block { cid: Cid, bytes: Vec<u8>, memory: ([OwnedSemaphorePermit; 2], Hold) },
}

impl Server {
    /// A server of this store's blocks.
    pub(super) fn new(
        net: Option<Net>,
        store: Store,
        options: ServeOptions,
        bounds: Bounds,
        counters: Arc<Counters>,
    ) -> Self {
        let memory = Arc::new(Semaphore::new(bounds.memory.max(BLOCK)));
        let (walks, peers, paces) = (Semaphore::new(2), Mutex::default(), Paces::default());
        Self { inner: Arc::new(Inner { net, store, options, bounds, counters, memory, paces, walks, peers }) }
    }

    /// Answers on all streams that come in, until they end or `stop` is cancelled: then all streams are dropped.
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
        let Some(seat) = self.inner.seat(peer) else { return };
        let pace = Arc::clone(&seat.watched.pace);
        let done = tokio::select! {
            done = self.inner.converse(&seat, stream) => done,
            () = pace.ended() => Err(TransferError::Stalled),
        };
        match done {
            Ok(()) => {}
            Err(error) if error.is_hostile() => {
                tracing::info!(%peer, "a transfer stream was dropped: {error}");
            }
            Err(error) => tracing::debug!(%peer, "a transfer stream ended: {error}"),
        }
    }
}

impl Inner {
    /// A place for one more stream of this peer; none when it has far too many already.
    fn seat(&self, peer: PeerId) -> Option<Seat<'_>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.bounds.memory_per_peer.max(BLOCK);
        let guest =
            peers.entry(peer).or_insert_with(|| Guest { streams: 0, memory: Arc::new(Semaphore::new(most)) });
        if guest.streams >= 2 * self.bounds.streams_per_peer {
            return None;
        }
        guest.streams += 1;
        let excess = guest.streams > self.bounds.streams_per_peer;
        let memory = Arc::clone(&guest.memory);
        Some(Seat { inner: self, peer, memory, watched: self.paces.watch(), excess })
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        seat: &Seat<'_>,
        stream: S,
    ) -> Result<(), TransferError> {
        let (reader, writer) = stream.split();
        let mut writer = PacedWriter::new(writer, Arc::clone(&seat.watched.pace));
        let mut reader = FrameReader::new(reader);
        let (queue, requests) = mpsc::channel(MAX_REQUESTS);
        let queued = AtomicUsize::new(0);
        let reading = async {
            // Moved in, so that the queue ends with the requests.
            let queue = queue;
            while wait_for_request(&mut reader, &queued).await? {
                let request = read_request(&mut reader).await?;
                let cost = match &request {
                    Ok(Request::Get { cids }) => cids.len(),
                    _ => 1,
                };
                if queued.fetch_add(cost, Ordering::Relaxed) + cost > MAX_QUEUED
                    || queue.try_send(request).is_err()
                {
                    return Err(TransferError::Violation("more requests at once than are allowed"));
                }
            }
            Ok(())
        };
        let writing = async {
            let mut answers = std::pin::pin!(self.answers(seat, requests).buffered(READ_AHEAD));
            loop {
                // What is written goes out when there is nothing more to write at once.
                let next = if let Some(next) = answers.next().now_or_never() {
                    next
                } else {
                    flush(&mut writer).await?;
                    answers.next().await
                };
                let Some(answer) = next else { break };
                self.send(seat.peer, &mut writer, answer?).await?;
                queued.fetch_sub(1, Ordering::Relaxed);
                if seat.excess {
                    break;
                }
            }
            Ok(timeout(STALL, writer.close()).await.map_err(|_| TransferError::Stalled)??)
        };
        if seat.excess {
            return tokio::select! { done = writing => done, Err(error) = reading => Err(error) };
        }
        try_join(reading, writing).await.map(drop)
    }

    /// One future per answer, in the order of the requests.
    fn answers<'a>(
        &'a self,
        seat: &'a Seat<'_>,
        requests: mpsc::Receiver<Result<Request, String>>,
    ) -> impl Stream<Item = impl Future<Output = Result<Ready, TransferError>> + 'a> + 'a {
        let requests =
            stream::unfold(requests, |mut requests| async { Some((requests.recv().await?, requests)) });
        requests
            .flat_map(|request| match request {
                Ok(Request::Get { cids }) => stream::iter(cids).map(Ok).left_stream(),
                other => stream::iter([Err(other)]).right_stream(),
            })
            .map(move |question| async move {
                match question {
                    _ if seat.excess => Ok(Ready::Short(busy())),
                    Ok(cid) => self.load(seat, cid).await,
                    Err(other) => self.answer(seat, other).await.map(Ready::Short),
                }
            })
    }

    /// A block from the store, with the memory it takes accounted for.
    async fn load(&self, seat: &Seat<'_>, cid: Cid) -> Result<Ready, TransferError> {
        let closed = |_| TransferError::Refused("the node stops".into());
        // The peer's own share first, so that one peer waits for itself and not the others for it.
        let mut own = Arc::clone(&seat.memory).acquire_many_owned(MAX_BLOCK).await.map_err(closed)?;
        // Before it is ours: memory can be granted while this stream is busy with an earlier answer.
        let hold = seat.watched.pace.hold();
        let all = Arc::clone(&self.memory).acquire_many_owned(MAX_BLOCK);
        let mut all = self.paces.make_room(all).await.map_err(closed)?;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.get(&cid)).await;
        let bytes = match found {
            Ok(Ok(Some(bytes))) if bytes.len() <= BLOCK => bytes,
            Ok(Ok(_)) => return Ok(Ready::Short(Response::Missing { cid })),
            Ok(Err(error)) => {
                tracing::warn!(%cid, "a block cannot be served: {error}");
                return Ok(Ready::Short(Response::Missing { cid }));
            }
            Err(error) => return Err(TransferError::Refused(error.to_string())),
        };
        // Small blocks give back what they do not need, but never count as nothing.
        let spare = BLOCK - bytes.len().max(1);
        drop([own.split(spare), all.split(spare)]);
        Ok(Ready::Block { cid, bytes, memory: ([own, all], hold) })
    }

    /// The answer to anything but a `Get`.
    async fn answer(
        &self,
        seat: &Seat<'_>,
        request: Result<Request, String>,
    ) -> Result<Response, TransferError> {
        let refuse = |reason: &str| Response::Refused { reason: reason.into() };
        let request = match request {
            Ok(request) => request,
            Err(reason) => return Ok(refuse(&reason)),
        };
        Ok(match request {
            Request::Have { root } => {
                let _turn = self.walks.acquire().await.map_err(|_| TransferError::Busy)?;
                let store = self.store.clone();
                let have = tokio::task::spawn_blocking(move || answers::have(&store, &root)).await;
                match have {
                    Ok(Ok(Have { blocks, bitmap })) => Response::Have { blocks, bitmap: bitmap.into() },
                    Ok(Err(reason)) => refuse(&reason),
                    Err(error) => refuse(&error.to_string()),
                }
            }
            Request::Status {} => {
                answers::status(&self.store, self.options.region.as_deref(), self.options.capacity)
            }
            Request::Withdraw { root } => {
                if let Some(net) = &self.net {
                    net.drop_provider(root, seat.peer).await;
                }
                Response::Withdrawn {}
            }
            Request::Put { .. } | Request::Release { .. } => refuse("this node stores nothing for strangers"),
            Request::Get { .. } => unreachable!("a Get is answered block by block"),
        })
    }

    async fn send<W: AsyncWrite + Unpin>(
        &self,
        peer: PeerId,
        writer: &mut W,
        answer: Ready,
    ) -> Result<(), TransferError> {
        // Given back when the bytes are on their way.
        let (cid, bytes, _memory) = match answer {
            Ready::Short(response) => return write_all(writer, &response.encode()?).await,
            Ready::Block { cid, bytes, memory } => (cid, bytes, memory),
        };
        let len = u32::try_from(bytes.len()).expect("at most 2 MiB");
        let sending = async {
            write_all(writer, &Response::Block { cid, len }.encode()?).await?;
            let Some(limit) = &self.options.limit else {
                return write_all(writer, &bytes).await;
            };
            for piece in bytes.chunks(PIECE) {
                limit.pass(piece.len()).await;
                write_all(writer, piece).await?;
                flush(writer).await?;
            }
            Ok(())
        };
        timeout(BLOCK_DEADLINE, sending).await.map_err(|_| TransferError::Stalled)??;
        self.counters.note_sent(peer, u64::from(len));
        Ok(())
    }
}

fn busy() -> Response {
    Response::Busy { retry_after_ms: u32::try_from(RETRY_AFTER.as_millis()).expect("a second") }
}

/// Waits for the peer to say something; `false` when it has ended the stream.
async fn wait_for_request<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    queued: &AtomicUsize,
) -> Result<bool, TransferError> {
    loop {
        match timeout(IDLE, reader.readable()).await {
            Ok(readable) => return readable,
            // It is still being answered.
            Err(_) if queued.load(Ordering::Relaxed) > 0 => {}
            Err(_) => return Ok(false),
        }
    }
}

/// The next request, or why it cannot be done.
async fn read_request<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Result<Result<Request, String>, TransferError> {
    // As a whole, not byte by byte: memory for a message is held until it is complete.
    let message = timeout(STALL, reader.message(MAX_REQUEST)).await.map_err(|_| TransferError::Stalled)?;
    let request = match message {
        Ok(request) => request,
        // A newer peer may ask for more than we can do, and goes on with what we can.
        Err(TransferError::Wire(error @ WireError::UnknownKind(_))) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    if let Request::Put { blocks, .. } = &request {
        reader.skip(blocks.iter().map(|block| u64::from(block.len)).sum()).await?;
    }
    Ok(Ok(request))
}
