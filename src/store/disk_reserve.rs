//! Disk space reserved for removals: on a full disk, removing a file needs a little space in the index first.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::private;

/// Name of the file in a data directory.
const FILE: &str = "reserve";
/// Size of the reserve in bytes. A single removal rewrites less than this of the index.
const RESERVE_BYTES: u64 = 16 << 20;
/// On a small disk, the reserve is the size of the disk divided by this, if that is less.
const DISK_FRACTION: u64 = 64;

/// A preallocated file that is deleted when the disk is full.
pub(super) struct DiskReserve {
    path: PathBuf,
    held: bool,
    /// Bytes freed inside the index file since the reserve was released. The index returns few of them to the disk, but
    /// reuses them.
    freed_in_index: i64,
}

impl DiskReserve {
    /// Opens the reserve, or allocates it if the disk has room.
    pub(super) fn open(dir: &Path) -> Self {
        let mut reserve = Self { path: dir.join(FILE), held: false, freed_in_index: 0 };
        reserve.held = fs::metadata(&reserve.path).is_ok_and(|meta| meta.len() == reserve.wanted_bytes());
        reserve.restore();
        reserve
    }

    /// The reserve of a store that can only be read: there is none, and none is missing.
    pub(super) fn none() -> Self {
        Self { path: PathBuf::new(), held: true, freed_in_index: 0 }
    }

    /// Gives the space back to the file system. Returns whether there was any.
    pub(super) fn release(&mut self) -> bool {
        let had = std::mem::take(&mut self.held);
        had && fs::remove_file(&self.path).is_ok()
    }

    /// Whether removals have enough space, on the disk or inside the index, so that new data may be accepted.
    pub(super) fn is_enough(&mut self) -> bool {
        self.restore() || u64::try_from(self.freed_in_index).is_ok_and(|freed| freed >= self.wanted_bytes())
    }

    /// Says why new data is refused while the reserve is not complete.
    pub(super) fn missing(&self) -> String {
        let stats = rustix::fs::statvfs(self.path.parent().unwrap_or(&self.path));
        let free = stats.map_or(0, |stats| stats.f_bavail.saturating_mul(stats.f_frsize));
        format!(
            "the disk is full: {free} bytes are free, and the last {} are reserved for removals",
            self.wanted_bytes()
        )
    }

    /// Records that the contents of the index grew by `bytes`.
    pub(super) fn index_grew(&mut self, bytes: i64) {
        if !self.held {
            self.freed_in_index = self.freed_in_index.saturating_sub(bytes);
        }
    }

    /// Allocates the reserve again, if the disk has room. Returns whether it is held.
    fn restore(&mut self) -> bool {
        if !self.held {
            self.held = self.allocate().is_ok();
            if self.held {
                self.freed_in_index = 0;
            } else {
                drop(fs::remove_file(&self.path));
            }
        }
        self.held
    }

    fn wanted_bytes(&self) -> u64 {
        let stats = rustix::fs::statvfs(self.path.parent().unwrap_or(&self.path));
        let disk = stats.map_or(0, |stats| stats.f_blocks.saturating_mul(stats.f_frsize));
        RESERVE_BYTES.min(disk / DISK_FRACTION)
    }

    fn allocate(&self) -> io::Result<()> {
        let len = self.wanted_bytes();
        private::make_way(&self.path)?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file, len),
            allocated => Ok(allocated?),
        }
    }
}

/// Fills a file with incompressible bytes, for file systems that cannot preallocate.
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
    fn the_reserve_is_released_once_and_allocated_again() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let len = || fs::metadata(dir.path().join(FILE)).map(|meta| meta.len()).ok();
        let mut reserve = DiskReserve::open(dir.path());
        assert_eq!(len(), Some(RESERVE_BYTES));
        assert!(reserve.release() && !reserve.release());
        assert_eq!(len(), None);
        assert!(reserve.is_enough());
        assert_eq!(len(), Some(RESERVE_BYTES));
        drop(reserve);
        assert!(DiskReserve::open(dir.path()).release(), "found again after a restart");
    }

    #[test]
    fn bytes_freed_inside_the_index_count_until_they_are_reused() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let mut reserve = DiskReserve::open(dir.path());
        reserve.index_grew(-20 << 20);
        assert!(reserve.release());
        fs::write(dir.path().join("file"), b"").expect("written");
        // It cannot be made below a file.
        reserve.path = dir.path().join("file/reserve");
        assert!(!reserve.is_enough(), "bytes freed while the reserve is held do not count");
        reserve.index_grew(-20 << 20);
        assert!(reserve.is_enough());
        reserve.index_grew(10 << 20);
        assert!(!reserve.is_enough());
    }

    #[test]
    fn a_file_system_without_preallocation_gets_written_bytes() {
        let mut file = tempfile::tempfile().expect("a file");
        fill(&mut file, 100_000).expect("filled");
        assert_eq!(file.metadata().expect("its length").len(), 100_000);
    }
}
