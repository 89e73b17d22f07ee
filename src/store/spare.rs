//! Room set aside for letting go: on a full disk, removing something needs a little space first.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes set aside, at most. One change that lets go rewrites less than this of the index.
const SPARE: u64 = 16 << 20;
/// The part of a small disk that is set aside at most: one in so many bytes.
const OF_DISK: u64 = 64;

/// A file that is there to be removed when the disk is full.
pub(super) struct Spare {
    path: PathBuf,
    held: bool,
    /// Bytes that have become free within the index since the file is gone. The index gives few of them back to the
    /// disk, and uses them again.
    within: i64,
}

impl Spare {
    /// Sets room aside, where there is some.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join("spare");
        let mut spare = Self { path, held: false, within: 0 };
        spare.held = fs::metadata(&spare.path).is_ok_and(|meta| meta.len() == spare.wanted());
        spare.restore();
        spare
    }

    /// Gives the room away; answers whether there was any.
    pub(super) fn release(&mut self) -> bool {
        let had = std::mem::take(&mut self.held);
        had && fs::remove_file(&self.path).is_ok()
    }

    /// Whether there is room to let go, on the disk or within the index, so that something new may be taken.
    pub(super) fn is_enough(&mut self) -> bool {
        self.restore() || u64::try_from(self.within).is_ok_and(|within| within >= self.wanted())
    }

    /// The index has grown by so many bytes.
    pub(super) fn note(&mut self, grown: i64) {
        if !self.held {
            self.within = self.within.saturating_sub(grown);
        }
    }

    /// Sets room aside again, where there is some; answers whether it is.
    fn restore(&mut self) -> bool {
        if !self.held {
            self.held = self.make().is_ok();
            if self.held {
                self.within = 0;
            } else {
                drop(fs::remove_file(&self.path));
            }
        }
        self.held
    }

    /// How much to set aside, in bytes.
    fn wanted(&self) -> u64 {
        let stats = rustix::fs::statvfs(self.path.parent().unwrap_or(&self.path));
        let disk = stats.map_or(0, |stats| stats.f_blocks.saturating_mul(stats.f_frsize));
        SPARE.min(disk / OF_DISK)
    }

    fn make(&self) -> io::Result<()> {
        let len = self.wanted();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file, len),
            allocated => Ok(allocated?),
        }
    }
}

/// For file systems that cannot set aside: bytes that none of them can compress.
fn fill(file: &mut File, len: u64) -> io::Result<()> {
    let mut bytes = blake3::Hasher::new().finalize_xof();
    let mut page = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(page.len());
        bytes.fill(&mut page[..n]);
        file.write_all(&page[..n])?;
        left -= n as u64;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_set_aside_given_away_once_and_set_aside_again() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let len = || fs::metadata(dir.path().join("spare")).map(|meta| meta.len()).ok();
        let mut spare = Spare::open(dir.path());
        assert_eq!(len(), Some(SPARE));
        assert!(spare.release() && !spare.release());
        assert_eq!(len(), None);
        assert!(spare.is_enough());
        assert_eq!(len(), Some(SPARE));
        drop(spare);
        assert!(Spare::open(dir.path()).release(), "found again after a restart");
    }

    #[test]
    fn what_becomes_free_within_the_index_counts_until_it_is_used() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let mut spare = Spare::open(dir.path());
        spare.note(-20 << 20);
        assert!(spare.release());
        fs::create_dir(&spare.path).expect("in the way");
        assert!(!spare.is_enough(), "what became free before was not counted");
        spare.note(-20 << 20);
        assert!(spare.is_enough());
        spare.note(10 << 20);
        assert!(!spare.is_enough());
    }

    #[test]
    fn where_nothing_can_be_set_aside_it_is_written() {
        let mut file = tempfile::tempfile().expect("a file");
        fill(&mut file, 100_000).expect("filled");
        assert_eq!(file.metadata().expect("asked").len(), 100_000);
    }
}
