//! One upload: what it will be, how far it is, and whose turn it is to write.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    super::{auth::now, problem::Problem},
    part::{self, Check, PartError, Piece},
};
use crate::{
    content::cid::Cid,
    node::error::{ErrorCode, NodeError},
};

/// How long a stored one is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one is kept of which no byte has come.
const EMPTY_KEPT: Duration = Duration::from_secs(60 * 60);
/// How long whoever waits for its turn waits at most.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// After how long without a byte whoever has the turn may lose it.
const HANGS: Duration = Duration::from_secs(2);
/// Pieces of a body that wait for the disk.
const PIECES: usize = 8;

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
    /// `Upload-Metadata`, as it was sent.
    #[serde(default)]
    pub(super) metadata: Option<String>,
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
    /// What to do then.
    pub(super) hint: Option<String>,
}

/// What becomes of the bytes.
#[derive(Clone)]
pub(super) enum Phase {
    Receiving,
    Storing,
    Stored(Cid),
    Failed(NodeError),
}

pub(super) struct Upload {
    pub(super) id: String,
    pub(super) plan: Plan,
    /// Its number among transfers that are told of.
    pub(super) transfer: u64,
    /// Where its bytes are; beside it, with other endings, what is noted of it.
    pub(super) part: PathBuf,
    /// Bytes that count, and when that last changed, seconds since 1970.
    progress: Mutex<(u64, i64)>,
    pub(super) phase: watch::Sender<Phase>,
    turn: Arc<tokio::sync::Mutex<()>>,
    holder: Mutex<Holder>,
}

/// Who has the turn.
struct Holder {
    stopped: CancellationToken,
    /// When it last brought bytes.
    heard: Instant,
}

/// Told when a part is on disk, or why it is not.
type Written = oneshot::Receiver<Result<(), Problem>>;

/// The right to write to an upload.
pub(super) struct Turn {
    _held: OwnedMutexGuard<()>,
    /// Cancelled when somebody else wants it.
    pub(super) stopped: CancellationToken,
}

impl Upload {
    pub(super) fn new(id: String, plan: Plan, dir: &Path, touched: i64) -> Self {
        let part = dir.join(format!("{id}.part"));
        let offset = part::offset(&part);
        Self {
            id,
            plan,
            transfer: rand::random(),
            part,
            progress: Mutex::new((offset, touched)),
            phase: watch::Sender::new(Phase::Receiving),
            turn: Arc::default(),
            holder: Mutex::new(Holder { stopped: CancellationToken::new(), heard: Instant::now() }),
        }
    }

    /// Bytes that count.
    pub(super) fn offset(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether all of it is here and becomes a file.
    pub(super) fn is_storing(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Storing)
    }

    pub(super) fn is_stored(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Stored(_))
    }

    pub(super) fn count(&self, offset: u64) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = (offset, now());
    }

    pub(super) fn info(&self, keep: Duration) -> UploadInfo {
        let (offset, touched) = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = self.phase.borrow().clone();
        let (state, cid, error) = match phase {
            Phase::Receiving => (UploadState::Receiving, None, None),
            Phase::Storing => (UploadState::Storing, None, None),
            Phase::Stored(cid) => (UploadState::Stored, Some(cid), None),
            Phase::Failed(error) => (UploadState::Failed, None, Some(error)),
        };
        let keep = match offset {
            _ if cid.is_some() => REMEMBERED,
            0 => keep.min(EMPTY_KEPT),
            _ => keep,
        };
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
            hint: error.as_ref().map(|error| error.hint.clone()).filter(|hint| !hint.is_empty()),
            error: error.map(|error| error.message),
        }
    }

    /// Counts all bytes, of one that was stored before this run of the node.
    pub(super) fn count_all(&self) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).0 = self.plan.length;
    }

    /// Whether somebody has the turn.
    pub(super) fn is_held(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// Waits for the turn to write. Whoever has it loses it when it hangs: its caller may be the one that asks now.
    pub(super) async fn take(&self) -> Result<Turn, Problem> {
        let asked = Instant::now();
        while asked.elapsed() < TURN {
            let idle = self.holder().heard.elapsed();
            if idle >= HANGS {
                self.holder().stopped.cancel();
            }
            let wait = HANGS.saturating_sub(idle).max(Duration::from_millis(100));
            if let Ok(held) = tokio::time::timeout(wait, Arc::clone(&self.turn).lock_owned()).await {
                let stopped = CancellationToken::new();
                *self.holder() = Holder { stopped: stopped.clone(), heard: Instant::now() };
                return Ok(Turn { _held: held, stopped });
            }
        }
        let error = NodeError::new(ErrorCode::Locked, "another call still writes to this upload")
            .hint("try again in a moment");
        Err(Problem::with_status(error, 423))
    }

    /// Notes that whoever has the turn has brought bytes.
    pub(super) fn heard(&self) {
        self.holder().heard = Instant::now();
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that writes what is sent to it. It has the turn until all of it is on disk, whoever has gone away. It is
    /// one of its own: a slow caller must not hold one of those that the node reads and looks up with.
    pub(super) fn write(
        self: &Arc<Self>,
        turn: Turn,
        check: Option<Check>,
    ) -> std::io::Result<(mpsc::Sender<Piece>, Written)> {
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let (done, writing) = oneshot::channel();
        let upload = Arc::clone(self);
        thread::Builder::new().name("upload".into()).spawn(move || {
            let (offset, length) = (upload.offset(), upload.plan.length);
            let count = |at| upload.count(at);
            let written = part::write(&upload.part, offset, length, check, &mut receiver, count);
            drop(turn);
            // Whoever waited may be gone.
            drop(done.send(written.map_err(Problem::from)));
        })?;
        Ok((sender, writing))
    }
}

impl From<PartError> for Problem {
    fn from(error: PartError) -> Self {
        let message = error.to_string();
        match error {
            PartError::TooLong => {
                let error = NodeError::new(ErrorCode::BadRequest, message)
                    .hint("Upload-Length said at the start how many bytes there are: send no more");
                Self::with_status(error, 413)
            }
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
