//! The node: content, store and network put together.
//!
//! [`Node`] is a cheap handle to a running node, and a facade: each of its methods belongs to a service in a file of its own,
//! which has only the handles that it needs. Doors (command line, HTTP, a program that embeds storgo) call [`Node`] and nothing
//! below it.
//!
//! ```text
//! put   reader ─ put::sealer (cut, seal, write, sync) ─▶ Store ─ commit ─▶ announcements
//! get   link ─ lookup ─▶ read (root block, then blocks in order, checked, decrypted) ─▶ stream of bytes
//!                              └───────────── Fetcher: the store first, then providers
//! ```
//!
//! | service | does |
//! |---|---|
//! | `put` | stores files and folders |
//! | `read` | opens links and streams plaintext |
//! | `files`, `listing`, `lookup` | describe, list, find and remove files |
//! | `keep` | keeps files that were only read |
//! | `health`, `repair`, `scrub`, `damage_cache`, `damaged_entries` | find and fetch damaged and missing blocks |
//! | `announcements`, `withdrawals` | tell the DHT which files are here |
//! | `collector` | removes blocks that no file needs |
//! | `network`, `peers` | run the swarm, and report on connected peers |
//! | `services`, `jobs` | build the services, and run their periodic work |

mod announcements;
mod clock;
mod collector;
mod damage_cache;
mod damaged_entries;
pub mod data_dir;
pub mod error;
mod files;
mod handles;
mod health;
pub mod identity;
pub mod invite;
mod jobs;
mod keep;
mod listing;
mod lookup;
pub mod membership;
mod network;
mod options;
mod peers;
mod places;
mod put;
mod read;
mod repair;
pub mod report;
mod scrub;
mod services;
mod status;
mod withdrawals;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use libp2p::{Multiaddr, PeerId};
use tokio::{io::AsyncRead, sync::broadcast};
use tokio_util::{io::ReaderStream, sync::CancellationToken};

pub use self::{
    error::{ErrorCode, NodeError, Reason},
    listing::{HealthFilter, ListOptions, Sort},
    lookup::Reference,
    options::NodeOptions,
    put::{MAX_NAME, PutOptions, check_name, read_tar},
    read::{Opened, left_out_name},
};
use self::{
    invite::Invite,
    lookup::Found,
    network::Network,
    put::PIECE,
    report::{
        BlockList, EntryList, Event, FileInfo, FileKind, FileList, GcReport, HealthReport, PeerReport,
        Placement, PutReport, RemoveReport, RepairReport, Status, VerifyReport,
    },
    services::Services,
};
pub(crate) use self::{put::UploadPermit, read::Gaps, services::HttpEndpoint};
pub(crate) use crate::content::tar_time::{mtime as tar_mtime, set_mtime as set_tar_mtime};
use crate::{
    content::{cid::Cid, link::Link},
    store::Store,
};

/// How long shutdown waits for tasks to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// A running node. Clones are handles to the same node, which runs until [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    services: Arc<Services>,
}

