//! Asking peers for blocks.

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
    lane::{Answer, Ask, Lane},
};
use crate::{
    content::cid::Cid,
    net::{Net, NetError},
    wire::{Request, Response},
};

/// Requests that wait for a peer's stream.
const JOBS: usize = 64;
/// Blocks that one stream has been asked for and has not given.
const MAX_OUTSTANDING: usize = 256;
/// Blocks asked for in one message.
const BATCH: usize = 16;
/// A stream that nobody needs for this long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// How long connecting and opening may take.
const OPEN: Duration = Duration::from_secs(10);

/// Why a peer did not give a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It does not have it.
    #[error("the peer does not have it")]
    Missing,
    /// It has too much to do.
    #[error("the peer is busy")]
    Busy,
    /// It is gone, or has stalled.
    #[error("the peer is gone")]
    Lost,
    /// There is no connection to it, and none can be made.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// It sent what the protocol does not allow.
    #[error("the peer breaks the protocol")]
    Violation,
}

/// What became of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawn {
    /// Peers that dropped the record.
    pub told: u32,
    /// Peers that may have it and could not be told.
    pub missed: u32,
}

/// Which blocks of a root a peer says that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    count: u32,
    bitmap: Vec<u8>,
}

impl Holding {
    #[cfg(test)]
    pub(crate) fn of(blocks: &[bool]) -> Self {
        let byte = |part: &[bool]| part.iter().enumerate().map(|(at, has)| u8::from(*has) << (7 - at)).sum();
        Self {
            count: u32::try_from(blocks.len()).expect("few"),
            bitmap: blocks.chunks(8).map(byte).collect(),
        }
    }

    /// One answer per block, in preorder: the root, then each link with all below it. Of what is below a node block that
    /// the peer lacks, nothing is said.
    pub fn iter(&self) -> impl Iterator<Item = bool> {
        (0..self.count).map(|at| self.bitmap[at as usize / 8] >> (7 - at % 8) & 1 == 1)
    }
}

/// What a peer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Failure domain, where its operator has named it.
    pub region: Option<String>,
    /// Bytes that are free for blocks; none: not said.
    pub free: Option<u64>,
}

/// The way to an answer.
pub type Answering = oneshot::Receiver<Result<Vec<u8>, Failure>>;

/// The way to a peer's stream.
struct Stream {
    /// A later stream to the same peer has another one.
    number: u64,
    jobs: mpsc::Sender<Job>,
    /// Bytes that have arrived on it; none before it is open.
    moved: Option<Arc<AtomicU64>>,
}

struct Job {
    cid: Cid,
    /// Length that the block must have, where known.
    len: Option<u32>,
    reply: oneshot::Sender<Result<Vec<u8>, Failure>>,
}

/// Streams to peers, opened when they are needed. Cheap to clone.
#[derive(Clone)]
pub struct Transfers {
    net: Net,
    counters: Arc<Counters>,
    peers: Arc<Mutex<HashMap<PeerId, Stream>>>,
    next: Arc<AtomicU64>,
}

impl Transfers {
    /// Transfers over a network.
    pub fn new(net: Net, counters: Arc<Counters>) -> Self {
        Self { net, counters, peers: Arc::default(), next: Arc::default() }
    }

    /// The network below.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Asks a peer for a block; returns with the way to the answer as soon as the question has its place on the peer's
    /// stream, none where there can be no stream. The bytes have the right length, where one is given; nothing else of
    /// them has been checked. A dropped answer means that the peer was lost.
    pub async fn ask(&self, peer: PeerId, cid: Cid, len: Option<u32>) -> Option<Answering> {
        let (reply, answer) = oneshot::channel();
        let mut job = Job { cid, len, reply };
        // A stream that is just being closed for idleness is replaced once.
        for _ in 0..2 {
            match self.stream(peer).send(job).await {
                Ok(()) => return Some(answer),
                Err(mpsc::error::SendError(unsent)) => job = unsent,
            }
        }
        None
    }

    /// Bytes that have arrived from a peer on its present stream, also of blocks that are not complete.
    pub fn moved(&self, peer: &PeerId) -> u64 {
        let peers = self.peers();
        let moved = peers.get(peer).and_then(|stream| stream.moved.as_ref());
        moved.map_or(0, |moved| moved.load(Ordering::Relaxed))
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, Stream>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self, peer: PeerId) -> mpsc::Sender<Job> {
        let mut peers = self.peers();
        if let Some(stream) = peers.get(&peer).filter(|stream| !stream.jobs.is_closed()) {
            return stream.jobs.clone();
        }
        let (jobs, queue) = mpsc::channel(JOBS);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        peers.insert(peer, Stream { number, jobs: jobs.clone(), moved: None });
        let this = self.clone();
        tokio::spawn(async move {
            this.run(peer, number, queue).await;
            let mut peers = this.peers();
            if peers.get(&peer).is_some_and(|stream| stream.number == number) {
                peers.remove(&peer);
            }
        });
        jobs
    }

