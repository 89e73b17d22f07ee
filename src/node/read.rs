//! Reading: from a link to its bytes, checked and in order.

mod archive;
mod source;

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use self::source::Source;
use super::{
    Node, Reference,
    error::NodeError,
    report::{DirEntryInfo, FileInfo, FileKind},
};
use crate::content::{
    cid::Cid,
    decoder::{DirTree, FileTree, Root, Step},
    encoder::{DirEntry, EntryKind, Metadata},
    link::Link,
    node_block::{self, NodeKind},
    seal::Entry,
};

/// Pieces of plaintext that wait for a slow reader.
const READY: usize = 2;

/// Bytes that a reader without a share of the common memory is handed at a time.
const SMALL: usize = 128 << 10;

/// Tries to get a block whose name is right and whose content is not.
const TRIES: usize = 4;

/// What an opened root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentKind {
    /// A file: its content is its bytes.
    File,
    /// A folder: its content is a tar stream.
    Dir,
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Bytes `start..end` of a file; none: all of it. Cut to the file's size. Not for folders.
    pub range: Option<Range<u64>>,
}

/// A file or folder whose root block is here, checked and decrypted.
pub struct Opened {
    node: Node,
    link: Link,
    root: Root,
    source: Source,
}

impl Node {
    /// Opens a file for reading: finds its root block, here or at a provider, and decrypts it.
    ///
    /// `timeout`: how long to wait without progress, now and while reading; none: as the node is set.
    ///
    /// # Errors
    /// [`super::ErrorCode::NotFound`] where nobody has it, [`super::ErrorCode::Timeout`], [`super::ErrorCode::Denied`] where the key is
    /// missing, [`super::ErrorCode::Integrity`] where the key or the block is not the right one.
    pub async fn open(&self, reference: &Reference, timeout: Option<Duration>) -> Result<Opened, NodeError> {
        let found = self.find(reference).await?;
        self.open_found(&found.link, timeout).await
    }

    pub(super) async fn open_found(
        &self,
        link: &Link,
        timeout: Option<Duration>,
    ) -> Result<Opened, NodeError> {
        self.check_running()?;
        let source = Source::new(self, link.cid, timeout.unwrap_or(self.inner.options.timeout));
        let root = source.root(link).await?;
        Ok(Opened { node: self.clone(), link: link.clone(), root, source })
    }

    /// What can be said of a root without its key.
    pub(super) async fn keyless(&self, cid: &Cid) -> Result<FileInfo, NodeError> {
        let source = Source::new(self, *cid, self.inner.options.timeout);
        let block = source.block(cid, None).await?;
        let visible = node_block::visible(&block)?;
        let kind = if visible.kind == NodeKind::Dir { FileKind::Dir } else { FileKind::File };
        // What is public is read without a key.
        Ok(FileInfo { sealed: true, ..FileInfo::bare(&Link { cid: *cid, key: None }, kind) })
    }
}

impl Opened {
    /// The root CID.
    pub fn cid(&self) -> Cid {
        self.link.cid
    }

    /// File or folder.
    pub fn kind(&self) -> ContentKind {
        match self.root {
            Root::File(_) => ContentKind::File,
            Root::Dir(_) => ContentKind::Dir,
        }
    }

    /// Plaintext bytes (of all files, for a folder).
    pub fn size(&self) -> u64 {
        self.metadata().size
    }

    /// Media type, where known.
    pub fn media_type(&self) -> Option<&str> {
        self.metadata().media_type.as_deref()
    }

    /// A name for the content: the file's own, or its CID.
    pub fn file_name(&self) -> String {
        let name = self.metadata().name.clone().unwrap_or_else(|| self.link.cid.to_string());
        if self.kind() == ContentKind::Dir { format!("{name}.tar") } else { name }
    }

    /// Modification time, seconds since 1970, where known.
    pub fn mtime(&self) -> Option<i64> {
        self.metadata().mtime
    }

    /// Unix permission bits, where known.
    pub fn mode(&self) -> Option<u32> {
        self.metadata().mode.map(|mode| mode & 0o777)
    }

