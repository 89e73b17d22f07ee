//! Putting what was read where the user wants it, and nowhere else.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures::StreamExt;
use indicatif::ProgressBar;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::place::{Traits, moment};
use crate::node::{ErrorCode, NodeError, tar_mtime};

/// What went wrong, and on which side.
pub(super) enum Failure {
    /// The stream broke off; the node knows why.
    Input(#[allow(dead_code)] io::Error),
    /// It cannot be written.
    Output(NodeError),
}

/// Something unfinished beside its final place; removed when dropped unfinished.
///
/// Who is killed cannot remove it: the next one that writes into the same folder does.
pub(super) struct Partial {
    aside: PathBuf,
    place: PathBuf,
    done: bool,
    /// Locked as long as somebody works on it.
    held: Option<fs::File>,
}

/// How long nothing has happened to what a killed process left behind. Younger ones may not be locked yet.
const STALE: Duration = Duration::from_secs(60);

impl Partial {
    pub(super) fn beside(path: &Path) -> Result<Self, NodeError> {
        if path.file_name().is_none() {
            let message = format!("{} is no name for a file", path.display());
            return Err(NodeError::new(ErrorCode::BadRequest, message));
        }
        clear_stale(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        Ok(Self { aside: aside(path), place: path.into(), done: false, held: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.aside
    }

    /// It has been made: from now on, nobody else takes it for left behind.
    pub(super) fn hold(&mut self) {
        // A file system without locks: then nobody else can tell, and leaves it alone.
        self.held = fs::File::open(&self.aside).ok().filter(|file| file.try_lock().is_ok());
    }

    /// Gives it its name. With `replace`, a file that is there makes way; without, whatever is there by now stays.
    pub(super) fn finish(mut self, replace: bool) -> Result<(), NodeError> {
        if replace && self.place.symlink_metadata().is_ok() {
            // After a power cut, there is the old one or the new one, and never the name of one with the bytes of neither.
            let synced = match &self.held {
                Some(file) => file.sync_data(),
                None => fs::File::open(&self.aside).and_then(|file| file.sync_data()),
            };
            synced.map_err(|e| cannot_write(&self.place, &e))?;
        }
        give_name(&self.aside, &self.place, replace).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => is_there_already(&self.place, self.aside.is_dir()),
            _ => cannot_write(&self.place, &e),
        })?;
        self.done = true;
        Ok(())
    }
}

/// The rename of the command line: what has its name is complete.
#[allow(clippy::disallowed_methods)] // Its caller syncs where something is replaced.
fn give_name(aside: &Path, place: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(aside, place);
    }
    match renameat_with(CWD, aside, CWD, place, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it: a second name can be given to a file, and is never one that is taken.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::hard_link(aside, place) {
            Ok(()) => fs::remove_file(aside),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            // Nor that: then as late as can be.
            Err(_) if place.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(aside, place),
        },
        named => named.map_err(Into::into),
    }
}

/// The error of a place that is taken.
pub(super) fn is_there_already(path: &Path, folder: bool) -> NodeError {
    let hint = if folder || path.is_dir() {
        "name another place with -o: a folder is never replaced, not even with --force"
    } else {
        "name another place with -o, or replace it with --force"
    };
    NodeError::new(ErrorCode::BadRequest, format!("{} is there already", path.display())).hint(hint)
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            drop(remove(&self.aside));
        }
    }
}

/// A new name beside a place; short, so that it fits wherever the place's own does.
fn aside(place: &Path) -> PathBuf {
    place.with_file_name(format!(".storgo-{:08x}.part", rand::random::<u32>()))
}

/// Removes what killed processes of this user have left unfinished in a folder.
fn clear_stale(folder: &Path) {
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = item.file_name();
        let middle = name.to_str().and_then(|name| name.strip_prefix(".storgo-")?.strip_suffix(".part"));
        let ours = middle.is_some_and(|hex| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if ours && let Some(_held) = take_stale(&item.path()) {
            drop(remove(&item.path()));
        }
    }
}

/// Something unfinished that nobody works on, locked.
fn take_stale(path: &Path) -> Option<fs::File> {
    let meta = path.symlink_metadata().ok()?;
    let old = meta.modified().ok()?.elapsed().ok()? >= STALE;
    let own = meta.uid() == rustix::process::geteuid().as_raw() && (meta.is_file() || meta.is_dir());
    let file = (old && own).then(|| fs::File::open(path).ok()).flatten()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Removes a file, a link or a whole folder.
fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

pub(super) fn cannot_write(path: &Path, e: &io::Error) -> NodeError {
    let error = NodeError::io(format_args!("write {}", path.display()), e);
    match path.parent() {
        Some(folder) if e.kind() == io::ErrorKind::NotFound && !folder.exists() => {
            error.hint(format!("make the folder first: mkdir -p {}", folder.display()))
        }
        _ => error,
    }
}

/// Unpacks a folder that arrives as a tar stream; answers with the bytes of its files.
pub(super) async fn run(body: Body, path: &Path, bar: &ProgressBar) -> Result<u64, Failure> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let (path, bar) = (path.to_owned(), bar.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut part = Partial::beside(&path).map_err(Failure::Output)?;
        fs::create_dir(part.path()).map_err(|e| Failure::Output(cannot_write(part.path(), &e)))?;
        part.hold();
        let mut input = Incoming { receiver, current: Bytes::new(), ended: false };
        let bytes = unpack(&mut input, part.path(), &bar)?;
        // The archive's own end is not enough: a stream that broke off between two entries looks the same.
        io::copy(&mut input, &mut io::sink()).map_err(Failure::Input)?;
        part.finish(false).map_err(Failure::Output)?;
        Ok(bytes)
    });
    let mut pieces = body.into_data_stream();
    loop {
        let piece = pieces.next().await.transpose().map_err(io::Error::other);
        let more = matches!(piece, Ok(Some(_)));
        if sender.send(piece).await.is_err() || !more {
            break;
        }
    }
    unpacking.await.unwrap_or_else(|_| Err(Failure::Input(io::Error::other("unpacking failed"))))
}

