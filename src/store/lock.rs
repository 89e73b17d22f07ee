//! One process per data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::StoreError;

const LOCK_FILE: &str = "lock";

/// What the holder of a data directory says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockNote {
    /// Its process id.
    pub pid: u32,
    /// Where it serves its API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}

/// The lock, held until dropped (or until the process dies: the system lets go of it then).
pub(super) struct Lock(Mutex<File>);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK_FILE);
        let fail = |e| StoreError::io(format!("lock {}", path.display()), e);
        // Not truncated here: until the lock is ours, the note is somebody else's.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_note(&path).map(|note| note.pid);
                return Err(StoreError::Locked { dir: dir.into(), pid });
            }
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        let lock = Self(Mutex::new(file));
        lock.note(None)?;
        Ok(lock)
    }

    /// Says who holds the lock, and where it serves its API.
    pub(super) fn note(&self, http: Option<&str>) -> Result<(), StoreError> {
        let note = LockNote { pid: std::process::id(), http: http.map(String::from) };
        let text = serde_json::to_string(&note).unwrap_or_default();
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Written over the old note: on a full disk, what is given back may not be had again.
        let written = overwrite(&mut file, text.as_bytes());
        written.map_err(|e| StoreError::io("write the lock file", e))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of one name.
        if let Ok(file) = self.0.get_mut() {
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

/// Who holds a data directory; none where nobody does.
pub fn read_lock(dir: &Path) -> Option<LockNote> {
    let path = dir.join(LOCK_FILE);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read_note(&path).unwrap_or_default()),
        _ => None,
    }
}