    fn metadata(&self) -> &Metadata {
        match &self.root {
            Root::File(tree) => tree.metadata(),
            Root::Dir(tree) => tree.metadata(),
        }
    }

    /// What the root says of itself.
    pub fn describe(&self) -> FileInfo {
        let kind = if self.kind() == ContentKind::Dir { FileKind::Dir } else { FileKind::File };
        let metadata = self.metadata();
        FileInfo {
            name: metadata.name.clone(),
            size: metadata.size,
            media_type: metadata.media_type.clone(),
            mtime: metadata.mtime,
            chunker: metadata.chunker.clone(),
            link: Some(self.link.to_string()),
            ..FileInfo::bare(&self.link, kind)
        }
    }

    /// Passes over the first `count` entries of a folder; answers with how many it has in all. None for a file.
    pub fn skip_entries(&mut self, count: u64) -> u64 {
        match &mut self.root {
            Root::Dir(tree) => {
                tree.skip_items(count);
                tree.items()
            }
            Root::File(_) => 0,
        }
    }

    /// The next `limit` entries of a folder; none for a file.
    ///
    /// # Errors
    /// As reading.
    pub async fn entries(&mut self, limit: usize) -> Result<Vec<DirEntry>, NodeError> {
        let Root::Dir(tree) = &mut self.root else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        while entries.len() < limit {
            match next_entry(tree, &self.source).await? {
                Some(entry) => entries.push(entry),
                None => break,
            }
        }
        Ok(entries)
    }

    /// The bytes, in order, each one checked. An error ends the stream; nothing that failed a check is ever yielded.
    ///
    /// Reading stops when the stream is dropped.
    pub fn read(self, options: ReadOptions) -> impl Stream<Item = Result<Bytes, NodeError>> + Send + use<> {
        // Whoever has the bytes may keep them: their memory is no longer counted here.
        self.pieces(options).map(|piece| piece.map(|piece| piece.bytes))
    }

    /// [`Opened::read`] for whoever drops the bytes as they are sent: until then they count as memory of the readers, which
    /// is bounded for all of them together.
    pub(crate) fn read_counted(
        self,
        options: ReadOptions,
    ) -> impl Stream<Item = Result<Bytes, NodeError>> + Send + use<> {
        self.pieces(options).map(|piece| piece.map(Bytes::from_owner))
    }

    fn pieces(self, options: ReadOptions) -> impl Stream<Item = Result<Piece, NodeError>> + Send + use<> {
        let (sender, receiver) = mpsc::channel(READY);
        let Self { node, root, source, .. } = self;
        let stop = node.stopping();
        node.spawn(async move {
            let sink = Sink { sender: sender.clone(), held: Mutex::default() };
            let reading = async {
                match root {
                    Root::File(tree) => {
                        let size = tree.metadata().size;
                        let range = options.range.unwrap_or(0..size);
                        send_file(&source, tree, range.start..range.end.min(size), &sink).await
                    }
                    Root::Dir(tree) => archive::send(&source, tree, &sink).await,
                }
            };
            let ended = tokio::select! {
                ended = reading => ended,
                () = stop.cancelled() => Err(Stopped::Error(NodeError::shutting_down())),
                () = sender.closed() => return,
            };
            if let Err(Stopped::Error(error)) = ended {
                drop(sender.send(Err(error)).await);
            }
        });
        ReceiverStream::new(receiver)
    }
}

/// Plaintext on its way, and the memory that it takes.
struct Piece {
    bytes: Bytes,
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where plaintext goes.
struct Sink {
    sender: mpsc::Sender<Result<Piece, NodeError>>,
    /// Bytes that go out before the next ones.
    held: Mutex<Vec<u8>>,
}

/// Why sending ended early.
enum Stopped {
    /// Nobody reads any more.
    Unread,
    Error(NodeError),
}

impl<E: Into<NodeError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl Sink {
    async fn send(&self, bytes: Bytes) -> Result<(), Stopped> {
        self.send_piece(Piece { bytes, _room: None }).await
    }

    /// Sends bytes when the next ones are here: what says that something follows is not sent alone.
    async fn hold(&self, bytes: &[u8]) -> Result<(), Stopped> {
        let len = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.extend_from_slice(bytes);
            held.len()
        };
        if len < SMALL { Ok(()) } else { self.release().await }
    }