/// Unpacks into an empty folder. Only regular files and folders are made, so that no entry can lead
/// a later one elsewhere.
fn unpack(input: impl Read, top: &Path, bar: &ProgressBar) -> Result<u64, Failure> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| Failure::Output(cannot_write(&path, &e))
    };
    let mut archive = tar::Archive::new(input);
    let mut total = 0;
    let mut folders = Vec::new();
    for entry in archive.entries().map_err(Failure::Input)? {
        let mut entry = entry.map_err(Failure::Input)?;
        let inside = entry.path().map_err(Failure::Input)?.into_owned();
        let path = top.join(safe(&inside).map_err(Failure::Output)?);
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let mtime = tar_mtime(entry.header()).unwrap_or(0);
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                fs::create_dir_all(&path).map_err(write(&path))?;
                folders.push((path, Traits::new(mtime, mode)));
            }
            tar::EntryType::Regular => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(write(parent))?;
                }
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(&path)
                    .map_err(write(&path))?;
                let len = entry.size();
                let copied = copy(&mut entry, &mut file, &path)?;
                if copied != len {
                    return Err(Failure::Input(io::ErrorKind::UnexpectedEof.into()));
                }
                bar.inc(copied);
                total += copied;
                // A time that the file system does not take is no reason to lose the file.
                drop(file.set_modified(moment(mtime)));
            }
            _ => {
                let message = format!("{} is neither a file nor a folder", inside.display());
                return Err(Failure::Output(NodeError::new(ErrorCode::Integrity, message)));
            }
        }
    }
    for (path, traits) in folders.into_iter().rev() {
        // Only now: a folder without write permission could not have been filled.
        traits.give(&path).map_err(write(&path))?;
    }
    Ok(total)
}

/// Copies, and tells a stream that broke from a disk that is full.
fn copy(input: &mut impl Read, file: &mut fs::File, path: &Path) -> Result<u64, Failure> {
    let mut buf = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match input.read(&mut buf).map_err(Failure::Input)? {
            0 => return Ok(total),
            len => {
                let written = io::Write::write_all(file, &buf[..len]);
                written.map_err(|e| Failure::Output(cannot_write(path, &e)))?;
                total += len as u64;
            }
        }
    }
}

/// A path that stays where it is put.
fn safe(inside: &Path) -> Result<PathBuf, NodeError> {
    let mut path = PathBuf::new();
    for part in inside.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            _ => {
                let message = format!("{:?} leads out of the folder", inside.display().to_string());
                return Err(NodeError::new(ErrorCode::Integrity, message));
            }
        }
    }
    Ok(path)
}

/// Pieces that arrive, as a reader. The end must be said: a sender that goes away is an error.
struct Incoming {
    receiver: tokio::sync::mpsc::Receiver<io::Result<Option<Bytes>>>,
    current: Bytes,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv().transpose()? {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let len = buf.len().min(self.current.len());
        buf[..len].copy_from_slice(&self.current.split_to(len));
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
            // Written by hand: the library refuses to make what a hostile peer would.
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

    fn try_unpack(tar: &[u8]) -> (Result<u64, Failure>, Vec<String>) {
        let dir = tempfile::TempDir::new().expect("a folder");
        let out = dir.path().join("out");
        fs::create_dir(&out).expect("made");
        let result = unpack(tar, &out, &ProgressBar::hidden());
        let outside = fs::read_dir(dir.path()).expect("read").map(|e| e.expect("an entry").file_name());
        (result, outside.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn nothing_is_written_outside() {
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
            assert!(matches!(result, Err(Failure::Output(_))), "{entries:?}");
            assert!(outside.iter().all(|name| name == "out"), "{outside:?}");
            assert!(!Path::new("/tmp/storgo-evil").exists());
        }
        let (result, _) = try_unpack(&tar_of(&[("a", Regular, b"1"), ("a", Regular, b"2")]));
        assert!(matches!(result, Err(Failure::Output(_))), "one name twice");
        let (result, _) = try_unpack(&tar_of(&[("a b/ü", Regular, b"12"), ("c", Directory, b"")]));
        assert!(matches!(result, Ok(2)));
    }
}