/// Starting, stopping and observing a node.
impl Node {
    /// Opens the data directory, joins the network, and announces the kept files.
    ///
    /// # Errors
    /// [`ErrorCode::Locked`] if another process uses the data directory; [`ErrorCode::Other`] if the data directory cannot be
    /// used or an address cannot be listened on.
    pub async fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let services = Arc::new(Services::start(options).await?);
        if services.network.is_some() {
            jobs::start(&services);
        }
        Ok(Self { services })
    }

    /// Stops the node: tasks end or are cut off, peers and provider records are saved. Nothing acknowledged is lost, even if
    /// the process ends without this.
    pub async fn shutdown(&self) {
        let services = &self.services;
        let ended = futures::future::join(services.tasks.shutdown(), services.save_network(true));
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time and are cut off");
        }
        if let Some(network) = &services.network {
            network.net.shutdown().await;
        }
    }

    /// Returns a stream of the events from now on. A receiver that is too slow learns how many events it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.services.events.0.subscribe()
    }

    /// Returns the data directory.
    pub fn data_dir(&self) -> &Path {
        &self.services.options.store.dir
    }

    /// Returns what is wrong with the data directory, although the node runs.
    pub fn warnings(&self) -> Vec<NodeError> {
        self.services.warnings()
    }

    /// Returns why nothing can be stored at this moment; `None` means that nothing is known to be wrong.
    pub fn write_problem(&self) -> Option<&'static str> {
        self.services.store.0.write_problem()
    }

    /// Returns the peer id of this node.
    pub fn peer_id(&self) -> PeerId {
        self.services.peer
    }

    /// Whether the node was started without a network.
    pub fn is_offline(&self) -> bool {
        self.services.network.is_none()
    }

    /// Returns a token that is cancelled when the node begins to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.services.tasks.stop.clone()
    }

    /// Runs a task of a door. [`Node::shutdown`] waits for it, so it must end soon after [`Node::stopping`] is cancelled.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.services.tasks.tracker.spawn(task);
    }

    /// Sets the address of the HTTP API, for `status`, and the one for calls of the command line, for the lock file.
    pub(crate) fn set_http(&self, endpoint: HttpEndpoint, commands: SocketAddr) -> Result<(), NodeError> {
        *self.services.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
        Ok(self.services.store.0.set_lock_note(&commands.to_string())?)
    }

    /// Returns the address of the HTTP API, once it is served.
    pub(crate) fn http(&self) -> Option<HttpEndpoint> {
        self.services.http()
    }

    /// Returns the small value that a door has stored under `name`.
    pub(crate) async fn meta(&self, name: &'static str) -> Result<Option<Vec<u8>>, NodeError> {
        self.services.store.meta(name).await
    }

    /// Stores a small value of a door durably under `name`.
    pub(crate) async fn set_meta(&self, name: &'static str, value: Vec<u8>) -> Result<(), NodeError> {
        self.services.store.set_meta(name, value).await
    }

    /// Returns the status of the node.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn status(&self) -> Result<Status, NodeError> {
        self.services.status().await
    }

    /// Returns how much more the node can store. Cheaper than its status.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn space(&self) -> Result<report::Space, NodeError> {
        self.services.space().await
    }
}

/// Storing and reading.
impl Node {
    /// Stores everything that `input` yields as one file.
    ///
    /// When this returns, the file is on disk, synced, and listed. Its announcement to other nodes is queued (see
    /// [`Node::placement`]).
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a name that [`check_name`] refuses, [`ErrorCode::NoSpace`] for a full disk or quota,
    /// [`ErrorCode::Collision`] for crafted public data, and [`ErrorCode::Other`] if `input` fails. No file is listed then.
    /// Blocks that were written are released at once if the disk or quota is full; otherwise the next attempt reuses them, or
    /// they are collected after the grace period.
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
        self.put_stream(ReaderStream::with_capacity(input, PIECE), options, FileKind::File).await
    }

    /// Stores a file, or the folder in a tar stream, from bytes that arrive in pieces. See [`Node::put`].
    ///
    /// # Errors
    /// Those of [`Node::put`]; [`ErrorCode::BadRequest`] for an invalid tar stream, a path that leads out of the folder, a name
    /// that is not UTF-8 or occurs twice, and entries that are neither regular files nor folders.
    pub async fn put_stream(
        &self,
        input: impl Stream<Item = io::Result<Bytes>> + Send,
        options: PutOptions,
        kind: FileKind,
    ) -> Result<PutReport, NodeError> {
        self.upload_permit().await?.put(input, options, kind).await
    }

    /// Waits for a permit to store data that arrives over a connection.
    pub(crate) async fn upload_permit(&self) -> Result<UploadPermit<'_>, NodeError> {
        self.services.puts.permit(false).await
    }

    /// Waits for a permit to store data that is on this disk.
    pub(crate) async fn local_upload_permit(&self) -> Result<UploadPermit<'_>, NodeError> {
        self.services.puts.permit(true).await
    }

    /// Opens a file for reading: finds its root block here or at a provider, and decrypts it.
    ///
    /// `timeout` limits the time without progress, now and while reading; `None` means the setting of the node.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if no peer has it, [`ErrorCode::Timeout`], [`ErrorCode::Denied`] if the key is missing,
    /// [`ErrorCode::Integrity`] if the key or the block is wrong.
    pub async fn open(&self, reference: &Reference, timeout: Option<Duration>) -> Result<Opened, NodeError> {
        let found = self.find(reference).await?;
        self.services.files.open(&found, timeout).await
    }

    /// Opens a link and remembers its key, so that the file can be read here by its CID alone. The file is not fetched, kept or
    /// announced.
    ///
    /// # Errors
    /// Those of [`Node::open`].
    pub async fn open_link(&self, link: &Link) -> Result<FileInfo, NodeError> {
        self.services.files.open_link(self.find(&link.into()).await?).await
    }

    /// Returns one block as it is stored here.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if it is not here, [`ErrorCode::Integrity`] if it is damaged.
    pub async fn block(&self, cid: &Cid) -> Result<Vec<u8>, NodeError> {
        self.services.files.block(*cid).await
    }
}

