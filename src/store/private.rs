//! Files and folders that only this user can access, whatever the umask, and reading and atomic replacement of small files.
//!
//! A symbolic link in the place of a file that the store makes itself is damage, as a folder is: it is moved away or
//! replaced, and never written through. A file that belongs to the user (a key, the index) may be a link to another place.

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

/// Moves a folder, a link or another thing that lies in the place of a file out of the way.
pub(super) fn make_way(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) { set_aside(path) } else { Ok(()) }
}

/// Moves something out of the way, to a name like `NAME.old`.
///
/// # Errors
/// The operating system's.
pub fn set_aside(path: &Path) -> io::Result<()> {
    rename_new(path, &name_aside(path))
        .map_err(|e| io::Error::new(e.kind(), format!("cannot move {} away: {e}", path.display())))
}

/// Reads a small file; `None` means that there is nothing of that name. A symbolic link is followed.
///
/// # Errors
/// The operating system's. [`io::ErrorKind::InvalidData`] for something that is no file, such as a folder or a link that
/// leads nowhere.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let damaged = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => fs::read(path).map(Some),
        Ok(meta) if meta.is_dir() => damaged("it is a folder".into()),
        Ok(_) => damaged("it is not a regular file".into()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e),
        Err(e) => match fs::read_link(path) {
            Ok(target) => damaged(format!("it is a symbolic link to {}: {e}", target.display())),
            Err(_) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(_) => Err(e),
        },
    }
}

/// As [`read`], for a file that the store makes itself: that is never a symbolic link.
pub(super) fn read_own(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if path.is_symlink() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is a symbolic link"));
    }
    read(path)
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
    if path.symlink_metadata().is_ok() {
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

/// Replaces a file, durably, by one that only its owner can read. A crash leaves either the old file or the new one. A
/// folder in its place is moved away.
///
/// # Errors
/// The operating system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = Aside::write(path, bytes)?;
    make_way(path)?;
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
    fn only_an_absent_file_counts_as_missing_and_a_link_is_followed_for_the_users_files_only() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let said = |read: io::Result<Option<Vec<u8>>>| read.map_err(|e| (e.kind(), e.to_string()));
        assert_eq!(said(read(&path("absent"))), Ok(None));
        fs::write(path("file"), b"bytes").expect("written");
        fs::create_dir(path("folder")).expect("made");
        symlink(path("file"), path("link")).expect("made");
        symlink("nowhere", path("dangling")).expect("made");
        symlink("loop", path("loop")).expect("made");
        let bytes = || Ok(Some(b"bytes".to_vec()));
        assert_eq!((said(read(&path("file"))), said(read(&path("link")))), (bytes(), bytes()));
        assert_eq!(said(read_own(&path("file"))), bytes());
        for (name, says) in [
            ("folder", "it is a folder"),
            ("dangling", "it is a symbolic link to nowhere: No such file"),
            ("loop", "it is a symbolic link to loop: "),
        ] {
            let (kind, text) = said(read(&path(name))).expect_err(name);
            assert!(kind == io::ErrorKind::InvalidData && text.starts_with(says), "{name}: {text}");
        }
        assert!(read_own(&path("link")).is_err() && write_new(&path("dangling"), b"x").is_err());
        for name in ["link", "folder", "dangling"] {
            replace(&path(name), b"new").expect("replaced");
            assert!(!path(name).is_symlink() && fs::read(path(name)).expect("read") == b"new", "{name}");
        }
        assert_eq!(fs::read(path("file")).expect("read"), b"bytes", "nothing was written through the link");
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
