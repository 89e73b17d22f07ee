//! Unpacks a folder that arrives as tar streams: one, or one more behind each large file that broke off.

use std::{
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use axum::body::Bytes;
use futures::{StreamExt, stream::BoxStream};
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use super::{
    attributes::{Attributes, system_time},
    beneath::Beneath,
    destination::{Partial, cannot_write},
    error::CliError,
};
use crate::node::{ErrorCode, left_out_name, tar_mtime};

/// Which side of the transfer failed.
pub(super) enum UnpackError {
    /// The stream broke off or is no tar stream; the node knows why.
    Input,
    /// An entry is unsafe or could not be written.
    Output(CliError),
}

/// A stream that cannot be read: the details are of no use, as the node has them.
fn broken(_: io::Error) -> UnpackError {
    UnpackError::Input
}

/// Unpacks tar streams into one new folder.
pub(super) struct Unpacker {
    partial: Partial,
    /// The same folder, open: nothing that takes its place gets the entries.
    inside: Beneath,
    /// Folders whose attributes are set at the end: one without write permission cannot be filled.
    folders: Vec<(PathBuf, Attributes)>,
    /// Total length of the files.
    bytes: u64,
    /// Name of the entry that lists what the stream lacks.
    report: PathBuf,
}

impl Unpacker {
    /// Creates a folder beside `path`, to which it will be renamed. `root`: the CID of the folder.
    pub(super) fn create(path: &Path, root: &str) -> Result<Self, CliError> {
        let mut partial = Partial::beside(path)?;
        let made = fs::create_dir(partial.path()).and_then(|()| Beneath::open(partial.path()));
        let inside = made.map_err(|e| cannot_write(path, &e))?;
        partial.lock();
        Ok(Self { partial, inside, folders: Vec::new(), bytes: 0, report: left_out_name(root).into() })
    }

    /// Unpacks one stream. After an error of the input, the folder has all entries that arrived whole.
    pub(super) async fn unpack(
        mut self,
        mut pieces: BoxStream<'static, Result<Bytes, axum::Error>>,
        bar: &ProgressBar,
    ) -> Result<(Self, Result<(), UnpackError>), CliError> {
        let (sender, receiver) = mpsc::channel(4);
        let bar = bar.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let mut input = BodyReader { receiver, piece: Bytes::new(), ended: false };
            let unpacked = self.unpack_entries(&mut input, &bar).and_then(|()| {
                // A stream that broke off between two entries looks like a complete archive.
                io::copy(&mut input, &mut io::sink()).map(drop).map_err(broken)
            });
            (self, unpacked)
        });
        loop {
            let piece = pieces.next().await.transpose().map_err(io::Error::other);
            let more = matches!(piece, Ok(Some(_)));
            if sender.send(piece).await.is_err() || !more {
                break;
            }
        }
        drop(sender);
        unpacking.await.map_err(|_| CliError::panicked("unpacking the folder"))
    }

    /// Renames the folder to its final name, and sets its `attributes`. Returns the total length of its files.
    pub(super) fn finish(mut self, attributes: Attributes) -> Result<u64, CliError> {
        for (name, attributes) in self.folders.into_iter().rev() {
            let applied = self.inside.list(&name).and_then(|folder| attributes.apply(&folder));
            applied.map_err(|e| cannot_write(&self.partial.path().join(name), &e))?;
        }
        let path = self.partial.target().to_owned();
        let top = self.inside.list(Path::new("")).map_err(|e| cannot_write(&path, &e))?;
        self.partial.finish(false)?;
        attributes.apply(&top).map_err(|e| cannot_write(&path, &e))?;
        Ok(self.bytes)
    }

    /// Creates only regular files and folders, so that no entry can redirect a later one to another place.
    fn unpack_entries(&mut self, input: impl Read, bar: &ProgressBar) -> Result<(), UnpackError> {
        let cannot_write = |path: &Path, e: &io::Error| UnpackError::Output(cannot_write(path, e));
        let mut archive = tar::Archive::new(input);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = entry.path().map_err(broken)?.into_owned();
            if name == self.report {
                continue;
            }
            let name = relative(&name).map_err(UnpackError::Output)?;
            let path = self.partial.path().join(&name);
            let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
            let mtime = tar_mtime(entry.header()).unwrap_or(0);
            match entry.header().entry_type() {
                tar::EntryType::Directory => {
                    self.inside.make_folder(&name).map_err(|e| cannot_write(&path, &e))?;
                    self.folders.push((name, Attributes::new(mtime, mode)));
                }
                tar::EntryType::Regular => {
                    let new = self.inside.make_file(&name, mode);
                    let mut file = new.map_err(|e| cannot_write(&path, &e))?;
                    let len = entry.size();
                    let copied = copy(&mut entry, &mut file, &path);
                    if !matches!(copied, Ok(copied) if copied == len) {
                        // Half a file must not look like a whole one.
                        self.inside.remove_file(&name).map_err(|e| cannot_write(&path, &e))?;
                        return Err(copied.err().unwrap_or(UnpackError::Input));
                    }
                    bar.inc(len);
                    self.bytes += len;
                    // Keep the file even if the file system cannot store its time.
                    drop(file.set_modified(system_time(mtime)));
                }
                _ => {
                    let message =
                        format!("unsafe archive: {} is neither a file nor a folder", name.display());
                    return Err(UnpackError::Output(CliError::new(ErrorCode::Integrity, message)));
                }
            }
        }
        Ok(())
    }
}

