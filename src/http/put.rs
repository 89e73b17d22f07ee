//! `POST /files`: stores a body, or the files of a form, as the bytes arrive.

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::HttpBody,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    auth::{Caller, Scope},
    base_path::BasePath,
    body::{BodyErrors, require_length, with_min_rate},
    event_log::{Direction, EventLog},
    extract::{QueryParams, boolean},
    form::{Form, base_name},
    problem::Problem,
};
use crate::node::{
    Node, PutOptions, UploadPermit, check_name,
    report::{FileKind, PutReport},
};

/// Maximum number of files in one form.
const MAX_FILES: usize = 1000;
/// How long a client waits for an upload permit.
pub(super) const PERMIT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutQuery {
    /// The name of the file: at most 255 bytes.
    name: Option<String>,
    /// Store the file unencrypted: everyone who knows its CID can read it.
    #[serde(default, deserialize_with = "boolean")]
    public: bool,
    /// Share equal blocks with other files of this node.
    #[serde(default = "yes", deserialize_with = "boolean")]
    dedup: bool,
    /// How to cut the file into chunks: `fastcdc` or `fixed:SIZE`.
    chunker: Option<String>,
    /// The media type. Default: guessed from the name.
    media_type: Option<String>,
    /// The modification time in seconds since 1970.
    mtime: Option<i64>,
    /// The Unix permission bits in octal.
    #[serde(default, deserialize_with = "octal")]
    #[param(value_type = Option<String>, pattern = "^[0-7]{1,4}$")]
    mode: Option<u32>,
    /// The body is a tar stream, to be stored as a folder.
    #[serde(default, deserialize_with = "boolean")]
    tree: bool,
    /// Not available yet: the number of nodes to keep copies on.
    copies: Option<String>,
    /// Not available yet: the numbers of data and parity slices, K+M.
    erasure: Option<String>,
}

fn octal<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(input)?;
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let bits = digits.then(|| u32::from_str_radix(&text, 8).ok()).flatten();
    bits.map(Some).ok_or_else(|| serde::de::Error::custom("expected permission bits in octal"))
}

const fn yes() -> bool {
    true
}

impl PutQuery {
    fn options(self) -> Result<(PutOptions, FileKind), Problem> {
        if self.copies.is_some() || self.erasure.is_some() {
            let detail = "redundancy is not available yet: `copies` and `erasure` are not supported";
            let hint = "leave them out, and store the file on each node that shall keep it";
            return Err(Problem::bad_request(detail, hint));
        }
        check_name(self.name.as_deref())?;
        let invalid = |kind: &str| kind.len() > 255 || kind.chars().any(char::is_control);
        if self.media_type.as_deref().is_some_and(invalid) {
            let detail = "invalid media type: expected at most 255 bytes without control characters";
            return Err(Problem::bad_request(detail, "pass a media type such as text/plain"));
        }
        let chunker = self.chunker.map(|text| text.parse()).transpose().map_err(|_| {
            let hint = "pass `fastcdc`, or `fixed:SIZE` with 4 KiB to 1984 KiB, such as fixed:1MiB";
            Problem::bad_request("invalid value of query parameter `chunker`", hint)
        })?;
        let options = PutOptions {
            name: self.name,
            public: self.public,
            dedup: self.dedup,
            chunker,
            media_type: self.media_type,
            mtime: self.mtime,
            mode: self.mode,
        };
        Ok((options, if self.tree { FileKind::Dir } else { FileKind::File }))
    }
}

/// The stored file, or the stored files of a form.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Put {
    One(PutReport),
    Form {
        /// One report per file, in the order of the form.
        files: Vec<PutReport>,
    },
}

/// Stores the body as a file, or as a folder if it is a tar stream and `tree` is true.
///
/// Of a `multipart/form-data` body, each part with a file name is stored as a file.
#[utoipa::path(post, path = "/files", tag = "files", params(PutQuery),
    request_body(content((Vec<u8> = "application/octet-stream"), (String = "multipart/form-data"))),
    responses((status = 201, body = inline(Put), headers(("location" = String, description = "The path of the file, unless the body was a form"))),
        (status = 409), (status = 507)))]
