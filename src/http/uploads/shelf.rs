//! All uploads of a node: their plans on disk, whose turn it is to write, and what became of them.
//!
//! In `uploads/` of the data directory: `<id>.plan` from the start, `<id>.part` and `<id>.at` while bytes arrive, and
//! `<id>.done` (the CID) when the file is stored.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedMutexGuard, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::{io::ReaderStream, sync::CancellationToken};
use utoipa::ToSchema;

use super::{
    super::{auth::now, problem::Problem},
    part::{self, Check, PartError, Piece},
};
use crate::{
    content::cid::Cid,
    node::{
        Node, PutOptions,
        error::{ErrorCode, NodeError},
        identity::write_secret,
        report::FileKind,
    },
};

/// Uploads at most, those that are stored included.
const MAX_UPLOADS: usize = 1000;
/// How long a stored one is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long whoever wrote last may take to end.
const TURN: Duration = Duration::from_secs(10);
/// Pieces of a body that wait for the disk.
const PIECES: usize = 8;
/// Bytes that are read at a time to be stored.
const READ: usize = 256 << 10;

/// What an upload will be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) length: u64,
    pub(super) name: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) mtime: Option<i64>,
    pub(super) public: bool,
    /// Whether the bytes are a tar that becomes a folder.
    #[serde(default)]
    pub(super) tree: bool,
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum UploadState {
    /// Bytes are missing.
    Receiving,
    /// All are here, and are being stored.
    Storing,
    /// It is a file.
    Stored,
    /// It could not be stored; an empty last part tries again.
    Failed,
}

/// An upload.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in super::super) struct UploadInfo {
    /// By this it is called.
    pub(super) id: String,
    /// The file's name.
    pub(super) name: Option<String>,
    /// Whether its bytes are a tar that becomes a folder.
    pub(super) tree: bool,
    /// When the file was changed, as the client said at the start, seconds since 1970.
    pub(super) mtime: Option<i64>,
    /// Bytes of the whole file.
    pub(super) length: u64,
    /// Bytes that are here.
    pub(super) offset: u64,
    /// When it goes if nothing happens, seconds since 1970.
    pub(super) expires_unix_s: i64,
    /// How far it is.
    pub(super) state: UploadState,
    /// The file that it became.
    pub(super) cid: Option<Cid>,
    /// Why it could not be stored.
    pub(super) error: Option<String>,
}

/// What becomes of the bytes.
#[derive(Clone)]
enum Phase {
    Receiving,
    Storing,
    Stored(Cid),
    Failed(NodeError),
}

pub(super) struct Upload {
    pub(super) id: String,
    pub(super) plan: Plan,
    part: PathBuf,
    progress: Mutex<(u64, i64)>,
    phase: watch::Sender<Phase>,
    turn: Arc<tokio::sync::Mutex<()>>,
    holder: Mutex<CancellationToken>,
}

/// The right to write to an upload.
pub(super) struct Turn {
    _held: OwnedMutexGuard<()>,
    /// Cancelled when somebody else wants it.
    pub(super) stopped: CancellationToken,
}

impl Upload {
    fn new(id: String, plan: Plan, dir: &Path, touched: i64) -> Self {
        let part = dir.join(format!("{id}.part"));
        let offset = part::offset(&part);
        Self {
            id,
            plan,
            part,
            progress: Mutex::new((offset, touched)),
            phase: watch::Sender::new(Phase::Receiving),
            turn: Arc::default(),
            holder: Mutex::default(),
        }
    }

    /// Bytes that count.
    pub(super) fn offset(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn count(&self, offset: u64) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = (offset, now());
    }

