//! `/files/{reference}/content` and `/blocks/{cid}`: the bytes of files, ranges, folders as tar, and sealed blocks.

pub(super) mod disposition;
mod range;

use std::{future::ready, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, response::Builder},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use utoipa::IntoParams;

use self::range::{RequestedRange, parse_range};
use super::{
    etag,
    event_log::{Direction, EventLog},
    extract::{PathParam, QueryParams, boolean},
    files::FileRef,
    headers::{KIND_HEADER, MODE_HEADER, MTIME_HEADER, TIMEOUT_HEADER, header_value},
    problem::Problem,
    request_id::{BrokenResponses, RequestId},
};
use crate::{
    content::cid::Cid,
    node::{
        Node, Opened,
        error::{ErrorCode, NodeError},
        report::FileKind,
    },
};

/// Content needs a token, so shared caches must not keep it. A name can refer to another file later.
const CACHE_CONTROL: &str = "private, no-cache";
/// How long a response waits for its first bytes: until then it can still be an error.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum `Storgo-Timeout` that counts: a read that waits for ever would keep its connection and memory as long.
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ContentQuery {
    /// Let a browser show the content instead of downloading it, if the media type is safe to show.
    #[serde(default, deserialize_with = "boolean")]
    inline: bool,
    /// Path of an entry inside this folder: names separated by slashes.
    path: Option<String>,
    /// Of a folder, send only what follows this entry: the `entry` of a problem document that says why a response broke off.
    after: Option<String>,
}

/// Returns the content of a file, or the range that `Range` names; of a folder, a tar stream.
///
/// Entries of a folder that are damaged or missing are left out. Then the last entry of the tar stream is
/// `storgo-left-out-<CID>.json`, with their paths, and `GET /errors/{id}` returns a problem document with the code `partial`.
/// A file of more than 64 MiB that is damaged in the middle breaks the response off: `entry` of the problem document names it,
/// and a request with `after` continues behind it.
#[utoipa::path(method(get, head), path = "/files/{reference}/content", tag = "files",
    params(FileRef, ContentQuery,
        ("storgo-timeout" = Option<f64>, Header, description = "Seconds without progress after which the read fails. At most 3600 count", minimum = 0),
        ("range" = Option<String>, Header, description = "A single byte range"),
        ("if-range" = Option<String>, Header, description = "Honor `Range` only if the ETag is this one"),
        ("if-match" = Option<String>, Header, description = "Fail with 412 unless the ETag is one of these"),
        ("if-none-match" = Option<String>, Header, description = "Respond 304 if the ETag is one of these")),
    responses(
        (status = 200, description = "The content", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("etag" = String, description = "The CID"), ("storgo-kind" = String, description = "`file` or `dir`"),
                ("storgo-mtime" = i64, description = "Modification time in seconds since 1970, if known"),
                ("storgo-mode" = String, description = "Unix permission bits in octal, if known"))),
        (status = 206, description = "The range", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("content-range" = String, description = "The range"))),
        (status = 304, description = "The ETag is one of `If-None-Match`"), (status = 404), (status = 412), (status = 416), (status = 422), (status = 502),
        (status = 504)))]
pub(super) async fn read(
    State(node): State<Node>,
    State(responses): State<ContentResponses>,
    Extension(id): Extension<RequestId>,
    FileRef(reference): FileRef,
    QueryParams(query): QueryParams<ContentQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    disposition::refuse_subresources(&headers)?;
    let mut opened = node.open(&reference.at(query.path), timeout(&headers)?).await?;
    opened.resume_after(query.after.as_deref().unwrap_or_default());
    respond(&responses, &id, opened, query.inline, &method, &headers).await
}

/// The receivers of the progress of responses with content, and of errors after the status has been sent.
#[derive(Clone)]
pub(super) struct ContentResponses {
    pub(super) events: Arc<EventLog>,
    pub(super) broken: Arc<BrokenResponses>,
}

