//! Sending the bytes of one file.

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt;

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
    let chunks = source.chunks(tree, range.end);
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let Chunk { offset, bytes, memory } = chunk?;
        let from = range.start.saturating_sub(offset).min(bytes.len() as u64);
        let to = (range.end - offset).min(bytes.len() as u64);
        let part = slice(&bytes, from, to);
        drop(bytes);
        if !part.is_empty() {
            let reserved = memory.as_ref().is_some_and(|memory| source.is_reserved(memory));
            sink.send_chunk(part, memory, reserved).await?;
        }
    }
    Ok(())
}

fn slice(bytes: &Bytes, from: u64, to: u64) -> Bytes {
    let index = |n| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(from)..index(to))
}
