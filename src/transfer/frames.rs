//! Frames on a stream. Each read and each write has a deadline.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
    io::{AsyncBufReadExt, BufReader},
};
use tokio::time::timeout;

use super::TransferError;
use crate::wire::{Message, PREFIX_LEN, body_len};

/// Time without a byte in the middle of a message after which a stream has stalled.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// Read buffer length. Small, because longer reads bypass it, so that little of a block is copied twice.
const BUFFER_LEN: usize = 1 << 10;

/// The reading half of a stream.
pub(super) struct FrameReader<R> {
    inner: BufReader<R>,
    received: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner: BufReader::with_capacity(BUFFER_LEN, inner), received: Arc::default() }
    }

    /// Returns the count of received bytes, including incomplete messages.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Waits for bytes to read. Returns `false` at the end of the stream. Cancel safe.
    pub(super) async fn readable(&mut self) -> Result<bool, TransferError> {
        Ok(!self.inner.fill_buf().await?.is_empty())
    }

    /// Reads the next message. Errors: more than `limit` bytes, before any memory is allocated.
    pub(super) async fn message<M: Message>(&mut self, limit: usize) -> Result<M, TransferError> {
        let len = self.message_len(limit).await?;
        self.message_of(len).await
    }

    /// Reads the length of the next message. Errors: more than `limit` bytes.
    pub(super) async fn message_len(&mut self, limit: usize) -> Result<usize, TransferError> {
        let mut prefix = [0; PREFIX_LEN];
        self.fill(&mut prefix).await?;
        Ok(body_len(prefix, limit)?)
    }

    /// Reads a message whose length has been read.
    pub(super) async fn message_of<M: Message>(&mut self, len: usize) -> Result<M, TransferError> {
        let mut body = vec![0; len];
        self.fill(&mut body).await?;
        Ok(M::decode(&body)?)
    }

    /// Reads `len` raw bytes. The caller limits `len`.
    pub(super) async fn bytes(&mut self, len: usize) -> Result<Vec<u8>, TransferError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Reads and drops `len` bytes.
    pub(super) async fn skip(&mut self, mut len: u64) -> Result<(), TransferError> {
        let mut scratch = [0; 4096];
        while len > 0 {
            let part = usize::try_from(len).unwrap_or(usize::MAX).min(scratch.len());
            self.fill(&mut scratch[..part]).await?;
            len -= part as u64;
        }
        Ok(())
    }

    async fn fill(&mut self, mut space: &mut [u8]) -> Result<(), TransferError> {
        while !space.is_empty() {
            let read = self.inner.read(space);
            match timeout(STALL, read).await.map_err(|_| TransferError::Stalled)?? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                count => {
                    self.received.fetch_add(count as u64, Ordering::Relaxed);
                    space = &mut space[count..];
                }
            }
        }
        Ok(())
    }
}

/// Writes all of `bytes`. Errors: no byte is accepted for [`STALL`].
pub(super) async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut bytes: &[u8],
) -> Result<(), TransferError> {
    while !bytes.is_empty() {
        match timeout(STALL, writer.write(bytes)).await.map_err(|_| TransferError::Stalled)?? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

/// Flushes written bytes.
pub(super) async fn flush<W: AsyncWrite + Unpin>(writer: &mut W) -> Result<(), TransferError> {
    Ok(timeout(STALL, writer.flush()).await.map_err(|_| TransferError::Stalled)??)
}
