//! One stream to one peer, from the asker's side: pipelined requests out, answers in, each checked against what was asked.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite,
    future::{Either, select},
    io::{ReadHalf, WriteHalf},
};
use tokio::sync::{Notify, mpsc};

use super::{
    TransferError,
    frames::{FrameReader, flush, write_all},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block::MAX_NODE_LEN,
    },
    wire::{MAX_BLOCK, MAX_CIDS, MAX_MESSAGE, Message, Request, Response},
};

/// Longest answer to a `Get`, in bytes, without the block.
const MAX_ANSWER: usize = 4 << 10;

/// A block that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    /// Its name.
    pub(super) cid: Cid,
    /// Its length in bytes, where it is known: a root's is not.
    pub(super) len: Option<u32>,
}

impl Ask {
    fn allows(&self, len: u32) -> bool {
        match self.len {
            Some(known) => len == known && len <= MAX_BLOCK,
            // Who mends a file here knows no more of a block than its name.
            None if self.cid.codec() == Codec::Raw => len <= MAX_BLOCK,
            None => len as usize <= MAX_NODE_LEN,
        }
    }
}

/// What became of an [`Ask`]. Answers come in the order of the asks.
#[derive(Debug)]
pub(super) enum Answer {
    /// Bytes of the right length came; whether they are the block has not been checked.
    Block(Vec<u8>),
    /// The peer does not have it.
    Missing,
    /// The peer has no time for it: ask again later, or elsewhere.
    Busy,
}

/// A stream on which nothing is outstanding.
pub(super) struct Lane<S> {
    reader: FrameReader<ReadHalf<S>>,
    writer: WriteHalf<S>,
}

/// What was asked and is not answered yet.
#[derive(Default)]
struct Pending {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    /// Each with the number of its request.
    asks: VecDeque<(u64, Ask)>,
    /// No more will come.
    closed: bool,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reader, writer) = stream.split();
        Self { reader: FrameReader::new(reader), writer }
    }

    /// Bytes that have arrived so far.
    pub(super) fn moved(&self) -> Arc<AtomicU64> {
        self.reader.moved()
    }

    /// Asks for whatever comes out of `asks`, until it is closed and all is answered.
    ///
    /// The asker bounds what is outstanding; nothing more than that is ever held here.
    pub(super) async fn converse(
        &mut self,
        asks: &mut mpsc::Receiver<Vec<Ask>>,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), TransferError> {
        let pending = Pending::default();
        let asking = async {
            let mut number = 0;
            while let Some(batch) = asks.recv().await {
                for part in batch.chunks(MAX_CIDS) {
                    number += 1;
                    pending.lock().asks.extend(part.iter().map(|ask| (number, *ask)));
                    pending.changed.notify_one();
                    let get = Request::Get { cids: part.iter().map(|ask| ask.cid).collect() };
                    write_all(&mut self.writer, &get.encode()?).await?;
                    flush(&mut self.writer).await?;
                }
            }
            pending.close();
            Ok(())
        };
        let answering = read_answers(&mut self.reader, &pending, answers);
        // The answers decide when it is over; an error of the asking half ends it too.
        match select(Box::pin(asking), Box::pin(answering)).await {
            Either::Left((Ok(()), answering)) => answering.await,
            Either::Left((Err(error), _)) => Err(error),
            Either::Right((result, _)) => result,
        }
    }

    /// Asks one question that is no `Get`.
    pub(super) async fn call(&mut self, request: &Request) -> Result<Response, TransferError> {
        write_all(&mut self.writer, &request.encode()?).await?;
        flush(&mut self.writer).await?;
        match self.reader.message(MAX_MESSAGE).await? {
            Response::Refused { reason } => Err(TransferError::Refused(reason)),
            Response::Busy { .. } => Err(TransferError::Busy),
            Response::Block { .. } => Err(TransferError::Violation("a block that was not asked for")),
            response => Ok(response),
        }
    }
}

async fn read_answers<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    pending: &Pending,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), TransferError> {
    loop {
        let (front, closed) = {
            let queue = pending.lock();
            (queue.asks.front().copied(), queue.closed)
        };
        let Some((number, ask)) = front else {
            if closed {
                return Ok(());
            }
            let readable = std::pin::pin!(reader.readable());
            match select(std::pin::pin!(pending.changed.notified()), readable).await {
                Either::Right((Ok(true), _)) if pending.lock().asks.is_empty() => {
                    return Err(TransferError::Violation("an answer to nothing"));
                }
                Either::Left(_) | Either::Right((Ok(true), _)) => continue,
                Either::Right((Ok(false), _)) => {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Either::Right((Err(error), _)) => return Err(error),
            }
        };
        let (answer, count) = match reader.message(MAX_ANSWER).await? {
            Response::Block { cid, .. } | Response::Missing { cid } if cid != ask.cid => {
                return Err(TransferError::Violation("an answer to another question"));
            }
            Response::Block { len, .. } if !ask.allows(len) => {
                return Err(TransferError::Violation("a block of another length"));
            }
            Response::Block { len, .. } => (Answer::Block(reader.bytes(len as usize).await?), 1),
            Response::Missing { .. } => (Answer::Missing, 1),
            Response::Busy { .. } => {
                let queue = pending.lock();
                (Answer::Busy, queue.asks.iter().take_while(|(other, _)| *other == number).count())
            }
            Response::Refused { reason } => return Err(TransferError::Refused(reason)),
            _ => return Err(TransferError::Violation("an answer of another kind")),
        };
        pending.lock().asks.drain(..count);
        let busy = (1..count).map(|_| Answer::Busy);
        for answer in std::iter::once(answer).chain(busy) {
            if answers.send(answer).await.is_err() {
                // Nobody listens any more. What is still to come is not worth reading.
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
        }
    }
}
