//! `get`: read a file or folder.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Method, Response, header},
};
use futures::StreamExt;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{
    Context,
    args::GetOptions,
    client::{Client, Target, request_id},
    door::{Door, Need},
    names::is_hidden,
    output,
    place::{NewFolder, Traits},
    unpack,
};
use crate::{
    config::{Origin, parse_duration},
    http::{KIND_HEADER, TIMEOUT_HEADER},
    node::{
        ErrorCode, NodeError,
        report::{FileInfo, Status},
    },
    store::DirectFile,
};

/// Pieces of an answer that wait to be written.
const PIECES: usize = 16;
/// After this long without an answer, a reader that knows no peer is told so.
const SILENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(context: &Context, reference: &str, options: GetOptions) -> Result<(), NodeError> {
    let door = Door::open(context, Need::Network).await?;
    let got = get(context, &door.client, reference, options).await;
    door.close().await;
    got
}

async fn get(
    context: &Context,
    client: &Client,
    reference: &str,
    options: GetOptions,
) -> Result<(), NodeError> {
    let timeout = own_timeout(context).and_then(|text| parse_duration(text).ok());
    let timeout = timeout.map(|timeout| timeout.as_secs_f64().to_string());
    let range = options.range.as_deref().map(range_header).transpose()?;
    let mut headers = Vec::new();
    headers.extend(timeout.as_deref().map(|timeout| (TIMEOUT_HEADER, timeout)));
    if let Some(range) = &range {
        headers.push((header::RANGE.as_str(), range));
    }
    let target = Target::file(reference, "/content")?;
    let waiting = output::spinner(context, "looking");
    let response = tokio::select! {
        response = client.send(Method::GET, &target, &headers, Body::empty()) => response,
        never = say_what_is_awaited(context, client, &waiting) => match never {},
    };
    waiting.finish_and_clear();
    let response = match response {
        Ok(response) => response,
        Err(error) => return Err(client.outside(error).await),
    };
    let folder = response.headers().get(KIND_HEADER).is_some_and(|kind| kind == "dir");
    if folder && range.is_some() {
        return Err(NodeError::new(ErrorCode::BadRequest, "a folder has no ranges of bytes"));
    }
    super::show::say_whether_newest(context, client, reference).await;
    let started = std::time::Instant::now();
    let traits = if range.is_none() { Traits::of(response.headers()) } else { Traits::default() };
    let new_folder = options.output.as_deref().filter(|_| !folder).and_then(NewFolder::at);
    let _new_folder = new_folder.transpose()?;
    let force = options.force;
    let place = place(client, reference, options.output, folder, force).await?;
    let (bytes, out) = match place {
        Place::Stdout => (to_stdout(context, client, response).await?, None),
        Place::Device(path) => (to_device(context, client, response, &path).await?, Some(path)),
        Place::New(path) if folder => {
            let id = request_id(&response);
            let bar = output::progress(context, "fetching", None);
            let done = unpack::run(response.into_body(), &path, &bar).await;
            bar.finish_and_clear();
            if done.is_ok() {
                traits.give(&path).map_err(|e| unpack::cannot_write(&path, &e))?;
            }
            match done {
                Err(unpack::Failure::Input(_)) => return Err(client.why_short(id.as_deref()).await),
                Err(unpack::Failure::Output(error)) => return Err(error),
                Ok(bytes) => (bytes, Some(path)),
            }
        }
        Place::New(path) => (to_file(context, client, response, &path, traits, force).await?, Some(path)),
    };
    let rate = super::provide::bytes_per_s(bytes, started.elapsed());
    let place =
        out.as_ref().map_or_else(|| "stdout".into(), |path| output::clean(&path.display().to_string()));
    output::say(context, &format!("{} to {place}, verified, {rate}", output::bytes(bytes)));
    if context.json
        && let Some(path) = out
    {
        let done = serde_json::json!({ "output": path, "bytes": bytes });
        output::print(&format!("{done}\n"))?;
    }
    Ok(())
}

/// Where the content goes.
enum Place {
    Stdout,
    /// A terminal, `/dev/null`, a named pipe: written to, never replaced.
    Device(PathBuf),
    New(PathBuf),
}

