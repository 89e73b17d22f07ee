//! What is to be stored, as a stream: a file, a folder as tar, or stdin.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use tokio_util::io::ReaderStream;

use crate::node::{
    ErrorCode, NodeError,
    identity::{self, IDENTITY_FILE},
    set_tar_mtime,
};

/// Longer than any file with an identity.
const MAX_IDENTITY: u64 = 4096;

/// Bytes read at a time.
const PIECE: usize = 512 << 10;

/// What goes in.
pub(super) struct Input {
    /// Its own name, or the one that was given.
    pub(super) name: Option<String>,
    /// What else is known of it, as the API takes it.
    pub(super) query: String,
    /// Bytes of its files, where known.
    pub(super) size: Option<u64>,
    /// What is in a folder and is not stored: pipes, sockets, devices, symbolic links to nothing, data directories.
    pub(super) skipped: Vec<PathBuf>,
    what: What,
}

enum What {
    Stdin,
    File(PathBuf, Stamp),
    Folder(Vec<Found>),
}

/// What changes with every write to a file, also with one that sets its time back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Self { len: meta.len(), mtime, ctime }
    }
}

/// What went wrong with the input. Whoever takes the stream learns only that it broke off, or nothing at all.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Troubles>>);

#[derive(Default)]
struct Troubles {
    broken: Option<NodeError>,
    changed: Vec<PathBuf>,
}

impl Trouble {
    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: NodeError) {
        self.lock().broken.get_or_insert(error);
    }

    /// Notes a file that is no longer what it was when it was looked at. One that is gone was read to its end.
    fn compare(&self, path: &Path, before: Stamp, now: io::Result<fs::Metadata>) {
        if now.is_ok_and(|now| Stamp::of(&now) != before) {
            self.lock().changed.push(path.into());
        }
    }

    /// Why it could not be read to its end.
    pub(super) fn take(&self) -> Option<NodeError> {
        self.lock().broken.take()
    }

    /// Files that somebody wrote to meanwhile.
    pub(super) fn changed(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.lock().changed)
    }
}

impl Input {
    /// How many bytes a plain file must come to, unless somebody writes to it. Files that the kernel makes up say 0.
    pub(super) fn expected(&self) -> Option<u64> {
        self.size.filter(|size| matches!(self.what, What::File(..)) && *size > 0)
    }

    /// The bytes, as the body of a request.
    pub(super) async fn body(self, bar: &ProgressBar) -> Result<(Body, Trouble), NodeError> {
        let trouble = Trouble::default();
        let body = match self.what {
            What::Stdin => {
                let stdin = ReaderStream::with_capacity(tokio::io::stdin(), PIECE);
                watched(stdin, bar, &trouble, Path::new("stdin"))
            }
            What::File(path, before) => {
                let mut file = tokio::fs::File::open(&path).await.map_err(|e| unreadable(&path, &e))?;
                file.set_max_buf_size(PIECE);
                let (place, noted) = (path.clone(), trouble.clone());
                let compare = stream::once(async move {
                    // What the kernel makes up has no length and any time.
                    if before.len > 0 {
                        noted.compare(&place, before, tokio::fs::metadata(&place).await);
                    }
                    None
                });
                let pieces = ReaderStream::with_capacity(file, PIECE).map(Some).chain(compare);
                watched(pieces.filter_map(std::future::ready), bar, &trouble, &path)
            }
            What::Folder(found) => {
                watched(tar_stream(found, &trouble), bar, &trouble, Path::new("the folder"))
            }
        };
        Ok((body, trouble))
    }
}

fn watched(
    input: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    bar: &ProgressBar,
    trouble: &Trouble,
    path: &Path,
) -> Body {
    let (bar, trouble, path) = (bar.clone(), trouble.clone(), path.to_owned());
    Body::from_stream(input.inspect(move |piece| match piece {
        Ok(bytes) => bar.inc(bytes.len() as u64),
        Err(e) => trouble.note(unreadable(&path, e)),
    }))
}

fn unreadable(path: &Path, e: &io::Error) -> NodeError {
    let error = NodeError::io(format_args!("read {}", path.display()), e);
    if e.kind() == io::ErrorKind::NotFound { NodeError { code: ErrorCode::NotFound, ..error } } else { error }
}

