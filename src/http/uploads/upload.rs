//! One upload: its record, its state, and the lock for writing to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedMutexGuard, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    super::{clock::unix_s, problem::Problem},
    part_file::{self, Checksum, PartError, Piece},
};
use crate::{
    content::cid::Cid,
    node::error::{ErrorCode, NodeError, Reason},
    store::replace,
};

/// How long an upload is remembered that was stored or refused.
const SETTLED_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an upload without a byte is kept.
const EMPTY_RETENTION: Duration = Duration::from_secs(60 * 60);
/// How long a request waits for the lock of an upload.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// A writer that brings no bytes for this long loses the lock to a request that waits for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of pieces between a request body and the disk.
const MAX_QUEUED_PIECES: usize = 8;

/// The properties that the client announced when it created the upload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct UploadPlan {
    pub(super) length: u64,
    pub(super) name: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) mtime: Option<i64>,
    pub(super) public: bool,
    /// Whether the bytes are a tar stream, to be stored as a folder.
    pub(super) tree: bool,
    /// `Upload-Metadata`, as it was sent.
    pub(super) metadata: Option<String>,
}

/// An upload on disk: `<id>.json`. The bytes are beside it, in `<id>.part`, until the file is stored.
#[derive(Serialize, Deserialize)]
struct UploadRecord {
    plan: UploadPlan,
    /// Bytes that are synced.
    offset: u64,
    /// The CID of the stored file.
    cid: Option<Cid>,
    /// Why the bytes cannot be stored, whenever that is tried again. They are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<NodeError>,
    /// When the record was written, in seconds since 1970.
    written_unix_s: i64,
}

/// The state of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum UploadState {
    /// Bytes are missing.
    Receiving,
    /// All bytes have arrived and are being stored.
    Storing,
    /// The file is stored.
    Stored,
    /// The file could not be stored. An empty last part tries again.
    Failed,
}

/// An upload.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in super::super) struct UploadInfo {
    /// The id of the upload.
    pub(super) id: String,
    /// The name of the file.
    pub(super) name: Option<String>,
    /// Whether the bytes are a tar stream, to be stored as a folder.
    pub(super) tree: bool,
    /// The modification time that the client announced, in seconds since 1970.
    pub(super) mtime: Option<i64>,
    /// The length of the file in bytes.
    pub(super) length: u64,
    /// The number of bytes that have arrived.
    pub(super) offset: u64,
    /// When the upload is removed if no more bytes arrive, in seconds since 1970.
    pub(super) expires_unix_s: i64,
    /// The state of the upload.
    pub(super) state: UploadState,
    /// The CID of the stored file.
    pub(super) cid: Option<Cid>,
    /// Why the file could not be stored, for people.
    pub(super) error: Option<String>,
    /// Why the file could not be stored, for programs.
    pub(super) code: Option<ErrorCode>,
    /// The cause of the error, if it is known more closely than by the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// The next step after the error, for people.
    pub(super) hint: Option<String>,
}

/// [`UploadState`] with its outcome.
#[derive(Clone)]
pub(super) enum UploadPhase {
    Receiving,
    Storing,
    Stored(Cid),
    /// Another attempt may succeed.
    Failed(Problem),
    /// Another attempt would fail too.
    Refused(NodeError),
}

impl UploadPhase {
    /// Whether the bytes were stored or refused, and are not here any more.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Stored(_) | Self::Refused(_))
    }
}

pub(super) struct Upload {
    pub(super) id: String,
    pub(super) plan: UploadPlan,
    /// The id of its progress events.
    pub(super) transfer: u64,
    /// The bytes that have arrived.
    pub(super) part: PathBuf,
    record: PathBuf,
    /// The bytes that are synced, and when that changed, in seconds since 1970.
    progress: Mutex<(u64, i64)>,
    pub(super) phase: watch::Sender<UploadPhase>,
    lock: Arc<tokio::sync::Mutex<()>>,
    writer: Mutex<Writer>,
}

/// The request that holds the lock.
struct Writer {
    cancelled: CancellationToken,
    last_bytes: Instant,
}

/// Resolves when a part is on disk, or has failed.
type PartWritten = oneshot::Receiver<Result<(), Problem>>;

