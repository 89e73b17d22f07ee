//! `POST /files`: storing what a body carries, as it arrives.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Multipart, Request, State, multipart::MultipartError},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Door,
    extract::{Params, steady},
    feed::What,
    problem::Problem,
};
use crate::node::{
    PutOptions,
    report::{FileKind, PutReport},
};

/// How long the rest of a refused upload is read.
const MAX_DRAIN: Duration = Duration::from_secs(10);
/// Files in one form at most.
const MAX_PARTS: usize = 1000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutQuery {
    /// Its name.
    name: Option<String>,
    /// Store it without encryption, for everyone who has the CID.
    #[serde(default)]
    public: bool,
    /// Share equal blocks with other files.
    #[serde(default = "yes")]
    dedup: bool,
    /// How it is cut: `fastcdc` or `fixed:SIZE`.
    chunker: Option<String>,
    /// Media type; guessed from the name where it is not given.
    media_type: Option<String>,
    /// Modification time, seconds since 1970.
    mtime: Option<i64>,
    /// Unix permission bits.
    mode: Option<u32>,
    /// The body is a tar stream: a folder.
    #[serde(default)]
    tree: bool,
}

const fn yes() -> bool {
    true
}

impl PutQuery {
    fn options(self) -> Result<(PutOptions, FileKind), Problem> {
        let chunker = self.chunker.map(|text| text.parse()).transpose();
        let options = PutOptions {
            name: self.name,
            public: self.public,
            dedup: self.dedup,
            chunker: chunker.map_err(|e| Problem::bad_request(format!("chunker: {e}")))?,
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
    Params(query): Params<PutQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let (options, kind) = query.options()?;
    if is_form(&request) {
        return put_form(&door, &options, kind, request).await;
    }
    let len = request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let progress = door.feed.transfer(What::Put, options.name.clone(), len);
    let mut bytes = progress.count(steady(request.into_body()));
    let report = match door.node.put_stream(&mut bytes, options, kind).await {
        Ok(report) => report,
        Err(error) => {
            drain(&door, bytes);
            return Err(error.into());
        }
    };
    let location = format!("/api/v1/files/{}", report.cid);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(report)).into_response())
}

fn is_form(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"))
}

/// The parts of a form, as they arrive.
pub(super) async fn form(request: Request) -> Result<Multipart, Problem> {
    let request = request.map(|body| Body::from_stream(steady(body)));
    Multipart::from_request(request, &()).await.map_err(|e| Problem::bad_request(e.body_text()))
}

pub(super) fn broken_form(e: &MultipartError) -> Problem {
    Problem::bad_request(format!("this form cannot be read: {}", e.body_text()))
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
    let mut form = form(request).await?;
    let mut files = Vec::new();
    while let Some(part) = form.next_field().await.map_err(|e| broken_form(&e))? {
        let Some(name) = part.file_name().map(|name| base_name(name).to_owned()) else { continue };
        if files.len() == MAX_PARTS {
            return Err(Problem::bad_request(format!("more than {MAX_PARTS} files in one form")));
        }
        let media_type = options.media_type.clone().or_else(|| part.content_type().map(String::from));
        let options =
            PutOptions { name: Some(name).filter(|name| !name.is_empty()), media_type, ..options.clone() };
        let progress = door.feed.transfer(What::Put, options.name.clone(), None);
        let bytes = progress.count(part.map_err(std::io::Error::other));
        files.push(door.node.put_stream(bytes, options, kind).await?);
    }
    if files.is_empty() {
        return Err(Problem::bad_request("this form has no file in it"));
    }
    Ok((StatusCode::CREATED, Json(PutForm { files })).into_response())
}

/// Reads on for a while where an upload was refused. The caller still sends; if this side just closed, its system would
/// throw away the answer that says why.
fn drain(door: &Door, mut bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static) {
    let stop = door.node.stopping();
    door.node.spawn(async move {
        let all = async { while let Some(Ok(_)) = bytes.next().await {} };
        stop.run_until_cancelled(tokio::time::timeout(MAX_DRAIN, all)).await;
    });
}