    pub(super) fn info(&self, keep: Duration) -> UploadInfo {
        let (offset, touched) = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = self.phase.borrow().clone();
        let (state, cid, error) = match phase {
            Phase::Receiving => (UploadState::Receiving, None, None),
            Phase::Storing => (UploadState::Storing, None, None),
            Phase::Stored(cid) => (UploadState::Stored, Some(cid), None),
            Phase::Failed(error) => (UploadState::Failed, None, Some(error.message)),
        };
        let keep = if cid.is_some() { REMEMBERED } else { keep };
        UploadInfo {
            id: self.id.clone(),
            name: self.plan.name.clone(),
            tree: self.plan.tree,
            mtime: self.plan.mtime,
            length: self.plan.length,
            offset: if cid.is_some() { self.plan.length } else { offset },
            expires_unix_s: touched.saturating_add(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX)),
            state,
            cid,
            error,
        }
    }

    /// Waits for the turn to write; whoever has it is asked to end.
    pub(super) async fn take(&self) -> Result<Turn, Problem> {
        let stopped = CancellationToken::new();
        let before = std::mem::replace(
            &mut *self.holder.lock().unwrap_or_else(PoisonError::into_inner),
            stopped.clone(),
        );
        before.cancel();
        let Ok(held) = tokio::time::timeout(TURN, Arc::clone(&self.turn).lock_owned()).await else {
            let error = NodeError::new(ErrorCode::Locked, "another call still writes to this upload")
                .hint("try again in a moment");
            return Err(Problem::with_status(error, 423));
        };
        Ok(Turn { _held: held, stopped })
    }

    /// A thread that writes what is sent to it. It has the turn until all of it is on disk, whoever has gone away.
    pub(super) fn write(
        self: &Arc<Self>,
        turn: Turn,
        check: Option<Check>,
    ) -> (mpsc::Sender<Piece>, JoinHandle<Result<(), Problem>>) {
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let upload = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let (offset, length) = (upload.offset(), upload.plan.length);
            let count = |at| upload.count(at);
            part::write(&upload.part, offset, length, check, &mut receiver, count).map_err(Problem::from)
        });
        (sender, writing)
    }
}

impl From<PartError> for Problem {
    fn from(error: PartError) -> Self {
        let message = error.to_string();
        match error {
            PartError::TooLong => Self::with_status(NodeError::new(ErrorCode::BadRequest, message), 413),
            PartError::Checksum => {
                let error = NodeError::new(ErrorCode::Integrity, message).hint("send this part again");
                Self::with_status(error, 460)
            }
            PartError::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                NodeError::new(ErrorCode::NoSpace, message).hint("free some space and go on").into()
            }
            PartError::Io(_) => NodeError::new(ErrorCode::Other, message).into(),
        }
    }
}

pub(in super::super) struct Uploads {
    node: Node,
    dir: PathBuf,
    keep: Duration,
    all: Mutex<HashMap<String, Arc<Upload>>>,
}

impl Uploads {
    /// The uploads that this data directory has. `keep`: how long one is kept to which nothing is added.
    pub(in super::super) fn load(node: &Node, keep: Duration) -> Result<Arc<Self>, NodeError> {
        let dir = node.data_dir().join("uploads");
        let fail = |e: std::io::Error| {
            NodeError::new(ErrorCode::Other, format!("cannot use {}: {e}", dir.display()))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fail)?;
        let mut all = HashMap::new();
        for item in fs::read_dir(&dir).map_err(fail)? {
            let path = item.map_err(fail)?.path();
            let (Some(id), Some("plan")) =
                (path.file_stem().and_then(|id| id.to_str()), path.extension().and_then(|ext| ext.to_str()))
            else {
                continue;
            };
            let Some(plan) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
            else {
                tracing::warn!("{} cannot be read: this upload is lost", path.display());
                continue;
            };
            let upload = Upload::new(id.to_owned(), plan, &dir, touched(&path));
            if let Some(cid) =
                fs::read_to_string(path.with_extension("done")).ok().and_then(|cid| cid.parse().ok())
            {
                upload.phase.send_replace(Phase::Stored(cid));
            }
            all.insert(id.to_owned(), Arc::new(upload));
        }
        Ok(Arc::new(Self { node: node.clone(), dir, keep, all: Mutex::new(all) }))
    }