/// Copies one file. Tells a broken stream from a failed write, which `io::copy` does not.
fn copy(input: &mut impl Read, file: &mut fs::File, path: &Path) -> Result<u64, UnpackError> {
    let mut buf = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match input.read(&mut buf).map_err(broken)? {
            0 => return Ok(total),
            len => {
                let written = io::Write::write_all(file, &buf[..len]);
                written.map_err(|e| UnpackError::Output(cannot_write(path, &e)))?;
                total += len as u64;
            }
        }
    }
}

/// Returns the path of an entry below the target folder.
///
/// Errors: the path is absolute or contains `..`.
fn relative(name: &Path) -> Result<PathBuf, CliError> {
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => {
                let message =
                    format!("unsafe archive: {:?} leads out of the folder", name.display().to_string());
                return Err(CliError::new(ErrorCode::Integrity, message));
            }
        }
    }
    Ok(path)
}

/// Reads a body from a channel. `None` is its end; a channel that closes without it is an error.
struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Option<Bytes>>>,
    piece: Bytes,
    ended: bool,
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv().transpose()? {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let len = buf.len().min(self.piece.len());
        buf[..len].copy_from_slice(&self.piece.split_to(len));
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            // Set the name by hand: the library refuses unsafe names.
            header.as_gnu_mut().expect("gnu").name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name_literal("/tmp").expect("set");
            }
            header.set_cksum();
            tar.append(&header, *bytes).expect("appended");
        }
        tar.into_inner().expect("finished")
    }

    fn try_unpack(tar: &[u8]) -> (Result<u64, UnpackError>, Vec<String>) {
        let dir = tempfile::TempDir::new().expect("a folder");
        let mut unpacker = Unpacker::create(&dir.path().join("out"), "bafy").expect("made");
        let result = unpacker.unpack_entries(tar, &ProgressBar::hidden()).map(|()| unpacker.bytes);
        unpacker.finish(Attributes::default()).expect("renamed");
        let outside = fs::read_dir(dir.path()).expect("read").map(|e| e.expect("an entry").file_name());
        (result, outside.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn an_unsafe_archive_writes_nothing_outside_its_folder() {
        use tar::EntryType::{Block, Directory, Regular, Symlink};

        let hostile: [&[(&str, tar::EntryType, &[u8])]; 5] = [
            &[("../evil", Regular, b"x")],
            &[("/tmp/storgo-evil", Regular, b"x")],
            &[("a", Symlink, b""), ("a/evil", Regular, b"x")],
            &[("dev", Block, b"")],
            &[("a/../../evil", Directory, b"")],
        ];
        for entries in hostile {
            let (result, outside) = try_unpack(&tar_of(entries));
            assert!(matches!(result, Err(UnpackError::Output(_))), "{entries:?}");
            assert!(outside.iter().all(|name| name == "out"), "{outside:?}");
            assert!(!Path::new("/tmp/storgo-evil").exists());
        }
        let (result, _) = try_unpack(&tar_of(&[("a", Regular, b"1"), ("a", Regular, b"2")]));
        assert!(matches!(result, Err(UnpackError::Output(_))), "one name twice");
        let (result, _) = try_unpack(&tar_of(&[("a b/ü", Regular, b"12"), ("c", Directory, b"")]));
        assert!(matches!(result, Ok(2)));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // Nothing needs to be durable.
    fn a_link_that_takes_the_place_of_the_folder_gets_no_entries() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let mut unpacker = Unpacker::create(&dir.path().join("out"), "bafy").expect("made");
        let (moved, elsewhere) = (dir.path().join("moved"), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).expect("made");
        fs::rename(unpacker.partial.path(), &moved).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, unpacker.partial.path()).expect("linked");
        let archive = tar_of(&[("sub/a", tar::EntryType::Regular, b"x")]);
        assert!(unpacker.unpack_entries(&archive[..], &ProgressBar::hidden()).is_ok());
        assert_eq!(fs::read(moved.join("sub/a")).expect("read"), b"x");
        assert_eq!(fs::read_dir(&elsewhere).expect("read").count(), 0);
    }
}
