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

/// Content of the lock file, written by the process that holds the lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockNote {
    /// Its process id.
    pub pid: u32,
    /// Address of its HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}

/// The lock, held until dropped. The system releases it when the process dies.
pub(super) struct Lock(Mutex<File>);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK_FILE);
        let fail = |e| StoreError::io(format!("lock {}", path.display()), e);
        // Not truncated: until this process holds the lock, the note belongs to another one.
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

    /// Writes the process id and the address of the HTTP API into the lock file.
    pub(super) fn note(&self, http: Option<&str>) -> Result<(), StoreError> {
        let note = LockNote { pid: std::process::id(), http: http.map(String::from) };
        let text = serde_json::to_string(&note).unwrap_or_default();
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Overwritten in place: on a full disk, space that is given back may not be available again.
        let written = overwrite(&mut file, text.as_bytes());
        written.map_err(|e| StoreError::io("write the lock file", e))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: if it were removed, two processes could lock two files of the same name.
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

/// Returns the note of the process that holds a data directory; `None` means that no process holds it.
pub fn read_lock(dir: &Path) -> Option<LockNote> {
    let path = dir.join(LOCK_FILE);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read_note(&path).unwrap_or_default()),
        _ => None,
    }
}
