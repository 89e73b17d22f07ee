//! Packs a folder as a tar stream.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::body::Bytes;
use futures::{Stream, stream};
use tokio::sync::mpsc;

use super::{
    beneath::Beneath,
    input_errors::{InputErrors, PIECE, unreadable},
    walk::Entry,
};
use crate::node::set_tar_mtime;

/// Bytes at the start of a file that are read before its header is written.
const START: usize = 1 << 20;

/// Returns the entries of the folder `top` as a tar stream, which a blocking thread produces.
pub(super) fn tar_stream(
    top: PathBuf,
    entries: Arc<Vec<Entry>>,
    errors: &InputErrors,
) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let (sender, receiver) = mpsc::channel(4);
    let errors = errors.clone();
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe { sender: sender.clone(), buf: Vec::with_capacity(PIECE) };
        if let Err(e) = write_tar(&top, &entries, pipe, &errors) {
            // A broken pipe means that the request has failed, which is reported elsewhere.
            if e.kind() != io::ErrorKind::BrokenPipe {
                errors.set_failed(unreadable(&top, &e));
            }
            drop(sender.blocking_send(Err(e)));
        }
    });
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|piece| (piece, receiver)))
}

fn write_tar(top: &Path, entries: &[Entry], pipe: Pipe, errors: &InputErrors) -> io::Result<()> {
    let mut tar = tar::Builder::new(pipe);
    let mut root = Beneath::open(Path::new("/"))?;
    let mut start = Vec::with_capacity(START);
    for entry in entries {
        append(&mut tar, &mut root, &top.join(&entry.name), entry, &mut start, errors)?;
    }
    tar.into_inner().and_then(|mut pipe| pipe.flush())
}

/// Appends one item. An item of which nothing can be read is skipped.
///
/// The header needs the length, and what a file system says about it may be wrong, or not true any more. So the start of
/// a file is read first: most files end there. `start` is the memory for it.
fn append(
    tar: &mut tar::Builder<Pipe>,
    root: &mut Beneath,
    path: &Path,
    entry: &Entry,
    start: &mut Vec<u8>,
    errors: &InputErrors,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    set_tar_mtime(&mut header, entry.version.mtime.0);
    if entry.is_folder {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        return tar.append_data(&mut header, &entry.name, io::empty());
    }
    start.clear();
    let opened = root.file(&entry.real).and_then(|file| {
        (&file).take(START as u64).read_to_end(start)?;
        let claimed = file.metadata()?.len();
        let rest = match claimed.checked_sub(START as u64) {
            _ if start.len() < START => 0,
            Some(rest @ 1..) => rest,
            _ => count_rest(&file)?,
        };
        Ok((file, rest))
    });
    let (file, rest) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            errors.skip(path, format!("cannot read it: {e}"));
            return Ok(());
        }
    };
    header.set_size(start.len() as u64 + rest);
    let mut input = ExactReader { input: (&file).take(rest), left: rest, path, errors };
    tar.append_data(&mut header, &entry.name, start.as_slice().chain(&mut input))?;
    // A long file that grows is stored with its old length.
    if rest > 0 && (&file).read(&mut [0]).is_ok_and(|more| more > 0) {
        errors.set_changed(path);
    } else {
        errors.check_unchanged(path, entry.version, file.metadata());
    }
    Ok(())
}

/// Counts the bytes behind the start of a file whose file system says that there are none.
fn count_rest(mut file: &fs::File) -> io::Result<u64> {
    let rest = io::copy(&mut file, &mut io::sink())?;
    file.seek(SeekFrom::Start(START as u64))?;
    Ok(rest)
}

/// A reader that fails if its input ends early or cannot be read, and notes why.
struct ExactReader<'a, R> {
    input: R,
    left: u64,
    path: &'a Path,
    errors: &'a InputErrors,
}

impl<R: Read> Read for ExactReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = match self.input.read(buf) {
            Ok(0) if self.left > 0 && !buf.is_empty() => {
                let error = "the file became shorter while it was read";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, error))
            }
            read => read,
        };
        match &read {
            Ok(len) => self.left -= *len as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => self.errors.set_broken(self.path, format!("cannot read it: {e}")),
        }
        read
    }
}