/// Files of this node.
impl Node {
    /// Describes a file; with `providers`, also lists the peers that announce it. A file that is not known here is looked for in
    /// the network.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and [`ErrorCode::Timeout`] if no peer has it.
    pub async fn info(&self, reference: &Reference, providers: bool) -> Result<FileInfo, NodeError> {
        self.services.files.info(self.find(reference).await?, providers).await
    }

    /// Lists a page of the entries of a folder: `limit` of them, after the first `cursor`, which are not read.
    ///
    /// # Errors
    /// Those of [`Node::open`]; [`ErrorCode::BadRequest`] for a file.
    pub async fn entries(
        &self,
        reference: &Reference,
        cursor: u64,
        limit: usize,
    ) -> Result<EntryList, NodeError> {
        self.services.files.entries(&self.find(reference).await?, cursor, limit).await
    }

    /// Lists a page of the files known here.
    ///
    /// Each order is read from an index. A query reads every name, and the records of the matching files only.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a cursor of another list, and those of the store.
    pub async fn list(&self, options: ListOptions) -> Result<FileList, NodeError> {
        self.services.listing.files(options).await
    }

    /// Lists a page of the blocks of a file in preorder, the root first: at most `limit`, after the first `cursor`. Blocks below
    /// a node block that is not here are not listed.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the root block is not here.
    pub async fn blocks(
        &self,
        reference: &Reference,
        cursor: u64,
        limit: usize,
    ) -> Result<BlockList, NodeError> {
        self.services.listing.blocks(self.find(reference).await?.link.cid, cursor, limit).await
    }

    /// Removes a file from this node and withdraws its announcement. Its blocks are freed when no other file uses them and the
    /// grace period is over. The blocks of a file that was only read are freed at once. Peers that cannot be reached now are notified when they connect, also after a restart.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the file is not here, [`ErrorCode::BadRequest`] if several files have the name.
    pub async fn remove(&self, reference: &Reference) -> Result<RemoveReport, NodeError> {
        self.services.files.remove(self.find(reference).await?.unambiguous()?).await
    }

    /// [`Node::remove`]; removes the newest of several files of one name.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the file is not here.
    pub async fn remove_newest(&self, reference: &Reference) -> Result<RemoveReport, NodeError> {
        self.services.files.remove(self.find(reference).await?).await
    }

    /// Keeps a file that was only read: fetches the blocks that are not here, and lists and announces the file. Goes on if the
    /// caller stops waiting.
    ///
    /// # Errors
    /// Those of [`Node::open`]; [`ErrorCode::NoSpace`].
    pub async fn keep(&self, reference: &Reference) -> Result<FileInfo, NodeError> {
        self.services.keeping.keep(self.find(reference).await?).await
    }

    /// Removes unreferenced blocks whose grace period is over.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn collect(&self) -> Result<GcReport, NodeError> {
        self.services.collector.collect(Store::collect).await
    }

    /// Removes all unreferenced blocks, regardless of the grace period, and the blocks of interrupted uploads.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn purge(&self) -> Result<GcReport, NodeError> {
        self.services.collector.collect(Store::purge).await
    }

    /// Removes all blocks that were only read.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drop_cache(&self) -> Result<GcReport, NodeError> {
        self.services.collector.collect(Store::drop_cache).await
    }
}