pub(super) async fn put(
    State(node): State<Node>,
    State(events): State<Arc<EventLog>>,
    State(base): State<BasePath>,
    Extension(caller): Extension<Caller>,
    QueryParams(query): QueryParams<PutQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let (options, kind) = query.options()?;
    if is_form(&request) {
        return put_form(&node, &events, &options, kind, request).await;
    }
    require_length(&request)?;
    // The command line of this machine has the scope `admin` and waits as long as it takes.
    let timeout = if caller.scope == Scope::Admin { Duration::MAX } else { PERMIT_TIMEOUT };
    let permit = upload_permit(&node, timeout).await?;
    let len = request.body().size_hint().exact();
    let progress = events.transfer(Direction::Put, options.name.clone(), len);
    let errors = BodyErrors::default();
    let bytes = progress.count(errors.watch(with_min_rate(request.into_body())));
    let stored = permit.put(bytes, options, kind).await;
    let report = stored.map_err(|error| errors.problem(error))?;
    let location = base.join(&format!("/api/v1/files/{}", report.cid));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(Put::One(report))).into_response())
}

/// Waits for the permit to store the bytes that a client sends. Fails with 503 after `timeout`.
pub(super) async fn upload_permit(node: &Node, timeout: Duration) -> Result<UploadPermit<'_>, Problem> {
    match tokio::time::timeout(timeout, node.upload_permit()).await {
        Ok(permit) => Ok(permit?),
        Err(_) => Err(Problem::busy("the limit of concurrent uploads is reached")),
    }
}

fn is_form(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"))
}

async fn put_form(
    node: &Node,
    events: &Arc<EventLog>,
    options: &PutOptions,
    kind: FileKind,
    request: Request,
) -> Result<Response, Problem> {
    let mut form = Form::from_request(request).await?;
    let mut files = Vec::new();
    loop {
        match put_next(node, events, options, kind, &mut form, files.len()).await {
            Ok(Some(report)) => files.push(report),
            Ok(None) => break,
            Err(mut problem) => {
                if !files.is_empty() {
                    write!(problem.detail, "; files stored before it: {}", files.len())
                        .expect("writing to a string does not fail");
                }
                return Err(problem);
            }
        }
    }
    if files.is_empty() {
        let hint = "send each file in a part with a file name";
        return Err(Problem::bad_request("the form has no file", hint));
    }
    Ok((StatusCode::CREATED, Json(Put::Form { files })).into_response())
}

/// Stores the next file of a form. `None` at its end.
async fn put_next(
    node: &Node,
    events: &Arc<EventLog>,
    options: &PutOptions,
    kind: FileKind,
    form: &mut Form,
    stored_files: usize,
) -> Result<Option<PutReport>, Problem> {
    while let Some(part) = form.next_part().await? {
        let Some(name) = part.file_name.as_deref().map(|name| base_name(name).to_owned()) else {
            part.skip().await?;
            continue;
        };
        if stored_files == MAX_FILES {
            let detail = format!("the form has more than {MAX_FILES} files");
            return Err(Problem::bad_request(detail, "send the rest in another form"));
        }
        let media_type = options.media_type.clone().or_else(|| part.media_type());
        let options = PutOptions { name: Some(name), media_type, ..options.clone() };
        let permit = upload_permit(node, PERMIT_TIMEOUT).await?;
        let progress = events.transfer(Direction::Put, options.name.clone(), None);
        let errors = BodyErrors::default();
        let bytes = progress.count(errors.watch(part.into_bytes().map_err(std::io::Error::other)));
        let stored = permit.put(bytes, options, kind).await;
        return stored.map(Some).map_err(|error| errors.problem(error));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::node::NodeOptions;

    #[tokio::test]
    async fn an_upload_without_a_permit_is_refused_but_bytes_on_disk_need_none() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let options = NodeOptions { offline: true, ..NodeOptions::new(dir.path()) };
        let node = Node::start(options).await.expect("started");
        let mut taken = Vec::new();
        let refused = loop {
            match upload_permit(&node, Duration::ZERO).await {
                Ok(permit) => taken.push(permit),
                Err(problem) => break problem.into_response(),
            }
        };
        assert_eq!((taken.len(), refused.status()), (16, StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(refused.headers()[header::RETRY_AFTER], "10");
        let local = node.local_upload_permit().await.expect("a permit");
        let bytes = futures::stream::iter([Ok(Bytes::from_static(b"bytes"))]);
        let report = local.put(bytes, PutOptions::named(""), FileKind::File).await.expect("stored");
        assert_eq!((report.size, report.name), (5, None));
        taken.pop();
        assert!(upload_permit(&node, Duration::ZERO).await.is_ok());
        drop((taken, local));
        node.shutdown().await;
    }
}