/// Decides where the content goes; what is there already stays, unless `force` is given.
async fn place(
    client: &Client,
    reference: &str,
    output: Option<PathBuf>,
    folder: bool,
    force: bool,
) -> Result<Place, NodeError> {
    let path = match output {
        Some(path) if path == Path::new("-") => return Ok(Place::Stdout),
        // As `cp -r` does: what comes goes into a folder that is there.
        Some(path) if path.is_dir() => path.join(default_name(client, reference).await?),
        Some(path) => path,
        None => default_name(client, reference).await?,
    };
    let kind = fs::metadata(&path).map(|meta| meta.file_type());
    if !folder && kind.is_ok_and(|kind| kind.is_char_device() || kind.is_fifo()) {
        return Ok(Place::Device(path));
    }
    let replaced = force && !folder && !path.is_dir();
    match path.symlink_metadata() {
        Ok(_) if !replaced => Err(unpack::is_there_already(&path, folder)),
        _ => Ok(Place::New(path)),
    }
}

/// How long this command waits, where it was told: else it waits as long as its node does.
fn own_timeout(context: &Context) -> Option<&str> {
    match context.settings.origin("timeout") {
        Origin::Flag(_) | Origin::Env(_) => context.settings.get("timeout"),
        _ => None,
    }
}

/// Tells a reader who gets no answer what it is waiting for.
async fn say_what_is_awaited(
    context: &Context,
    client: &Client,
    waiting: &indicatif::ProgressBar,
) -> std::convert::Infallible {
    tokio::time::sleep(SILENCE).await;
    let status = client.json::<Status>(Method::GET, &Target::path("/api/v1/status")).await;
    if let Ok(Status { peers: 0, outside: Some(addr), .. }) = &status {
        let words =
            format!("the node at {addr} belongs to another cluster than this one; waiting for another peer");
        waiting.suspend(|| output::say(context, &words));
    } else if status.is_ok_and(|status| status.peers == 0) {
        let words = "no peer is connected yet; waiting for one (--bootstrap MULTIADDR names one)";
        waiting.suspend(|| output::say(context, words));
    } else if waiting.is_hidden() {
        let patience = own_timeout(context).map(|patience| format!(", for {patience} at most"));
        let patience = patience.unwrap_or_default();
        let words = format!(
            "looking for a peer that has it{patience} while nothing arrives (--timeout says how long)"
        );
        output::say(context, &words);
    }
    std::future::pending().await
}

/// `A-B`, both ends included, as HTTP says it.
fn range_header(text: &str) -> Result<String, NodeError> {
    let number = |text: &str| text.is_empty() || text.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('-') {
        Some(("", last)) if !last.is_empty() && last.bytes().all(|b| b == b'0') => {
            let message = format!("the range {text} is the last 0 bytes, which are none");
            Err(NodeError::new(ErrorCode::BadRequest, message)
                .hint("-50 is the last fifty bytes; 0- is all of them"))
        }
        Some((first, last)) if number(first) && number(last) && (first.len() + last.len()) > 0 => {
            // More digits than a u64 holds still are a number: one beyond any file.
            let value = |digits: &str| digits.parse().unwrap_or(u64::MAX);
            if !first.is_empty() && !last.is_empty() && value(first) > value(last) {
                return Err(NodeError::new(
                    ErrorCode::BadRequest,
                    format!("the range {text} ends before it begins"),
                ));
            }
            Ok(format!("bytes={text}"))
        }
        _ => Err(NodeError::new(ErrorCode::BadRequest, format!("{text:?} is no range")).hint(
            "both ends are included: 0-99 is the first hundred bytes, 100- all but these, -50 the last fifty",
        )),
    }
}

/// The file's own name, in this folder: whatever it says, it stays here.
async fn default_name(client: &Client, reference: &str) -> Result<PathBuf, NodeError> {
    let info: FileInfo = client.json(Method::GET, &Target::file(reference, "")?).await?;
    let name = info.name.unwrap_or_else(|| info.cid.to_string());
    let name: String = name.chars().map(|c| if c == '/' || is_hidden(c) { '_' } else { c }).collect();
    let name = if matches!(name.as_str(), "" | "." | "..") { info.cid.to_string() } else { name };
    Ok(PathBuf::from(name))
}

