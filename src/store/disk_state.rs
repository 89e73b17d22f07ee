//! Causes that keep a file system from taking more files.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};

/// With fewer free inodes than this, storing may fail: a file needs some for its folders, its blocks and a temporary file.
const FEW_INODES: u64 = 16;

/// Returns why nothing can be stored below `dir` at this moment; `None` means that nothing is known to be wrong.
pub fn write_problem(dir: &Path) -> Option<&'static str> {
    let stats = statvfs(dir).ok()?;
    if stats.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Some("the file system is read-only: files can be read, and nothing can be stored or removed");
    }
    // Some file systems have no fixed number of inodes, and report 0 of 0.
    if stats.f_files > 0 && stats.f_favail < FEW_INODES {
        return Some("the file system has no free inodes: files can be read, and few can be stored");
    }
    (stats.f_bavail == 0).then_some("the disk is full: files can be read, and none can be stored")
}
