//! The node: the one place where content, store and network meet.
//!
//! [`Node`] is a cheap handle on a running node. Doors (command line, HTTP, a program that embeds storgo) call it
//! and nothing below it.
//!
//! ```text
//! put   reader ─ put::Sealer (cut, seal, write, sync) ─▶ Store ─ commit ─▶ Net::provide
//! get   link ─ open (root block) ─ read (blocks in order, checked, decrypted) ─▶ stream of bytes
//!                    └───────────── Fetcher: the store first, then providers
//! ```
//! Work that goes on by itself (collection, checking stored blocks, saving what the network knows) is in `chores`.

mod chores;
pub mod error;
mod health;
pub mod identity;
mod input;
pub mod invite;
mod listing;
mod lookup;
mod options;
mod peers;
mod pool;
mod put;
mod read;
mod records;
pub mod report;
mod scrub;
mod start;
mod tree;
mod withdrawals;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use futures::Stream;
use tokio::{
    io::AsyncRead,
    sync::{Semaphore, SemaphorePermit, broadcast},
};
use tokio_util::{io::ReaderStream, sync::CancellationToken, task::TaskTracker};

pub use error::{ErrorCode, NodeError, Reason};
pub use listing::{ListOptions, Sort, Whole};
pub use lookup::Reference;
pub use options::NodeOptions;
pub use read::{ContentKind, Opened, ReadOptions};
pub(crate) use tree::{set_tar_mtime, tar_mtime};

use crate::{
    content::{
        chunk::Chunker,
        encoder::Metadata,
        seal::Sealing,
        secret::{ConvergenceSecret, Key},
    },
    fetch::Fetcher,
    net::Net,
    store::{RootKind, RootRecord, Store},
    transfer::Counters,
};
use pool::Pool;
use put::{Recipe, Sealer, Tally};
use report::{Event, FileKind, PutReport, Redundancy};

/// A running node. Clones are handles on the same node; it runs until [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    peer: libp2p::PeerId,
    secret: ConvergenceSecret,
    store: Store,
    /// Absent in a node that was started offline.
    network: Option<Network>,
    pool: Pool,
    /// Uploads that may cut and seal at a time; the others wait, and hold no memory.
    uploads: Semaphore,
    /// The same for those whose bytes are on this disk: no slow sender keeps them waiting.
    local_uploads: Semaphore,
    events: broadcast::Sender<Event>,
    stop: CancellationToken,
    tasks: TaskTracker,
    started: Instant,
    http: Mutex<Option<HttpDoor>>,
    /// Held while the noted withdrawals are changed.
    withdrawing: tokio::sync::Mutex<()>,
    /// What was found out of damaged files, for a while.
    census: health::Census,
    said: Mutex<peers::Said>,
    /// A file was removed that had just been announced.
    withdrawn: tokio::sync::Notify,
}

/// Where the API is served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpDoor {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: bool,
}

struct Network {
    net: Net,
    fetcher: Fetcher,
    counters: Arc<Counters>,
    /// Version of the provider records that were last saved.
    saved: Mutex<Option<u64>>,
}

/// How a file is stored.
#[derive(Debug, Clone)]
pub struct PutOptions {
    /// The file's name; not unique, may be absent.
    pub name: Option<String>,
    /// Store it without encryption, for everyone.
    pub public: bool,
    /// Share equal blocks with other files. Without it, nobody can tell that two files are equal.
    pub dedup: bool,
    /// How the file is cut; none: as the node is set.
    pub chunker: Option<Chunker>,
    /// Media type; none: guessed from the name.
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

/// The right to store something; given back when dropped.
pub(crate) struct Place<'a> {
    _permit: SemaphorePermit<'a>,
}

