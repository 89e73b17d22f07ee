//! Block files: written aside, synced, and renamed into place.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use data_encoding::HEXLOWER;

use super::{Layout, StoreError, direct::BlockFiles};
use crate::content::hash::{self, Digest};

const TMP: &str = "tmp";

/// With more folders than this to sync, one sync of the file system is cheaper.
const FOLDERS_ONE_BY_ONE: usize = 4;

pub(super) struct Disk {
    blocks: PathBuf,
    quarantine: PathBuf,
    layout: Layout,
    next: AtomicU64,
    files: BlockFiles,
    #[cfg(test)]
    pub(super) faults: super::tests::Faults,
}

/// Whether a file survives a power cut from the moment it is in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Its bytes are synced before it gets its name; its folder is synced by [`Disk::sync_folders`].
    Synced,
    /// It may be gone or cut after a crash, so it takes the place of no file that is there: that one may be synced.
    New,
}

impl Disk {
    /// Opens the folders and removes what interrupted writes have left.
    pub(super) fn open(dir: &Path, layout: Layout) -> Result<Self, StoreError> {
        let blocks = dir.join("blocks");
        let tmp = blocks.join(TMP);
        make_private_dir(&tmp)?;
        let leftovers = fs::read_dir(&tmp).map_err(|e| StoreError::io("read the temporary folder", e))?;
        for file in leftovers {
            let removed = file.and_then(|file| fs::remove_file(file.path()));
            removed.map_err(|e| StoreError::io("remove a temporary file", e))?;
        }
        Ok(Self { layout, ..Self::look(dir) })
    }

    /// The folders as they are: for looking alone.
    pub(super) fn look(dir: &Path) -> Self {
        Self {
            blocks: dir.join("blocks"),
            quarantine: dir.join("quarantine"),
            layout: Layout::default(),
            next: AtomicU64::new(0),
            files: BlockFiles::default(),
            #[cfg(test)]
            faults: super::tests::Faults::default(),
        }
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.blocks.join(self.layout.path(digest))
    }

