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
    input_errors::{FileVersion, Skipped, unreadable},
};
use crate::node::identity::{self, IDENTITY_FILE};

/// Maximum length of an identity file.
const MAX_IDENTITY: u64 = 4096;

/// A file or folder inside the folder that is stored.
#[derive(Clone)]
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
    pub(super) skipped: Vec<Skipped>,
    /// Follow symbolic links that lead out of the folder.
    follow: bool,
    /// The folder, without symbolic links in its path.
    top: PathBuf,
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

/// Lists a folder, items in order of their names. Follows symbolic links within the folder, and others with `follow`.
///
/// Errors: the folder itself cannot be read. Other items that cannot be stored are skipped. Does not recurse: folders may be
/// nested deeper than the stack of a thread allows.
pub(super) fn walk(top: &Path, follow: bool) -> Result<Walk, CliError> {
    let unreadable = |e: io::Error| unreadable(top, &e);
    let mut walk = Walk { follow, top: top.canonicalize().map_err(unreadable)?, ..Walk::default() };
    let first = walk.enter(top.into(), PathBuf::new()).map_err(unreadable)?;
    let mut folders: Vec<OpenFolder> = first.into_iter().collect();
    while let Some(folder) = folders.last_mut() {
        if let Some(item) = folder.items.next() {
            let (path, name) = (folder.path.join(&item), folder.name.join(&item));
            match walk.visit(&path, &name) {
                Ok(inner) => folders.extend(inner),
                Err(why) => walk.skipped.push(Skipped { path, why }),
            }
        } else {
            walk.open.remove(&folder.id);
            folders.pop();
        }
    }
    Ok(walk)
}

impl Walk {
    /// Opens a folder. `None`: it is open already.
    fn enter(&mut self, path: PathBuf, name: PathBuf) -> io::Result<Option<OpenFolder>> {
        let meta = fs::metadata(&path)?;
        let id = (meta.dev(), meta.ino());
        if self.open.contains(&id) {
            return Ok(None);
        }
        let items: io::Result<Vec<OsString>> =
            fs::read_dir(&path)?.map(|item| Ok(item?.file_name())).collect();
        let mut items = items?;
        items.sort_unstable();
        self.open.insert(id);
        Ok(Some(OpenFolder { path, name, id, items: items.into_iter() }))
    }

    /// Adds one item. Returns the folder to enter if it is one.
    ///
    /// Errors: why the item cannot be stored.
    fn visit(&mut self, path: &Path, name: &Path) -> Result<Option<OpenFolder>, String> {
        // The names in a stored folder are UTF-8.
        if !has_text_name(name) {
            return Err("its name is not UTF-8".into());
        }
        let cannot_read = |e: io::Error| format!("cannot read it: {e}");
        let mut meta = fs::symlink_metadata(path).map_err(cannot_read)?;
        if meta.is_symlink() {
            meta = self.follow_link(path, &fs::read_link(path).map_err(cannot_read)?)?;
        }
        let (is_folder, mode) = (meta.is_dir(), meta.permissions().mode() & 0o7777);
        if !is_folder && !meta.is_file() {
            return Err("it is neither a file nor a folder".into());
        }
        if is_folder && is_data_dir(path) {
            return Err("it is the data directory of a node and contains its keys".into());
        }
        let folder = match is_folder.then(|| self.enter(path.into(), name.into())) {
            Some(entered) => {
                Some(entered.map_err(cannot_read)?.ok_or("it leads back to a folder that contains it")?)
            }
            None => None,
        };
        let size = if is_folder { 0 } else { meta.len() };
        let (path, name, version) = (path.into(), name.into(), FileVersion::of(&meta));
        self.entries.push(Entry { path, name, is_folder, size, mode, version });
        Ok(folder)
    }

    /// Describes what a symbolic link leads to.
    fn follow_link(&self, path: &Path, target: &Path) -> Result<fs::Metadata, String> {
        let link = format!("it is a symbolic link to {}", target.display());
        let resolved = path.canonicalize().and_then(|full| Ok((fs::metadata(&full)?, full)));
        match resolved {
            Ok((_, full)) if !self.follow && !full.starts_with(&self.top) => {
                Err(format!("{link}, outside the folder (--follow stores what it leads to)"))
            }
            Ok((meta, _)) => Ok(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!("{link}, which does not exist")),
            Err(e) => Err(format!("{link}: {e}")),
        }
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
            .spawn(move || walk(&path, false).map(|walk| walk.entries));
        let entries = walked.expect("a thread").join().expect("no panic").expect("walked");
        assert_eq!((entries.len(), entries[DEEP].name.components().count()), (DEEP + 1, DEEP + 1));
        // Remove from below: `remove_dir_all` would recurse.
        fs::remove_file(deepest.join("f")).expect("removed");
        for folder in deepest.ancestors().take(DEEP) {
            fs::remove_dir(folder).expect("removed");
        }
    }

    #[test]
    fn a_folder_with_two_names_is_stored_twice_and_a_loop_is_skipped() {
        let top = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| top.path().join(name);
        fs::create_dir(path("b")).expect("made");
        fs::write(path("b/f"), b"abc").expect("written");
        for link in ["a", "c"] {
            std::os::unix::fs::symlink("b", path(link)).expect("made");
        }
        let names = |walk: &Walk| walk.entries.iter().map(|item| item.name.clone()).collect::<Vec<_>>();
        let expected = ["a", "a/f", "b", "b/f", "c", "c/f"].map(PathBuf::from);
        assert_eq!(names(&walk(top.path(), false).expect("walked")), expected);
        std::os::unix::fs::symlink("..", path("b/up")).expect("made");
        std::os::unix::fs::symlink("self", path("b/self")).expect("made");
        let looping = walk(top.path(), false).expect("walked");
        assert_eq!(names(&looping), expected);
        let skipped: Vec<_> =
            looping.skipped.iter().filter(|item| item.path.starts_with(path("b"))).collect();
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        assert!(
            skipped[1].why.contains("leads back") && skipped[0].why.contains("link to self"),
            "{skipped:?}"
        );
    }

    #[test]
    fn a_link_out_of_the_folder_is_followed_only_if_asked_for() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let top = dir.path().join("top");
        fs::create_dir(&top).expect("made");
        fs::write(dir.path().join("secret"), b"abc").expect("written");
        // A folder whose name begins with that of the top is outside as well.
        fs::create_dir(dir.path().join("top2")).expect("made");
        std::os::unix::fs::symlink("../secret", top.join("file")).expect("made");
        std::os::unix::fs::symlink("../top2", top.join("folder")).expect("made");
        let inside = walk(&top, false).expect("walked");
        assert!(inside.entries.is_empty());
        let why: Vec<_> = inside.skipped.iter().map(|item| item.why.as_str()).collect();
        assert!(
            why.len() == 2 && why[0].contains("link to ../secret") && why[0].contains("--follow"),
            "{why:?}"
        );
        let followed = walk(&top, true).expect("walked");
        assert_eq!((followed.entries.len(), followed.skipped.len()), (2, 0));
    }
}
