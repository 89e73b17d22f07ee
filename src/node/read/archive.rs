//! Sending a folder as a tar stream.
//!
//! An entry that cannot be read is left out, and the last entry of the stream lists what was left out. A file of several
//! chunks is checked before its header is sent, unless it is large; a large one that breaks off in the middle ends the
//! stream with an error, and the reader may ask for what follows it.
//!
//! A few blocks that list each other many times can stand for a folder without end, so the number of entries is limited.

use std::collections::HashSet;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{
    file,
    gaps::{Gaps, left_out_name},
    sink::{Sink, Stopped},
    source::Source,
};
use crate::{
    content::{
        ContentError,
        cid::Cid,
        decoder::{DirTree, FileTree, Root, open_root},
        encoder::{DirEntry, EntryKind},
        tar_time,
    },
    node::error::{ErrorCode, NodeError},
};

/// Length of a tar record, in bytes.
const RECORD: usize = 512;
/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 2048;
/// Maximum number of entries of one stream, those that are left out included.
const MAX_ENTRIES: u64 = 1 << 26;
/// Maximum length of a file whose blocks are all fetched before its header is sent, in bytes.
const MAX_CHECKED: u64 = 64 << 20;

/// Why an entry was not sent.
enum Failure {
    /// Nothing of it was sent: it can be left out.
    Unreadable(NodeError),
    /// The stream cannot go on.
    Fatal(Stopped),
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        Self::Fatal(stopped)
    }
}

impl<E: Into<NodeError>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        // Any other error says nothing about the entry: the next one would fail as well.
        match error.code {
            ErrorCode::Integrity | ErrorCode::NotFound => Self::Unreadable(error),
            _ => Self::Fatal(Stopped::Failed(error)),
        }
    }
}

/// A folder whose entries are being sent.
struct Open {
    /// Path of the folder with a slash behind it; empty for the top.
    prefix: String,
    tree: DirTree,
    /// List nodes that could not be read.
    skipped: HashSet<Cid>,
}

impl Open {
    fn new(prefix: String, tree: DirTree) -> Self {
        Self { prefix, tree, skipped: HashSet::new() }
    }
}

/// Sends a folder, depth first, names in order; with `after`, only what follows the entry of this path.
///
/// Errors: nothing of the folder can be read, a large file breaks off, or the source fails as a whole.
pub(super) async fn send(
    source: &Source,
    top: DirTree,
    root: Cid,
    after: &[String],
    gaps: &Gaps,
    sink: &mut Sink,
) -> Result<(), Stopped> {
    let mut archive = Archive { source, gaps, sink };
    let mut open = vec![Open::new(String::new(), top)];
    let (mut resuming, mut has_files, mut first_error) = (!after.is_empty(), false, None);
    let mut count = 0;
    while let Some(Open { prefix, tree, skipped }) = open.last_mut() {
        let (path, sent) = match source.next_entry(tree).await.map_err(Failure::from) {
            Ok(None) => {
                open.pop();
                continue;
            }
            Ok(Some(entry)) => {
                let path = format!("{prefix}{}", entry.name);
                let depth = open.len() - 1;
                let mut is_sent = false;
                if let Some(name) = after.get(depth).filter(|_| resuming) {
                    match entry.name.cmp(name) {
                        std::cmp::Ordering::Less => continue,
                        std::cmp::Ordering::Equal if depth + 1 == after.len() => {
                            resuming = false;
                            continue;
                        }
                        std::cmp::Ordering::Equal => is_sent = true,
                        std::cmp::Ordering::Greater => resuming = false,
                    }
                }
                let sent = archive.entry(&entry, &path, depth + 1, is_sent).await;
                (path, sent)
            }
            Err(failure) => {
                let path = if prefix.is_empty() { "./".into() } else { prefix.clone() };
                // The entries of a list node are lost with it, and those behind it are not. An invalid entry ends the folder,
                // as does a list node that comes again: no folder with ordered names lists one twice.
                if !tree.skip_needed().is_some_and(|cid| skipped.insert(cid)) {
                    open.pop();
                }
                (path, Err(failure))
            }
        };
        count += 1;
        if count > MAX_ENTRIES {
            let message = format!("the folder has more than {MAX_ENTRIES} entries");
            return Err(NodeError::new(ErrorCode::Integrity, message).into());
        }
        match sent {
            Ok(Some(inner)) => open.push(Open::new(format!("{path}/"), inner)),
            Ok(None) => has_files = true,
            Err(Failure::Fatal(stopped)) => return Err(stopped),
            Err(Failure::Unreadable(error)) => {
                gaps.leave_out(&path, &error);
                first_error.get_or_insert(error);
            }
        }
    }
    if let Some(error) = first_error.filter(|_| !has_files && after.is_empty()) {
        return Err(error.into());
    }
    archive.finish(root).await
}

