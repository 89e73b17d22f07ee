//! Reading files and folders: from a link to plaintext, checked and in order.

mod archive;
mod file;
mod gaps;
mod sink;
mod source;

use std::{cmp::Ordering, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) use self::gaps::Gaps;
pub use self::gaps::left_out_name;
use self::sink::{CountedBytes, Sink, Stopped};
pub(super) use self::source::Source;
use super::{
    error::NodeError,
    handles::{BlockingStore, Events, Tasks},
    network::Network,
    report::{DirEntryInfo, Event, FileInfo, FileKind},
};
use crate::content::{
    cid::Cid,
    decoder::Root,
    encoder::{DirEntry, EntryKind, Metadata},
    link::Link,
    node_block::{self, NodeKind},
};

/// Pieces of plaintext that wait for a slow reader.
const READY: usize = 2;
/// Maximum number of paths in an event.
const EVENT_PATHS: usize = 20;

/// Opens files for reading.
#[derive(Clone)]
pub(super) struct Reads {
    pub(super) store: BlockingStore,
    pub(super) network: Option<Arc<Network>>,
    pub(super) tasks: Tasks,
    pub(super) events: Events,
    /// Default time limit without progress.
    pub(super) timeout: Duration,
}

impl Reads {
    /// Finds and decrypts the root block of a link.
    pub(super) async fn open(&self, link: &Link, timeout: Option<Duration>) -> Result<Opened, NodeError> {
        self.open_below(link.cid, link, timeout).await
    }

    /// [`Reads::open`] for an entry of a folder. Its blocks come from the nodes that announce `root`.
    pub(super) async fn open_below(
        &self,
        root: Cid,
        link: &Link,
        timeout: Option<Duration>,
    ) -> Result<Opened, NodeError> {
        self.tasks.check_running()?;
        let source = self.source(root, timeout.unwrap_or(self.timeout));
        let root = source.root(link).await?;
        let (tasks, events) = (self.tasks.clone(), self.events.clone());
        let (after, gaps) = (Vec::new(), Gaps::default());
        Ok(Opened { tasks, events, link: link.clone(), root, source, name: None, after, gaps })
    }

    /// Describes a file by the visible part of its encrypted root block.
    pub(super) async fn describe_sealed(&self, cid: &Cid) -> Result<FileInfo, NodeError> {
        let block = self.source(*cid, self.timeout).block(cid, None).await?;
        let visible = node_block::visible(&block)?;
        let kind = if visible.kind == NodeKind::Dir { FileKind::Dir } else { FileKind::File };
        // A root that needs a key is encrypted.
        Ok(FileInfo { sealed: true, ..FileInfo::bare(&Link { cid: *cid, key: None }, kind) })
    }

    /// The source of the blocks of a root.
    pub(super) fn source(&self, root: Cid, timeout: Duration) -> Source {
        Source::new(self.network.as_ref(), &self.store, root, timeout)
    }
}

/// A file or folder whose root block is here, checked and decrypted.
pub struct Opened {
    tasks: Tasks,
    events: Events,
    link: Link,
    root: Root,
    source: Source,
    /// The name in the folder, of an entry.
    name: Option<String>,
    /// The path after which the tar stream of a folder begins; empty: the whole folder.
    after: Vec<String>,
    gaps: Gaps,
}

impl Opened {
    /// Gives it the name of its folder entry.
    pub(super) fn named(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Returns the root CID.
    pub fn cid(&self) -> Cid {
        self.link.cid
    }

    /// Whether this is a file or a folder.
    pub fn kind(&self) -> FileKind {
        match self.root {
            Root::File(_) => FileKind::File,
            Root::Dir(_) => FileKind::Dir,
        }
    }

    /// Returns a name to save the content under: the file's own or its CID, with `.tar` for a folder.
    pub fn file_name(&self) -> String {
        let name = self.name().map_or_else(|| self.link.cid.to_string(), String::from);
        if self.kind() == FileKind::Dir { format!("{name}.tar") } else { name }
    }

    /// Returns the name in the folder that it was opened from, or else its own.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref().or(self.metadata().name.as_deref())
    }

    /// Returns the Unix permission bits, if known.
    pub fn mode(&self) -> Option<u32> {
        self.metadata().mode.map(|mode| mode & 0o777)
    }

    /// Returns the name, size, media type and times of the file. The size of a folder is that of all its files.
    pub fn metadata(&self) -> &Metadata {
        match &self.root {
            Root::File(tree) => tree.metadata(),
            Root::Dir(tree) => tree.metadata(),
        }
    }

    /// Describes the file by its root block.
    pub fn describe(&self) -> FileInfo {
        let metadata = self.metadata();
        FileInfo {
            name: self.name().map(String::from),
            size: Some(metadata.size),
            media_type: metadata.media_type.clone(),
            mtime: metadata.mtime,
            chunker: metadata.chunker.clone(),
            link: Some(self.link.to_string()),
            ..FileInfo::bare(&self.link, self.kind())
        }
    }

