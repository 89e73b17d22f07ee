//! `get`: read a file or folder.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{Method, Response, header},
};
use futures::{StreamExt, stream, stream::BoxStream};
use indicatif::ProgressBar;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{
    Context, Stop,
    args::GetOptions,
    attributes::Attributes,
    client::{Client, Endpoint, escape, request_id},
    connection::{Connection, Network},
    destination::{CreatedFolder, Destination, Partial, cannot_write},
    error::CliError,
    files,
    output::{self, bytes_per_s},
    sanitize::sanitize,
    tar_reader::{UnpackError, Unpacker},
};
use crate::{
    config::{Origin, parse_duration},
    http::{KIND_HEADER, TIMEOUT_HEADER},
    node::{
        ErrorCode, NodeError, Reason,
        report::{LeftOut, Status},
    },
    store::DirectFile,
};

/// Pieces of the response that may wait for the writer.
const QUEUED_PIECES: usize = 16;
/// How long to wait for a response before telling the user what the command is waiting for.
const SILENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(context: &Context, reference: &str, options: GetOptions) -> Result<(), Stop> {
    Destination::check(options.output.as_deref(), options.force)?;
    let connection = Connection::open(context, Network::Online).await?;
    let result = get(context, &connection.client, reference, options).await;
    connection.close().await;
    result
}

async fn get(context: &Context, client: &Client, reference: &str, options: GetOptions) -> Result<(), Stop> {
    let timeout = explicit_timeout(context).and_then(|text| parse_duration(text).ok());
    let timeout = timeout.map(|timeout| timeout.as_secs_f64().to_string());
    let range = options.range.as_deref().map(range_header).transpose()?;
    let request = Content { client, reference, timeout, range };
    let spinner = output::spinner(context, "looking");
    let response = tokio::select! {
        response = request.send(None) => response,
        never = explain_wait(context, client, &spinner) => match never {},
    };
    spinner.finish_and_clear();
    let response = match response {
        Ok(response) => response,
        Err(error) => return Err(client.explain_foreign_cluster(error).await.into()),
    };
    let is_folder = response.headers().get(KIND_HEADER).is_some_and(|kind| kind == "dir");
    if is_folder && request.range.is_some() {
        return Err(CliError::bad_request("--range works on files, and this is a folder").into());
    }
    files::mention_older(context, client, reference).await;
    let started = Instant::now();
    // A range is a new file: it has neither the time nor the permissions of the whole.
    let attributes = if request.range.is_none() {
        Attributes::from_headers(response.headers())
    } else {
        Attributes::default()
    };
    let created = options.output.as_deref().filter(|_| !is_folder).and_then(CreatedFolder::create);
    let _created = created.transpose()?;
    let force = options.force;
    let id = request_id(&response);
    let mut left_out = None;
    let download = Download::new(context, &request, response, attributes);
    let (bytes, path) =
        match Destination::resolve(client, reference, options.output, is_folder, force).await? {
            Destination::Stdout => (download.write_stdout().await?, None),
            Destination::Device(path) => (download.write_device(&path).await?, Some(path)),
            Destination::Path(path) if is_folder => {
                let bytes;
                (bytes, left_out) = download.write_folder(&path).await?;
                (bytes, Some(path))
            }
            Destination::Path(path) => (download.write_file(&path, force).await?, Some(path)),
        };
    if is_folder && left_out.is_none() {
        left_out = client.noted_error(id.as_deref()).await;
    }
    let rate = bytes_per_s(bytes, started.elapsed());
    let shown = path.as_ref().map_or_else(|| "stdout".into(), |path| sanitize(&path.display().to_string()));
    output::message(context, &format!("wrote {} to {shown}, verified, {rate}", output::bytes(bytes)));
    if context.json
        && let Some(path) = path
    {
        let done = serde_json::json!({ "output": path.display().to_string(), "bytes": bytes });
        output::print(&format!("{done}\n"))?;
    }
    let Some(error) = left_out else { return Ok(()) };
    for LeftOut { path, error } in &error.left_out {
        output::message(context, &format!("left out {}: {error}", sanitize(path)));
    }
    Err(error.into())
}

/// The request for the content of a file or folder.
struct Content<'a> {
    client: &'a Client,
    reference: &'a str,
    timeout: Option<String>,
    range: Option<String>,
}

impl Content<'_> {
    /// Sends the request; of a folder, for what follows the entry `after`.
    async fn send(&self, after: Option<&str>) -> Result<Response<Body>, CliError> {
        let mut headers = Vec::new();
        headers.extend(self.timeout.as_deref().map(|timeout| (TIMEOUT_HEADER, timeout)));
        headers.extend(self.range.as_deref().map(|range| (header::RANGE.as_str(), range)));
        let after = after.map_or_else(String::new, |path| format!("?after={}", escape(path)));
        let endpoint = Endpoint::file(self.reference, &format!("/content{after}"))?;
        self.client.send(Method::GET, &endpoint, &headers, Body::empty()).await
    }
}

