//! Frames on a stream, with a deadline on every step.

use std::{io, time::Duration};

use libp2p::futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::{Serialize, de::DeserializeOwned};

use crate::wire::{self, PREFIX, WireError};

/// A peer that moves nothing for this long has stalled.
pub(super) const STALL: Duration = Duration::from_secs(20);
/// Bytes read in one step: a slow peer shows progress that often.
const STEP: usize = 64 << 10;

/// Reads the next message; none where the stream ends between two messages. Waits for its first byte as long as it
/// takes, and [`STALL`] for the rest.
pub(super) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut prefix = [0; PREFIX];
    match stream.read(&mut prefix[..1]).await? {
        0 => return Ok(None),
        _ => within(stream.read_exact(&mut prefix[1..])).await?,
    }
    let len = wire::message_len(prefix).map_err(violation)?;
    let mut bytes = vec![0; len];
    within(stream.read_exact(&mut bytes)).await?;
    wire::decode(&bytes).map(Some).map_err(violation)
}

/// Reads the raw bytes behind a message. `len` has been checked.
pub(super) async fn read_block(stream: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Vec<u8>> {
    let mut block = vec![0; len];
    for step in block.chunks_mut(STEP) {
        within(stream.read_exact(step)).await?;
    }
    Ok(block)
}

/// Writes a message and, behind it, a block.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
    block: Option<&[u8]>,
) -> io::Result<()> {
    let frame = wire::encode(message).map_err(violation)?;
    within(stream.write_all(&frame)).await?;
    for step in block.unwrap_or_default().chunks(1 << 20) {
        within(stream.write_all(step)).await?;
    }
    within(stream.flush()).await
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(STALL, step)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What the peer sent breaks the protocol.
pub(super) fn violation(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