/// The exclusive right to write to an upload.
pub(super) struct WriteLock {
    _guard: OwnedMutexGuard<()>,
    /// Cancelled when another request takes the lock.
    pub(super) cancelled: CancellationToken,
}

impl Upload {
    pub(super) fn new(dir: &Path, id: String, plan: UploadPlan) -> Self {
        let path = |extension| dir.join(format!("{id}.{extension}"));
        Self {
            part: path("part"),
            record: path("json"),
            id,
            plan,
            transfer: rand::random(),
            progress: Mutex::new((0, unix_s())),
            phase: watch::Sender::new(UploadPhase::Receiving),
            lock: Arc::default(),
            writer: Mutex::new(Writer { cancelled: CancellationToken::new(), last_bytes: Instant::now() }),
        }
    }

    /// Loads an upload from its record.
    pub(super) fn load(dir: &Path, id: String) -> io::Result<Self> {
        let record: UploadRecord = serde_json::from_slice(&fs::read(dir.join(format!("{id}.json")))?)?;
        let mut upload = Self::new(dir, id, record.plan);
        let settled = record.cid.map(UploadPhase::Stored).or(record.refused.map(UploadPhase::Refused));
        let offset = if let Some(phase) = settled {
            upload.phase.send_replace(phase);
            upload.plan.length
        } else {
            let on_disk = fs::metadata(&upload.part).map_or(0, |file| file.len());
            record.offset.min(on_disk).min(upload.plan.length)
        };
        upload.progress = Mutex::new((offset, record.written_unix_s));
        Ok(upload)
    }

    /// Records durably that `offset` bytes are synced.
    pub(super) fn save(&self, offset: u64) -> io::Result<()> {
        self.save_as(offset, None, None)
    }

    /// Records durably whether the file was stored or refused, and removes its bytes.
    pub(super) fn settle(&self, outcome: Result<Cid, NodeError>) -> io::Result<()> {
        let (cid, refused) = outcome.map_or_else(|error| (None, Some(error)), |cid| (Some(cid), None));
        self.save_as(self.plan.length, cid, refused)?;
        remove(&self.part)
    }

    fn save_as(&self, offset: u64, cid: Option<Cid>, refused: Option<NodeError>) -> io::Result<()> {
        let record = UploadRecord { plan: self.plan.clone(), offset, cid, refused, written_unix_s: unix_s() };
        replace(&self.record, &serde_json::to_vec(&record)?)?;
        self.set_offset(offset);
        Ok(())
    }

    /// Removes the record and the bytes.
    pub(super) fn remove_files(&self) -> io::Result<()> {
        remove(&self.record)?;
        remove(&self.part)
    }

    /// The number of bytes that are synced.
    pub(super) fn offset(&self) -> u64 {
        self.progress().0
    }

    pub(super) fn set_offset(&self, offset: u64) {
        *self.progress() = (offset, unix_s());
    }

