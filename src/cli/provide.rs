//! `provide`: store a file, a folder or stdin.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use axum::{
    body::{Body, Bytes},
    http::Method,
};
use futures::{Stream, StreamExt, stream};
use indicatif::ProgressBar;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{
    Context, Stop,
    args::ProvideOptions,
    client::{Target, escape},
    door::{Door, Need},
    output, run,
};
use crate::{
    http,
    node::{
        ErrorCode, NodeError,
        report::{Placement, PutReport},
    },
};

/// Bytes read at a time.
const PIECE: usize = 512 << 10;
/// How long to wait for the announcement, seconds.
const PLACE_S: u32 = 10;

/// What goes in.
struct Input {
    name: Option<String>,
    query: String,
    size: Option<u64>,
    what: What,
}

enum What {
    Stdin,
    File(PathBuf),
    Folder(Vec<Found>),
}

pub(super) async fn run(context: &Context, path: &Path, options: ProvideOptions) -> Result<(), Stop> {
    let mut stop = run::stop_signal()?;
    let input = {
        let (path, name) = (path.to_owned(), options.name.clone());
        tokio::task::spawn_blocking(move || look_at(&path, name))
            .await
            .map_err(|_| broken("looking at the input"))??
    };
    let door = Door::open(context, Need::Network).await?;
    let stored = tokio::select! {
        stored = store(context, &door, input, &options) => stored,
        _ = stop.recv() => {
            door.close().await;
            return Err(Stop::Interrupted);
        }
    };
    let report = match stored {
        Ok(report) => report,
        Err(error) => {
            door.close().await;
            return Err(error.into());
        }
    };
    output::result(context, &report, |report| format!("{}\n", report.link))?;
    let place = place(context, &door, &report);
    let stays = door.node.is_some() && !options.no_serve;
    tokio::select! {
        placed = place => placed?,
        _ = stop.recv() => {
            door.close().await;
            return Ok(());
        }
    }
    if let Some(node) = door.node.as_ref().filter(|_| stays) {
        // Other commands on this data directory can talk to this node while it stays.
        let addr = http::serve(node, std::net::SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        output::say(context, &format!("serving it until Ctrl-C (API at http://{addr})"));
        stop.recv().await;
    }
    door.close().await;
    Ok(())
}

async fn store(
    context: &Context,
    door: &Door,
    input: Input,
    options: &ProvideOptions,
) -> Result<PutReport, NodeError> {
    let mut query = input.query.clone();
    for (key, value) in [
        ("name", input.name.as_deref()),
        ("public", Some(if options.public { "true" } else { "false" })),
        ("dedup", Some(if options.no_dedup { "false" } else { "true" })),
        // The flag is the node's own setting too; a node that runs elsewhere is told.
        ("chunker", context.settings.get("chunker")),
    ] {
        if let Some(value) = value {
            query.push('&');
            query.push_str(key);
            query.push('=');
            query.push_str(&escape(value));
        }
    }
    let bar = output::progress(context, "sealing", input.size);
    let body = match input.what {
        What::Stdin => {
            Body::from_stream(counted(ReaderStream::with_capacity(tokio::io::stdin(), PIECE), &bar))
        }
        What::File(path) => Body::from_stream(counted(file_stream(&path).await?, &bar)),
        What::Folder(found) => Body::from_stream(counted(tar_stream(found), &bar)),
    };
    let target = Target::path(format!("/api/v1/files?{}", query.trim_start_matches('&')));
    let report: Result<PutReport, NodeError> = door.client.json_body(Method::POST, &target, body).await;
    bar.finish_and_clear();
    let report = report?;
    let rate = bytes_per_s(report.size, bar.elapsed());
    let (size, new) = (output::bytes(report.size), report.new_blocks);
    output::say(context, &format!("sealed {size} in {} blocks ({new} new), {rate}", report.blocks));
    Ok(report)
}

/// The second stage: other nodes are told where the file is.
async fn place(context: &Context, door: &Door, report: &PutReport) -> Result<(), NodeError> {
    let status: crate::node::report::Status =
        door.client.json(Method::GET, &Target::path("/api/v1/status")).await?;
    if status.peers == 0 {
        output::say(context, "placed on this node alone: no peer is connected");
        return Ok(());
    }
    let bar = output::spinner(context, "placing");
    let target = Target::path(format!("/api/v1/files/{}/placement?wait={PLACE_S}", report.cid));
    let placement: Result<Placement, NodeError> = door.client.json(Method::GET, &target).await;
    bar.finish_and_clear();
    match placement? {
        Placement { done: true, announced_to, .. } => {
            output::say(context, &format!("placed: {announced_to} peers know that this node has it"));
        }
        Placement { .. } => {
            output::say(context, "placed on this node; telling the others goes on in the background");
        }
    }
    Ok(())
}

pub(super) fn bytes_per_s(bytes: u64, took: std::time::Duration) -> String {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    format!("{}/s", output::bytes(bytes.saturating_mul(1000) / millis))
}

fn counted<S: Stream<Item = io::Result<Bytes>>>(
    input: S,
    bar: &ProgressBar,
) -> impl Stream<Item = io::Result<Bytes>> + use<S> {
    let bar = bar.clone();
    input.inspect(move |piece| {
        if let Ok(bytes) = piece {
            bar.inc(bytes.len() as u64);
        }
    })
}

async fn file_stream(path: &Path) -> Result<ReaderStream<impl AsyncRead + use<>>, NodeError> {
    let mut file = tokio::fs::File::open(path).await.map_err(|e| unreadable(path, &e))?;
    file.set_max_buf_size(PIECE);
    Ok(ReaderStream::with_capacity(file, PIECE))
}

fn unreadable(path: &Path, e: &io::Error) -> NodeError {
    let code = if e.kind() == io::ErrorKind::NotFound { ErrorCode::NotFound } else { ErrorCode::Other };
    NodeError::new(code, format!("cannot read {}: {e}", path.display()))
}

fn broken(what: &str) -> NodeError {
    NodeError::new(ErrorCode::Other, format!("{what} failed"))
}

fn look_at(path: &Path, name: Option<String>) -> Result<Input, NodeError> {
    if path == Path::new("-") {
        return Ok(Input { name, query: String::new(), size: None, what: What::Stdin });
    }
    let meta = fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    let own_name = || {
        // `.` and `..` have no name of their own.
        let full = path.canonicalize().ok()?;
        full.file_name()?.to_str().map(String::from)
    };
    let name =
        name.or_else(|| path.file_name().and_then(|name| name.to_str()).map(String::from)).or_else(own_name);
    let query = format!("mtime={}&mode={}", mtime(&meta), meta.permissions().mode() & 0o7777);
    if meta.is_dir() {
        let found = walk(path)?;
        let size = found.iter().map(|item| item.size).sum();
        let query = format!("{query}&tree=true");
        return Ok(Input { name, query, size: Some(size), what: What::Folder(found) });
    }
    if !meta.is_file() {
        return Err(NodeError::new(
            ErrorCode::BadRequest,
            format!("{} is neither a file nor a folder", path.display()),
        )
        .hint("pipe it in: storgo-node provide - < FILE"));
    }
    Ok(Input { name, query, size: Some(meta.len()), what: What::File(path.into()) })
}

fn mtime(meta: &fs::Metadata) -> i64 {
    let time = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

/// Something inside a folder.
struct Found {
    path: PathBuf,
    inside: PathBuf,
    dir: bool,
    size: u64,
    mtime: i64,
    mode: u32,
}

/// Lists a folder, names in order. Symbolic links are followed; one that leads back into itself is an error.
fn walk(top: &Path) -> Result<Vec<Found>, NodeError> {
    let mut found = Vec::new();
    let mut above = HashSet::new();
    enter(top, Path::new(""), &mut above, &mut found)?;
    Ok(found)
}

fn enter(
    path: &Path,
    inside: &Path,
    above: &mut HashSet<(u64, u64)>,
    found: &mut Vec<Found>,
) -> Result<(), NodeError> {
    let meta = fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    let id = (meta.dev(), meta.ino());
    if !above.insert(id) {
        let message = format!("{} leads back to a folder that it is in", path.display());
        return Err(NodeError::new(ErrorCode::BadRequest, message)
            .hint("remove the symbolic link that makes the loop"));
    }
    let mut items: Vec<_> =
        fs::read_dir(path).and_then(Iterator::collect::<io::Result<_>>).map_err(|e| unreadable(path, &e))?;
    items.sort_by_key(fs::DirEntry::file_name);
    for item in items {
        let (path, inside) = (item.path(), inside.join(item.file_name()));
        let meta = fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        let (dir, mode) = (meta.is_dir(), meta.permissions().mode() & 0o7777);
        if !dir && !meta.is_file() {
            let message = format!("{} is neither a file nor a folder", path.display());
            return Err(NodeError::new(ErrorCode::BadRequest, message));
        }
        let size = if dir { 0 } else { meta.len() };
        found.push(Found {
            path: path.clone(),
            inside: inside.clone(),
            dir,
            size,
            mtime: mtime(&meta),
            mode,
        });
        if dir {
            enter(&path, &inside, above, found)?;
        }
    }
    above.remove(&id);
    Ok(())
}

/// A folder as a tar stream, made on a thread that may block.
fn tar_stream(found: Vec<Found>) -> impl Stream<Item = io::Result<Bytes>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe { sender: sender.clone(), buf: Vec::with_capacity(PIECE) };
        if let Err(e) = write_tar(found, pipe) {
            drop(sender.blocking_send(Err(e)));
        }
    });
    stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) },
    )
}

fn write_tar(found: Vec<Found>, pipe: Pipe) -> io::Result<()> {
    let mut tar = tar::Builder::new(pipe);
    for item in found {
        let mut header = tar::Header::new_gnu();
        header.set_mode(item.mode);
        header.set_mtime(u64::try_from(item.mtime).unwrap_or(0));
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", item.path.display()));
        if item.dir {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, &item.inside, io::empty()).map_err(named)?;
        } else {
            header.set_size(item.size);
            let file = fs::File::open(&item.path).map_err(named)?;
            // A file that grows meanwhile is stored as long as it was; one that shrinks breaks the stream below.
            let mut exact = Exact { input: io::Read::take(file, item.size), left: item.size };
            tar.append_data(&mut header, &item.inside, &mut exact).map_err(named)?;
        }
    }
    tar.into_inner()?.flush()
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
