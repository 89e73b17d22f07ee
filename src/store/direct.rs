//! Writing past the page cache: a block is written once and read much later, if ever, so a copy of it in the cache costs
//! a processor more than its hash does, and drives out what others need.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::OFlags;

/// What memory, offset and length must be a multiple of, on every device in use.
const ALIGN: usize = 4096;
/// Shorter blocks go through the page cache: a write to the device itself costs more than copying them.
const SHORTEST: usize = 64 << 10;
/// Buffers kept for the next writes, each as long as the longest block so far.
const KEPT: usize = 4;

/// Writes files on one file system.
#[derive(Default)]
pub(super) struct DirectWriter {
    /// The file system has said that it cannot.
    refused: AtomicBool,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl DirectWriter {
    /// Makes a new file of these bytes for this user alone; whether they have reached the device is for `sync_data` to
    /// say. Goes through the page cache where the file system knows no other way.
    pub(super) fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        if bytes.len() >= SHORTEST && !self.refused.load(Ordering::Relaxed) {
            let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
            let written = options.clone().custom_flags(flags).open(path).and_then(|file| {
                self.write(&file, bytes)?;
                Ok(file)
            });
            match written {
                Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                    self.refused.store(true, Ordering::Relaxed);
                    // Some make the file before they refuse.
                    options.create_new(false).create(true).truncate(true);
                }
                written => return written,
            }
        }
        let mut file = options.open(path)?;
        file.write_all(bytes)?;
        Ok(file)
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        let padded = bytes.len().next_multiple_of(ALIGN);
        if buffer.len() < padded + ALIGN {
            buffer.resize(padded + ALIGN, 0);
        }
        let start = buffer.as_ptr().align_offset(ALIGN);
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
        let written = file.write_all(&buffer[start..start + padded]);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < KEPT {
            buffers.push(buffer);
        }
        drop(buffers);
        written?;
        if padded > bytes.len() { file.set_len(bytes.len() as u64) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_bytes_and_length_whatever_the_file_system_can() {
        let dir = tempfile::tempdir().expect("a folder");
        for refused in [false, true] {
            let writer = DirectWriter::default();
            writer.refused.store(refused, Ordering::Relaxed);
            for len in [0, 1, SHORTEST - 1, SHORTEST, SHORTEST + 1, 3 * SHORTEST + 4095, SHORTEST + ALIGN] {
                let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).expect("small")).collect();
                let path = dir.path().join(format!("{refused}-{len}"));
                drop(writer.create(&path, &bytes).expect("written"));
                assert!(std::fs::read(&path).expect("read") == bytes, "{len} bytes");
                let again = writer.create(&path, &bytes).expect_err("there already");
                assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            }
            assert_eq!(
                writer.refused.load(Ordering::Relaxed),
                refused,
                "this file system takes direct writes"
            );
        }
    }

    #[test]
    fn buffers_are_used_again_and_only_a_few_are_kept() {
        let (dir, writer) = (tempfile::tempdir().expect("a folder"), DirectWriter::default());
        std::thread::scope(|scope| {
            for n in 0..16 {
                let path = dir.path().join(n.to_string());
                let writer = &writer;
                scope.spawn(move || writer.create(&path, &vec![7; SHORTEST]).expect("written"));
            }
        });
        assert!((1..=KEPT).contains(&writer.buffers.lock().expect("whole").len()));
    }
}
