//! `POST /files`: storing what a body carries, as it arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{
        FromRequest, Multipart, Request, State,
        multipart::{Field, MultipartError},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Door,
    auth::{Caller, Scope},
    extract::{Params, flag, steady},
    feed::What,
    problem::Problem,
};
use crate::node::{
    Node, Place, PutOptions, check_name,
    error::NodeError,
    report::{FileKind, PutReport},
};

/// Bytes of a form at most between one part and the next.
const MAX_BETWEEN: usize = 256 << 10;
/// Files in one form at most.
const MAX_PARTS: usize = 1000;
/// How long a caller waits for a place where as many store as may.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutQuery {
    /// Its name.
    name: Option<String>,
    /// Store it without encryption, for everyone who has the CID.
    #[serde(default, deserialize_with = "flag")]
    public: bool,
    /// Share equal blocks with other files.
    #[serde(default = "yes", deserialize_with = "flag")]
    dedup: bool,
    /// How it is cut: `fastcdc` or `fixed:SIZE`.
    chunker: Option<String>,
    /// Media type; guessed from the name where it is not given.
    media_type: Option<String>,
    /// Modification time, seconds since 1970.
    mtime: Option<i64>,
    /// Unix permission bits, octal.
    #[serde(default, deserialize_with = "octal")]
    #[param(value_type = Option<String>, pattern = "^[0-7]{1,4}$")]
    mode: Option<u32>,
    /// The body is a tar stream: a folder.
    #[serde(default, deserialize_with = "flag")]
    tree: bool,
    /// On how many nodes it is to be kept: not there yet, and refused.
    copies: Option<String>,
    /// As how many parts it is to be kept, of which some may be lost: not there yet, and refused.
    erasure: Option<String>,
}

/// Permission bits, as people write them.
fn octal<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(input)?;
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let bits = digits.then(|| u32::from_str_radix(&text, 8).ok()).flatten();
    bits.map(Some).ok_or_else(|| serde::de::Error::custom("no permission bits in octal"))
}

const fn yes() -> bool {
    true
}

impl PutQuery {
    fn options(self) -> Result<(PutOptions, FileKind), Problem> {
        if self.copies.is_some() || self.erasure.is_some() {
            return Err(Problem::bad_request(
                "redundancy is not there yet: copies and erasure are not served",
                "leave them out: this node keeps the file, and so does each other one where it is stored too",
            ));
        }
        check_name(self.name.as_deref())?;
        if self
            .media_type
            .as_deref()
            .is_some_and(|kind| kind.len() > 255 || kind.chars().any(char::is_control))
        {
            let message = "this is no media type: it is too long, or has control characters";
            return Err(Problem::bad_request(message, "one looks like text/plain"));
        }
        let chunker = self.chunker.map(|text| text.parse()).transpose();
        let options = PutOptions {
            name: self.name,
            public: self.public,
            dedup: self.dedup,
            chunker: chunker.map_err(|_| {
                let hint = "it is `fastcdc`, or `fixed:SIZE` with 4 KiB to 1984 KiB, for example fixed:1MiB";
                Problem::bad_request("this is no chunker", hint)
            })?,
            media_type: self.media_type,
            mtime: self.mtime,
            mode: self.mode,
        };
        Ok((options, if self.tree { FileKind::Dir } else { FileKind::File }))
    }
}

/// What became of the files of a form.
#[derive(Serialize, ToSchema)]
pub(super) struct PutForm {
    /// One for each file, in their order.
    files: Vec<PutReport>,
}

/// What was stored: one file, or those of a form.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "says in the document what the two kinds of body are answered with")]
enum Put {
    One(PutReport),
    Form(PutForm),
}

/// Stores the body as a file; with `tree=true` the body is a tar stream and becomes a folder. Of a form, each part with
/// a file name becomes a file.
#[utoipa::path(post, path = "/files", tag = "files", params(PutQuery),
    request_body(content((Vec<u8> = "application/octet-stream"), (String = "multipart/form-data"))),
    responses((status = 201, body = inline(Put), headers(("location" = String, description = "The path of the one file"))),
        (status = 409), (status = 507)))]
pub(super) async fn put(
    State(door): State<Door>,
    Extension(caller): Extension<Caller>,
    Params(query): Params<PutQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let (options, kind) = query.options()?;
    if is_form(&request) {
        return put_form(&door, &options, kind, request).await;
    }
    // The command line of this machine, which stands in a queue as people do.
    let patience = if caller.scope == Scope::Admin { Duration::MAX } else { PATIENCE };
    let place = place(&door.node, patience).await?;
    let len = request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let progress = door.feed.transfer(What::Put, options.name.clone(), len);
    let broken = Broken::default();
    let bytes = progress.count(broken.watch(steady(request.into_body())));
    let report = door.node.put_in(&place, bytes, options, kind).await.map_err(|error| broken.blame(error))?;
    let location = format!("/api/v1/files/{}", report.cid);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(report)).into_response())
}

/// The right to store what a caller sends; 503 where others have all of them for too long.
pub(super) async fn place(node: &Node, patience: Duration) -> Result<Place<'_>, Problem> {
    match tokio::time::timeout(patience, node.place()).await {
        Ok(place) => Ok(place?),
        Err(_) => Err(Problem::busy("as many files are being stored as may be at a time")),
    }
}

