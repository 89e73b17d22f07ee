//! The format of a data directory, in its file `version`.

use std::{io, path::Path};

use super::{StoreError, private};

const FILE: &str = "version";
/// The format that this program writes.
const VERSION: u32 = 2;

/// Checks the format of a data directory.
pub(super) fn check(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    let found = match private::read_own(&path) {
        Ok(Some(bytes)) => str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()),
        // A new data directory.
        Ok(None) => Some(VERSION),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
        Err(e) => return Err(StoreError::io(format!("read {}", path.display()), e)),
    };
    match found {
        Some(VERSION) => Ok(()),
        Some(found) => Err(StoreError::OtherVersion { found, known: VERSION }),
        None => Err(StoreError::VersionDamaged),
    }
}

/// As [`check`], but accepts a damaged file. [`write()`] then replaces it.
pub(super) fn refuse_other(dir: &Path) -> Result<(), StoreError> {
    match check(dir) {
        Err(StoreError::VersionDamaged) => Ok(()),
        checked => checked,
    }
}

/// Writes the format, unless the file is there and intact.
pub(super) fn write(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    if path.exists() && check(dir).is_ok() {
        return Ok(());
    }
    let written = private::replace(&path, format!("{VERSION}\n").as_bytes());
    written.map_err(|e| StoreError::io(format!("write {}", path.display()), e))
}