    /// Skips the first `count` entries of a folder. Returns the number of all its entries; 0 for a file.
    pub fn skip_entries(&mut self, count: u64) -> u64 {
        match &mut self.root {
            Root::Dir(tree) => {
                tree.skip_items(count);
                tree.items()
            }
            Root::File(_) => 0,
        }
    }

    /// Returns the next `limit` entries of a folder; none for a file.
    ///
    /// # Errors
    /// Those of [`Opened::read`].
    pub async fn entries(&mut self, limit: usize) -> Result<Vec<DirEntry>, NodeError> {
        let Root::Dir(tree) = &mut self.root else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        while entries.len() < limit {
            match self.source.next_entry(tree).await? {
                Some(entry) => entries.push(entry),
                None => break,
            }
        }
        Ok(entries)
    }

    /// Returns the entry of this name; `None` if the folder has none, and for a file.
    ///
    /// # Errors
    /// Those of [`Opened::read`].
    pub(super) async fn entry(&mut self, name: &str) -> Result<Option<DirEntry>, NodeError> {
        let Root::Dir(tree) = &mut self.root else {
            return Ok(None);
        };
        while let Some(entry) = self.source.next_entry(tree).await? {
            // In byte order.
            match entry.name.as_str().cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(entry)),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Begins the tar stream of a folder after this entry. No effect on a file.
    pub fn resume_after(&mut self, path: &str) {
        self.after = path.split('/').filter(|name| !name.is_empty()).map(String::from).collect();
    }

    /// Returns what the tar stream of a folder lacks, known when the stream has ended.
    pub(crate) fn gaps(&self) -> Gaps {
        self.gaps.clone()
    }

    /// Returns the content, in order and checked: the bytes `range` of a file, cut to its size, or all. An error ends the
    /// stream; bytes that fail a check are never yielded.
    ///
    /// A folder is a tar stream. Entries that cannot be read are left out; the last entry of the stream,
    /// `storgo-left-out-<CID>.json`, then lists them. A file of more than 64 MiB that turns out to be damaged in the middle
    /// ends the stream with an error, as does a folder of which nothing can be read.
    ///
    /// Reading stops when the stream is dropped.
    pub fn read(
        self,
        range: Option<Range<u64>>,
    ) -> impl Stream<Item = Result<Bytes, NodeError>> + Send + use<> {
        // The caller may keep the bytes, so their memory is no longer counted.
        self.pieces(range).map(|piece| piece.map(|piece| piece.bytes))
    }

    /// [`Opened::read`] for a caller that drops the bytes as it sends them. Until then they count as memory of the readers,
    /// which is bounded for all readers together.
    pub(crate) fn read_counted(
        self,
        range: Option<Range<u64>>,
    ) -> impl Stream<Item = Result<Bytes, NodeError>> + Send + use<> {
        self.pieces(range).map(|piece| piece.map(Bytes::from_owner))
    }

    fn pieces(
        self,
        range: Option<Range<u64>>,
    ) -> impl Stream<Item = Result<CountedBytes, NodeError>> + Send + use<> {
        let (sender, receiver) = mpsc::channel(READY);
        let Self { tasks, events, link, root, source, after, gaps, .. } = self;
        let stop = tasks.stop.clone();
        tasks.tracker.spawn(async move {
            let mut sink = Sink::new(sender.clone());
            let reading = async {
                match root {
                    Root::File(tree) => {
                        let size = tree.metadata().size;
                        let range = range.unwrap_or(0..size);
                        file::send(&source, tree, range.start..range.end.min(size), &mut sink).await
                    }
                    Root::Dir(tree) => {
                        let sent = archive::send(&source, tree, link.cid, &after, &gaps, &mut sink).await;
                        let (listed, count) = gaps.left_out();
                        if count > 0 {
                            let paths =
                                listed.into_iter().take(EVENT_PATHS).map(|entry| entry.path).collect();
                            events.emit(Event::LeftOut { cid: link.cid, count, paths });
                        }
                        sent
                    }
                }
            };
            let ended = tokio::select! {
                ended = reading => ended,
                () = stop.cancelled() => Err(Stopped::Failed(NodeError::shutting_down())),
                () = sender.closed() => return,
            };
            if let Err(Stopped::Failed(error)) = ended {
                drop(sender.send(Err(error)).await);
            }
        });
        ReceiverStream::new(receiver)
    }
}

impl From<DirEntry> for DirEntryInfo {
    fn from(entry: DirEntry) -> Self {
        let kind = if entry.kind == EntryKind::Dir { FileKind::Dir } else { FileKind::File };
        Self { name: entry.name, kind, size: entry.size, link: entry.link.to_string(), damaged: false }
    }
}