struct Archive<'a> {
    source: &'a Source,
    gaps: &'a Gaps,
    sink: &'a mut Sink,
}

impl Archive<'_> {
    /// Sends one entry. Returns the entries of a folder, whose header is left out if it `is_sent`.
    async fn entry(
        &mut self,
        entry: &DirEntry,
        path: &str,
        depth: usize,
        is_sent: bool,
    ) -> Result<Option<DirTree>, Failure> {
        let open = |block: &[u8]| open_entry(entry, block);
        match self.source.node(&entry.link.cid, Some(entry.root_len), open).await? {
            Root::Dir(_) if depth == MAX_DEPTH => {
                Err(NodeError::new(ErrorCode::Integrity, "the folder is nested too deeply").into())
            }
            Root::Dir(inner) => {
                if !is_sent {
                    self.sink.buffer(&header(entry, &format!("{path}/"))?).await?;
                }
                Ok(Some(inner))
            }
            Root::File(tree) => self.file(entry, path, tree).await.map(|()| None),
        }
    }

    async fn file(&mut self, entry: &DirEntry, path: &str, tree: FileTree) -> Result<(), Failure> {
        if tree.items() > 1 && entry.size <= MAX_CHECKED {
            self.source.check(tree.clone()).await?;
        }
        let mut chunks = std::pin::pin!(self.source.chunks(tree, entry.size));
        let mut next = if entry.size > 0 { chunks.try_next().await? } else { None };
        // Sent with the first bytes of the file: if those cannot be read, the answer can still be an error.
        self.sink.buffer(&header(entry, path)?).await?;
        while let Some(chunk) = next {
            file::send_chunk(self.source, chunk, &(0..entry.size), self.sink).await?;
            next = match chunks.try_next().await {
                Ok(next) => next,
                Err(error) => {
                    let Failure::Unreadable(error) = Failure::from(error.clone()) else {
                        return Err(Failure::Fatal(error.into()));
                    };
                    self.gaps.break_at(path);
                    let message = format!("cannot read {path:?}: {}", error.message);
                    return Err(Failure::Fatal(NodeError { message, ..error }.into()));
                }
            };
        }
        Ok(self.pad(entry.size).await?)
    }

    async fn pad(&mut self, len: u64) -> Result<(), Stopped> {
        let padding = usize::try_from(len % RECORD as u64).map_or(0, |over| (RECORD - over) % RECORD);
        self.sink.send(Bytes::from_static(&[0; RECORD][..padding])).await
    }

    /// Sends the list of what was left out, if anything was, and the end of the stream.
    async fn finish(mut self, root: Cid) -> Result<(), Stopped> {
        if let Some(report) = self.gaps.report() {
            let mut header = tar::Header::new_gnu();
            header.set_size(report.len() as u64);
            header.set_mode(0o644);
            self.sink.buffer(&records(header, &left_out_name(root))?).await?;
            let len = report.len() as u64;
            self.sink.send(report.into()).await?;
            self.pad(len).await?;
        }
        self.sink.send(Bytes::from_static(&[0; 2 * RECORD])).await
    }
}

/// Opens the root of an entry and checks it against the kind and size in its folder.
///
/// The size of a folder is the sum of its entries' sizes, so no folder has more bytes than the root says.
fn open_entry(entry: &DirEntry, block: &[u8]) -> Result<Root, ContentError> {
    let root = open_root(&entry.link, block)?;
    let (kind, metadata) = match &root {
        Root::File(tree) => (EntryKind::File, tree.metadata()),
        Root::Dir(tree) => (EntryKind::Dir, tree.metadata()),
    };
    let fits = kind == entry.kind && metadata.size == entry.size;
    if fits { Ok(root) } else { Err(ContentError::Malformed("an entry is not what its folder says")) }
}

/// Returns the tar header of one entry. A long name takes several records.
fn header(entry: &DirEntry, path: &str) -> Result<Bytes, NodeError> {
    let dir = entry.kind == EntryKind::Dir;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(if dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
    header.set_size(if dir { 0 } else { entry.size });
    // Without the setuid, setgid and sticky bits: the archive may be unpacked by root.
    header.set_mode(entry.mode.unwrap_or(if dir { 0o755 } else { 0o644 }) & 0o777);
    tar_time::set_mtime(&mut header, entry.mtime.unwrap_or(0));
    records(header, path)
}

fn records(mut header: tar::Header, path: &str) -> Result<Bytes, NodeError> {
    let mut records = tar::Builder::new(Vec::with_capacity(RECORD));
    let appended = records.append_data(&mut header, path, std::io::empty());
    appended.map_err(|e| {
        NodeError::new(ErrorCode::Integrity, format!("{path:?} does not fit into a tar header: {e}"))
    })?;
    Ok(std::mem::take(records.get_mut()).into())
}
