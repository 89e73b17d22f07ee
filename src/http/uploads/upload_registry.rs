//! The uploads of a node, the disk space that they reserve, and how a complete upload becomes a file.
//!
//! They are in the folder `uploads` of the data directory: see [`Upload`].

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::io::ReaderStream;

use super::{
    super::{clock::unix_s, problem::Problem},
    upload::{LOCK_TIMEOUT, Upload, UploadInfo, UploadPhase, UploadPlan, UploadState, remove},
};
use crate::{
    content::cid::Cid,
    node::{
        Node, PutOptions,
        error::{ErrorCode, NodeError},
        report::FileKind,
    },
    store::set_aside,
};

/// Maximum number of unfinished uploads, and of others that are remembered.
const MAX_UPLOADS: usize = 1000;
/// Maximum number of parts that are written at the same time, each by a thread.
const MAX_WRITERS: usize = 128;
/// Maximum number of forms at the same time whose file arrives before its name.
const MAX_SPOOLED: usize = 64;
/// Interval between two searches for expired uploads.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Size of one read of a complete upload.
const READ_BYTES: usize = 256 << 10;

pub(in super::super) struct UploadRegistry {
    pub(super) node: Node,
    pub(super) dir: PathBuf,
    /// How long an upload is kept without new bytes.
    pub(super) retention: Duration,
    uploads: Mutex<HashMap<String, Arc<Upload>>>,
    /// Permits to write a part.
    pub(super) writers: Semaphore,
    /// Permits to write a file that has no name yet.
    pub(super) spoolers: Semaphore,
    /// Bytes on disk that wait for their name.
    pub(super) spooled_bytes: AtomicU64,
}

impl UploadRegistry {
    /// Loads the uploads of the node's data directory.
    pub(in super::super) fn load(node: &Node, retention: Duration) -> Result<Arc<Self>, NodeError> {
        let dir = node.data_dir().join("uploads");
        let fail = |e| NodeError::io(format_args!("use {}", dir.display()), &e);
        make_folder(&dir)?;
        let mut uploads = HashMap::new();
        for item in fs::read_dir(&dir).map_err(fail)? {
            let path = item.map_err(fail)?.path();
            match kind_of(&path) {
                Some(Item::Record(id)) => match Upload::load(&dir, id.clone()) {
                    Ok(upload) => drop(uploads.insert(id, Arc::new(upload))),
                    Err(e)
                        if e.kind() == io::ErrorKind::InvalidData
                            || e.kind() == io::ErrorKind::UnexpectedEof =>
                    {
                        tracing::warn!("an unfinished upload is removed: {} is damaged: {e}", path.display());
                        remove_leftover(&path.with_extension("part"));
                        remove_leftover(&path);
                    }
                    Err(e) => tracing::warn!("cannot resume an upload: cannot read {}: {e}", path.display()),
                },
                Some(Item::Bytes) if path.with_extension("json").exists() => {}
                Some(Item::Bytes | Item::Temporary) => remove_leftover(&path),
                None => {}
            }
        }
        Ok(Arc::new(Self {
            node: node.clone(),
            dir,
            retention,
            uploads: Mutex::new(uploads),
            writers: Semaphore::new(MAX_WRITERS),
            spoolers: Semaphore::new(MAX_SPOOLED),
            spooled_bytes: AtomicU64::new(0),
        }))
    }

