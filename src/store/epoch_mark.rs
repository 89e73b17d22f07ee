//! The epoch of the index, marked among the blocks: `blocks/epoch/N` is an empty folder.
//!
//! The journal says how far the index had come, but it lies beside the index and is lost or set back together with it: by a
//! backup of the small files, say. The mark lies where the blocks are. Its name is the number, so that a backup copied over a
//! newer directory does not replace it: of two marks, the higher one counts. Blocks without a mark count as newer than the
//! index: a program that copies no empty folders may have set both back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{StoreError, private};

/// The mark of an open store.
pub(super) struct EpochMark {
    folder: PathBuf,
    at: Mutex<Option<u64>>,
}

impl EpochMark {
    /// Reads the mark in a data directory.
    pub(super) fn open(dir: &Path) -> Self {
        let folder = dir.join("blocks/epoch");
        let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|item| item.file_name());
        let highest = names.filter_map(|name| name.to_str()?.parse().ok()).max();
        Self { folder, at: Mutex::new(highest) }
    }

    /// Returns the epoch; `None` means that there is no mark.
    pub(super) fn epoch(&self) -> Option<u64> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the mark to an epoch. The first one is durable; a later one survives a kill
    /// at once, and a power cut after the next sync of the file system.
    pub(super) fn raise(&self, epoch: u64) -> Result<(), StoreError> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |e| StoreError::io("mark the epoch of the index", e);
        let to = self.folder.join(epoch.to_string());
        let raised = match *at {
            Some(old) if old >= epoch => return Ok(()),
            Some(old) => private::rename(&self.folder.join(old.to_string()), &to),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match raised {
            // The first mark, or somebody removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                private::make_private_dir(&to)?;
                // No block may outlive a power cut without a mark.
                private::sync_folder(&to).and_then(|()| private::sync_folder(&self.folder)).map_err(fail)?;
            }
            raised => raised.map_err(fail)?,
        }
        *at = Some(epoch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_mark_counts_and_none_is_lowered() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let marks = |epochs: &[u64]| {
            for epoch in epochs {
                fs::create_dir_all(dir.path().join(format!("blocks/epoch/{epoch}"))).expect("made");
            }
            EpochMark::open(dir.path())
        };
        let mark = marks(&[]);
        assert_eq!(mark.epoch(), None);
        for (epoch, expected) in [(0, 0), (7, 7), (3, 7), (9, 9)] {
            mark.raise(epoch).expect("raised");
            assert_eq!((mark.epoch(), marks(&[]).epoch()), (Some(expected), Some(expected)));
        }
        assert_eq!(fs::read_dir(dir.path().join("blocks/epoch")).expect("listed").count(), 1);
        // A backup was copied over it.
        assert_eq!(marks(&[4]).epoch(), Some(9));
        fs::remove_dir_all(dir.path().join("blocks")).expect("removed");
        mark.raise(12).expect("made again");
        assert_eq!(marks(&[]).epoch(), Some(12));
    }
}
