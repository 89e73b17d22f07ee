//! What a file is beside its bytes: when it was modified, who may run it; and a folder that is made for it.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::HeaderMap;

use crate::{
    http::{MODE_HEADER, MTIME_HEADER},
    node::NodeError,
};

/// What is known of a file beside its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traits {
    /// Seconds since 1970.
    mtime: Option<i64>,
    /// Unix permission bits.
    mode: Option<u32>,
}

impl Traits {
    /// As an archive says it.
    pub(super) fn new(mtime: i64, mode: u32) -> Self {
        Self { mtime: Some(mtime), mode: Some(mode) }
    }

    /// As an answer says it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name)?.to_str().ok();
        Self {
            mtime: text(MTIME_HEADER).and_then(|text| text.parse().ok()),
            mode: text(MODE_HEADER).and_then(|text| u32::from_str_radix(text, 8).ok()),
        }
    }

    /// Gives them to a new file or folder. What this user's umask takes from others stays taken.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        let file = fs::File::open(path)?;
        let meta = file.metadata()?;
        if let Some(mode) = self.mode {
            let new = meta.permissions().mode() & 0o777;
            // A new file may be run by nobody: where the umask lets somebody read it, it lets them run it.
            let allowed = new | if meta.is_dir() { 0 } else { (new & 0o444) >> 2 };
            file.set_permissions(fs::Permissions::from_mode(mode & allowed))?;
        }
        if let Some(seconds) = self.mtime {
            // A time that the file system does not take is no reason to lose the file.
            drop(file.set_modified(moment(seconds)));
        }
        Ok(())
    }
}

/// The first and the last moment that a file system may know: the years 1 and 9999.
const MOMENTS: (i64, i64) = (-62_135_596_800, 253_402_300_799);

/// Seconds since 1970 as a time that any clock can show.
pub(super) fn moment(seconds: i64) -> SystemTime {
    let seconds = seconds.clamp(MOMENTS.0, MOMENTS.1);
    let length = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - length } else { UNIX_EPOCH + length }
}

/// A folder that was made for what comes; when this is dropped and nothing is in it, it goes.
#[derive(Debug)]
pub(super) struct NewFolder(PathBuf);

impl NewFolder {
    /// Makes the folder where the path says that it is one (`new/`) and nothing is there.
    pub(super) fn at(path: &Path) -> Option<Result<Self, NodeError>> {
        let named = path.as_os_str().as_bytes().ends_with(b"/") && path.symlink_metadata().is_err();
        named.then(|| match fs::create_dir(path) {
            Ok(()) => Ok(Self(path.into())),
            Err(e) => Err(super::unpack::cannot_write(path, &e)),
        })
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // One that holds something stays.
        drop(fs::remove_dir(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_the_umask_leaves_and_who_may_run_it_may_run_it() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("file");
        for (new, mode, given) in [
            (0o644, 0o755, 0o755),
            (0o640, 0o755, 0o750),
            (0o600, 0o777, 0o700),
            (0o644, 0o600, 0o600),
            (0o644, 0o444, 0o444),
            (0o664, 0o4755, 0o755),
        ] {
            fs::write(&path, b"x").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(new)).expect("set");
            Traits { mtime: Some(1_000_000_000), mode: Some(mode) }.give(&path).expect("given");
            let meta = fs::metadata(&path).expect("there");
            assert_eq!(meta.permissions().mode() & 0o7777, given, "{mode:o} on {new:o}");
            assert_eq!(meta.modified().ok(), Some(UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
            fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn a_time_beyond_all_clocks_breaks_nothing() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, b"x").expect("written");
        for mtime in [i64::MAX, i64::MIN] {
            Traits { mtime: Some(mtime), mode: None }.give(&path).expect("given");
        }
        Traits { mtime: Some(-1_000_000_000), mode: None }.give(&path).expect("given");
        let given = fs::metadata(&path).and_then(|meta| meta.modified()).expect("there");
        assert_eq!(given, UNIX_EPOCH - Duration::from_secs(1_000_000_000));
    }

    #[test]
    fn a_folder_that_was_made_in_vain_goes_again() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let new = dir.path().join("new/");
        assert!(NewFolder::at(&dir.path().join("new")).is_none(), "a file of that name is meant");
        drop(NewFolder::at(&new).expect("a folder is meant").expect("made"));
        assert!(!new.exists());
        let made = NewFolder::at(&new).expect("a folder is meant").expect("made");
        fs::write(new.join("file"), b"x").expect("written");
        drop(made);
        assert!(new.join("file").exists());
    }
}
