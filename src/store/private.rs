//! Files and folders that only this user can access, whatever the umask, and atomic replacement of small files.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::StoreError;

const MODE: u32 = 0o600;
/// Permission bits of other users.
const OTHERS: u32 = 0o077;

/// Opens or makes a file for this user alone. Removes the permissions of others from an existing file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(path)?;
    if file.metadata()?.permissions().mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// Returns a free name for something that is moved out of the way: `NAME.old`, or `NAME.old.2` and so on.
pub(super) fn name_aside(path: &Path) -> PathBuf {
    let name = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut names = std::iter::once(name(".old")).chain((2_u64..).map(|n| name(&format!(".old.{n}"))));
    names.find(|name| name.symlink_metadata().is_err()).unwrap_or_default()
}

/// Moves a folder that lies in the place of a file out of the way.
pub(super) fn make_way(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() { set_aside(path) } else { Ok(()) }
}

/// Moves something out of the way.
pub(super) fn set_aside(path: &Path) -> Result<(), StoreError> {
    rename_new(path, &name_aside(path))
        .map_err(|e| StoreError::io(format!("move {} away", path.display()), e))
}

/// Removes the permissions of others from the indexes in a data directory, old ones included.
pub(super) fn tighten(dir: &Path) -> Result<(), StoreError> {
    let fail = |e| StoreError::io(format!("look at {}", dir.display()), e);
    for item in fs::read_dir(dir).map_err(fail)? {
        let (item, path) = item.map(|item| (item.file_name(), item.path())).map_err(fail)?;
        if item.to_string_lossy().starts_with("index.redb") && path.is_file() {
            open(&path).map_err(|e| StoreError::io(format!("open {}", path.display()), e))?;
        }
    }
    Ok(())
}

/// Writes a new file that only its owner can read, durably. A crash or a full disk leaves no part of it. Fails if the file
/// exists.
///
/// # Errors
/// The operating system's.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let aside = Aside::write(path, bytes)?;
    match fs::hard_link(&aside.0, path) {
        // Without hard links, two writers that make the same file at the same moment both succeed.
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            rename(&aside.0, path)?;
        }
        linked => linked?,
    }
    sync_folder(path)
}

/// Replaces a file, durably, by one that only its owner can read. A crash leaves either the old file or the new one.
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

/// A temporary file, removed when dropped.
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

/// The only place that renames: a file with a name in the store is complete.
#[allow(clippy::disallowed_methods)]
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// As [`rename`], but fails if there is a file of that name.
#[allow(clippy::disallowed_methods)]
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system cannot do it atomically.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            renamed => return Ok(renamed?),
        }
    }
    if to.exists() { Err(io::ErrorKind::AlreadyExists.into()) } else { rename(from, to) }
}

/// Makes a folder and its parents for this user alone.
pub(super) fn make_private_dir(path: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| StoreError::io(format!("make the folder {}", path.display()), e))
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
        let again = write_new(&path, b"second").expect_err("the file exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).expect("read"), mode(&path)), (b"first".to_vec(), MODE));
        replace(&path, b"third").expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"third");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "no temporary file is left");
    }

    #[test]
    fn indexes_lose_the_permissions_of_other_users() {
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