/// Looks at what is to be stored. Nothing is read yet.
pub(super) fn look_at(path: &Path, name: Option<String>) -> Result<Input, NodeError> {
    if path == Path::new("-") {
        if !is_stdin_open() {
            let error =
                NodeError::new(ErrorCode::BadRequest, "standard input is closed: there is nothing to store");
            return Err(error.hint("pipe something in, or name a file"));
        }
        let skipped = Vec::new();
        return Ok(Input { name, query: String::new(), size: None, skipped, what: What::Stdin });
    }
    let meta = fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    let own_name = || {
        // `.` and `..` have no name of their own.
        let full = path.canonicalize().ok()?;
        full.file_name()?.to_str().map(String::from)
    };
    let name =
        name.or_else(|| path.file_name().and_then(|name| name.to_str()).map(String::from)).or_else(own_name);
    let query = format!("mtime={}&mode={:o}", meta.mtime(), meta.permissions().mode() & 0o7777);
    if meta.is_dir() {
        if is_data_dir(path) {
            let message =
                format!("{} is a node's data directory: its keys are for nobody else", path.display());
            return Err(NodeError::new(ErrorCode::BadRequest, message)
                .hint("`storgo-node key backup` saves them; what is stored there is read by its links"));
        }
        let Walk { found, skipped, .. } = walk(path)?;
        let size = found.iter().map(|item| item.size).sum();
        let query = format!("{query}&tree=true");
        return Ok(Input { name, query, size: Some(size), skipped, what: What::Folder(found) });
    }
    if !meta.is_file() {
        return Err(NodeError::new(
            ErrorCode::BadRequest,
            format!("{} is neither a file nor a folder", path.display()),
        )
        .hint("pipe it in: storgo-node provide - < FILE"));
    }
    let size = Some(meta.len());
    Ok(Input { name, query, size, skipped: Vec::new(), what: What::File(path.into(), Stamp::of(&meta)) })
}

/// Whether a path's own name is text, as names of files are here.
pub(super) fn is_text(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.to_str().is_some())
}

/// Whether a folder is where a node keeps its keys.
pub(super) fn is_data_dir(path: &Path) -> bool {
    let has = |name| path.join(name).symlink_metadata().is_ok();
    // One that was made and never started has the key alone.
    has(IDENTITY_FILE) && (has("lock") || has("version") || holds_identity(&path.join(IDENTITY_FILE)))
}

fn holds_identity(file: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(MAX_IDENTITY).read_to_end(&mut bytes));
    read.is_ok() && identity::decode(&bytes).is_some()
}

/// Whether there is a standard input. Where none was given, Rust puts `/dev/null` in its place, open for reading and
/// writing: what is redirected from there by a shell is open for reading alone.
fn is_stdin_open() -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fstat};

    let stdin = io::stdin();
    let (Ok(flags), Ok(stat), Ok(null)) = (fcntl_getfl(&stdin), fstat(&stdin), fs::metadata("/dev/null"))
    else {
        return false;
    };
    !(flags.contains(OFlags::RDWR) && stat.st_ino == null.ino() && stat.st_rdev == null.rdev())
}

/// Something inside a folder.
struct Found {
    path: PathBuf,
    inside: PathBuf,
    dir: bool,
    size: u64,
    mode: u32,
    stamp: Stamp,
}

/// A way through a folder.
#[derive(Default)]
struct Walk {
    found: Vec<Found>,
    skipped: Vec<PathBuf>,
    /// The folders that it is in now.
    above: HashSet<(u64, u64)>,
}

/// A folder whose entries are being looked at.
struct Open {
    path: PathBuf,
    inside: PathBuf,
    id: (u64, u64),
    names: std::vec::IntoIter<OsString>,
}

/// Lists a folder, names in order. Symbolic links are followed; one that leads back into itself is an error. Without recursion:
/// a thread's stack is shorter than folders may be deep.
fn walk(top: &Path) -> Result<Walk, NodeError> {
    let mut walk = Walk::default();
    let mut open = vec![walk.enter(top.into(), PathBuf::new())?];
    while let Some(folder) = open.last_mut() {
        if let Some(name) = folder.names.next() {
            let (path, inside) = (folder.path.join(&name), folder.inside.join(&name));
            if walk.look_at(&path, &inside)? {
                open.push(walk.enter(path, inside)?);
            }
        } else {
            walk.above.remove(&folder.id);
            open.pop();
        }
    }
    Ok(walk)
}

impl Walk {
    fn enter(&mut self, path: PathBuf, inside: PathBuf) -> Result<Open, NodeError> {
        let meta = fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        let id = (meta.dev(), meta.ino());
        if !self.above.insert(id) {
            let message = format!("{} leads back to a folder that it is in", path.display());
            return Err(NodeError::new(ErrorCode::BadRequest, message)
                .hint("remove the symbolic link that makes the loop"));
        }
        let names = fs::read_dir(&path).and_then(|items| items.map(|item| Ok(item?.file_name())).collect());
        let mut names: Vec<OsString> = names.map_err(|e| unreadable(&path, &e))?;
        names.sort_unstable();
        Ok(Open { path, inside, id, names: names.into_iter() })
    }