/// Responds with the content of an opened file.
pub(super) async fn respond(
    responses: &ContentResponses,
    id: &RequestId,
    opened: Opened,
    inline: bool,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let etag = format!("\"{}\"", opened.cid());
    let mut if_match = headers.get_all(header::IF_MATCH).iter().peekable();
    if if_match.peek().is_some() && !if_match.any(|tags| etag::matches_strongly(tags, &etag)) {
        let detail = "the ETag of this file is not in If-Match";
        let hint = "the ETag is the CID: send no If-Match, or request the file by its CID";
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, ErrorCode::BadRequest, detail, hint));
    }
    if etag::is_known(headers, &etag) {
        let known = [(header::ETAG, etag.as_str()), (header::CACHE_CONTROL, CACHE_CONTROL)];
        return Ok((StatusCode::NOT_MODIFIED, known).into_response());
    }
    let (size, is_file) = (opened.metadata().size, opened.kind() == FileKind::File);
    let if_range = headers.get(header::IF_RANGE);
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        // Only GET has ranges (RFC 9110, 14.2).
        .filter(|_| is_file && method == Method::GET)
        .filter(|_| if_range.is_none_or(|value| value.as_bytes() == etag.as_bytes()))
        .and_then(|value| parse_range(value, size));
    let range = match range {
        Some(RequestedRange::Unsatisfiable) => {
            let detail = format!("the range begins after the end of the file, which has {size} bytes");
            let hint = "request a range that begins within the file; its first byte is byte 0";
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let mut response = Problem::new(status, ErrorCode::BadRequest, detail, hint).into_response();
            let value = header_value(&format!("bytes */{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            return Ok(response);
        }
        Some(RequestedRange::Bytes(range)) => Some(range),
        None => None,
    };
    let len = range.as_ref().map_or(size, |range| range.end - range.start);
    let mut response = describe(Response::builder(), &opened, inline).header(header::ETAG, etag);
    if is_file {
        response = response.header(header::CONTENT_LENGTH, len).header(header::ACCEPT_RANGES, "bytes");
    }
    if let Some(range) = &range {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    let body = if method == Method::HEAD {
        // A body of unknown length: hyper would add `Content-Length: 0` for an empty one.
        Body::from_stream(stream::pending::<Result<Bytes, NodeError>>())
    } else {
        let (broken, id) = (Arc::clone(&responses.broken), id.clone());
        let total = is_file.then_some(len);
        let progress = responses.events.transfer(Direction::Get, Some(opened.file_name()), total);
        // A slow provider is no error. A request with a range waits until it is known whether the range can be read.
        let patience = if headers.contains_key(header::RANGE) { Duration::MAX } else { FIRST_BYTES_TIMEOUT };
        let gaps = opened.gaps();
        let mut bytes = Box::pin(opened.read_counted(range));
        let first = tokio::time::timeout(patience, bytes.try_next()).await.unwrap_or(Ok(None))?;
        let noted = gaps.clone();
        let note = move |error: NodeError| broken.add(&id, Problem::from(error).with_gaps(&noted));
        let note_error = note.clone();
        let rest = bytes.inspect_err(move |error| note_error(error.clone()));
        // A client that sees the end of the body can ask at once what the body lacks.
        let end = stream::once(async move { gaps.error().map(note) }).filter_map(|_| ready(None));
        Body::from_stream(progress.count(stream::iter(first.map(Ok)).chain(rest).chain(Box::pin(end))))
    };
    response.body(body).map_err(|e| Problem::internal(format!("invalid response header: {e}")))
}

/// Adds the headers that describe the content, and those that restrict what a browser may do with it.
fn describe(response: Builder, opened: &Opened, inline: bool) -> Builder {
    let is_file = opened.kind() == FileKind::File;
    let inline_type =
        disposition::inline_type(opened.metadata().media_type.as_deref()).filter(|_| inline && is_file);
    let how = if inline_type.is_some() { "inline" } else { "attachment" };
    let media_type = match inline_type {
        Some(kind) => kind,
        None if is_file => disposition::media_type(opened.metadata().media_type.as_deref()),
        None => HeaderValue::from_static("application/x-tar"),
    };
    let disposition = disposition::disposition(how, &opened.file_name(), &opened.cid());
    let known = [
        (MTIME_HEADER, opened.metadata().mtime.map(|seconds| seconds.to_string())),
        (MODE_HEADER, opened.mode().map(|mode| format!("{mode:o}"))),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known
        .fold(response, |response, (name, value)| response.header(name, value))
        .header(KIND_HEADER, if is_file { "file" } else { "dir" })
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::CONTENT_SECURITY_POLICY, disposition::POLICY)
        .header(header::REFERRER_POLICY, "no-referrer")
        .header("cross-origin-resource-policy", "same-origin")
        .header(header::CACHE_CONTROL, CACHE_CONTROL)
        .header(header::CONTENT_DISPOSITION, disposition)
        .header(header::CONTENT_TYPE, media_type)
}

/// Returns a block of this node, encrypted.
#[utoipa::path(get, path = "/blocks/{cid}", tag = "files", params(("cid" = Cid, Path, description = "CID of the block")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 404), (status = 422)))]
pub(super) async fn block(
    State(node): State<Node>,
    PathParam(text): PathParam<String>,
) -> Result<Response, Problem> {
    let cid: Cid = text.parse().map_err(|_| {
        let hint = "pass a CID such as bafyrcifi5zl5wmkkcjxqmxbyzhq5p2fyhlemoyq";
        Problem::bad_request("invalid CID of a block", hint)
    })?;
    let bytes = node.block(&cid).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Bytes::from(bytes)).into_response())
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else {
        return Ok(None);
    };
    let seconds = value.to_str().ok().and_then(|text| text.parse().ok());
    // A number that no `Duration` can hold is a number all the same.
    let limited = |seconds: f64| {
        let seconds = Some(seconds).filter(|seconds| seconds.is_finite())?;
        Duration::try_from_secs_f64(seconds.min(MAX_TIMEOUT.as_secs_f64())).ok()
    };
    seconds.and_then(limited).map(Some).ok_or_else(|| {
        let hint = "send a number such as 2.5";
        Problem::bad_request("invalid Storgo-Timeout: expected a number of seconds", hint)
    })
}