/// The timeout from a flag or the environment; otherwise the node uses its own.
fn explicit_timeout(context: &Context) -> Option<&str> {
    match context.settings.origin("timeout") {
        Origin::Flag(_) | Origin::Env(_) => context.settings.get("timeout"),
        _ => None,
    }
}

/// After some silence, tells the user what the command is waiting for.
async fn explain_wait(context: &Context, client: &Client, spinner: &ProgressBar) -> std::convert::Infallible {
    tokio::time::sleep(SILENCE).await;
    let message = match client.status().await {
        Ok(Status { peers: 0, outside: Some(addr), .. }) => {
            Some(format!("the node at {addr} belongs to another cluster; waiting for another peer"))
        }
        Ok(Status { peers: 0, .. }) => {
            Some("no peer is connected yet; waiting for one (--bootstrap MULTIADDR adds one)".into())
        }
        _ if spinner.is_hidden() => {
            let timeout =
                explicit_timeout(context).map_or_else(String::new, |timeout| format!(" for {timeout}"));
            Some(format!(
                "looking for a peer that has this file; gives up when nothing arrives{timeout} (--timeout)"
            ))
        }
        _ => None,
    };
    if let Some(message) = message {
        spinner.suspend(|| output::message(context, &message));
    }
    std::future::pending().await
}

/// Converts `A-B`, `A-` or `-B` to the value of a `Range` header; both ends are included.
fn range_header(text: &str) -> Result<String, CliError> {
    let bad = |message: String| CliError::bad_request(message);
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('-') {
        Some(("", last)) if !last.is_empty() && last.bytes().all(|b| b == b'0') => {
            Err(bad(format!("range {text} is empty")).hint("-50 reads the last 50 bytes, 0- reads all"))
        }
        Some((first, last)) if is_number(first) && is_number(last) && first.len() + last.len() > 0 => {
            // More digits than fit into a u64 still are a number, beyond the end of any file.
            let value = |digits: &str| digits.parse().unwrap_or(u64::MAX);
            if !first.is_empty() && !last.is_empty() && value(first) > value(last) {
                return Err(bad(format!("range {text} ends before it begins")));
            }
            Ok(format!("bytes={text}"))
        }
        _ => Err(bad(format!("invalid range {text:?}")).hint(
            "use FIRST-LAST (both included), FIRST- or -LENGTH: 0-99 reads the first 100 bytes, -50 the last 50",
        )),
    }
}

/// The body of a response.
type Pieces = BoxStream<'static, Result<Bytes, axum::Error>>;

/// Returns the body of a response. When it stands still for the first time, tells the user what the command is waiting for.
fn pieces(context: &Context, response: Response<Body>, bar: &ProgressBar) -> Pieces {
    let limit = context.settings.get("timeout").unwrap_or_default();
    let message = format!(
        "no data for {} s: waiting for a peer that has the rest; gives up after {limit} without data (--timeout)",
        SILENCE.as_secs()
    );
    let message = (!context.quiet && !context.json).then_some(message);
    let (body, bar) = (response.into_body().into_data_stream(), bar.clone());
    let watched = stream::unfold((body, bar, message), |(mut body, bar, mut message)| async {
        let piece = if let Ok(piece) = tokio::time::timeout(SILENCE, body.next()).await {
            piece
        } else {
            if let Some(message) = message.take() {
                bar.suspend(|| output::stderr_line(&message));
            }
            body.next().await
        };
        piece.map(|piece| (piece, (body, bar, message)))
    });
    watched.boxed()
}

/// The content of a file or folder as it arrives. The `write` methods return the number of bytes written.
struct Download<'a> {
    request: &'a Content<'a>,
    /// The root CID.
    root: String,
    request_id: Option<String>,
    attributes: Attributes,
    expected: Option<u64>,
    body: Pieces,
    context: &'a Context,
    bar: ProgressBar,
    received: u64,
}

impl<'a> Download<'a> {
    fn new(
        context: &'a Context,
        request: &'a Content<'a>,
        response: Response<Body>,
        attributes: Attributes,
    ) -> Self {
        let expected = response.headers().get(header::CONTENT_LENGTH);
        let expected = expected.and_then(|value| value.to_str().ok()?.parse().ok());
        let bar = output::bar(context, "fetching", expected);
        let request_id = request_id(&response);
        let root = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let root = root.unwrap_or_default().trim_matches('"').to_owned();
        let body = pieces(context, response, &bar);
        Self { request, root, request_id, attributes, expected, body, context, bar, received: 0 }
    }