    async fn release(&self) -> Result<(), Stopped> {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        if held.is_empty() {
            return Ok(());
        }
        let piece = Piece { bytes: held.into(), _room: None };
        self.sender.send(Ok(piece)).await.map_err(|_| Stopped::Unread)
    }

    async fn send_piece(&self, piece: Piece) -> Result<(), Stopped> {
        self.release().await?;
        self.sender.send(Ok(piece)).await.map_err(|_| Stopped::Unread)
    }

    /// Sends a part of a chunk. One that is `alone` in its reader's memory, because the others have taken all that is
    /// shared, goes in small pieces, so that its memory is free again bit by bit.
    async fn send_chunk(
        &self,
        part: Bytes,
        room: Option<OwnedSemaphorePermit>,
        alone: bool,
    ) -> Result<(), Stopped> {
        let room = room.map(Arc::new);
        if !alone {
            return self.send_piece(Piece { bytes: part, _room: room }).await;
        }
        let pieces: Vec<Bytes> = part.chunks(SMALL).map(Bytes::copy_from_slice).collect();
        drop(part);
        for bytes in pieces {
            self.send_piece(Piece { bytes, _room: room.clone() }).await?;
        }
        Ok(())
    }
}

/// Sends bytes `range` of a file.
async fn send_file(
    source: &Source,
    mut tree: FileTree,
    range: Range<u64>,
    sink: &Sink,
) -> Result<(), Stopped> {
    if range.is_empty() {
        return Ok(());
    }
    tree.seek(range.start);
    let chunks = source.chunks(located(source.clone(), tree, range.end));
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let Chunk { offset, bytes, room } = chunk?;
        let from = range.start.saturating_sub(offset).min(bytes.len() as u64);
        let to = (range.end - offset).min(bytes.len() as u64);
        let part = slice(&bytes, from, to);
        drop(bytes);
        if !part.is_empty() {
            let alone = room.as_ref().is_some_and(|room| source.is_own(room));
            sink.send_chunk(part, room, alone).await?;
        }
    }
    Ok(())
}

fn slice(bytes: &Bytes, from: u64, to: u64) -> Bytes {
    let index = |n| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(from)..index(to))
}

/// A chunk's place in its file, and what it is.
struct Wanted {
    entry: Entry,
    offset: u64,
}

/// A chunk's place in its file, and its plaintext.
struct Chunk {
    offset: u64,
    bytes: Bytes,
    /// Memory that it takes, until the reader has it.
    room: Option<OwnedSemaphorePermit>,
}

/// The chunks of a file from where `tree` stands to `end`, list nodes fetched on the way.
fn located(
    source: Source,
    tree: FileTree,
    end: u64,
) -> impl Stream<Item = Result<Wanted, NodeError>> + Send + use<> {
    stream::try_unfold((source, tree), move |(source, mut tree)| async move {
        loop {
            match tree.step()? {
                Step::Item(placed) if placed.offset >= end => return Ok(None),
                Step::Item(placed) => {
                    let wanted = Wanted { entry: placed.item, offset: placed.offset };
                    return Ok(Some((wanted, (source, tree))));
                }
                Step::Need { cid, len } => {
                    source.node(&cid, len, |block| tree.feed(block)).await?;
                }
                Step::End => return Ok(None),
            }
        }
    })
}

async fn next_entry(tree: &mut DirTree, source: &Source) -> Result<Option<DirEntry>, NodeError> {
    loop {
        match tree.step()? {
            Step::Item(placed) => return Ok(Some(placed.item)),
            Step::Need { cid, len } => source.node(&cid, len, |block| tree.feed(block)).await?,
            Step::End => return Ok(None),
        }
    }
}

impl From<DirEntry> for DirEntryInfo {
    fn from(entry: DirEntry) -> Self {
        let kind = if entry.kind == EntryKind::Dir { FileKind::Dir } else { FileKind::File };
        Self { name: entry.name, kind, size: entry.size, link: entry.link.to_string() }
    }
}
