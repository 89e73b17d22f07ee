//! Storing files and folders.

mod folder;
mod pipe;
mod pool;
mod sealer;
mod tar_reader;

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures::Stream;
use libp2p::PeerId;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use self::{
    pool::Pool,
    sealer::{SealOptions, Sealer, UploadCounts},
};
use super::{
    announcements::Announcements,
    clock::unix_micros,
    error::{ErrorCode, NodeError, Reason},
    handles::{Events, Tasks},
    report::{Event, FileKind, PutReport, Redundancy},
};
use crate::{
    content::{
        chunk::Chunker,
        encoder::Metadata,
        seal::Sealing,
        secret::{ConvergenceSecret, Key},
    },
    store::{RootRecord, Store},
};

/// Length in bytes of the pieces that a reader is asked for.
pub(super) const PIECE: usize = 256 << 10;
/// Sealing threads: more than cores, because most of them wait for a sync.
const SEALING_THREADS: usize = 16;
/// Concurrent uploads of data that arrives over a connection. Each holds two chunks outside the sealing threads.
const MAX_UPLOADS: usize = 16;
/// Further concurrent uploads of data that is on this disk, which no slow sender delays.
const MAX_LOCAL_UPLOADS: usize = 4;
/// Maximum length of a file name, in bytes: the limit of common file systems.
pub const MAX_NAME: usize = 255;

/// Options for storing a file.
#[derive(Debug, Clone)]
pub struct PutOptions {
    /// Name of the file; need not be unique.
    pub name: Option<String>,
    /// Store the file unencrypted, readable by everybody.
    pub public: bool,
    /// Share equal blocks with other files. Without this, equal files cannot be recognised as equal.
    pub dedup: bool,
    /// How the file is cut; `None` means the setting of the node.
    pub chunker: Option<Chunker>,
    /// Media type; `None` means a guess from the name.
    pub media_type: Option<String>,
    /// Modification time, seconds since 1970.
    pub mtime: Option<i64>,
    /// Unix permission bits.
    pub mode: Option<u32>,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self {
            name: None,
            public: false,
            dedup: true,
            chunker: None,
            media_type: None,
            mtime: None,
            mode: None,
        }
    }
}

impl PutOptions {
    /// Default options with a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }
}

/// The right to store one file at a time. Ends when dropped.
pub(crate) struct UploadPermit<'a> {
    puts: &'a Arc<Puts>,
    _permit: SemaphorePermit<'a>,
}

impl UploadPermit<'_> {
    /// Stores everything that `input` yields.
    pub(crate) async fn put(
        &self,
        input: impl Stream<Item = io::Result<Bytes>> + Send,
        mut options: PutOptions,
        kind: FileKind,
    ) -> Result<PutReport, NodeError> {
        let puts = Arc::clone(self.puts);
        puts.tasks.check_running()?;
        check_name(options.name.as_deref())?;
        // A file with an empty name could not be found by it.
        options.name = options.name.filter(|name| !name.is_empty());
        let (pipe, mut reader) = pipe::pipe();
        let sealer = Arc::clone(&puts);
        // Ends with the caller, and when the node stops.
        let gone = puts.tasks.stop.child_token();
        let _guard = gone.clone().drop_guard();
        // Shutdown waits for both tasks: an upload that is cut off still releases its blocks.
        let sealing =
            puts.tasks.tracker.spawn_blocking(move || sealer.seal(&mut reader, &gone, options, kind));
        let tracker = puts.tasks.tracker.clone();
        // A task of its own, so that a file that is stored is announced even if the uploader has gone away.
        let stored = tracker.spawn(async move {
            let report = sealing.await.map_err(|_| NodeError::worker_failed())??;
            puts.announcements.announce(report.cid).await;
            puts.events.emit(Event::Stored { cid: report.cid, size: report.size });
            Ok(report)
        });
        pipe.fill(input).await;
        stored.await.map_err(|_| NodeError::worker_failed())?
    }
}

/// Stores files.
pub(super) struct Puts {
    store: Store,
    pool: Pool,
    secret: ConvergenceSecret,
    chunker: Chunker,
    owner: PeerId,
    announcements: Announcements,
    events: Events,
    tasks: Tasks,
    uploads: Semaphore,
    local_uploads: Semaphore,
}

impl Puts {
    pub(super) fn new(
        secret: ConvergenceSecret,
        chunker: Chunker,
        owner: PeerId,
        announcements: Announcements,
        events: Events,
        tasks: Tasks,
    ) -> Result<Self, NodeError> {
        let pool = Pool::new(SEALING_THREADS)
            .map_err(|e| NodeError::new(ErrorCode::Other, format!("cannot start sealing threads: {e}")))?;
        Ok(Self {
            store: announcements.store.0.clone(),
            pool,
            secret,
            chunker,
            owner,
            announcements,
            events,
            tasks,
            uploads: Semaphore::new(MAX_UPLOADS),
            local_uploads: Semaphore::new(MAX_LOCAL_UPLOADS),
        })
    }

