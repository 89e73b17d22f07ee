//! Block files: written under a temporary name, synced, and renamed into place.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use data_encoding::HEXLOWER;

use super::{
    Layout, StoreError,
    direct::BlockFiles,
    private::{make_private_dir, rename, rename_new, replace},
};
use crate::content::hash::{self, Digest};

const TMP: &str = "tmp";

/// Maximum number of folders that are synced one by one. For more, one sync of the file system is cheaper.
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

/// Whether a file survives a power cut as soon as it is in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Its bytes are synced before it gets its name. [`Disk::sync_folders`] then syncs its folder.
    Synced,
    /// It may be lost or truncated by a crash. It never replaces an existing file, which may be synced.
    New,
}

impl Disk {
    /// Opens the folders and removes temporary files of interrupted writes.
    pub(super) fn open(dir: &Path, layout: Layout) -> Result<Self, StoreError> {
        let blocks = dir.join("blocks");
        let tmp = blocks.join(TMP);
        make_private_dir(&tmp)?;
        let temporary = fs::read_dir(&tmp).map_err(|e| StoreError::io("read the temporary folder", e))?;
        for file in temporary {
            let path = file.map_err(|e| StoreError::io("read the temporary folder", e))?.path();
            let removed = fs::remove_file(&path);
            removed.map_err(|e| StoreError::io(format!("remove {}", path.display()), e))?;
        }
        Ok(Self::look(dir, layout))
    }

    /// Opens the folders for reading, and changes nothing.
    pub(super) fn look(dir: &Path, layout: Layout) -> Self {
        Self {
            blocks: dir.join("blocks"),
            quarantine: dir.join("quarantine"),
            layout,
            next: AtomicU64::new(0),
            files: BlockFiles::default(),
            #[cfg(test)]
            faults: super::tests::Faults::default(),
        }
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.blocks.join(self.layout.path(digest))
    }