    /// Goes on with what a restart has broken off, and takes away what has expired.
    pub(in super::super) fn start(self: &Arc<Self>) {
        for upload in self.lock().values() {
            let receiving = matches!(*upload.phase.borrow(), Phase::Receiving);
            if receiving && upload.offset() == upload.plan.length {
                self.begin(upload);
            }
        }
        let (uploads, stop) = (Arc::clone(self), self.node.stopping());
        self.node.spawn(async move {
            loop {
                uploads.sweep().await;
                if stop.run_until_cancelled(tokio::time::sleep(SWEEP.min(uploads.keep))).await.is_none() {
                    return;
                }
            }
        });
    }

    async fn sweep(&self) {
        let now = now();
        let old = |upload: &&Arc<Upload>| {
            let info = upload.info(self.keep);
            info.expires_unix_s <= now && info.state != UploadState::Storing && upload.turn.try_lock().is_ok()
        };
        let expired: Vec<_> = self.lock().values().filter(old).cloned().collect();
        for upload in expired {
            if let Err(error) = self.forget(&upload).await {
                tracing::warn!("an upload that has expired cannot be removed: {error}");
            }
        }
    }

    pub(super) fn keep(&self) -> Duration {
        self.keep
    }

    pub(super) fn list(&self) -> Vec<UploadInfo> {
        let mut all: Vec<_> = self.lock().values().map(|upload| upload.info(self.keep)).collect();
        all.sort_by(|a, b| b.expires_unix_s.cmp(&a.expires_unix_s).then_with(|| a.id.cmp(&b.id)));
        all
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Upload>, NodeError> {
        self.lock().get(id).cloned().ok_or_else(|| {
            NodeError::new(ErrorCode::NotFound, "there is no upload with this id")
                .hint("it has ended, or expired: begin a new one")
        })
    }

    /// Begins an upload, where there is room for all of it.
    pub(super) async fn create(&self, plan: Plan) -> Result<Arc<Upload>, NodeError> {
        self.check_room(plan.length).await?;
        let id = format!("{:032x}", rand::random::<u128>());
        let upload = Arc::new(Upload::new(id.clone(), plan, &self.dir, now()));
        let path = self.dir.join(format!("{id}.plan"));
        let json = serde_json::to_vec(&upload.plan).unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || write_secret(&path, &json)).await;
        written.map_err(|e| NodeError::new(ErrorCode::Other, e.to_string()))?.map_err(|e| {
            let full = e.kind() == std::io::ErrorKind::StorageFull;
            let code = if full { ErrorCode::NoSpace } else { ErrorCode::Other };
            NodeError::new(code, format!("an upload cannot be noted: {e}"))
        })?;
        self.lock().insert(id, Arc::clone(&upload));
        Ok(upload)
    }

    /// An upload takes its bytes twice: as they arrive, and as blocks.
    async fn check_room(&self, length: u64) -> Result<(), NodeError> {
        let (mut count, mut promised) = (0, 0_u64);
        for upload in self.lock().values() {
            count += 1;
            if !matches!(*upload.phase.borrow(), Phase::Stored(_)) {
                promised += 2 * upload.plan.length - upload.offset();
            }
        }
        let full = |message: String| {
            Err(NodeError::new(ErrorCode::NoSpace, message).hint(
                "free some space, or end uploads that nobody goes on with: GET /api/v1/uploads shows them",
            ))
        };
        if count >= MAX_UPLOADS {
            return full(format!("there are {MAX_UPLOADS} uploads already"));
        }
        let status = self.node.status().await?;
        let needed = promised.saturating_add(2 * length);
        if status.disk_free.is_some_and(|free| needed > free) {
            return full(format!("an upload of {length} bytes does not fit on the disk"));
        }
        let kept = status.stored_bytes.saturating_sub(status.cached_bytes);
        if status.capacity.is_some_and(|capacity| kept.saturating_add(length) > capacity) {
            return full(format!("an upload of {length} bytes goes beyond storage.capacity"));
        }
        Ok(())
    }

