//! The input of `provide`: a file, a folder as a tar stream, or stdin.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use tokio_util::{io::ReaderStream, sync::CancellationToken};

use super::{
    beneath::open_regular,
    client::secret_kind,
    error::CliError,
    input_errors::{FileVersion, InputErrors, PIECE, Skipped, unreadable},
    tar_writer::tar_stream,
    walk::{Entry, Walk, is_data_dir, walk},
};

pub(super) struct Input {
    /// As the user named it.
    pub(super) path: PathBuf,
    pub(super) name: Option<String>,
    /// Time, permissions and kind, as query parameters of the API.
    pub(super) query: String,
    /// Total length of its files, if known.
    pub(super) size: Option<u64>,
    /// Items of a folder that are not stored.
    pub(super) skipped: Vec<Skipped>,
    source: Source,
}

enum Source {
    Stdin,
    File(PathBuf, FileVersion),
    Folder(Arc<Vec<Entry>>),
}

impl Input {
    /// Examines a path without reading it; `-` is stdin. `follow`: also symbolic links that lead out of a folder.
    pub(super) fn examine(
        path: &Path,
        name: Option<String>,
        follow: bool,
        stop: &CancellationToken,
    ) -> Result<Self, CliError> {
        let mut input = Self {
            path: path.into(),
            name,
            query: String::new(),
            size: None,
            skipped: Vec::new(),
            source: Source::Stdin,
        };
        if path == Path::new("-") {
            if !is_stdin_open() {
                return Err(CliError::bad_request("standard input is closed, nothing to store")
                    .hint("pipe something in, or name a file"));
            }
            return Ok(input);
        }
        let meta = fs::metadata(path).map_err(|e| not_there(path, &e))?;
        input.name = input.name.or_else(|| own_name(path));
        input.query = format!("mtime={}&mode={:o}", meta.mtime(), meta.permissions().mode() & 0o7777);
        if meta.is_dir() {
            if is_data_dir(path) {
                let message =
                    format!("{} is the data directory of a node and contains its keys", path.display());
                return Err(CliError::bad_request(message).hint(
                    "`storgo-node key backup` saves the keys; the files stored there have links already",
                ));
            }
            let Walk { entries, skipped, .. } = walk(path, follow, stop)?;
            input.query.push_str("&tree=true");
            input.size = Some(entries.iter().map(|entry| entry.size).sum());
            input.skipped = skipped;
            input.source = Source::Folder(Arc::new(entries));
        } else if meta.is_file() {
            input.size = Some(meta.len());
            input.source = Source::File(path.into(), FileVersion::of(&meta));
        } else {
            let message = format!("{} is neither a file nor a folder", path.display());
            return Err(CliError::bad_request(message).hint("pipe it in: `storgo-node provide - < FILE`"));
        }
        Ok(input)
    }

    /// Leaves an item out of a folder.
    pub(super) fn leave_out(&mut self, path: &Path) {
        if let Source::Folder(entries) = &mut self.source {
            Arc::make_mut(entries).retain(|entry| self.path.join(&entry.name) != path);
        }
    }

    /// Opens the input as the body of a request.
    pub(super) fn body(&self, bar: &ProgressBar) -> Result<(Body, InputErrors), CliError> {
        let errors = InputErrors::default();
        let body = match &self.source {
            Source::Stdin => {
                let stdin = ReaderStream::with_capacity(tokio::io::stdin(), PIECE);
                monitored(stdin, bar, &errors, Path::new("stdin"))
            }
            Source::File(path, version) => {
                let mut file =
                    tokio::fs::File::from_std(open_regular(path).map_err(|e| unreadable(path, &e))?);
                file.set_max_buf_size(PIECE);
                let (checked, version, noted) = (path.clone(), *version, errors.clone());
                let check = stream::once(async move {
                    noted.check_unchanged(&checked, version, tokio::fs::metadata(&checked).await);
                    None
                });
                let pieces = ReaderStream::with_capacity(file, PIECE).map(Some).chain(check);
                monitored(pieces.filter_map(std::future::ready), bar, &errors, path)
            }
            Source::Folder(entries) => {
                let stream = tar_stream(self.path.clone(), Arc::clone(entries), &errors);
                monitored(stream, bar, &errors, &self.path)
            }
        };
        Ok((body, errors))
    }
}

fn not_there(path: &Path, e: &io::Error) -> CliError {
    let error = unreadable(path, e);
    if e.kind() != io::ErrorKind::NotFound {
        return error;
    }
    if let Some(kind) = path.to_str().and_then(secret_kind) {
        return CliError::bad_request(format!("this is {kind}, and `provide` takes files and folders")).hint(
            "`storgo-node get LINK` reads what a link names, `storgo-node join INVITE` takes an invite",
        );
    }
    match std::env::current_dir() {
        Ok(dir) if path.is_relative() => {
            error.hint(format!("check its spelling; it was looked for in {}", dir.display()))
        }
        _ => error,
    }
}

/// Advances the progress bar and notes the error that ends the stream.
fn monitored(
    input: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    bar: &ProgressBar,
    errors: &InputErrors,
    path: &Path,
) -> Body {
    let (bar, errors, path) = (bar.clone(), errors.clone(), path.to_owned());
    Body::from_stream(input.inspect(move |piece| match piece {
        Ok(bytes) => bar.inc(bytes.len() as u64),
        Err(e) => errors.set_failed(unreadable(&path, e)),
    }))
}

/// The file name of a path; that of the folder it refers to for `.` and `..`. `None` if it is not UTF-8.
fn own_name(path: &Path) -> Option<String> {
    let name = |path: &Path| path.file_name()?.to_str().map(String::from);
    name(path).or_else(|| name(&path.canonicalize().ok()?))
}

/// Whether the process has a standard input.
///
/// If it is closed, Rust opens `/dev/null` for reading and writing in its place. A shell that redirects stdin from
/// `/dev/null` opens it for reading only.
fn is_stdin_open() -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fstat};

    let stdin = io::stdin();
    let (Ok(flags), Ok(stat), Ok(null)) = (fcntl_getfl(&stdin), fstat(&stdin), fs::metadata("/dev/null"))
    else {
        return false;
    };
    !(flags.contains(OFlags::RDWR) && stat.st_ino == null.ino() && stat.st_rdev == null.rdev())
}