    /// Notes what is there; answers whether it is a folder.
    fn look_at(&mut self, path: &Path, inside: &Path) -> Result<bool, NodeError> {
        // Names in a folder are text, wherever it is read.
        if !is_text(inside) {
            self.skipped.push(path.into());
            return Ok(false);
        }
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            // A link to nothing has no bytes, as little as a pipe: everything else in the folder has.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
                self.skipped.push(path.into());
                return Ok(false);
            }
            Err(e) => {
                let error = unreadable(path, &e);
                return Err(match fs::read_link(path) {
                    Ok(target) => error
                        .hint(format!("it is a symbolic link to {}; mend or remove it", target.display())),
                    Err(_) => error,
                });
            }
        };
        let (dir, mode) = (meta.is_dir(), meta.permissions().mode() & 0o7777);
        if (!dir && !meta.is_file()) || (dir && is_data_dir(path)) {
            self.skipped.push(path.into());
            return Ok(false);
        }
        let size = if dir { 0 } else { meta.len() };
        let (path, inside, stamp) = (path.into(), inside.into(), Stamp::of(&meta));
        self.found.push(Found { path, inside, dir, size, mode, stamp });
        Ok(dir)
    }
}

/// A folder as a tar stream, made on a thread that may block.
fn tar_stream(found: Vec<Found>, trouble: &Trouble) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let trouble = trouble.clone();
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe { sender: sender.clone(), buf: Vec::with_capacity(PIECE) };
        if let Err((path, e)) = write_tar(found, pipe, &trouble) {
            // Nobody reads any more: that has another reason, which is known elsewhere.
            if e.kind() != io::ErrorKind::BrokenPipe {
                trouble.note(unreadable(&path, &e));
            }
            drop(sender.blocking_send(Err(e)));
        }
    });
    stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) },
    )
}

fn write_tar(found: Vec<Found>, pipe: Pipe, trouble: &Trouble) -> Result<(), (PathBuf, io::Error)> {
    let mut tar = tar::Builder::new(pipe);
    for item in found {
        append(&mut tar, &item, trouble).map_err(|e| (item.path, e))?;
    }
    let done = tar.into_inner().and_then(|mut pipe| pipe.flush());
    done.map_err(|e| (PathBuf::from("the folder"), e))
}

fn append(tar: &mut tar::Builder<Pipe>, item: &Found, trouble: &Trouble) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(item.mode);
    set_tar_mtime(&mut header, item.stamp.mtime.0);
    if item.dir {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        return tar.append_data(&mut header, &item.inside, io::empty());
    }
    header.set_size(item.size);
    let file = fs::File::open(&item.path)?;
    // A file that grows meanwhile is stored as long as it was; one that shrinks breaks the stream below.
    let mut exact = Exact { input: io::Read::take(&file, item.size), left: item.size };
    tar.append_data(&mut header, &item.inside, &mut exact)?;
    trouble.compare(&item.path, item.stamp, file.metadata());
    Ok(())
}

/// A reader that must yield as many bytes as it said.
struct Exact<R> {
    input: R,
    left: u64,
}

impl<R: io::Read> io::Read for Exact<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buf)?;
        self.left -= len as u64;
        if len == 0 && self.left > 0 && !buf.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(len)
    }
}

/// Writes into a channel, in pieces.
struct Pipe {
    sender: tokio::sync::mpsc::Sender<io::Result<Bytes>>,
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
        let full = std::mem::replace(&mut self.buf, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(full.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_folders_need_no_deep_stack() {
        const DEEP: usize = 2000;
        let top = tempfile::TempDir::new().expect("a folder");
        let mut deepest = top.path().to_owned();
        for _ in 0..DEEP {
            deepest.push("d");
            fs::create_dir(&deepest).expect("made");
        }
        fs::write(deepest.join("f"), b"abc").expect("written");
        let path = top.path().to_owned();
        let walked =
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || walk(&path).map(|w| w.found));
        let found = walked.expect("a thread").join().expect("no panic").expect("walked");
        assert_eq!((found.len(), found[DEEP].inside.components().count()), (DEEP + 1, DEEP + 1));
        // From below: what removes a whole folder goes down into it.
        fs::remove_file(deepest.join("f")).expect("removed");
        for folder in deepest.ancestors().take(DEEP) {
            fs::remove_dir(folder).expect("removed");
        }
    }

    #[test]
    fn a_folder_that_is_there_twice_is_stored_twice_and_a_loop_is_refused() {
        let top = tempfile::TempDir::new().expect("a folder");
        let path = |name: &str| top.path().join(name);
        fs::create_dir(path("b")).expect("made");
        fs::write(path("b/f"), b"abc").expect("written");
        for link in ["a", "c"] {
            std::os::unix::fs::symlink("b", path(link)).expect("made");
        }
        let inside: Vec<_> =
            walk(top.path()).expect("walked").found.into_iter().map(|item| item.inside).collect();
        assert_eq!(inside, ["a", "a/f", "b", "b/f", "c", "c/f"].map(PathBuf::from));
        std::os::unix::fs::symlink("..", path("b/up")).expect("made");
        assert!(walk(top.path()).is_err_and(|error| error.message.contains("leads back")));
    }
}
