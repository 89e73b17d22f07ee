//! Sending the bytes of one file.

use std::ops::Range;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{
    sink::{Sink, Stopped},
    source::{Chunk, Source},
};
use crate::content::decoder::FileTree;

/// Sends bytes `range` of a file.
pub(super) async fn send(
    source: &Source,
    mut tree: FileTree,
    range: Range<u64>,
    sink: &mut Sink,
) -> Result<(), Stopped> {
    if range.is_empty() {
        return Ok(());
    }
    tree.seek(range.start);
    let mut chunks = std::pin::pin!(source.chunks(tree, range.end));
    while let Some(chunk) = chunks.try_next().await? {
        send_chunk(source, chunk, &range, sink).await?;
    }
    Ok(())
}

/// Sends the part of a chunk that is in `range`.
pub(super) async fn send_chunk(
    source: &Source,
    Chunk { offset, bytes, memory }: Chunk,
    range: &Range<u64>,
    sink: &mut Sink,
) -> Result<(), Stopped> {
    let from = range.start.saturating_sub(offset).min(bytes.len() as u64);
    let to = (range.end - offset).min(bytes.len() as u64);
    let part = slice(&bytes, from, to);
    drop(bytes);
    if part.is_empty() {
        return Ok(());
    }
    let reserved = memory.as_ref().is_some_and(|memory| source.is_reserved(memory));
    sink.send_chunk(part, memory, reserved).await
}

fn slice(bytes: &Bytes, from: u64, to: u64) -> Bytes {
    let index = |n| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(from)..index(to))
}
