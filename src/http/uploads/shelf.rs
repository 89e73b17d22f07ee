//! All uploads of a node: their plans on disk, the room they take, and what becomes of them.
//!
//! In `uploads/` of the data directory: `<id>.plan` from the start, `<id>.part` and `<id>.at` while bytes arrive, and
//! `<id>.done` (the CID) when the file is stored.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::io::ReaderStream;

use super::{
    super::{auth::now, problem::Problem},
    upload::{Phase, Plan, TURN, Upload, UploadInfo, UploadState},
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

/// Uploads that are not stored yet at most, and stored ones that are remembered at most.
const MAX_UPLOADS: usize = 1000;
/// Parts that are written at a time; each has a thread.
const WRITERS: usize = 128;
/// Forms at most whose file comes before its name, at a time.
const EARLY: usize = 64;
/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Bytes that are read at a time to be stored.
const READ: usize = 256 << 10;

pub(in super::super) struct Uploads {
    pub(super) node: Node,
    pub(super) dir: PathBuf,
    keep: Duration,
    all: Mutex<HashMap<String, Arc<Upload>>>,
    writers: Semaphore,
    early: Semaphore,
    /// Bytes on disk that wait for their name.
    pub(super) early_bytes: AtomicU64,
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
                // What was killed may have left bytes that no plan names.
                if !path.with_extension("plan").exists() {
                    fs::remove_file(&path).map_err(fail)?;
                }
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
                upload.count_all();
            }
            all.insert(id.to_owned(), Arc::new(upload));
        }
        Ok(Arc::new(Self {
            node: node.clone(),
            dir,
            keep,
            all: Mutex::new(all),
            writers: Semaphore::new(WRITERS),
            early: Semaphore::new(EARLY),
            early_bytes: AtomicU64::new(0),
        }))
    }

    /// The right to write a part.
    pub(super) async fn writer(&self) -> Result<SemaphorePermit<'_>, Problem> {
        if let Ok(Ok(permit)) = tokio::time::timeout(TURN, self.writers.acquire()).await {
            return Ok(permit);
        }
        Err(Problem::busy(format!("{WRITERS} parts are written already")))
    }

    /// The right to bring a file before its name.
    pub(super) async fn early(&self) -> Result<SemaphorePermit<'_>, Problem> {
        if let Ok(Ok(permit)) = tokio::time::timeout(TURN, self.early.acquire()).await {
            return Ok(permit);
        }
        Err(Problem::busy(format!("{EARLY} forms bring a file before its name already")))
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
            info.expires_unix_s <= now && info.state != UploadState::Storing && !upload.is_held()
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
        let id = format!("{:032x}", rand::random::<u128>());
        let upload = Arc::new(Upload::new(id.clone(), plan, &self.dir, now()));
        // Counted before there is room for it, so that two at once do not take the same room.
        self.lock().insert(id, Arc::clone(&upload));
        let begun = self.begin_new(&upload).await;
        if begun.is_err() {
            self.forget(&upload).await?;
        }
        begun.map(|()| upload)
    }

    async fn begin_new(&self, upload: &Upload) -> Result<(), NodeError> {
        self.check_room("this upload", 1).await?;
        let path = upload.part.with_extension("plan");
        let json = serde_json::to_vec(&upload.plan).unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || write_secret(&path, &json)).await;
        written.map_err(|e| NodeError::new(ErrorCode::Other, e.to_string()))?.map_err(|e| {
            let full = e.kind() == std::io::ErrorKind::StorageFull;
            let code = if full { ErrorCode::NoSpace } else { ErrorCode::Other };
            NodeError::new(code, format!("an upload cannot be noted: {e}"))
        })
    }

    /// Whether all uploads fit, and what waits for its name. Both take their bytes twice: as they arrive, and as blocks.
    /// `own`: how many of the uploads are the one that asks.
    pub(super) async fn check_room(&self, what: &str, own: usize) -> Result<(), NodeError> {
        let early = self.early_bytes.load(Ordering::Relaxed);
        let (mut count, mut on_disk, mut as_blocks) = (0_usize, early, early);
        let mut stored: Vec<_> = Vec::new();
        for upload in self.lock().values() {
            if upload.is_stored() {
                stored.push(Arc::clone(upload));
                continue;
            }
            count += 1;
            on_disk = on_disk.saturating_add(upload.plan.length.saturating_mul(2) - upload.offset());
            as_blocks = as_blocks.saturating_add(upload.plan.length);
        }
        let full = |message: String| {
            Err(NodeError::new(ErrorCode::NoSpace, message).hint(
                "free some space, or end uploads that nobody goes on with: GET /api/v1/uploads shows them",
            ))
        };
        if count > MAX_UPLOADS {
            return full(format!("there are {MAX_UPLOADS} uploads already"));
        }
        if stored.len() > MAX_UPLOADS {
            stored.sort_by_key(|upload| upload.info(self.keep).expires_unix_s);
            for upload in &stored[..stored.len() - MAX_UPLOADS] {
                self.forget(upload).await?;
            }
        }
        let status = self.node.status().await?;
        let unfinished = match count.saturating_sub(own) {
            0 => String::new(),
            others => format!(", beside {others} unfinished uploads,"),
        };
        if status.disk_free.is_some_and(|free| on_disk > free) {
            return full(format!("{what}{unfinished} does not fit on the disk"));
        }
        let kept = status.stored_bytes.saturating_sub(status.cached_bytes);
        if status.capacity.is_some_and(|capacity| kept.saturating_add(as_blocks) > capacity) {
            return full(format!("{what}{unfinished} goes beyond storage.capacity"));
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
        let place = self.node.local_place().await?;
        let report = if upload.plan.length == 0 {
            self.node.put_in(&place, futures::stream::empty(), options, FileKind::File).await?
        } else {
            let file = tokio::fs::File::open(&upload.part).await.map_err(fail)?;
            let kind = if upload.plan.tree { FileKind::Dir } else { FileKind::File };
            self.node.put_in(&place, ReaderStream::with_capacity(file, READ), options, kind).await?
        };
        drop(place);
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