    /// Puts a block's file in place, and answers with the folder to sync.
    pub(super) fn write(
        &self,
        digest: &Digest,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<Option<PathBuf>, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tmp = TempFile(self.blocks.join(TMP).join(number.to_string()));
        self.write_aside(&tmp.0, bytes, durability).map_err(|e| StoreError::io("write a block", e))?;
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.blocks).to_owned();
        let rename = if durability == Durability::New { rename_anew } else { rename };
        match rename(&tmp.0, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && durability == Durability::New => {
                return Ok(None);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_private_dir(&folder)?;
                rename(&tmp.0, &path).map_err(|e| StoreError::io("put a block in place", e))?;
            }
            // Damage of a kind that cannot be written over.
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                self.quarantine(digest)?;
                rename(&tmp.0, &path).map_err(|e| StoreError::io("put a block in place", e))?;
            }
            renamed => renamed.map_err(|e| StoreError::io("put a block in place", e))?,
        }
        std::mem::forget(tmp);
        Ok(Some(folder))
    }

    fn write_aside(&self, tmp: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
        #[cfg(test)]
        self.faults.strike("write")?;
        let file = self.files.create(tmp, bytes)?;
        if durability == Durability::Synced {
            #[cfg(test)]
            self.faults.strike("sync")?;
            file.sync_data()?;
        }
        Ok(())
    }

    /// Makes the names in these folders durable, and the folders' own names.
    pub(super) fn sync_folders(&self, folders: &HashSet<PathBuf>) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults.strike("folder").map_err(|e| StoreError::io("sync the folders of blocks", e))?;
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        if folders.len() > FOLDERS_ONE_BY_ONE {
            return self.sync_file_system();
        }
        let mut all: HashSet<&Path> = HashSet::new();
        for folder in folders {
            all.extend(folder.ancestors().take_while(|path| path.starts_with(&self.blocks)));
        }
        let synced = all.into_iter().try_for_each(sync);
        synced.map_err(|e| StoreError::io("sync the folders of blocks", e))
    }

    /// The bytes of a block's file; none where there is no such file. Reads `len` bytes and one more, so that a file
    /// that has grown shows.
    pub(super) fn read(&self, digest: &Digest, len: u32) -> Result<Option<Vec<u8>>, StoreError> {
        match self.files.read(digest, &self.path(digest), len as usize + 1) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // A sector that cannot be read is damage to this block, not to the store.
            Err(e) if is_damage(&e) => {
                tracing::warn!("a block cannot be read: {e}");
                Ok(Some(Vec::new()))
            }
            Err(e) => Err(StoreError::io("read a block", e)),
        }
    }

    /// Makes the bytes of a block's file durable.
    pub(super) fn sync(&self, digest: &Digest) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults.strike("short").map_err(|e| StoreError::io("sync a block", e))?;
        let synced = File::open(self.path(digest)).and_then(|file| file.sync_data());
        synced.map_err(|e| StoreError::io("sync a block", e))
    }

    /// Length in bytes of a block's file, where there is one.
    pub(super) fn len(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove a block", e)),
            _ => Ok(()),
        }
    }

    /// Moves a block's file aside.
    pub(super) fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        make_private_dir(&self.quarantine)?;
        match rename(&self.path(digest), &self.quarantine.join(HEXLOWER.encode(digest))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("set a block aside", e)),
            _ => Ok(()),
        }
    }

    /// Keeps the bytes of a bad block that has no file.
    pub(super) fn quarantine_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        make_private_dir(&self.quarantine)?;
        let path = self.quarantine.join(HEXLOWER.encode(digest));
        let written = super::private::replace(&path, bytes);
        written.map_err(|e| StoreError::io("set a block aside", e))
    }

    /// Calls `visit` with every block file of any layout, whether the index knows it or not, until that says to stop.
    pub(super) fn walk(
        &self,
        visit: &mut dyn FnMut(&BlockFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.walk_since(None, visit)
    }

    /// As [`Disk::walk`]; folders of nothing but blocks that have got no file since then are passed over, so that this is
    /// quick among a million blocks.
    pub(super) fn walk_since(
        &self,
        since: Option<SystemTime>,
        visit: &mut dyn FnMut(&BlockFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let fail = |e| StoreError::io("list block files", e);
        let mut folders = vec![self.blocks.clone()];
        while let Some(folder) = folders.pop() {
            let items = match fs::read_dir(&folder) {
                // Emptied meanwhile, and removed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                items => items.map_err(fail)?,
            };
            for item in items {
                let item = item.map_err(fail)?;
                let path = item.path();
                if item.file_type().map_err(fail)?.is_dir() {
                    if path != self.blocks.join(TMP) && !self.is_unchanged(&path, since) {
                        folders.push(path);
                    }
                    continue;
                }
                let found = path.strip_prefix(&self.blocks).ok().and_then(Layout::of);
                let Some((layout, digest)) = found else { continue };
                if !visit(&BlockFile { path, layout, digest })? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether this is a folder of nothing but blocks, the last of which came before `since`.
    fn is_unchanged(&self, folder: &Path, since: Option<SystemTime>) -> bool {
        let depth = folder.strip_prefix(&self.blocks).map_or(0, |inside| inside.iter().count());
        let changed = || fs::metadata(folder).and_then(|meta| meta.modified()).ok();
        let Some(since) = since.filter(|_| self.layout == Layout::Sharded && depth == 2) else {
            return false;
        };
        changed().is_some_and(|changed| changed < since)
    }

    /// The layout of some block file; none where there are no block files.
    pub(super) fn first_layout(&self) -> Result<Option<Layout>, StoreError> {
        let mut first = None;
        self.walk(&mut |file| {
            first = Some(file.layout);
            Ok(false)
        })?;
        Ok(first)
    }

    /// Moves a file of another layout to where this one wants it, and removes the folders that are empty then. Where
    /// there is a file already, the one with the right bytes stays.
    pub(super) fn take_in(&self, file: &BlockFile) -> Result<(), StoreError> {
        let fail = |e| StoreError::io("move a block to another layout", e);
        let to = self.path(&file.digest);
        if fs::read(&to).is_ok_and(|bytes| hash::sha1(&bytes) == file.digest) {
            fs::remove_file(&file.path).map_err(fail)?;
        } else {
            make_private_dir(to.parent().unwrap_or(&self.blocks))?;
            rename(&file.path, &to).map_err(fail)?;
        }
        let emptied = file.path.ancestors().skip(1).take_while(|folder| *folder != self.blocks);
        // The first one that is not empty refuses, and so do those above it.
        emptied.map_while(|folder| fs::remove_dir(folder).ok()).for_each(drop);
        Ok(())
    }

    /// Makes durable all that was written to the file system of the blocks.
    pub(super) fn sync_file_system(&self) -> Result<(), StoreError> {
        let synced = File::open(&self.blocks).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.map_err(|e| StoreError::io("sync the folders of blocks", e))
    }
}

/// A file that has a block's name.
pub(super) struct BlockFile {
    pub(super) path: PathBuf,
    pub(super) layout: Layout,
    pub(super) digest: Digest,
}

/// Whether the device or the file system has lost the bytes, and nothing else is wrong.
fn is_damage(e: &io::Error) -> bool {
    use rustix::io::Errno;

    [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::ISDIR]
        .iter()
        .any(|known| e.raw_os_error() == Some(known.raw_os_error()))
}

/// The one place that renames: what has a name in the store is complete.
#[allow(clippy::disallowed_methods)]
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Removed when dropped.
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Makes a folder, and those above it, for this user alone.
pub(super) fn make_private_dir(path: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| StoreError::io(format!("make the folder {}", path.display()), e))
}

/// As [`rename`], but an error where there is a file of that name.
#[allow(clippy::disallowed_methods)]
fn rename_anew(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that cannot do it at once.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            renamed => return Ok(renamed?),
        }
    }
    if to.exists() { Err(io::ErrorKind::AlreadyExists.into()) } else { rename(from, to) }
}
