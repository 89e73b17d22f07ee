//! Modification time and permissions of a file that `get` writes.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::HeaderMap;

use crate::http::{MODE_HEADER, MTIME_HEADER};

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attributes {
    /// Seconds since 1970.
    mtime: Option<i64>,
    /// Unix permission bits.
    mode: Option<u32>,
}

impl Attributes {
    pub(super) fn new(mtime: i64, mode: u32) -> Self {
        Self { mtime: Some(mtime), mode: Some(mode) }
    }

    /// Reads the attributes from the headers of `GET /api/v1/files/{id}/content`.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name)?.to_str().ok();
        Self {
            mtime: text(MTIME_HEADER).and_then(|text| text.parse().ok()),
            mode: text(MODE_HEADER).and_then(|text| u32::from_str_radix(text, 8).ok()),
        }
    }

    /// Sets the attributes of a new file or folder. Permissions that the umask withholds stay withheld.
    pub(super) fn apply(self, file: &fs::File) -> io::Result<()> {
        let meta = file.metadata()?;
        if let Some(mode) = self.mode {
            let new = meta.permissions().mode() & 0o777;
            // New files are not executable. Users that the umask lets read the file may get the right to execute it too.
            let allowed = new | if meta.is_dir() { 0 } else { (new & 0o444) >> 2 };
            file.set_permissions(fs::Permissions::from_mode(mode & allowed))?;
        }
        if let Some(mtime) = self.mtime {
            // Keep the file even if the file system cannot store its time.
            drop(file.set_modified(system_time(mtime)));
        }
        Ok(())
    }
}

/// The years 1 to 9999, in seconds since 1970: every file system and clock can represent them.
const TIME_RANGE: (i64, i64) = (-62_135_596_800, 253_402_300_799);

/// Converts seconds since 1970, clamped to the years 1 to 9999.
pub(super) fn system_time(seconds: i64) -> SystemTime {
    let seconds = seconds.clamp(TIME_RANGE.0, TIME_RANGE.1);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_stay_within_the_umask_and_readers_keep_the_right_to_execute() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("file");
        for (new, mode, expected) in [
            (0o644, 0o755, 0o755),
            (0o640, 0o755, 0o750),
            (0o600, 0o777, 0o700),
            (0o644, 0o600, 0o600),
            (0o644, 0o444, 0o444),
            (0o664, 0o4755, 0o755),
        ] {
            fs::write(&path, b"x").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(new)).expect("set");
            let file = fs::File::open(&path).expect("opened");
            Attributes::new(1_000_000_000, mode).apply(&file).expect("applied");
            let meta = fs::metadata(&path).expect("metadata");
            assert_eq!(meta.permissions().mode() & 0o7777, expected, "{mode:o} on {new:o}");
            assert_eq!(meta.modified().ok(), Some(UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
            fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn times_outside_the_supported_years_are_clamped() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("file");
        let file = fs::File::create(&path).expect("made");
        for mtime in [i64::MAX, i64::MIN] {
            Attributes { mtime: Some(mtime), mode: None }.apply(&file).expect("applied");
        }
        Attributes { mtime: Some(-1_000_000_000), mode: None }.apply(&file).expect("applied");
        let modified = fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
        assert_eq!(modified, UNIX_EPOCH - Duration::from_secs(1_000_000_000));
    }
}