    /// Returns the next piece. A body that is too short is an error that says why.
    async fn next(&mut self) -> Result<Option<Bytes>, CliError> {
        match self.body.next().await {
            Some(Ok(piece)) => {
                self.received += piece.len() as u64;
                self.bar.inc(piece.len() as u64);
                Ok(Some(piece))
            }
            None if self.expected.is_none_or(|expected| expected == self.received) => Ok(None),
            Some(Err(_)) | None => Err(self.request.client.failure_of(self.request_id.as_deref()).await),
        }
    }

    async fn write_stdout(mut self) -> Result<u64, Stop> {
        while let Some(piece) = self.next().await? {
            tokio::task::block_in_place(|| output::stream(&piece))?;
        }
        Ok(self.received)
    }

    async fn write_device(mut self, path: &Path) -> Result<u64, CliError> {
        let fail = |e: io::Error| cannot_write(path, &e);
        let mut device = tokio::fs::File::options().write(true).open(path).await.map_err(fail)?;
        if device.metadata().await.map_err(fail)?.is_file() {
            return Err(CliError::bad_request(format!("{} became a file meanwhile", path.display())));
        }
        while let Some(piece) = self.next().await? {
            device.write_all(&piece).await.map_err(fail)?;
        }
        device.flush().await.map_err(fail)?;
        Ok(self.received)
    }

    /// Writes all of a folder that can be read. Returns an error that names the rest, if there is one.
    async fn write_folder(self, path: &Path) -> Result<(u64, Option<CliError>), CliError> {
        let Content { client, .. } = self.request;
        let (mut body, mut id) = (self.body, self.request_id);
        let mut unpacker = Unpacker::create(path, &self.root)?;
        let mut left_out = Vec::new();
        loop {
            let outcome;
            (unpacker, outcome) = unpacker.unpack(body, &self.bar).await?;
            match outcome {
                Ok(()) => break,
                Err(UnpackError::Output(error)) => return Err(error),
                Err(UnpackError::Input) => {}
            }
            let mut broken = client.failure_of(id.as_deref()).await;
            // A large file is damaged in the middle: go on behind it.
            let Some(entry) = broken.entry.take() else { return Err(broken) };
            left_out.append(&mut broken.left_out);
            let response = self.request.send(Some(&entry)).await?;
            left_out.push(LeftOut { path: entry, error: broken.message });
            (id, body) = (request_id(&response), pieces(self.context, response, &self.bar));
        }
        let noted = client.noted_error(id.as_deref()).await;
        left_out.extend(noted.iter().flat_map(|error| error.left_out.clone()));
        let bytes = unpacker.finish(self.attributes)?;
        Ok((bytes, (!left_out.is_empty()).then(|| entries_left_out(left_out))))
    }

    async fn write_file(mut self, path: &Path, replace: bool) -> Result<u64, CliError> {
        let fail = |e: io::Error| cannot_write(path, &e);
        let mut partial = Partial::beside(path)?;
        let mut file = DirectFile::create_new(partial.path()).map_err(fail)?;
        partial.lock();
        let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUED_PIECES);
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = receiver.blocking_recv() {
                file.write_all(&piece)?;
            }
            Ok(file)
        });
        while let Some(piece) = self.next().await? {
            if sender.send(piece).await.is_err() {
                // The writer has failed; its result says why.
                break;
            }
        }
        drop(sender);
        let written = writer.await.map_err(|_| CliError::panicked("writing the file"))?;
        let file = written.and_then(DirectFile::finish).map_err(fail)?;
        self.attributes.apply(&file).map_err(fail)?;
        tokio::task::block_in_place(|| partial.finish(replace))?;
        Ok(self.received)
    }
}

fn entries_left_out(left_out: Vec<LeftOut>) -> CliError {
    let paths: Vec<PathBuf> = left_out.iter().map(|entry| PathBuf::from(&entry.path)).collect();
    let items = output::plural(left_out.len() as u64, "item");
    let message = format!("the folder was written without {items}: {}", output::list_paths(&paths));
    let error = NodeError::new(ErrorCode::Partial, message).reason(Reason::EntriesLeftOut);
    CliError { left_out, ..error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_checked_before_the_request() {
        for good in ["0-99", "100-", "-50"] {
            assert_eq!(range_header(good).ok(), Some(format!("bytes={good}")));
        }
        for bad in
            ["", "-", "-0", "-00", "5", "9-1", "99999999999999999999-5", "a-b", "1-2-3", "1-2,3-4", "+1-2"]
        {
            assert_eq!(range_header(bad).expect_err(bad).code, ErrorCode::BadRequest);
        }
    }
}