    fn progress(&self) -> MutexGuard<'_, (u64, i64)> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self, retention: Duration) -> UploadInfo {
        let (offset, changed) = *self.progress();
        let phase = self.phase.borrow().clone();
        let is_settled = phase.is_settled();
        let (state, cid, problem) = match phase {
            UploadPhase::Receiving => (UploadState::Receiving, None, None),
            UploadPhase::Storing => (UploadState::Storing, None, None),
            UploadPhase::Stored(cid) => (UploadState::Stored, Some(cid), None),
            UploadPhase::Failed(problem) => (UploadState::Failed, None, Some(problem)),
            UploadPhase::Refused(error) => (UploadState::Failed, None, Some(error.into())),
        };
        let retention = match offset {
            _ if is_settled => SETTLED_RETENTION,
            0 => retention.min(EMPTY_RETENTION),
            _ => retention,
        };
        UploadInfo {
            id: self.id.clone(),
            name: self.plan.name.clone(),
            tree: self.plan.tree,
            mtime: self.plan.mtime,
            length: self.plan.length,
            offset: if is_settled { self.plan.length } else { offset },
            expires_unix_s: changed.saturating_add(i64::try_from(retention.as_secs()).unwrap_or(i64::MAX)),
            state,
            cid,
            code: problem.as_ref().map(|problem| problem.code),
            reason: problem.as_ref().and_then(|problem| problem.reason),
            hint: problem.as_ref().map(|problem| problem.hint.to_string()),
            error: problem.map(|problem| problem.detail),
        }
    }

    pub(super) fn is_locked(&self) -> bool {
        self.lock.try_lock().is_err()
    }

    /// Waits for the lock. A writer that has stalled loses it: its client may be the one that asks now.
    pub(super) async fn lock(&self) -> Result<WriteLock, Problem> {
        let asked = Instant::now();
        while asked.elapsed() < LOCK_TIMEOUT {
            let idle = self.writer().last_bytes.elapsed();
            if idle >= STALL_TIMEOUT {
                self.writer().cancelled.cancel();
            }
            let wait = STALL_TIMEOUT.saturating_sub(idle).max(Duration::from_millis(100));
            if let Ok(guard) = timeout(wait, Arc::clone(&self.lock).lock_owned()).await {
                let cancelled = CancellationToken::new();
                *self.writer() = Writer { cancelled: cancelled.clone(), last_bytes: Instant::now() };
                return Ok(WriteLock { _guard: guard, cancelled });
            }
        }
        let detail = "another request is still writing to this upload";
        let hint = "try again in a moment";
        Err(Problem::new(StatusCode::LOCKED, ErrorCode::Locked, detail, hint))
    }

    /// Notes that the writer has brought bytes.
    pub(super) fn bytes_arrived(&self) {
        self.writer().last_bytes = Instant::now();
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that writes pieces to disk. It holds the lock until all of them are synced, even if the client has
    /// disconnected. Slow clients must not occupy the runtime's blocking threads, which reads need.
    pub(super) fn write_part(
        self: &Arc<Self>,
        lock: WriteLock,
        checksum: Option<Checksum>,
    ) -> io::Result<(mpsc::Sender<Piece>, PartWritten)> {
        let (sender, mut receiver) = mpsc::channel(MAX_QUEUED_PIECES);
        let (done, written) = oneshot::channel();
        let upload = Arc::clone(self);
        thread::Builder::new().name("upload".into()).spawn(move || {
            let (offset, length) = (upload.offset(), upload.plan.length);
            let record = |offset| upload.save(offset);
            let result = part_file::write(&upload.part, offset, length, checksum, &mut receiver, record);
            drop(lock);
            // An error means that the request has ended.
            drop(done.send(result.map_err(Problem::from)));
        })?;
        Ok((sender, written))
    }
}

impl From<PartError> for Problem {
    fn from(error: PartError) -> Self {
        let detail = error.to_string();
        match error {
            PartError::TooLong => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                ErrorCode::BadRequest,
                detail,
                "send no more bytes than Upload-Length announced",
            ),
            PartError::Checksum => {
                let status = StatusCode::from_u16(460).expect("460 is a status");
                Self::new(status, ErrorCode::Integrity, detail, "send this part again")
            }
            PartError::Cut(_) => Self::new(
                StatusCode::CONFLICT,
                ErrorCode::BadRequest,
                detail,
                "continue from the offset that a HEAD request returns",
            ),
            PartError::Gone => Self::not_found(detail, "create a new upload"),
            PartError::Io(e) => NodeError::new(ErrorCode::of_io(&e), detail).into(),
        }
    }
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_writer_keeps_the_lock_while_bytes_arrive() {
        let plan = UploadPlan { length: 1, ..UploadPlan::default() };
        let upload = Upload::new(Path::new("nowhere"), "id".into(), plan);
        let writer = upload.lock().await.expect("free");
        let bytes_arrive = async {
            for _ in 0..8 {
                upload.bytes_arrived();
                tokio::time::sleep(STALL_TIMEOUT / 2).await;
            }
        };
        tokio::select! {
            _ = upload.lock() => panic!("the lock was taken from its writer"),
            () = bytes_arrive => assert!(!writer.cancelled.is_cancelled()),
        }
        let (next, ()) = tokio::join!(upload.lock(), async {
            writer.cancelled.cancelled().await;
            drop(writer);
        });
        next.expect("the writer has stalled");
    }
}