    /// Owns one stream until it fails, or nobody needs it. Whoever still waits then is told by their dropped reply.
    async fn run(&self, peer: PeerId, number: u64, mut jobs: mpsc::Receiver<Job>) {
        let opened = tokio::time::timeout(OPEN, self.net.open(peer, PROTOCOL)).await;
        let mut lane = match opened {
            Ok(Ok(stream)) => Lane::new(stream),
            Ok(Err(NetError::Dial(reason))) => {
                tracing::debug!(%peer, "{reason}");
                return refuse(jobs);
            }
            Ok(Err(error @ NetError::NoAddress(_))) => {
                tracing::debug!(%peer, "{error}");
                return refuse(jobs);
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, "{error}");
                return;
            }
            Err(_) => return refuse(jobs),
        };
        if let Some(stream) = self.peers().get_mut(&peer).filter(|stream| stream.number == number) {
            stream.moved = Some(lane.moved());
        }
        let (asks, mut asked) = mpsc::channel(1);
        let (answers, mut answered) = mpsc::channel(1);
        // Who waits for an answer, in the order of the asks.
        let (wait, mut waiting) = mpsc::channel::<Job>(MAX_OUTSTANDING);
        let asking = async move {
            loop {
                let mut batch = Vec::new();
                match tokio::time::timeout(IDLE, jobs.recv_many(&mut batch, BATCH)).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                // Those who have gone elsewhere meanwhile are not asked for.
                batch.retain(|job| !job.reply.is_closed());
                let ask = batch.iter().map(|job| Ask { cid: job.cid, len: job.len }).collect();
                for job in batch {
                    if wait.send(job).await.is_err() {
                        return;
                    }
                }
                if asks.send(ask).await.is_err() {
                    return;
                }
            }
        };
        let mut current = None;
        let answering = async {
            loop {
                if current.is_none() {
                    current = waiting.recv().await;
                }
                let Some(answer) = answered.recv().await else {
                    return;
                };
                if let Some(job) = current.take() {
                    drop(job.reply.send(self.count(peer, answer)));
                }
            }
        };
        let ended = {
            let mut answering = std::pin::pin!(answering);
            // The conversation decides when it is over; the other two live as long.
            let others = async {
                tokio::join!(asking, &mut answering);
                std::future::pending().await
            };
            let ended = tokio::select! {
                ended = async move { lane.converse(&mut asked, &answers).await } => ended,
                never = others => never,
            };
            // What was answered before is handed on.
            answering.await;
            ended
        };
        let Err(error) = ended else { return };
        if error.is_hostile() {
            tracing::warn!(%peer, "a peer breaks the transfer protocol: {error}");
            waiting.close();
            let rest = std::iter::from_fn(|| waiting.try_recv().ok());
            for job in current.into_iter().chain(rest) {
                drop(job.reply.send(Err(Failure::Violation)));
            }
        } else {
            tracing::debug!(%peer, "a transfer ended: {error}");
        }
    }

    fn count(&self, peer: PeerId, answer: Answer) -> Result<Vec<u8>, Failure> {
        match answer {
            Answer::Block(bytes) => {
                self.counters.note_received(peer, bytes.len() as u64);
                Ok(bytes)
            }
            Answer::Missing => Err(Failure::Missing),
            Answer::Busy => Err(Failure::Busy),
        }
    }

    /// Asks the peers that hold our provider record of a root to drop it.
    pub async fn withdraw(&self, root: Cid) -> Withdrawn {
        self.net.unprovide(root).await;
        let peers = self.net.closest_peers(root).await.unwrap_or_default();
        let told = peers.into_iter().map(|peer| self.withdraw_from(peer, root));
        let told = libp2p::futures::future::join_all(told).await;
        let count = |wanted| told.iter().filter(|done| **done == wanted).count().try_into();
        Withdrawn { told: count(true).unwrap_or(u32::MAX), missed: count(false).unwrap_or(u32::MAX) }
    }

    async fn withdraw_from(&self, peer: PeerId, root: Cid) -> bool {
        matches!(self.call(peer, &Request::Withdraw { root }, OPEN).await, Some(Response::Withdrawn {}))
    }

    /// Which blocks of a root a peer has; none where it does not say so in time.
    pub async fn have(&self, peer: PeerId, root: Cid, timeout: Duration) -> Option<Holding> {
        match self.call(peer, &Request::Have { root }, timeout).await {
            Some(Response::Have { blocks, bitmap }) => {
                Some(Holding { count: blocks, bitmap: bitmap.into_vec() })
            }
            _ => None,
        }
    }

    /// What a peer says of itself; none where it does not in time.
    pub async fn status(&self, peer: PeerId, timeout: Duration) -> Option<PeerStatus> {
        match self.call(peer, &Request::Status {}, timeout).await {
            Some(Response::Status { region, free, .. }) => Some(PeerStatus { region, free }),
            _ => None,
        }
    }

    /// Asks one question on a stream of its own.
    async fn call(&self, peer: PeerId, request: &Request, timeout: Duration) -> Option<Response> {
        let exchange = async {
            let mut lane = Lane::new(self.net.open(peer, PROTOCOL).await.ok()?);
            lane.call(request).await.ok()
        };
        tokio::time::timeout(timeout, exchange).await.ok().flatten()
    }
}

/// Tells everybody who waits for a peer's stream that there will be none.
fn refuse(mut jobs: mpsc::Receiver<Job>) {
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        drop(job.reply.send(Err(Failure::Unreachable)));
    }
}
