//! The reader's end of a read: a bounded channel of plaintext, with the memory that the plaintext takes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::node::error::NodeError;

/// Length in bytes of the pieces that a chunk is sent in when it takes up the memory reserved for its reader.
const SMALL: usize = 128 << 10;

/// Plaintext on its way to the reader.
pub(super) struct CountedBytes {
    pub(super) bytes: Bytes,
    /// Counts the bytes as memory of the readers until the piece is dropped.
    _memory: Option<Arc<OwnedSemaphorePermit>>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Sends plaintext to the reader.
pub(super) struct Sink {
    sender: mpsc::Sender<Result<CountedBytes, NodeError>>,
    /// Bytes that are sent before the next piece.
    buffer: Vec<u8>,
}

/// The reason why a read ended early.
pub(super) enum Stopped {
    /// The reader is gone.
    NoReader,
    /// The read failed.
    Failed(NodeError),
}

impl<E: Into<NodeError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Sink {
    pub(super) fn new(sender: mpsc::Sender<Result<CountedBytes, NodeError>>) -> Self {
        Self { sender, buffer: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Stopped> {
        self.send_piece(CountedBytes { bytes, _memory: None }).await
    }

    /// Keeps bytes back until more are sent, so that they go out only if the bytes after them could be read.
    pub(super) async fn buffer(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < SMALL { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = CountedBytes { bytes: std::mem::take(&mut self.buffer).into(), _memory: None };
        self.sender.send(Ok(piece)).await.map_err(|_| Stopped::NoReader)
    }

    async fn send_piece(&mut self, piece: CountedBytes) -> Result<(), Stopped> {
        self.flush().await?;
        self.sender.send(Ok(piece)).await.map_err(|_| Stopped::NoReader)
    }

    /// Sends a part of a chunk. A part that takes up the memory reserved for its reader (`reserved`) is sent in small pieces,
    /// so that this memory is freed little by little.
    pub(super) async fn send_chunk(
        &mut self,
        part: Bytes,
        memory: Option<OwnedSemaphorePermit>,
        reserved: bool,
    ) -> Result<(), Stopped> {
        let memory = memory.map(Arc::new);
        if !reserved {
            return self.send_piece(CountedBytes { bytes: part, _memory: memory }).await;
        }
        let pieces: Vec<Bytes> = part.chunks(SMALL).map(Bytes::copy_from_slice).collect();
        drop(part);
        for bytes in pieces {
            self.send_piece(CountedBytes { bytes, _memory: memory.clone() }).await?;
        }
        Ok(())
    }
}
