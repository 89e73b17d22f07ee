//! Lists the contents of a folder that is to be stored.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::Dir;
use tokio_util::sync::CancellationToken;

use super::{
    beneath::{Beneath, open_regular},
    error::CliError,
    input_errors::{FileVersion, Skipped, unreadable},
};
use crate::node::{
    ErrorCode,
    identity::{self, IDENTITY_FILE},
};

/// Maximum length of an identity file.
const MAX_IDENTITY: u64 = 4096;
/// Items below symbolic links to folders after which no further ones are followed. A few folders with links to each other
/// have paths without end.
const MAX_LINKED: usize = 1 << 20;

/// A file or folder inside the folder that is stored.
#[derive(Clone)]
pub(super) struct Entry {
    /// The path inside the folder.
    pub(super) name: PathBuf,
    /// The path from the root of the file system, without symbolic links.
    pub(super) real: PathBuf,
    pub(super) is_folder: bool,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) version: FileVersion,
}

/// The contents of a folder.
pub(super) struct Walk {
    pub(super) entries: Vec<Entry>,
    pub(super) skipped: Vec<Skipped>,
    /// Follow symbolic links that lead out of the folder.
    follow: bool,
    /// The folder, without symbolic links in its path.
    top: PathBuf,
    /// The root of the file system.
    root: Beneath,
    /// Device and inode of the folders that are open, to detect loops.
    open: HashSet<(u64, u64)>,
    /// How many more items below symbolic links may be listed.
    linked_left: usize,
    stop: CancellationToken,
}

/// A folder whose items are being visited.
struct OpenFolder {
    name: PathBuf,
    real: PathBuf,
    /// Whether it is reached through a symbolic link.
    is_linked: bool,
    id: (u64, u64),
    items: std::vec::IntoIter<OsString>,
}

/// Lists a folder, items in order of their names. Follows symbolic links within the folder, and others with `follow`.
///
/// Errors: the folder itself cannot be read, or `stop` was cancelled. Other items that cannot be stored are skipped. Does not
/// recurse: folders may be nested deeper than the stack of a thread allows.
pub(super) fn walk(top: &Path, follow: bool, stop: &CancellationToken) -> Result<Walk, CliError> {
    Walk::open(top, follow, stop).map_err(|e| unreadable(top, &e))?.run(top)
}

impl Walk {
    fn open(top: &Path, follow: bool, stop: &CancellationToken) -> io::Result<Self> {
        Ok(Self {
            entries: Vec::new(),
            skipped: Vec::new(),
            follow,
            top: top.canonicalize()?,
            root: Beneath::open(Path::new("/"))?,
            open: HashSet::new(),
            linked_left: MAX_LINKED,
            stop: stop.clone(),
        })
    }

    fn run(mut self, top: &Path) -> Result<Self, CliError> {
        let first = self.enter(PathBuf::new(), from_root(&self.top), false);
        let mut folders: Vec<OpenFolder> = first.map_err(|e| unreadable(top, &e))?.into_iter().collect();
        while let Some(folder) = folders.last_mut() {
            if self.stop.is_cancelled() {
                return Err(CliError::new(ErrorCode::Other, "interrupted"));
            }
            if let Some(item) = folder.items.next() {
                let name = folder.name.join(&item);
                match self.visit(folder, &item, &name) {
                    Ok(inner) => folders.extend(inner),
                    Err(why) => self.skipped.push(Skipped { path: top.join(name), why }),
                }
            } else {
                self.open.remove(&folder.id);
                folders.pop();
            }
        }
        Ok(self)
    }

    /// Opens a folder. `None`: it is open already.
    fn enter(&mut self, name: PathBuf, real: PathBuf, is_linked: bool) -> io::Result<Option<OpenFolder>> {
        let folder = self.root.list(&real)?;
        let meta = folder.metadata()?;
        let id = (meta.dev(), meta.ino());
        if self.open.contains(&id) {
            return Ok(None);
        }
        let mut items = Vec::new();
        for item in Dir::new(OwnedFd::from(folder))?.take_while(|_| !self.stop.is_cancelled()) {
            let item = item?;
            if !matches!(item.file_name().to_bytes(), b"." | b"..") {
                items.push(OsStr::from_bytes(item.file_name().to_bytes()).to_owned());
            }
        }
        items.sort_unstable();
        self.open.insert(id);
        Ok(Some(OpenFolder { name, real, is_linked, id, items: items.into_iter() }))
    }

