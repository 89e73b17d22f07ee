//! Small files for this user alone: there as a whole or not at all, whatever the umask.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{StoreError, disk::rename};

const MODE: u32 = 0o600;
/// What others may do with a file.
const OTHERS: u32 = 0o077;

/// Opens a file that only its owner can use, or makes it. One that others could use is taken from them.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(path)?;
    if file.metadata()?.permissions().mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// Takes from others what they could read of the indexes in a data directory, those set aside included.
pub(super) fn tighten(dir: &Path) -> Result<(), StoreError> {
    let fail = |e| StoreError::io(format!("look at {}", dir.display()), e);
    for item in fs::read_dir(dir).map_err(fail)? {
        let item = item.map_err(fail)?;
        if item.file_name().to_string_lossy().starts_with("index.redb") {
            open(&item.path()).map_err(fail)?;
        }
    }
    Ok(())
}

/// Writes a new file that only its owner can read, durably. A crash or a full disk leaves no part of it. Fails where
/// the file exists.
///
/// # Errors
/// The operating system's.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let aside = Aside::write(path, bytes)?;
    match fs::hard_link(&aside.0, path) {
        // Not every file system has links. Without them, two who make the same file at the same moment are not told.
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            rename(&aside.0, path)?;
        }
        linked => linked?,
    }
    sync_folder(path)
}

/// Writes a file that only its owner can read, durably, in place of the one that is there. A crash leaves the one or the
/// other.
///
/// # Errors
/// The operating system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = Aside::write(path, bytes)?;
    rename(&aside.0, path)?;
    sync_folder(path)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// A file's bytes under a name of their own; removed when dropped.
struct Aside(PathBuf);

impl Aside {
    fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unique: u32 = rand::random();
        let aside = Self(folder(path).join(format!(".{name}.{unique:08x}")));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&aside.0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_private_whole_and_never_replaced() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("file");
        write_new(&path, b"first").expect("written");
        let again = write_new(&path, b"second").expect_err("there already");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).expect("read"), mode(&path)), (b"first".to_vec(), MODE));
        replace(&path, b"third").expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"third");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing else is left");
    }

    #[test]
    fn an_index_that_others_could_read_is_taken_from_them() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let names = ["index.redb", "index.redb.old", "index.redb.old.2", "config.toml"];
        for name in names {
            fs::write(dir.path().join(name), b"x").expect("written");
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o644)).expect("set");
        }
        tighten(dir.path()).expect("tightened");
        assert_eq!(names.map(|name| mode(&dir.path().join(name))), [0o600, 0o600, 0o600, 0o644]);
    }
}