/// Writes to a channel, in pieces.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buf: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buf, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio_util::sync::CancellationToken;

    use super::{super::walk::walk, *};

    /// Packs a folder, and calls `meanwhile` after the first piece: then at most five more are under way.
    async fn pack(top: &Path, meanwhile: impl FnOnce()) -> (Vec<u8>, InputErrors) {
        let errors = InputErrors::default();
        let entries = walk(top, false, &CancellationToken::new()).expect("walked").entries;
        let mut stream = std::pin::pin!(tar_stream(top.into(), Arc::new(entries), &errors));
        let mut bytes = stream.next().await.expect("a piece").expect("read").to_vec();
        meanwhile();
        while let Some(Ok(piece)) = stream.next().await {
            bytes.extend_from_slice(&piece);
        }
        (bytes, errors)
    }

    fn resize(file: &Path, len: u64) {
        let file = fs::File::options().write(true).open(file).expect("opened");
        file.set_len(len).expect("resized");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_shrinks_is_named_so_that_the_rest_can_be_stored_without_it() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let log = dir.path().join("log");
        fs::write(&log, vec![7; 20 << 20]).expect("written");
        let (_, errors) = pack(dir.path(), || resize(&log, 9 << 20)).await;
        let broken = errors.take_broken().expect("named");
        assert_eq!(
            (broken.path, broken.why.as_str()),
            (log, "cannot read it: the file became shorter while it was read")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_grows_is_stored_with_its_old_length_and_named() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let log = dir.path().join("log");
        fs::write(&log, vec![7; 20 << 20]).expect("written");
        let (bytes, errors) = pack(dir.path(), || resize(&log, 21 << 20)).await;
        let mut archive = tar::Archive::new(&bytes[..]);
        let sizes: Vec<u64> =
            archive.entries().expect("a tar").map(|entry| entry.expect("whole").size()).collect();
        assert_eq!((sizes, errors.take_changed()), (vec![20 << 20], vec![log]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_vanishes_before_it_is_read_is_skipped() {
        let dir = tempfile::TempDir::new().expect("a folder");
        fs::write(dir.path().join("a"), vec![7; 20 << 20]).expect("written");
        let gone = dir.path().join("b");
        fs::write(&gone, b"x").expect("written");
        let (bytes, errors) = pack(dir.path(), || fs::remove_file(&gone).expect("removed")).await;
        let mut archive = tar::Archive::new(&bytes[..]);
        assert_eq!(archive.entries().expect("a tar").count(), 1);
        let skipped: Vec<_> = errors.take_skipped().into_iter().map(|item| item.path).collect();
        assert_eq!(skipped, [gone]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_takes_the_place_of_a_file_or_folder_is_not_stored() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        for folder in ["outside", "top", "top/folder"] {
            fs::create_dir(path(folder)).expect("made");
        }
        fs::write(path("top/a"), vec![7; 20 << 20]).expect("written");
        for file in ["outside/f", "top/file", "top/folder/f", "top/pipe"] {
            fs::write(path(file), b"x").expect("written");
        }
        let swap = || {
            fs::remove_dir_all(path("top/folder")).expect("removed");
            symlink(path("outside"), path("top/folder")).expect("made");
            fs::remove_file(path("top/file")).expect("removed");
            symlink(path("outside/f"), path("top/file")).expect("made");
            fs::remove_file(path("top/pipe")).expect("removed");
            let made = std::process::Command::new("mkfifo").arg(path("top/pipe")).status();
            assert!(made.expect("mkfifo").success());
        };
        let (bytes, errors) = pack(&path("top"), swap).await;
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<_> = archive
            .entries()
            .expect("a tar")
            .map(|entry| entry.expect("whole").path().expect("a path").into_owned())
            .collect();
        assert_eq!(names, ["a", "folder"].map(PathBuf::from));
        let skipped = errors.take_skipped();
        let paths: Vec<_> = skipped.iter().map(|item| item.path.clone()).collect();
        assert_eq!(paths, ["top/file", "top/folder/f", "top/pipe"].map(path));
        assert!(skipped.iter().all(|item| item.why.contains("took its place")), "{skipped:?}");
    }
}
