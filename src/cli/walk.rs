//! Lists the contents of a folder that is to be stored.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    error::CliError,
    input_errors::{FileVersion, unreadable},
};
use crate::node::identity::{self, IDENTITY_FILE};

/// Maximum length of an identity file.
const MAX_IDENTITY: u64 = 4096;

/// A file or folder inside the folder that is stored.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// The path inside the folder.
    pub(super) name: PathBuf,
    pub(super) is_folder: bool,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) version: FileVersion,
}

/// The contents of a folder.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) entries: Vec<Entry>,
    /// Items that cannot be stored: pipes, sockets, devices, dangling symbolic links, data directories of nodes.
    pub(super) skipped: Vec<PathBuf>,
    /// Device and inode of the folders that are open, to detect loops.
    open: HashSet<(u64, u64)>,
}

/// A folder whose items are being visited.
struct OpenFolder {
    path: PathBuf,
    name: PathBuf,
    id: (u64, u64),
    items: std::vec::IntoIter<OsString>,
}

/// Lists a folder, items in order of their names. Follows symbolic links.
///
/// Errors: an item cannot be read, or a symbolic link leads back to a folder that contains it. Does not recurse:
/// folders may be nested deeper than the stack of a thread allows.
pub(super) fn walk(top: &Path) -> Result<Walk, CliError> {
    let mut walk = Walk::default();
    let mut folders = vec![walk.enter(top.into(), PathBuf::new())?];
    while let Some(folder) = folders.last_mut() {
        if let Some(item) = folder.items.next() {
            let (path, name) = (folder.path.join(&item), folder.name.join(&item));
            if walk.visit(&path, &name)? {
                folders.push(walk.enter(path, name)?);
            }
        } else {
            walk.open.remove(&folder.id);
            folders.pop();
        }
    }
    Ok(walk)
}

impl Walk {
    fn enter(&mut self, path: PathBuf, name: PathBuf) -> Result<OpenFolder, CliError> {
        let meta = fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        let id = (meta.dev(), meta.ino());
        if !self.open.insert(id) {
            let message = format!("{} leads back to a folder that contains it", path.display());
            return Err(CliError::bad_request(message).hint("remove the symbolic link that makes the loop"));
        }
        let items = fs::read_dir(&path).and_then(|items| items.map(|item| Ok(item?.file_name())).collect());
        let mut items: Vec<OsString> = items.map_err(|e| unreadable(&path, &e))?;
        items.sort_unstable();
        Ok(OpenFolder { path, name, id, items: items.into_iter() })
    }

    /// Adds one item. Returns whether it is a folder to enter.
    fn visit(&mut self, path: &Path, name: &Path) -> Result<bool, CliError> {
        // The names in a stored folder are UTF-8.
        if !has_text_name(name) {
            self.skipped.push(path.into());
            return Ok(false);
        }
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                self.skipped.push(path.into());
                return Ok(false);
            }
            Err(e) => {
                let error = unreadable(path, &e);
                return Err(match fs::read_link(path) {
                    Ok(target) => error
                        .hint(format!("it is a symbolic link to {}; repair or remove it", target.display())),
                    Err(_) => error,
                });
            }
        };
        let (is_folder, mode) = (meta.is_dir(), meta.permissions().mode() & 0o7777);
        if (!is_folder && !meta.is_file()) || (is_folder && is_data_dir(path)) {
            self.skipped.push(path.into());
            return Ok(false);
        }
        let size = if is_folder { 0 } else { meta.len() };
        let (path, name, version) = (path.into(), name.into(), FileVersion::of(&meta));
        self.entries.push(Entry { path, name, is_folder, size, mode, version });
        Ok(is_folder)
    }
}

/// Whether the file name of a path is UTF-8, as names in a stored folder must be.
pub(super) fn has_text_name(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.to_str().is_some())
}

/// Whether a folder is the data directory of a node, and so contains its keys.
pub(super) fn is_data_dir(path: &Path) -> bool {
    let has = |name| path.join(name).symlink_metadata().is_ok();
    // After `init`, before the first start, only the identity is there.
    has(IDENTITY_FILE) && (has("lock") || has("version") || holds_identity(&path.join(IDENTITY_FILE)))
}

fn holds_identity(file: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(MAX_IDENTITY).read_to_end(&mut bytes));
    read.is_ok() && identity::decode(&bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deeply_nested_folder_needs_no_deep_stack() {
        const DEEP: usize = 2000;
        let top = tempfile::TempDir::new().expect("a folder");
        let mut deepest = top.path().to_owned();
        for _ in 0..DEEP {
            deepest.push("d");
            fs::create_dir(&deepest).expect("made");
        }
        fs::write(deepest.join("f"), b"abc").expect("written");
        let path = top.path().to_owned();
        let walked = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || walk(&path).map(|walk| walk.entries));
        let entries = walked.expect("a thread").join().expect("no panic").expect("walked");
        assert_eq!((entries.len(), entries[DEEP].name.components().count()), (DEEP + 1, DEEP + 1));
        // Remove from below: `remove_dir_all` would recurse.
        fs::remove_file(deepest.join("f")).expect("removed");
        for folder in deepest.ancestors().take(DEEP) {
            fs::remove_dir(folder).expect("removed");
        }
    }

    #[test]
    fn a_folder_with_two_names_is_stored_twice_and_a_loop_is_an_error() {
        let top = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| top.path().join(name);
        fs::create_dir(path("b")).expect("made");
        fs::write(path("b/f"), b"abc").expect("written");
        for link in ["a", "c"] {
            std::os::unix::fs::symlink("b", path(link)).expect("made");
        }
        let names: Vec<_> =
            walk(top.path()).expect("walked").entries.into_iter().map(|item| item.name).collect();
        assert_eq!(names, ["a", "a/f", "b", "b/f", "c", "c/f"].map(PathBuf::from));
        std::os::unix::fs::symlink("..", path("b/up")).expect("made");
        assert!(walk(top.path()).is_err_and(|error| error.message.contains("leads back")));
    }
}
