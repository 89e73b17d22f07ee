//! The client side of one stream: sends pipelined requests and checks each answer against its request.

use std::{
    io, iter,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite,
    future::{Either, select},
    io::{ReadHalf, WriteHalf},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    TransferError,
    frames::{FrameReader, flush, write_all},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block::MAX_NODE_LEN,
    },
    wire::{MAX_BLOCK, MAX_MESSAGE, Message, Request, Response},
};

/// Maximum unanswered block requests.
const MAX_UNANSWERED: usize = 256;
/// Maximum blocks requested in one message.
const BATCH: usize = 16;
/// Time after which an unused stream is closed.
const IDLE: Duration = Duration::from_secs(120);
/// Maximum length in bytes of an answer to `Get`, without the block.
const MAX_ANSWER: usize = 4 << 10;

/// Why a peer did not send a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It does not have it.
    #[error("the peer does not have it")]
    Missing,
    /// It has too many requests.
    #[error("the peer is busy")]
    Busy,
    /// It disconnected or stalled.
    #[error("the peer was lost")]
    Lost,
    /// No connection to it could be made.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// It broke the protocol.
    #[error("the peer breaks the protocol")]
    Violation,
}

/// A requested block and where its answer goes. A dropped reply means that the peer was lost.
pub(super) struct BlockRequest {
    pub(super) cid: Cid,
    /// Its length in bytes. `None` means unknown, as for a root.
    pub(super) len: Option<u32>,
    /// Gets bytes of the right length. Their hash is not checked.
    pub(super) reply: oneshot::Sender<Result<Vec<u8>, Failure>>,
}

impl BlockRequest {
    fn allows(&self, len: u32) -> bool {
        match self.len {
            Some(known) => len == known && len <= MAX_BLOCK,
            // A repair knows only the CID.
            None if self.cid.codec() == Codec::Raw => len <= MAX_BLOCK,
            None => len as usize <= MAX_NODE_LEN,
        }
    }
}

/// Sent requests with the number of their message, in order.
type Unanswered = mpsc::Receiver<(u64, BlockRequest)>;

/// A stream without unanswered requests.
pub(super) struct RequestStream<S> {
    reader: FrameReader<ReadHalf<S>>,
    writer: WriteHalf<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> RequestStream<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reader, writer) = stream.split();
        Self { reader: FrameReader::new(reader), writer }
    }

    /// Returns the count of received bytes.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        self.reader.received()
    }

    /// Sends the requests of a queue and passes on the answers, until the queue is closed or idle and all requests are
    /// answered. `on_block` gets the length of each block.
    pub(super) async fn get(
        &mut self,
        queue: mpsc::Receiver<BlockRequest>,
        on_block: impl Fn(u64),
    ) -> Result<(), TransferError> {
        let (sent, mut unanswered) = mpsc::channel(MAX_UNANSWERED);
        let sending = async {
            // Moved in, so that both close with this half.
            let (sent, mut queue) = (sent, queue);
            for number in 0.. {
                let mut batch = Vec::new();
                let Ok(1..) = timeout(IDLE, queue.recv_many(&mut batch, BATCH)).await else { break };
                // Requests whose caller has gone are not sent.
                batch.retain(|request| !request.reply.is_closed());
                if batch.is_empty() {
                    continue;
                }
                let get = Request::Get { cids: batch.iter().map(|request| request.cid).collect() };
                for request in batch {
                    drop(sent.send((number, request)).await);
                }
                write_all(&mut self.writer, &get.encode()?).await?;
                flush(&mut self.writer).await?;
            }
            Ok(())
        };
        let receiving = read_answers(&mut self.reader, &mut unanswered, on_block);
        // The last answer or an error of either half ends it.
        let done = match select(Box::pin(sending), Box::pin(receiving)).await {
            Either::Left((Ok(()), receiving)) => receiving.await,
            Either::Left((Err(error), _)) => Err(error),
            Either::Right((done, _)) => done,
        };
        if done.as_ref().is_err_and(TransferError::is_hostile) {
            unanswered.close();
            for (_, request) in iter::from_fn(|| unanswered.try_recv().ok()) {
                drop(request.reply.send(Err(Failure::Violation)));
            }
        }
        done
    }

    /// Sends one request other than `Get`, and returns its answer.
    pub(super) async fn call(&mut self, request: &Request) -> Result<Response, TransferError> {
        write_all(&mut self.writer, &request.encode()?).await?;
        flush(&mut self.writer).await?;
        match self.reader.message(MAX_MESSAGE).await? {
            Response::Refused { reason } => Err(TransferError::Refused(reason)),
            Response::Busy { .. } => Err(TransferError::Busy),
            Response::Block { .. } => Err(TransferError::Violation("a block that was not requested")),
            response => Ok(response),
        }
    }
}

async fn read_answers<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    unanswered: &mut Unanswered,
    on_block: impl Fn(u64),
) -> Result<(), TransferError> {
    let mut next = None;
    loop {
        let taken = match next.take() {
            None => next_request(reader, unanswered).await?,
            next => next,
        };
        let Some((number, request)) = taken else { return Ok(()) };
        let answer = match read_answer(reader, &request).await {
            Ok(answer) => answer,
            Err(error) => {
                if error.is_hostile() {
                    drop(request.reply.send(Err(Failure::Violation)));
                }
                return Err(error);
            }
        };
        if let Ok(bytes) = &answer {
            on_block(bytes.len() as u64);
        }
        let busy = answer == Err(Failure::Busy);
        drop(request.reply.send(answer));
        // One `Busy` answers a whole message.
        while busy && next.is_none() {
            match unanswered.try_recv() {
                Ok((other, request)) if other == number => drop(request.reply.send(Err(Failure::Busy))),
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
    }
}

/// Waits for the next request that was sent. `None` means that there will be no more.
async fn next_request<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    unanswered: &mut Unanswered,
) -> Result<Option<(u64, BlockRequest)>, TransferError> {
    tokio::select! {
        biased;
        next = unanswered.recv() => Ok(next),
        readable = reader.readable() => Err(if readable? {
            TransferError::Violation("an answer without a request")
        } else {
            io::Error::from(io::ErrorKind::UnexpectedEof).into()
        }),
    }
}

async fn read_answer<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    request: &BlockRequest,
) -> Result<Result<Vec<u8>, Failure>, TransferError> {
    match reader.message(MAX_ANSWER).await? {
        Response::Block { cid, .. } | Response::Missing { cid } if cid != request.cid => {
            Err(TransferError::Violation("an answer to another request"))
        }
        Response::Block { len, .. } if !request.allows(len) => {
            Err(TransferError::Violation("a block of another length"))
        }
        Response::Block { len, .. } => Ok(Ok(reader.bytes(len as usize).await?)),
        Response::Missing { .. } => Ok(Err(Failure::Missing)),
        Response::Busy { .. } => Ok(Err(Failure::Busy)),
        Response::Refused { reason } => Err(TransferError::Refused(reason)),
        _ => Err(TransferError::Violation("an answer of another kind")),
    }
}