/// The health of files.
impl Node {
    /// Reports which blocks of a file are here, which nodes have the others, and how many of these nodes may be lost.
    ///
    /// Peers that announce the file and connected peers are asked now. A peer that does not answer within seconds is not
    /// counted. No block is read: [`Node::verify`] does that.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the file is known neither here nor anywhere else; [`ErrorCode::Timeout`] if its providers do not
    /// answer.
    pub async fn health(&self, reference: &Reference) -> Result<HealthReport, NodeError> {
        self.services.health.report(self.find(reference).await?).await
    }

    /// Lists a page of the blocks of a file with the number of nodes that have each, counted as in [`Node::health`].
    ///
    /// # Errors
    /// [`ErrorCode::Timeout`] if the node blocks of the file do not arrive in time.
    pub async fn block_holders(
        &self,
        reference: &Reference,
        cursor: u64,
        limit: usize,
    ) -> Result<BlockList, NodeError> {
        self.services.health.block_holders(&self.find(reference).await?, cursor, limit).await
    }

    /// Reads and hashes the blocks of a file, or all blocks. Moves damaged blocks to quarantine, and fetches damaged and missing
    /// ones from peers.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the file is not kept here. Damage is not an error: the report lists it.
    pub async fn verify(&self, reference: Option<&Reference>) -> Result<VerifyReport, NodeError> {
        self.services.repairs.verify(self.kept_root(reference).await?).await
    }

    /// Fetches the missing blocks of a file, or of all kept files, from peers. Always scans for them again.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the file is not kept here; [`ErrorCode::NoSpace`] and other errors of the store if a fetched
    /// block cannot be stored. Blocks that stay missing are not an error: the report lists them.
    pub async fn repair(&self, reference: Option<&Reference>) -> Result<RepairReport, NodeError> {
        self.services.repairs.repair(self.kept_root(reference).await?).await
    }

    async fn find(&self, reference: &Reference) -> Result<Found, NodeError> {
        let found = lookup::find(&self.services.store, reference).await?;
        match reference.path.as_str() {
            "" => Ok(found),
            path => self.services.files.entry(found, path).await,
        }
    }

    async fn kept_root(&self, reference: Option<&Reference>) -> Result<Option<Cid>, NodeError> {
        match reference {
            Some(reference) => Ok(Some(self.find(reference).await?.kept()?)),
            None => Ok(None),
        }
    }
}

/// The network.
impl Node {
    /// Returns how far the announcement of a file has come; waits up to `wait` for its end.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if the file is not kept here.
    pub async fn placement(&self, reference: &Reference, wait: Duration) -> Result<Placement, NodeError> {
        let cid = self.find(reference).await?.kept()?;
        self.services.announcements.placement(cid, wait).await
    }

    /// Lists the connected peers. Asks each for its status, at most every 30 s and for at most 1 s.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`] in a node without a network.
    pub async fn peers(&self) -> Result<Vec<PeerReport>, NodeError> {
        self.services.peers.list(self.services.network.as_ref()).await
    }

    /// Lists addresses of peers of this network, connected or not, the most recently seen peers first. Without a network, those
    /// of the last run.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn known_addrs(&self) -> Result<Vec<Multiaddr>, NodeError> {
        network::known_addrs(self.services.network.as_ref(), &self.services.store).await
    }

    /// Connects to an address, with or without `/p2p/…`. Returns the id of the peer there.
    ///
    /// # Errors
    /// [`ErrorCode::Unreachable`].
    pub async fn connect(&self, addr: Multiaddr) -> Result<String, NodeError> {
        Ok(Network::require(self.services.network.as_ref())?.net.connect(addr).await?.to_string())
    }

    /// Returns an invite that brings another machine into the cluster of this node.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] if it is in no cluster.
    pub async fn invite(&self) -> Result<Invite, NodeError> {
        self.services.invite().await
    }
}