    /// Stores an upload that is whole; returns when it is stored.
    pub(super) async fn store(self: &Arc<Self>, upload: &Arc<Upload>) -> Result<(), NodeError> {
        self.begin(upload);
        let mut phase = upload.phase.subscribe();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Stored(_) | Phase::Failed(_)));
        let stopping = self.node.stopping();
        match stopping.run_until_cancelled(ended).await {
            Some(Ok(phase)) => match &*phase {
                Phase::Failed(error) => Err(error.clone()),
                _ => Ok(()),
            },
            _ => Err(NodeError::new(ErrorCode::ShuttingDown, "the node is stopping")
                .hint("the upload is whole: it is stored when the node runs again")),
        }
    }

    /// Begins to store, unless that runs or is done. Whoever waits for it may go away.
    fn begin(self: &Arc<Self>, upload: &Arc<Upload>) {
        let begun = upload.phase.send_if_modified(|phase| {
            let idle = matches!(phase, Phase::Receiving | Phase::Failed(_));
            if idle {
                *phase = Phase::Storing;
            }
            idle
        });
        if !begun {
            return;
        }
        let (uploads, upload, stop) = (Arc::clone(self), Arc::clone(upload), self.node.stopping());
        self.node.spawn(async move {
            match stop.run_until_cancelled(uploads.put(&upload)).await {
                Some(Ok(cid)) => upload.phase.send_replace(Phase::Stored(cid)),
                Some(Err(error)) => upload.phase.send_replace(Phase::Failed(error)),
                None => return,
            };
            upload.count(upload.plan.length);
        });
    }

    async fn put(&self, upload: &Upload) -> Result<Cid, NodeError> {
        let fail = |e: std::io::Error| {
            NodeError::new(ErrorCode::Other, format!("what has arrived cannot be read: {e}"))
        };
        let options = PutOptions {
            name: upload.plan.name.clone(),
            media_type: upload.plan.media_type.clone(),
            mtime: upload.plan.mtime,
            public: upload.plan.public,
            ..PutOptions::default()
        };
        let report = if upload.plan.length == 0 {
            self.node.put(tokio::io::empty(), options).await?
        } else {
            let file = tokio::fs::File::open(&upload.part).await.map_err(fail)?;
            let kind = if upload.plan.tree { FileKind::Dir } else { FileKind::File };
            self.node.put_stream(ReaderStream::with_capacity(file, READ), options, kind).await?
        };
        // The file is safe: what is noted of it is a kindness to who asks again.
        let (part, cid) = (upload.part.clone(), report.cid);
        let noted = tokio::task::spawn_blocking(move || {
            let noted = write_secret(&part.with_extension("done"), cid.to_string().as_bytes());
            remove(&part)?;
            remove(&part.with_extension("at"))?;
            noted
        });
        if let Ok(Err(e)) = noted.await {
            tracing::warn!("that an upload is stored could not be noted: {e}");
        }
        Ok(report.cid)
    }

    /// Forgets an upload and what has arrived of it.
    pub(super) async fn forget(&self, upload: &Upload) -> Result<(), NodeError> {
        self.lock().remove(&upload.id);
        let part = upload.part.clone();
        let removed = tokio::task::spawn_blocking(move || {
            ["plan", "part", "at", "done"].iter().try_for_each(|ext| remove(&part.with_extension(ext)))
        });
        let removed = removed.await.map_err(|e| NodeError::new(ErrorCode::Other, e.to_string()))?;
        removed.map_err(|e| NodeError::new(ErrorCode::Other, format!("an upload cannot be removed: {e}")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When an upload was last added to, by its files.
fn touched(plan: &Path) -> i64 {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let times = ["plan", "at", "done"].iter().filter_map(|ext| modified(plan.with_extension(ext)));
    let since = times.max().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