impl Node {
    /// Stores everything that `input` yields, as one file.
    ///
    /// When this returns, all of it is on disk, synced, and listed; its announcement to other nodes is on its way
    /// (see [`Node::placement`]).
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a name that [`check_name`] refuses, [`ErrorCode::NoSpace`] for a full disk or quota, [`ErrorCode::Collision`] for crafted public data, and
    /// [`ErrorCode::Other`] where `input` fails. No file is listed then. Blocks already written are taken back where
    /// there was no room for all of them; else they are found again by the next try, or collected after the grace period.
    ///
    /// # Example
    /// ```no_run
    /// # async fn example(node: &storgo::node::Node) -> Result<(), storgo::node::NodeError> {
    /// use storgo::node::PutOptions;
    ///
    /// let report = node.put(&b"hello"[..], PutOptions::named("greeting.txt")).await?;
    /// println!("{}", report.link);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn put(
        &self,
        input: impl AsyncRead + Unpin + Send,
        options: PutOptions,
    ) -> Result<PutReport, NodeError> {
        self.put_stream(ReaderStream::with_capacity(input, input::PIECE), options, FileKind::File).await
    }

    /// Stores the folder that `input` carries as a tar stream. See [`Node::put`].
    ///
    /// # Errors
    /// As [`Node::put`]; and [`ErrorCode::BadRequest`] for a broken stream, a path that leaves its folder, a name that
    /// is not UTF-8 or is there twice, and anything that is neither a regular file nor a folder.
    pub async fn put_tree(
        &self,
        input: impl AsyncRead + Unpin + Send,
        options: PutOptions,
    ) -> Result<PutReport, NodeError> {
        self.put_stream(ReaderStream::with_capacity(input, input::PIECE), options, FileKind::Dir).await
    }

    /// [`Node::put`] (or, for a folder, [`Node::put_tree`]) for bytes that arrive in pieces: nothing is copied on the
    /// way to where the file is cut.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub async fn put_stream(
        &self,
        input: impl Stream<Item = io::Result<Bytes>> + Send,
        options: PutOptions,
        kind: FileKind,
    ) -> Result<PutReport, NodeError> {
        self.check_running()?;
        check_name(options.name.as_deref())?;
        let place = self.place().await?;
        self.put_in(&place, input, options, kind).await
    }

    /// A place among those who store what comes from elsewhere, as fast as it comes.
    pub(crate) async fn place(&self) -> Result<Place<'_>, NodeError> {
        let permit = self.inner.uploads.acquire().await;
        permit.map(|permit| Place { _permit: permit }).map_err(|_| NodeError::shutting_down())
    }

    /// A place among those who store what is on this disk already.
    pub(crate) async fn local_place(&self) -> Result<Place<'_>, NodeError> {
        let permit = self.inner.local_uploads.acquire().await;
        permit.map(|permit| Place { _permit: permit }).map_err(|_| NodeError::shutting_down())
    }

    /// [`Node::put_stream`] for whoever has a place already.
    pub(crate) async fn put_in(
        &self,
        _place: &Place<'_>,
        input: impl Stream<Item = io::Result<Bytes>> + Send,
        mut options: PutOptions,
        kind: FileKind,
    ) -> Result<PutReport, NodeError> {
        self.check_running()?;
        check_name(options.name.as_deref())?;
        // Nobody could ask for it: an empty name is none.
        options.name = options.name.filter(|name| !name.is_empty());
        let (pipe, mut reader) = input::pipe();
        let node = self.clone();
        // An upload that is cut off still says what becomes of its blocks: the node waits for it.
        let sealing = self.inner.tasks.spawn_blocking(move || node.seal(&mut reader, options, kind));
        let node = self.clone();
        // And one whose uploader goes away at its very end is stored all the same, and known like any other.
        let stored = self.inner.tasks.spawn(async move {
            let report = sealing.await.map_err(|_| NodeError::lost_worker())??;
            node.announce(&report.cid).await;
            node.emit(Event::Stored { cid: report.cid, size: report.size });
            Ok(report)
        });
        pipe.fill(input).await;
        stored.await.map_err(|_| NodeError::lost_worker())?
    }

    /// The part of a put that computes and writes: for a thread that may block.
    fn seal(
        &self,
        input: &mut dyn io::Read,
        options: PutOptions,
        kind: FileKind,
    ) -> Result<PutReport, NodeError> {
        let inner = &self.inner;
        let secret = if options.dedup {
            inner.secret.clone()
        } else {
            ConvergenceSecret::new(Key::new(rand::random()))
        };
        let sealing = if options.public { Sealing::Public } else { Sealing::Secret(secret.clone()) };
        let recipe = Recipe { sealing, chunker: options.chunker.unwrap_or(inner.options.chunker), secret };
        let upload = Arc::new(inner.store.upload());
        let mut sealer =
            Sealer { recipe, upload: Arc::clone(&upload), pool: inner.pool.clone(), tally: Tally::default() };
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
            FileKind::Dir => tree::store(&mut sealer, input, metadata)?,
        };
        let Tally { new_blocks, blocks, stored_len } = sealer.tally;
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
            owner: inner.peer.to_bytes(),
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

    /// What happens from now on. A receiver that is too slow is told how many events it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.inner.options.data_dir
    }

    /// This node's peer id.
    pub fn peer_id(&self) -> libp2p::PeerId {
        self.inner.peer
    }

    /// Whether it was started without a network.
    pub fn is_offline(&self) -> bool {
        self.inner.network.is_none()
    }

    /// Cancelled when the node begins to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Runs a task that belongs to this node: [`Node::shutdown`] waits for it, so it must heed [`Node::stopping`].
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Notes where the API is served, for `status`, and where it takes the command line's calls.
    pub(crate) fn set_http(&self, door: HttpDoor, commands: SocketAddr) -> Result<(), NodeError> {
        *self.inner.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(door);
        Ok(self.inner.store.set_lock_note(&commands.to_string())?)
    }

    /// Where the API is served.
    pub(crate) fn http(&self) -> Option<HttpDoor> {
        *self.inner.http.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A small value of a door, by name.
    pub(crate) async fn meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, NodeError> {
        self.blocking(move |store| Ok(store.meta(name)?)).await
    }

    /// Keeps a small value of a door, durably.
    pub(crate) async fn set_meta(&self, name: &'static str, value: Vec<u8>) -> Result<(), NodeError> {
        self.blocking(move |store| Ok(store.set_meta(name, &value)?)).await
    }

    fn emit(&self, event: Event) {
        // Nobody listens: that is no error.
        drop(self.inner.events.send(event));
    }

    fn check_running(&self) -> Result<(), NodeError> {
        if self.inner.stop.is_cancelled() { Err(NodeError::shutting_down()) } else { Ok(()) }
    }

    fn network(&self) -> Result<&Network, NodeError> {
        self.inner.network.as_ref().ok_or_else(|| {
            NodeError::new(ErrorCode::Unreachable, "this node was started without a network")
                .reason(Reason::Offline)
                .hint("start a node with `storgo-node run`")
        })
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let store = self.inner.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|_| NodeError::lost_worker())?
    }
}