    /// Adds one item of a folder. Returns the folder to enter if it is one.
    ///
    /// Errors: why the item cannot be stored.
    fn visit(
        &mut self,
        folder: &OpenFolder,
        item: &OsStr,
        name: &Path,
    ) -> Result<Option<OpenFolder>, String> {
        // The names in a stored folder are UTF-8.
        if !has_text_name(name) {
            return Err("its name is not UTF-8".into());
        }
        let cannot_read = |e: io::Error| format!("cannot read it: {e}");
        let (mut real, mut is_linked) = (folder.real.join(item), folder.is_linked);
        let mut meta = self.root.metadata(&real).map_err(cannot_read)?;
        if meta.is_symlink() {
            real = self.follow_link(&real)?;
            meta = self.root.metadata(&real).map_err(cannot_read)?;
            is_linked |= meta.is_dir();
        }
        let (is_folder, mode) = (meta.is_dir(), meta.permissions().mode() & 0o7777);
        if !is_folder && !meta.is_file() {
            return Err("it is neither a file nor a folder".into());
        }
        if is_folder && is_data_dir(&Path::new("/").join(&real)) {
            return Err("it is the data directory of a node and contains its keys".into());
        }
        if is_folder && is_linked && self.linked_left == 0 {
            return Err(format!("symbolic links lead to more than {MAX_LINKED} items before it"));
        }
        let inner = match is_folder.then(|| self.enter(name.into(), real.clone(), is_linked)) {
            Some(entered) => {
                Some(entered.map_err(cannot_read)?.ok_or("it leads back to a folder that contains it")?)
            }
            None => None,
        };
        self.linked_left = self.linked_left.saturating_sub(usize::from(is_linked));
        let size = if is_folder { 0 } else { meta.len() };
        let (name, version) = (name.into(), FileVersion::of(&meta));
        self.entries.push(Entry { name, real, is_folder, size, mode, version });
        Ok(inner)
    }

    /// Returns what a symbolic link leads to.
    fn follow_link(&self, link: &Path) -> Result<PathBuf, String> {
        let link = Path::new("/").join(link);
        let target = fs::read_link(&link).map_err(|e| format!("cannot read it: {e}"))?;
        let is_link = format!("it is a symbolic link to {}", target.display());
        match link.canonicalize() {
            Ok(full) if !self.follow && !full.starts_with(&self.top) => {
                Err(format!("{is_link}, outside the folder (--follow stores what it leads to)"))
            }
            Ok(full) => Ok(from_root(&full)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!("{is_link}, which does not exist")),
            Err(e) => Err(format!("{is_link}: {e}")),
        }
    }
}

/// Returns an absolute path relative to the root of the file system.
fn from_root(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).into()
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
    let read = open_regular(file).and_then(|file| file.take(MAX_IDENTITY).read_to_end(&mut bytes));
    read.is_ok() && identity::decode(&bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(top: &Path, follow: bool) -> Walk {
        walk(top, follow, &CancellationToken::new()).expect("walked")
    }

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
        let walked =
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || listed(&path, false).entries);
        let entries = walked.expect("a thread").join().expect("no panic");
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
        assert_eq!(names(&listed(top.path(), false)), expected);
        std::os::unix::fs::symlink("..", path("b/up")).expect("made");
        std::os::unix::fs::symlink("self", path("b/self")).expect("made");
        let looping = listed(top.path(), false);
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
        let inside = listed(&top, false);
        assert!(inside.entries.is_empty());
        let why: Vec<_> = inside.skipped.iter().map(|item| item.why.as_str()).collect();
        assert!(
            why.len() == 2 && why[0].contains("link to ../secret") && why[0].contains("--follow"),
            "{why:?}"
        );
        let followed = listed(&top, true);
        assert_eq!((followed.entries.len(), followed.skipped.len()), (2, 0));
    }

    #[test]
    fn folders_that_link_to_each_other_are_listed_within_a_limit() {
        let top = tempfile::TempDir::new().expect("a folder");
        let names: Vec<String> = (0..12).map(|n| format!("d{n}")).collect();
        for name in &names {
            fs::create_dir(top.path().join(name)).expect("made");
            for other in names.iter().filter(|other| *other != name) {
                let link = top.path().join(name).join(other);
                std::os::unix::fs::symlink(format!("../{other}"), link).expect("made");
            }
        }
        let mut walk = Walk::open(top.path(), false, &CancellationToken::new()).expect("opened");
        walk.linked_left = 100;
        let listed = walk.run(top.path()).expect("walked");
        assert_eq!(listed.entries.len(), 112);
        let why = |text: &str| listed.skipped.iter().filter(|item| item.why.contains(text)).count();
        assert_eq!(why("leads back") + why("symbolic links lead to more"), listed.skipped.len());
        assert!((100..3000).contains(&listed.skipped.len()), "{}", listed.skipped.len());
    }

    #[test]
    fn a_cancelled_walk_ends() {
        let top = tempfile::TempDir::new().expect("a folder");
        fs::write(top.path().join("f"), b"abc").expect("written");
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(walk(top.path(), false, &stop).is_err());
    }
}
