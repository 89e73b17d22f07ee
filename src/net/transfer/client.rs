//! Asking peers for blocks.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::{
    PeerId, Stream,
    futures::{AsyncReadExt, io::ReadHalf},
};
use tokio::sync::{mpsc, oneshot};

use super::{frame, server::Counters};
use crate::{
    content::cid::Cid,
    net::Net,
    wire::{MAX_BLOCK, Request, Response},
};

/// Requests that wait for a peer's stream.
const JOBS: usize = 64;
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
    /// It cannot be reached, or is gone, or has stalled.
    #[error("the peer is gone")]
    Lost,
    /// It sent what the protocol does not allow.
    #[error("the peer breaks the protocol")]
    Violation,
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
    peers: Arc<Mutex<HashMap<PeerId, (u64, mpsc::Sender<Job>)>>>,
    next: Arc<AtomicU64>,
}

impl Transfers {
    /// Transfers over a network.
    pub fn new(net: Net, counters: Arc<Counters>) -> Self {
        Self {
            net,
            counters,
            peers: Arc::default(),
            next: Arc::default(),
        }
    }

    /// The network below.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Asks a peer for a block. The bytes have the right length, where one is given; nothing else of them has been
    /// checked.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn get(&self, peer: PeerId, cid: Cid, len: Option<u32>) -> Result<Vec<u8>, Failure> {
        let (reply, answer) = oneshot::channel();
        let mut job = Job { cid, len, reply };
        // A stream that is just being closed for idleness is replaced once.
        for _ in 0..2 {
            match self.stream(peer).send(job).await {
                Ok(()) => return answer.await.unwrap_or(Err(Failure::Lost)),
                Err(mpsc::error::SendError(unsent)) => job = unsent,
            }
        }
        Err(Failure::Lost)
    }

    fn stream(&self, peer: PeerId) -> mpsc::Sender<Job> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, jobs)) = peers.get(&peer).filter(|(_, jobs)| !jobs.is_closed()) {
            return jobs.clone();
        }
        let (jobs, queue) = mpsc::channel(JOBS);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        peers.insert(peer, (number, jobs.clone()));
        let this = self.clone();
        tokio::spawn(async move {
            this.run(peer, queue).await;
            let mut peers = this.peers.lock().unwrap_or_else(PoisonError::into_inner);
            if peers.get(&peer).is_some_and(|(current, _)| *current == number) {
                peers.remove(&peer);
            }
        });
        jobs
    }

    /// Owns one stream until it fails, or nobody needs it.
    async fn run(&self, peer: PeerId, mut jobs: mpsc::Receiver<Job>) {
        let opened = tokio::time::timeout(OPEN, self.net.open(peer)).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, "{error}");
                return;
            }
            Err(_) => return,
        };
        let (reader, mut writer) = stream.split();
        let (asked, waiting) = mpsc::channel::<Job>(4 * JOBS);
        let mut reading = std::pin::pin!(self.read(reader, waiting));
        let writing = async {
            loop {
                let mut batch = Vec::new();
                match tokio::time::timeout(IDLE, jobs.recv_many(&mut batch, BATCH)).await {
                    Ok(0) | Err(_) => return io::Result::Ok(()),
                    Ok(_) => {}
                }
                // Those who have gone elsewhere meanwhile are not asked for.
                batch.retain(|job| !job.reply.is_closed());
                if batch.is_empty() {
                    continue;
                }
                let cids = batch.iter().map(|job| job.cid).collect();
                for job in batch {
                    if asked.send(job).await.is_err() {
                        return Ok(());
                    }
                }
                frame::write(&mut writer, &Request::Get { cids }, None).await?;
            }
        };
        let ended = tokio::select! {
            ended = &mut reading => ended,
            ended = writing => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "a transfer ended: {error}");
        }
    }

    /// Hands answers to those who wait for them, in order. When this ends, whoever still waits is told by their
    /// dropped reply.
    async fn read(&self, mut stream: ReadHalf<Stream>, mut waiting: mpsc::Receiver<Job>) -> io::Result<()> {
        while let Some(job) = waiting.recv().await {
            let answer = tokio::time::timeout(frame::STALL, frame::read::<Response>(&mut stream)).await;
            let answer = match answer {
                Ok(Ok(Some(answer))) => self.take(&mut stream, &job, answer).await,
                Ok(Ok(None)) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match answer {
                Ok(result) => drop(job.reply.send(result)),
                Err(error) => {
                    let broken = error.kind() == io::ErrorKind::InvalidData;
                    let failure = if broken { Failure::Violation } else { Failure::Lost };
                    drop(job.reply.send(Err(failure)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        stream: &mut ReadHalf<Stream>,
        job: &Job,
        answer: Response,
    ) -> io::Result<Result<Vec<u8>, Failure>> {
        let violation = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        match answer {
            Response::Block { cid, .. } | Response::Missing { cid } if cid != job.cid => {
                violation("an answer to something else")
            }
            Response::Block { len, .. } if len > MAX_BLOCK => violation("a block that is too long"),
            Response::Block { len, .. } if job.len.is_some_and(|wanted| wanted != len) => {
                violation("a block of another length")
            }
            Response::Block { len, .. } => {
                let block = frame::read_block(stream, len as usize).await?;
                self.counters
                    .received
                    .fetch_add(u64::from(len), Ordering::Relaxed);
                Ok(Ok(block))
            }
            Response::Missing { .. } => Ok(Err(Failure::Missing)),
            Response::Busy { .. } => Ok(Err(Failure::Busy)),
            _ => violation("an answer to another question"),
        }
    }

    /// Asks the peers that hold our provider record of a root to drop it; answers how many did.
    pub async fn withdraw(&self, root: Cid) -> u32 {
        self.net.unprovide(root).await;
        let peers = self.net.closest_peers(root).await.unwrap_or_default();
        let told = peers.into_iter().map(|peer| self.withdraw_from(peer, root));
        let told = libp2p::futures::future::join_all(told).await;
        u32::try_from(told.into_iter().filter(|done| *done).count()).unwrap_or(u32::MAX)
    }

    async fn withdraw_from(&self, peer: PeerId, root: Cid) -> bool {
        let exchange = async {
            let mut stream = self.net.open(peer).await.map_err(io::Error::other)?;
            frame::write(&mut stream, &Request::Withdraw { root }, None).await?;
            frame::read::<Response>(&mut stream).await
        };
        let answer = tokio::time::timeout(OPEN, exchange).await;
        matches!(answer, Ok(Ok(Some(Response::Withdrawn { root: said }))) if said == root)
    }
}