/// Longest name of a file, bytes: as long as file systems take, so that whoever gets it can write it.
pub const MAX_NAME: usize = 255;

/// Refuses a name that nobody could give to a file.
///
/// # Errors
/// [`ErrorCode::BadRequest`].
pub fn check_name(name: Option<&str>) -> Result<(), NodeError> {
    let name = name.unwrap_or_default();
    if name.len() > MAX_NAME {
        let message = format!("a name of {} bytes is too long: {MAX_NAME} at most", name.len());
        return Err(NodeError::new(ErrorCode::BadRequest, message)
            .reason(Reason::NameTooLong)
            .hint("choose a shorter one"));
    }
    if name.contains('\0') {
        return Err(NodeError::new(ErrorCode::BadRequest, "a name has no NUL character in it")
            .reason(Reason::NameHasNul)
            .hint("no file system takes one: choose another name"));
    }
    Ok(())
}

impl From<FileKind> for RootKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Dir => Self::Dir,
        }
    }
}

impl From<RootKind> for FileKind {
    fn from(kind: RootKind) -> Self {
        match kind {
            RootKind::File => Self::File,
            RootKind::Dir => Self::Dir,
        }
    }
}

/// Seconds since 1970.
fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Microseconds since 1970: fine enough that the newest of several files with one name is the newest.
fn unix_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