async fn to_stdout(context: &Context, client: &Client, response: Response<Body>) -> Result<u64, NodeError> {
    let mut pieces = Pieces::new(context, client, response);
    while let Some(piece) = pieces.next().await? {
        tokio::task::block_in_place(|| output::write_out(&piece))?;
    }
    Ok(pieces.count)
}

async fn to_device(
    context: &Context,
    client: &Client,
    response: Response<Body>,
    path: &Path,
) -> Result<u64, NodeError> {
    let fail = |e: io::Error| unpack::cannot_write(path, &e);
    let mut device = tokio::fs::File::options().write(true).open(path).await.map_err(fail)?;
    let mut pieces = Pieces::new(context, client, response);
    while let Some(piece) = pieces.next().await? {
        device.write_all(&piece).await.map_err(fail)?;
    }
    device.flush().await.map_err(fail)?;
    Ok(pieces.count)
}

async fn to_file(
    context: &Context,
    client: &Client,
    response: Response<Body>,
    path: &Path,
    traits: Traits,
    replace: bool,
) -> Result<u64, NodeError> {
    let fail = |e: io::Error| unpack::cannot_write(path, &e);
    let mut part = unpack::Partial::beside(path)?;
    let mut file = DirectFile::create_new(part.path()).map_err(fail)?;
    part.hold();
    let (sender, mut receiver) = mpsc::channel::<axum::body::Bytes>(PIECES);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = receiver.blocking_recv() {
            file.write_all(&piece)?;
        }
        Ok(file)
    });
    let mut pieces = Pieces::new(context, client, response);
    while let Some(piece) = pieces.next().await? {
        if sender.send(piece).await.is_err() {
            // The writer has ended: it says why.
            break;
        }
    }
    drop(sender);
    let written = writing.await.map_err(|_| NodeError::new(ErrorCode::Other, "the writing thread failed"))?;
    written.and_then(DirectFile::finish).map_err(fail)?;
    traits.give(part.path()).map_err(fail)?;
    tokio::task::block_in_place(|| part.finish(replace))?;
    Ok(pieces.count)
}

/// The pieces of an answer, counted; a short one is an error that says why.
struct Pieces<'a> {
    client: &'a Client,
    id: Option<String>,
    expected: Option<u64>,
    body: axum::body::BodyDataStream,
    bar: indicatif::ProgressBar,
    count: u64,
}

impl<'a> Pieces<'a> {
    fn new(context: &Context, client: &'a Client, response: Response<Body>) -> Self {
        let expected = response.headers().get(header::CONTENT_LENGTH);
        let expected = expected.and_then(|value| value.to_str().ok()?.parse().ok());
        let bar = output::progress(context, "fetching", expected);
        let id = request_id(&response);
        Self { client, id, expected, body: response.into_body().into_data_stream(), bar, count: 0 }
    }

    async fn next(&mut self) -> Result<Option<axum::body::Bytes>, NodeError> {
        match self.body.next().await {
            Some(Ok(piece)) => {
                self.count += piece.len() as u64;
                self.bar.inc(piece.len() as u64);
                Ok(Some(piece))
            }
            None if self.expected.is_none_or(|expected| expected == self.count) => {
                self.bar.finish_and_clear();
                Ok(None)
            }
            Some(Err(_)) | None => {
                self.bar.finish_and_clear();
                Err(self.client.why_short(self.id.as_deref()).await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_before_anybody_is_asked() {
        for good in ["0-99", "100-", "-50"] {
            assert_eq!(range_header(good).ok(), Some(format!("bytes={good}")));
        }
        for bad in
            ["", "-", "-0", "-00", "5", "9-1", "99999999999999999999-5", "a-b", "1-2-3", "1-2,3-4", "+1-2"]
        {
            assert!(range_header(bad).is_err(), "{bad}");
        }
    }
}