fn is_form(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"))
}

/// The parts of a form, as they arrive.
///
/// What stands between two parts is held in memory until the next one begins: it is short, or the form is refused.
pub(super) struct Form {
    parts: Multipart,
    /// Bytes that may still come before the next part.
    between: Arc<AtomicUsize>,
}

impl Form {
    pub(super) async fn of(request: Request) -> Result<Self, Problem> {
        let between = Arc::new(AtomicUsize::new(usize::MAX));
        let left = Arc::clone(&between);
        let request = request.map(|body| {
            Body::from_stream(steady(body).map(move |piece| {
                let piece = piece?;
                let fits = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
                    usize::MAX => Some(left),
                    left => left.checked_sub(piece.len()),
                });
                fits.map_err(|_| std::io::Error::other("too much stands between two of its parts"))?;
                Ok::<_, std::io::Error>(piece)
            }))
        });
        let parts = Multipart::from_request(request, &()).await;
        let parts = parts.map_err(|_| {
            let hint = "send `Content-Type: multipart/form-data; boundary=…` with the boundary of its parts";
            Problem::bad_request("this is no form that can be read", hint)
        })?;
        Ok(Self { parts, between })
    }

    /// The next part. All of the last one must have been read.
    pub(super) async fn next(&mut self) -> Result<Option<Field<'_>>, Problem> {
        self.between.store(MAX_BETWEEN, Ordering::Relaxed);
        let next = self.parts.next_field().await.map_err(|e| broken_form(&e))?;
        self.between.store(usize::MAX, Ordering::Relaxed);
        Ok(next)
    }
}

/// Whether the caller broke off what it sent: then it is no fault of the node's.
#[derive(Default)]
pub(super) struct Broken(Arc<AtomicBool>);

impl Broken {
    pub(super) fn watch<S: Stream<Item = std::io::Result<Bytes>>>(
        &self,
        bytes: S,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + use<S> {
        let broken = Arc::clone(&self.0);
        bytes.inspect_err(move |_| broken.store(true, Ordering::Relaxed))
    }

    pub(super) fn blame(&self, error: NodeError) -> Problem {
        if self.0.load(Ordering::Relaxed) {
            Problem::bad_request(error.message, "send the whole of it again, as its headers announce it")
        } else {
            error.into()
        }
    }
}

/// Passes over a part.
pub(super) async fn skip(mut part: Field<'_>) -> Result<(), Problem> {
    while part.chunk().await.map_err(|e| broken_form(&e))?.is_some() {}
    Ok(())
}

pub(super) fn broken_form(e: &MultipartError) -> Problem {
    Problem::bad_request(
        format!("this form cannot be read: {}", e.body_text()),
        "a form is parts as RFC 7578 has them, all of them sent, each with a name",
    )
}

/// The last part of a path that a browser sent as a name.
pub(super) fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

async fn put_form(
    door: &Door,
    options: &PutOptions,
    kind: FileKind,
    request: Request,
) -> Result<Response, Problem> {
    let mut form = Form::of(request).await?;
    let mut files = Vec::new();
    while let Some(part) = form.next().await? {
        let Some(name) = part.file_name().map(|name| base_name(name).to_owned()) else {
            skip(part).await?;
            continue;
        };
        if files.len() == MAX_PARTS {
            let message = format!("more than {MAX_PARTS} files in one form");
            return Err(Problem::bad_request(message, "send the others in another form"));
        }
        let media_type = options.media_type.clone().or_else(|| part.content_type().map(String::from));
        let options = PutOptions { name: Some(name), media_type, ..options.clone() };
        let place = place(&door.node, PATIENCE).await?;
        let progress = door.feed.transfer(What::Put, options.name.clone(), None);
        let broken = Broken::default();
        let bytes = progress.count(broken.watch(part.map_err(std::io::Error::other)));
        let stored = door.node.put_in(&place, bytes, options, kind).await;
        files.push(stored.map_err(|error| broken.blame(error))?);
    }
    if files.is_empty() {
        return Err(Problem::bad_request("this form has no file in it", "a part with a file name is a file"));
    }
    Ok((StatusCode::CREATED, Json(PutForm { files })).into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;
    use crate::node::NodeOptions;

    #[tokio::test]
    async fn who_finds_no_place_is_told_and_what_is_on_disk_needs_none() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let mut taken = Vec::new();
        let refused = loop {
            match place(&node, Duration::ZERO).await {
                Ok(place) => taken.push(place),
                Err(problem) => break problem.into_response(),
            }
        };
        assert_eq!((taken.len(), refused.status()), (16, StatusCode::SERVICE_UNAVAILABLE));
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        let local = node.local_place().await.expect("a place of its own");
        let bytes = futures::stream::iter([Ok(Bytes::from_static(b"bytes"))]);
        let report = node.put_in(&local, bytes, PutOptions::named(""), FileKind::File).await.expect("stored");
        assert_eq!((report.size, report.name), (5, None));
        taken.pop();
        assert!(place(&node, Duration::ZERO).await.is_ok());
        drop((taken, local));
        node.shutdown().await;
    }
}