    /// Stores uploads that were complete when the node stopped, and removes expired ones from now on.
    pub(in super::super) fn start(self: &Arc<Self>) {
        for upload in self.lock().values() {
            let receiving = matches!(*upload.phase.borrow(), UploadPhase::Receiving);
            if receiving && upload.offset() == upload.plan.length {
                self.start_storing(upload);
            }
        }
        let (registry, stop) = (Arc::clone(self), self.node.stopping());
        let interval = SWEEP_INTERVAL.min(self.retention);
        self.node.spawn(async move {
            loop {
                registry.remove_expired().await;
                if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
                    return;
                }
            }
        });
    }

    async fn remove_expired(&self) {
        let now = unix_s();
        let is_expired = |_: &String, upload: &mut Arc<Upload>| {
            let info = upload.info(self.retention);
            info.expires_unix_s <= now && info.state != UploadState::Storing && !upload.is_locked()
        };
        // Taken out in one step: a request that locks an upload afterwards does not find it any more.
        let expired: Vec<_> = self.lock().extract_if(is_expired).map(|(_, upload)| upload).collect();
        for upload in expired {
            if let Err(problem) = self.remove(&upload).await {
                tracing::warn!("cannot remove an expired upload: {}", problem.detail);
            }
        }
    }

    pub(super) fn list(&self) -> Vec<UploadInfo> {
        let mut all: Vec<_> = self.lock().values().map(|upload| upload.info(self.retention)).collect();
        all.sort_by(|a, b| b.expires_unix_s.cmp(&a.expires_unix_s).then_with(|| a.id.cmp(&b.id)));
        all
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Upload>, Problem> {
        self.lock().get(id).cloned().ok_or_else(|| {
            Problem::not_found("no upload has this id", "it was removed or has expired: create a new upload")
        })
    }

    /// Creates an upload, if there is space for all of it.
    pub(super) async fn create(&self, plan: UploadPlan) -> Result<Arc<Upload>, Problem> {
        let id = format!("{:032x}", rand::random::<u128>());
        let upload = Arc::new(Upload::new(&self.dir, id.clone(), plan));
        // Inserted before the check, so that two new uploads do not both reserve the last space.
        self.lock().insert(id, Arc::clone(&upload));
        let created = self.check_and_save(&upload).await;
        if created.is_err() {
            self.remove(&upload).await?;
        }
        created.map(|()| upload)
    }

    async fn check_and_save(&self, upload: &Arc<Upload>) -> Result<(), Problem> {
        self.check_space("this upload", 1).await?;
        make_folder(&self.dir)?;
        let upload = Arc::clone(upload);
        let saved = spawn_blocking(move || upload.save(0)).await?;
        saved.map_err(|e| NodeError::io(format_args!("save an upload in {}", self.dir.display()), &e).into())
    }

    /// Checks that there is space for all uploads and spooled files. Both need their bytes twice: as they arrive, and as
    /// blocks. `own` of the uploads are the one that asks.
    pub(super) async fn check_space(&self, what: &str, own: usize) -> Result<(), Problem> {
        let spooled = self.spooled_bytes.load(Ordering::Relaxed);
        let (mut unfinished, mut on_disk, mut as_blocks) = (0_usize, spooled, spooled);
        let mut settled: Vec<_> = Vec::new();
        for upload in self.lock().values() {
            if upload.phase.borrow().is_settled() {
                settled.push(Arc::clone(upload));
                continue;
            }
            unfinished += 1;
            on_disk = on_disk.saturating_add(upload.plan.length.saturating_mul(2) - upload.offset());
            as_blocks = as_blocks.saturating_add(upload.plan.length);
        }
        let full = |detail: String| {
            let hint = "free disk space, or remove unfinished uploads: GET /api/v1/uploads lists them";
            Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::NoSpace, detail, hint))
        };
        if unfinished > MAX_UPLOADS {
            return full(format!("the limit of {MAX_UPLOADS} unfinished uploads is reached"));
        }
        if settled.len() > MAX_UPLOADS {
            settled.sort_by_key(|upload| upload.info(self.retention).expires_unix_s);
            for upload in &settled[..settled.len() - MAX_UPLOADS] {
                self.remove(upload).await?;
            }
        }
        let space = self.node.space().await?;
        let others = match unfinished.saturating_sub(own) {
            0 => String::new(),
            others => format!(" (with {others} unfinished uploads)"),
        };
        if space.disk_free.is_some_and(|free| on_disk > free) {
            return full(format!("{what} does not fit on the disk{others}"));
        }
        if space.capacity.is_some_and(|capacity| space.kept_bytes.saturating_add(as_blocks) > capacity) {
            return full(format!("{what} does not fit into storage.capacity{others}"));
        }
        Ok(())
    }

    /// Stores a complete upload. Returns when it is stored.
    pub(super) async fn store(self: &Arc<Self>, upload: &Arc<Upload>) -> Result<(), Problem> {
        self.start_storing(upload);
        let mut phase = upload.phase.subscribe();
        let ended = phase.wait_for(|phase| phase.is_settled() || matches!(phase, UploadPhase::Failed(_)));
        match self.node.stopping().run_until_cancelled(ended).await {
            Some(Ok(phase)) => match &*phase {
                UploadPhase::Failed(problem) => Err(problem.clone()),
                UploadPhase::Refused(error) => Err(error.clone().into()),
                _ => Ok(()),
            },
            // The node stores the upload when it starts again.
            _ => Err(NodeError::new(ErrorCode::ShuttingDown, "the node is stopping").into()),
        }
    }

    /// Starts to store a complete upload, unless it is being stored already. Goes on without its client.
    fn start_storing(self: &Arc<Self>, upload: &Arc<Upload>) {
        let started = upload.phase.send_if_modified(|phase| {
            let idle = matches!(phase, UploadPhase::Receiving | UploadPhase::Failed(_));
            if idle {
                *phase = UploadPhase::Storing;
            }
            idle
        });
        if !started {
            return;
        }
        let (registry, upload, stop) = (Arc::clone(self), Arc::clone(upload), self.node.stopping());
        self.node.spawn(async move {
            let phase = match stop.run_until_cancelled(registry.put(&upload)).await {
                Some(Ok(cid)) => UploadPhase::Stored(cid),
                Some(Err(error)) if is_final(&error) => {
                    settle(&upload, Err(error.clone())).await;
                    UploadPhase::Refused(error)
                }
                Some(Err(error)) => UploadPhase::Failed(error.into()),
                None => return,
            };
            upload.set_offset(upload.plan.length);
            upload.phase.send_replace(phase);
        });
    }

    async fn put(&self, upload: &Arc<Upload>) -> Result<Cid, NodeError> {
        let plan = &upload.plan;
        let options = PutOptions {
            name: plan.name.clone(),
            media_type: plan.media_type.clone(),
            mtime: plan.mtime,
            public: plan.public,
            ..PutOptions::default()
        };
        let permit = self.node.local_upload_permit().await?;
        let kind = if plan.tree { FileKind::Dir } else { FileKind::File };
        let report = if plan.length == 0 {
            permit.put(futures::stream::empty(), options, kind).await?
        } else {
            let file = tokio::fs::File::open(&upload.part).await;
            let unreadable = |e| NodeError::io(format_args!("read {}", upload.part.display()), &e);
            let file = file.map_err(unreadable)?;
            let on_disk = file.metadata().await.map_err(unreadable)?.len();
            if on_disk != plan.length {
                let message =
                    format!("the file of the upload has {on_disk} bytes instead of {}", plan.length);
                return Err(NodeError::new(ErrorCode::BadRequest, message));
            }
            let bytes = ReaderStream::with_capacity(file, READ_BYTES);
            permit.put(bytes, options, kind).await?
        };
        drop(permit);
        // The file is safe. The record only tells the client its CID.
        settle(upload, Ok(report.cid)).await;
        Ok(report.cid)
    }

    /// Removes an upload and its bytes.
    pub(super) async fn remove(&self, upload: &Arc<Upload>) -> Result<(), Problem> {
        self.lock().remove(&upload.id);
        let upload = Arc::clone(upload);
        let removed = spawn_blocking(move || upload.remove_files()).await?;
        removed.map_err(|e| NodeError::io("remove an upload", &e).into())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the folder of uploads, also again after somebody removed it. A file in its place is moved away.
pub(super) fn make_folder(dir: &Path) -> Result<(), NodeError> {
    if dir.symlink_metadata().is_ok() && !dir.is_dir() {
        set_aside(dir).map_err(|e| NodeError::io(format_args!("make the folder {}", dir.display()), &e))?;
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| NodeError::io(format_args!("make the folder {}", dir.display()), &e))
}

/// Whether storing the same bytes again would fail again.
fn is_final(error: &NodeError) -> bool {
    matches!(error.code, ErrorCode::BadRequest | ErrorCode::Collision)
}

async fn settle(upload: &Arc<Upload>, outcome: Result<Cid, NodeError>) {
    let upload = Arc::clone(upload);
    if let Ok(Err(e)) = spawn_blocking(move || upload.settle(outcome)).await {
        tracing::warn!("cannot record that an upload was stored or refused: {e}");
    }
}

/// Kinds of files in the folder of uploads.
enum Item {
    /// The record of the upload with this id.
    Record(String),
    /// The bytes of an upload.
    Bytes,
    /// A file that was being written.
    Temporary,
}

/// Returns `None` for what this node did not put there, such as `lost+found`: it stays.
fn kind_of(path: &Path) -> Option<Item> {
    let name = path.file_name()?.to_str()?;
    let (id, rest) = name.trim_start_matches('.').split_once('.')?;
    let is_hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(id, 32) {
        return None;
    }
    match rest {
        // Of a record that was being replaced.
        rest if name.starts_with('.') => {
            rest.strip_prefix("json.").filter(|unique| is_hex(unique, 8)).map(|_| Item::Temporary)
        }
        "json" => Some(Item::Record(id.into())),
        "part" => Some(Item::Bytes),
        "spooled" => Some(Item::Temporary),
        _ => None,
    }
}

/// Removes what a crash left. A file that cannot be removed is no reason not to start.
fn remove_leftover(path: &Path) {
    if let Err(e) = remove(path) {
        tracing::warn!("cannot remove the rest of an upload, {}: {e}", path.display());
    }
}

/// Waits for one of `permits`.
pub(super) async fn permit<'a>(permits: &'a Semaphore, what: &str) -> Result<SemaphorePermit<'a>, Problem> {
    match timeout(LOCK_TIMEOUT, permits.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Problem::busy(format!("the limit of concurrent {what} is reached"))),
    }
}
