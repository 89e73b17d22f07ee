//! One process per data directory.
//!
//! Two things are locked: the file `lock`, which also says who holds it, and the directory itself, so that the lock holds
//! when somebody removes the file. A file system that cannot lock directories (NFS) leaves the first.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::{StoreError, error, private};

const LOCK_FILE: &str = "lock";

/// Content of the lock file, written by the process that holds the lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockNote {
    /// Its process id; `None` if somebody removed the file.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Address of its HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}

/// The lock, held until dropped. The system releases it when the process dies.
pub(super) struct Lock {
    /// `None` on a read-only file system.
    file: Option<Mutex<File>>,
    _dir: File,
}

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK_FILE);
        let fail = |e| StoreError::io(format!("lock {}", path.display()), e);
        private::make_way(&path).map_err(fail)?;
        // Not truncated: until this process holds the lock, the note belongs to another one.
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let folder = File::open(dir).map_err(fail)?;
        let file = match options.open(&path) {
            // Nobody writes here, so that several may read.
            Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => {
                drop(folder.try_lock_shared());
                return Ok(Self { file: None, _dir: folder });
            }
            file => file.map_err(fail)?,
        };
        let is_held = match file.try_lock() {
            Err(TryLockError::Error(e)) => return Err(fail(e)),
            locked => locked.is_err() || is_locked(&folder.try_lock()),
        };
        if is_held {
            let pid = read_note(&path).and_then(|note| note.pid);
            return Err(StoreError::Locked { dir: dir.into(), pid });
        }
        let lock = Self { file: Some(Mutex::new(file)), _dir: folder };
        lock.note(None)?;
        Ok(lock)
    }

    /// Whether the directory can only be read.
    pub(super) fn is_read_only(&self) -> bool {
        self.file.is_none()
    }

    /// Writes the process id and the address of the HTTP API into the lock file, if that can be written.
    pub(super) fn note(&self, http: Option<&str>) -> Result<(), StoreError> {
        let Some(file) = &self.file else { return Ok(()) };
        let note = LockNote { pid: Some(std::process::id()), http: http.map(String::from) };
        let text = serde_json::to_string(&note).unwrap_or_default();
        let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Overwritten in place: on a full disk, space that is given back may not be available again.
        let written = overwrite(&mut file, text.as_bytes());
        written.map_err(|e| StoreError::io("write the lock file", e))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: if it were removed, two processes could lock two files of the same name.
        if let Some(Ok(file)) = self.file.as_mut().map(Mutex::get_mut) {
            drop(overwrite(file, b"{}"));
        }
    }
}

fn overwrite(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

fn read_note(path: &Path) -> Option<LockNote> {
    let mut text = String::new();
    File::open(path).ok()?.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

impl LockNote {
    /// Names the process.
    pub fn holder(&self) -> String {
        error::holder(self.pid)
    }
}

fn is_locked(locked: &Result<(), TryLockError>) -> bool {
    matches!(locked, Err(TryLockError::WouldBlock))
}

/// Returns the note of the process that holds a data directory; `None` means that no process holds it.
pub fn read_lock(dir: &Path) -> Option<LockNote> {
    let path = dir.join(LOCK_FILE);
    let is_held = |path: &Path| File::open(path).is_ok_and(|file| is_locked(&file.try_lock_shared()));
    (is_held(&path) || is_held(dir)).then(|| read_note(&path).unwrap_or_default())
}