    /// Waits for a permit to store data that arrives over a connection, or (`local`) data that is on this disk.
    pub(super) async fn permit(self: &Arc<Self>, local: bool) -> Result<UploadPermit<'_>, NodeError> {
        let permits = if local { &self.local_uploads } else { &self.uploads };
        let permit = permits.acquire().await.map_err(|_| NodeError::shutting_down())?;
        Ok(UploadPermit { puts: self, _permit: permit })
    }

    /// Cuts, seals, writes and commits. Blocks.
    fn seal(
        &self,
        input: &mut dyn Read,
        gone: &CancellationToken,
        options: PutOptions,
        kind: FileKind,
    ) -> Result<PutReport, NodeError> {
        let secret = if options.dedup {
            self.secret.clone()
        } else {
            ConvergenceSecret::new(Key::new(rand::random()))
        };
        let sealing = if options.public { Sealing::Public } else { Sealing::Secret(secret.clone()) };
        let seal_options = SealOptions { sealing, chunker: options.chunker.unwrap_or(self.chunker), secret };
        let upload = Arc::new(self.store.upload());
        let mut sealer = Sealer {
            options: seal_options,
            upload: Arc::clone(&upload),
            pool: self.pool.clone(),
            counts: UploadCounts::default(),
        };
        let media_type = match (&options.media_type, &options.name, kind) {
            (None, Some(name), FileKind::File) => mime_guess::from_path(name).first_raw().map(String::from),
            (given, ..) => given.clone(),
        };
        let metadata = Metadata {
            name: options.name.clone(),
            media_type: media_type.clone(),
            mtime: options.mtime,
            mode: options.mode,
            ..Metadata::default()
        };
        let finished = match kind {
            FileKind::File => sealer.file(input, metadata)?,
            FileKind::Dir => folder::store(&mut sealer, input, gone, metadata)?,
        };
        let UploadCounts { new_blocks, blocks, stored_len } = sealer.counts;
        upload.commit(RootRecord {
            cid: finished.link.cid,
            key: finished.link.key.clone(),
            kind: kind.into(),
            name: options.name.clone(),
            size: finished.size,
            blocks,
            stored_len,
            media_type,
            created: unix_micros(),
            pinned: true,
            owner: self.owner.to_bytes(),
            public: options.public,
        })?;
        Ok(PutReport {
            cid: finished.link.cid,
            link: finished.link.to_string(),
            name: options.name,
            kind,
            size: finished.size,
            blocks,
            new_blocks,
            redundancy: Redundancy { copies: 1 },
        })
    }
}

/// Reads a tar archive as an upload of a folder does, and stores nothing: for the fuzz target of the reader. Calls `visit`
/// with the path, length and content of each entry.
#[doc(hidden)]
pub fn read_tar(
    input: &mut dyn Read,
    mut visit: impl FnMut(&Path, u64, &mut dyn Read),
) -> Result<(), NodeError> {
    let gone = CancellationToken::new();
    let mut archive = tar_reader::Archive::new(input, &gone);
    while let Some(entry) = archive.next()? {
        visit(&entry.path, entry.size, &mut archive);
    }
    Ok(())
}

/// Refuses a name that no file could have.
///
/// # Errors
/// [`ErrorCode::BadRequest`] for a name of more than [`MAX_NAME`] bytes or with a NUL character.
pub fn check_name(name: Option<&str>) -> Result<(), NodeError> {
    let name = name.unwrap_or_default();
    if name.len() > MAX_NAME {
        let message = format!("name too long: {} bytes, expected at most {MAX_NAME}", name.len());
        return Err(NodeError::new(ErrorCode::BadRequest, message).reason(Reason::NameTooLong));
    }
    if name.contains('\0') {
        return Err(NodeError::new(ErrorCode::BadRequest, "invalid name: it contains a NUL character")
            .reason(Reason::NameHasNul));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;

    use super::*;
    use crate::node::{Node, NodeOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_hole_of_an_archive_is_not_read_on_without_its_client() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let mut header = tar::Header::new_gnu();
        header.set_path("f").expect("set");
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_size(0);
        header.as_gnu_mut().expect("GNU").set_real_size((128 << 30) - 1);
        header.set_cksum();
        let archive = Bytes::copy_from_slice(header.as_bytes());
        let input = futures::stream::iter([Ok(archive)]).chain(futures::stream::pending());
        let tasks = &node.services.tasks.tracker;
        let idle = tasks.len();
        let storing = node.put_stream(input, PutOptions::default(), FileKind::Dir);
        let ended = tokio::time::timeout(Duration::from_millis(500), storing).await;
        assert!(ended.is_err(), "{ended:?}");
        let thread_ends = async {
            while tasks.len() > idle {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), thread_ends).await.expect("the thread ends");
        node.shutdown().await;
    }
}
