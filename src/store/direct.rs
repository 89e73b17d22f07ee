//! Direct I/O: reads and writes that bypass the page cache.
//!
//! A block is written once and read much later, if ever. A copy in the page cache would cost more CPU time than its hash,
//! and would displace other data. A block that is read twice within a short time is read through the page cache the second
//! time, and stays there.

use std::{
    collections::{HashSet, VecDeque},
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::OFlags;

use crate::content::hash::Digest;

/// Alignment of memory, offset and length that every common device accepts.
const ALIGN: usize = 4096;
/// Shorter files go through the page cache: for them, a device access costs more than copying.
pub(super) const SHORTEST: usize = 64 << 10;
/// Maximum number of buffers in use, each as long as the longest block so far. Further calls wait.
const BUFFERS: usize = 6;
/// Maximum number of unused buffers kept for the next blocks.
const KEPT: usize = 2;
/// Number of blocks remembered as recently read.
const RECENT: usize = 4096;
/// Bytes per write of a long file.
const PIECE: usize = 1 << 20;

/// Memory that is aligned to [`ALIGN`].
#[derive(Default)]
struct Aligned(Vec<u8>);

impl Aligned {
    /// Returns `len` bytes, rounded up to a multiple of [`ALIGN`].
    fn space(&mut self, len: usize) -> &mut [u8] {
        let padded = len.next_multiple_of(ALIGN);
        if self.0.len() < padded + ALIGN {
            self.0.resize(padded + ALIGN, 0);
        }
        let start = self.0.as_ptr().align_offset(ALIGN);
        &mut self.0[start..start + padded]
    }
}

fn direct(options: &OpenOptions, path: &Path) -> io::Result<File> {
    with_flags(options, path, OFlags::DIRECT)
}

fn with_flags(options: &OpenOptions, path: &Path, flags: OFlags) -> io::Result<File> {
    options.clone().custom_flags(flags.bits().cast_signed()).open(path)
}

/// Whether the error means that the file system does not support direct I/O.
fn is_refusal(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Access to the block files of one store.
#[derive(Default)]
pub(super) struct BlockFiles {
    /// The file system does not support direct I/O.
    refused: AtomicBool,
    buffers: Mutex<Buffers>,
    returned: Condvar,
    recent: Mutex<Recent>,
}

impl BlockFiles {
    /// Writes a new file for this user alone. The caller syncs it.
    pub(super) fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        if self.goes_direct(bytes.len()) {
            let written = direct(&options, path).and_then(|file| self.write(file, bytes));
            match written {
                Err(e) if is_refusal(&e) => {
                    self.refused.store(true, Ordering::Relaxed);
                    // Some file systems make the file before they refuse.
                    options.create_new(false).create(true).truncate(true);
                }
                written => return written,
            }
        }
        let mut file = options.open(path)?;
        file.write_all(bytes)?;
        Ok(file)
    }

    /// Returns at most `limit` bytes of a block's file.
    pub(super) fn read(&self, digest: &Digest, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut options = OpenOptions::new();
        options.read(true);
        if self.goes_direct(limit) && !self.recent().known.contains(digest) {
            match direct(&options, path).and_then(|file| self.read_direct(file, limit)) {
                Err(e) if is_refusal(&e) => self.refused.store(true, Ordering::Relaxed),
                Err(e) => return Err(e),
                Ok(bytes) => {
                    self.recent().note(digest);
                    return Ok(bytes);
                }
            }
        }
        let mut bytes = Vec::with_capacity(limit);
        options.open(path)?.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn goes_direct(&self, len: usize) -> bool {
        len >= SHORTEST && !self.refused.load(Ordering::Relaxed)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut Aligned) -> T) -> T {
        let full = |buffers: &mut Buffers| buffers.in_use >= BUFFERS;
        let waited = self.returned.wait_while(self.buffers(), full);
        let mut buffers = waited.unwrap_or_else(PoisonError::into_inner);
        buffers.in_use += 1;
        let mut lease = Lease { files: self, buffer: buffers.free.pop().unwrap_or_default() };
        drop(buffers);
        work(&mut lease.buffer)
    }

    fn write(&self, mut file: File, bytes: &[u8]) -> io::Result<File> {
        self.with_buffer(|buffer| {
            let space = buffer.space(bytes.len());
            space[..bytes.len()].copy_from_slice(bytes);
            file.write_all(space)
        })?;
        if !bytes.len().is_multiple_of(ALIGN) {
            file.set_len(bytes.len() as u64)?;
        }
        Ok(file)
    }

    fn read_direct(&self, mut file: File, limit: usize) -> io::Result<Vec<u8>> {
        self.with_buffer(|buffer| {
            let space = buffer.space(limit);
            let mut len = 0;
            // A length that is not aligned means the end of the file.
            while len < space.len() && len.is_multiple_of(ALIGN) {
                match file.read(&mut space[len..]) {
                    Ok(0) => break,
                    Ok(count) => len += count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(space[..len.min(limit)].to_vec())
        })
    }
}

#[derive(Default)]
struct Buffers {
    free: Vec<Aligned>,
    in_use: usize,
}

/// A buffer that returns to its pool when dropped.
struct Lease<'a> {
    files: &'a BlockFiles,
    buffer: Aligned,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut buffers = self.files.buffers();
        buffers.in_use -= 1;
        if buffers.free.len() < KEPT {
            buffers.free.push(std::mem::take(&mut self.buffer));
        }
        drop(buffers);
        self.files.returned.notify_one();
    }
}

/// Recently read blocks.
#[derive(Default)]
struct Recent {
    known: HashSet<Digest>,
    order: VecDeque<Digest>,
}

impl Recent {
    fn note(&mut self, digest: &Digest) {
        if self.known.insert(*digest) {
            self.order.push_back(*digest);
        }
        if self.order.len() > RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// A long file that is written sequentially.
pub struct DirectFile {
    file: File,
    buffer: Aligned,
    filled: usize,
    len: u64,
}

impl DirectFile {
    /// Makes a new file.
    ///
    /// # Errors
    /// As `File::create_new`.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let file = match direct(&options, path) {
            // Some file systems make the file before they refuse. Nothing that a symbolic link leads to is replaced.
            Err(e) if is_refusal(&e) => {
                with_flags(options.create_new(false).create(true).truncate(true), path, OFlags::NOFOLLOW)?
            }
            opened => opened?,
        };
        Ok(Self { file, buffer: Aligned::default(), filled: 0, len: 0 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As writing to a file.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let space = &mut self.buffer.space(PIECE)[self.filled..];
            let (now, later) = bytes.split_at(bytes.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            self.len += now.len() as u64;
            bytes = later;
            if self.filled == PIECE {
                self.write_buffer(PIECE)?;
            }
        }
        Ok(())
    }

    /// Writes the rest, sets the length of the file, and returns it.
    ///
    /// # Errors
    /// As writing to a file.
    pub fn finish(mut self) -> io::Result<File> {
        if self.len == self.filled as u64 {
            // A short file is likely to be read soon.
            self.through_cache()?;
            self.file.write_all(&self.buffer.space(PIECE)[..self.filled])?;
        } else {
            let padded = self.filled.next_multiple_of(ALIGN);
            self.write_buffer(padded)?;
            self.file.set_len(self.len)?;
        }
        Ok(self.file)
    }

    fn through_cache(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        Ok(rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)?)
    }

    fn write_buffer(&mut self, len: usize) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer.space(PIECE)[..len]);
        match written {
            // Some file systems refuse the write, not the open.
            Err(e) if is_refusal(&e) => {
                self.through_cache()?;
                // A part may have been written.
                self.file.seek(SeekFrom::Start(self.len - self.filled as u64))?;
                self.file.write_all(&self.buffer.space(PIECE)[..len])?;
            }
            written => written?,
        }
        self.filled = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 8] =
        [0, 1, SHORTEST - 1, SHORTEST, SHORTEST + 1, SHORTEST + ALIGN, PIECE, 3 * PIECE + 4095];

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from(n % 251).expect("small")).collect()
    }

    #[test]
    fn files_are_read_back_whole_with_and_without_direct_io() {
        let dir = tempfile::tempdir().expect("a folder");
        for refused in [false, true] {
            let files = BlockFiles::default();
            files.refused.store(refused, Ordering::Relaxed);
            for (n, len) in (0..).zip(LENGTHS) {
                let (bytes, path) = (bytes(len), dir.path().join(format!("{refused}-{len}")));
                let missing = files.read(&[n; 20], &path, len).expect_err("nothing there yet");
                assert_eq!(missing.kind(), io::ErrorKind::NotFound);
                drop(files.create(&path, &bytes).expect("written"));
                assert!(!files.recent().known.contains(&[n; 20]), "a failed read is not remembered");
                for _ in 0..2 {
                    assert!(files.read(&[n; 20], &path, len + 1).expect("read") == bytes, "{len} bytes");
                }
                // No more than was asked for, and no less than there is.
                let short = files.read(&[n + 100; 20], &path, len / 2).expect("read");
                assert!(short == bytes[..len / 2], "half of {len} bytes");
                let again = files.create(&path, &bytes).expect_err("there already");
                assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            }
            assert_eq!(
                files.refused.load(Ordering::Relaxed),
                refused,
                "this file system takes direct writes"
            );
        }
    }

    #[test]
    fn a_long_file_is_the_same_whatever_the_size_of_its_writes() {
        let dir = tempfile::tempdir().expect("a folder");
        for len in LENGTHS {
            for piece in [1 << 16, 4097, PIECE + 1] {
                let (bytes, path) = (bytes(len), dir.path().join(format!("{len}-{piece}")));
                let mut file = DirectFile::create_new(&path).expect("made");
                bytes.chunks(piece).for_each(|part| file.write_all(part).expect("written"));
                file.finish().expect("finished");
                assert!(std::fs::read(&path).expect("read") == bytes, "{len} bytes in pieces of {piece}");
                assert!(DirectFile::create_new(&path).is_err());
            }
        }
    }

    #[test]
    fn buffers_return_to_the_pool_and_few_are_kept() {
        let (dir, files) = (tempfile::tempdir().expect("a folder"), BlockFiles::default());
        std::thread::scope(|scope| {
            for n in 0..4 * BUFFERS {
                let path = dir.path().join(n.to_string());
                let files = &files;
                scope.spawn(move || files.create(&path, &bytes(SHORTEST)).expect("written"));
            }
        });
        let buffers = files.buffers();
        assert!((1..=KEPT).contains(&buffers.free.len()) && buffers.in_use == 0, "{}", buffers.free.len());
    }

    #[test]
    fn only_recently_read_blocks_are_remembered() {
        let mut recent = Recent::default();
        let digest = |n: usize| {
            let mut digest = [0; 20];
            digest[..8].copy_from_slice(&n.to_le_bytes());
            digest
        };
        recent.note(&digest(0));
        recent.note(&digest(0));
        (1..RECENT).for_each(|n| recent.note(&digest(n)));
        assert!(recent.known.contains(&digest(0)));
        recent.note(&digest(RECENT));
        assert!(!recent.known.contains(&digest(0)) && recent.known.contains(&digest(1)));
        assert_eq!((recent.known.len(), recent.order.len()), (RECENT, RECENT));
    }
}
