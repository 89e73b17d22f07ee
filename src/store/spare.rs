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
const OF_DISK: u64 = 32;

/// A file that is there to be removed when the disk is full.
pub(super) struct Spare {
    path: PathBuf,
    held: bool,
}

impl Spare {
    /// Sets room aside, where there is some.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join("spare");
        let held = fs::metadata(&path).is_ok_and(|meta| meta.len() == wanted(dir));
        let mut spare = Self { path, held };
        spare.restore();
        spare
    }

    /// Gives the room away; answers whether there was any.
    pub(super) fn release(&mut self) -> bool {
        let had = std::mem::take(&mut self.held);
        had && fs::remove_file(&self.path).is_ok()
    }

    /// Sets room aside again; answers whether it is.
    pub(super) fn restore(&mut self) -> bool {
        if !self.held {
            self.held = self.make().is_ok();
            if !self.held {
                drop(fs::remove_file(&self.path));
            }
        }
        self.held
    }

    fn make(&self) -> io::Result<()> {
        let len = wanted(self.path.parent().unwrap_or(&self.path));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file, len),
            allocated => Ok(allocated?),
        }
    }
}

/// How much to set aside in `dir`, in bytes.
fn wanted(dir: &Path) -> u64 {
    let disk = rustix::fs::statvfs(dir).map_or(0, |stats| stats.f_blocks.saturating_mul(stats.f_frsize));
    SPARE.min(disk / OF_DISK)
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
        assert!(spare.restore());
        drop(spare);
        assert!(Spare::open(dir.path()).release(), "found again after a restart");
    }

    #[test]
    fn where_nothing_can_be_set_aside_it_is_written() {
        let mut file = tempfile::tempfile().expect("a file");
        fill(&mut file, 100_000).expect("filled");
        assert_eq!(file.metadata().expect("asked").len(), 100_000);
    }
}