    /// Writes a block's file; returns the folder to sync. `None` means that there is a file already, which stays.
    pub(super) fn write(
        &self,
        digest: &Digest,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<Option<PathBuf>, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tmp_folder = self.blocks.join(TMP);
        let tmp = TempFile(tmp_folder.join(number.to_string()));
        let write = || self.write_aside(&tmp.0, bytes, durability);
        match write() {
            // Somebody removed the folder.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_private_dir(&tmp_folder)?;
                write()
            }
            written => written,
        }
        .map_err(|e| StoreError::io(format!("write a block to {}", tmp_folder.display()), e))?;
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.blocks).to_owned();
        let fail = |e| StoreError::io(format!("put a block into {}", folder.display()), e);
        let rename = if durability == Durability::New { rename_new } else { rename };
        match rename(&tmp.0, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && durability == Durability::New => {
                return Ok(None);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_private_dir(&folder)?;
                rename(&tmp.0, &path).map_err(fail)?;
            }
            // A folder in place of the file: damage that a rename cannot replace.
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                self.quarantine(digest)?;
                rename(&tmp.0, &path).map_err(fail)?;
            }
            renamed => renamed.map_err(fail)?,
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

    /// Syncs the names in these folders, and those of the folders themselves.
    pub(super) fn sync_folders(&self, folders: &HashSet<PathBuf>) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults.strike("folder").map_err(|e| StoreError::io("sync the block folders", e))?;
        let sync = |path: &Path| {
            let synced = File::open(path).and_then(|folder| folder.sync_all());
            synced.map_err(|e| StoreError::io(format!("sync the folder {}", path.display()), e))
        };
        if folders.len() > FOLDERS_ONE_BY_ONE {
            return self.sync_file_system();
        }
        let mut all: HashSet<&Path> = HashSet::new();
        for folder in folders {
            all.extend(folder.ancestors().take_while(|path| path.starts_with(&self.blocks)));
        }
        all.into_iter().try_for_each(sync)
    }

    /// Returns the bytes of a block's file; `None` means that there is no such file. Reads one byte more than `len`, so that
    /// a file that is too long does not pass for a good one.
    pub(super) fn read(&self, digest: &Digest, len: u32) -> Result<Option<Vec<u8>>, StoreError> {
        match self.files.read(digest, &self.path(digest), len as usize + 1) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // An unreadable sector is damage to this block, not a failure of the store.
            Err(e) if is_damage(&e) => {
                tracing::warn!("a block file cannot be read: {e}");
                Ok(Some(Vec::new()))
            }
            Err(e) => Err(StoreError::io("read a block", e)),
        }
    }

    /// Syncs the bytes of a block's file.
    pub(super) fn sync(&self, digest: &Digest) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults.strike("short").map_err(|e| StoreError::io("sync a block", e))?;
        let synced = File::open(self.path(digest)).and_then(|file| file.sync_data());
        synced.map_err(|e| StoreError::io("sync a block", e))
    }

    /// Returns the length of a block's file in bytes; `None` means that there is no such file.
    pub(super) fn len(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove a block", e)),
            _ => Ok(()),
        }
    }

    /// Moves a block's file to quarantine.
    pub(super) fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        make_private_dir(&self.quarantine)?;
        match rename(&self.path(digest), &self.quarantine.join(HEXLOWER.encode(digest))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("move a block to quarantine", e))
            }
            _ => Ok(()),
        }
    }

    /// Writes the bytes of a damaged block that has no file to quarantine.
    pub(super) fn quarantine_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        make_private_dir(&self.quarantine)?;
        let path = self.quarantine.join(HEXLOWER.encode(digest));
        let written = replace(&path, bytes);
        written.map_err(|e| StoreError::io("move a block to quarantine", e))
    }

    /// Calls `visit` with each block file of any layout, listed in the index or not, until it returns false.
    pub(super) fn walk(
        &self,
        visit: &mut dyn FnMut(&BlockFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.walk_since(None, visit)
    }

    /// As [`Disk::walk`], but skips folders without a change since then: this is fast even with a million blocks.
    pub(super) fn walk_since(
        &self,
        since: Option<SystemTime>,
        visit: &mut dyn FnMut(&BlockFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let fail = |e| StoreError::io("list block files", e);
        let mut folders = vec![self.blocks.clone()];
        while let Some(folder) = folders.pop() {
            let items = match fs::read_dir(&folder) {
                // Removed meanwhile.
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

    /// Whether this is a folder of block files that has not changed since `since`.
    fn is_unchanged(&self, folder: &Path, since: Option<SystemTime>) -> bool {
        let depth = folder.strip_prefix(&self.blocks).map_or(0, |inside| inside.iter().count());
        let changed = || fs::metadata(folder).and_then(|meta| meta.modified()).ok();
        let Some(since) = since.filter(|_| self.layout == Layout::Sharded && depth == 2) else {
            return false;
        };
        changed().is_some_and(|changed| changed < since)
    }

    /// Returns the layout of some block file; `None` means that there are no block files.
    pub(super) fn first_layout(&self) -> Result<Option<Layout>, StoreError> {
        let mut first = None;
        self.walk(&mut |file| {
            first = Some(file.layout);
            Ok(false)
        })?;
        Ok(first)
    }

    /// Moves a file of another layout to this one, and removes the folders that this empties. If there is a file already,
    /// the one with the right bytes stays.
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
        // Fails at the first folder that is not empty.
        emptied.map_while(|folder| fs::remove_dir(folder).ok()).for_each(drop);
        Ok(())
    }

    /// Syncs the whole file system of the blocks.
    pub(super) fn sync_file_system(&self) -> Result<(), StoreError> {
        let synced = File::open(&self.blocks).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        synced.map_err(|e| StoreError::io("sync the block folders", e))
    }
}

/// A file with the name of a block.
pub(super) struct BlockFile {
    pub(super) path: PathBuf,
    pub(super) layout: Layout,
    pub(super) digest: Digest,
}

/// Whether the error means that the device or the file system has lost the bytes of this file.
fn is_damage(e: &io::Error) -> bool {
    use rustix::io::Errno;

    [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::ISDIR]
        .iter()
        .any(|known| e.raw_os_error() == Some(known.raw_os_error()))
}

/// Removed when dropped.
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
