//! The bytes: whole files, ranges of them, folders as tar, and single sealed blocks.

mod range;
pub(super) mod shown;

use std::time::Duration;

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

use self::range::{Wanted, parse_range};
use super::{
    Door, KIND_HEADER, MODE_HEADER, MTIME_HEADER, TIMEOUT_HEADER,
    extract::{Params, Segment, flag},
    feed::What,
    files,
    problem::{Problem, RequestId},
};
use crate::{
    content::cid::Cid,
    node::{
        ContentKind, Opened, ReadOptions,
        error::{ErrorCode, NodeError},
    },
};

/// What is behind a token is nothing for a cache that several use. A CID names the same bytes for ever, a name not.
const CACHED: &str = "private, no-cache";
/// How long an answer waits for its first bytes, so that it can still be an error.
const FIRST: Duration = Duration::from_secs(2);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ContentQuery {
    /// For a browser to show, where the type can do no harm there.
    #[serde(default, deserialize_with = "flag")]
    inline: bool,
}

/// The bytes of a file, or the part that `Range` asks for; a folder as a tar stream.
#[utoipa::path(method(get, head), path = "/files/{reference}/content", tag = "files",
    params(("reference" = String, Path, description = "CID or name"), ContentQuery,
        ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it"),
        ("storgo-timeout" = Option<f64>, Header, description = "Seconds to wait while nothing arrives", minimum = 0),
        ("range" = Option<String>, Header, description = "One byte range"),
        ("if-range" = Option<String>, Header, description = "The ETag that the range belongs to"),
        ("if-match" = Option<String>, Header, description = "ETags, of which the file has to have one"),
        ("if-none-match" = Option<String>, Header, description = "ETags that the caller has")),
    responses(
        (status = 200, description = "The bytes", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("etag" = String, description = "The CID"), ("storgo-kind" = String, description = "`file` or `dir`"),
                ("storgo-mtime" = i64, description = "Modification time, seconds since 1970, where known"),
                ("storgo-mode" = String, description = "Unix permission bits, octal, where known"))),
        (status = 206, description = "The part", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("content-range" = String, description = "Which part"))),
        (status = 304, description = "The caller has it"), (status = 404), (status = 412), (status = 416), (status = 422), (status = 502),
        (status = 504)))]
pub(super) async fn read(
    State(door): State<Door>,
    Extension(id): Extension<RequestId>,
    Segment(text): Segment<String>,
    Params(query): Params<ContentQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    shown::refuse_as_part(&headers)?;
    let reference = files::reference(&text, &headers)?;
    let opened = door.node.open(&reference, timeout(&headers)?).await?;
    answer(&door, &id, opened, query.inline, &method, &headers).await
}

/// The answer that carries what was opened. It waits a little for the first bytes: until then it can be an error.
pub(super) async fn answer(
    door: &Door,
    id: &RequestId,
    opened: Opened,
    inline: bool,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let etag = format!("\"{}\"", opened.cid());
    let mut wanted = headers.get_all(header::IF_MATCH).iter().peekable();
    if wanted.peek().is_some() && !wanted.any(|value| etag_demanded(value, &etag)) {
        let error = NodeError::new(ErrorCode::BadRequest, "this is another file than If-Match names")
            .hint("its ETag is its CID: ask without If-Match, or for that CID");
        return Err(Problem::with_status(error, 412));
    }
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|value| etag_listed(value, &etag)) {
        let known = [(header::ETAG, etag.as_str()), (header::CACHE_CONTROL, CACHED)];
        return Ok((StatusCode::NOT_MODIFIED, known).into_response());
    }
    let size = opened.size();
    let range = if_range_holds(headers, &etag)
        .then(|| headers.get(header::RANGE))
        .flatten()
        .and_then(|value| value.to_str().ok())
        // Ranges are defined for GET alone (RFC 9110, 14.2).
        .filter(|_| opened.kind() == ContentKind::File && method == Method::GET)
        .and_then(|value| parse_range(value, size));
    let range = match range {
        Some(Wanted::Unsatisfiable) => {
            let error = NodeError::new(ErrorCode::BadRequest, format!("the file has {size} bytes only"))
                .hint("ask for a range that begins within them: the first byte is byte 0");
            let mut response = Problem::with_status(error, 416).into_response();
            let value = shown::header_value(&format!("bytes */{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            return Ok(response);
        }
        Some(Wanted::Part(range)) => Some(range),
        None => None,
    };
    let mut response = described(Response::builder(), &opened, inline).header(header::ETAG, etag);
    if opened.kind() == ContentKind::File {
        let len = range.as_ref().map_or(size, |range| range.end - range.start);
        response = response.header(header::CONTENT_LENGTH, len).header(header::ACCEPT_RANGES, "bytes");
    }
    if let Some(range) = &range {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    let body = if method == Method::HEAD {
        // Of no length: a folder's is not known, a file's stands above.
        Body::from_stream(stream::pending::<Result<Bytes, NodeError>>())
    } else {
        let (failures, id) = (door.failures.clone(), id.clone());
        let total = range.as_ref().map_or(size, |range| range.end - range.start);
        let total = Some(total).filter(|_| opened.kind() == ContentKind::File);
        let progress = door.feed.transfer(What::Get, Some(opened.file_name()), total);
        // A slow source is no error. Who asks for a part wants to know whether it can be had, also of what comes whole.
        let patience = if headers.contains_key(header::RANGE) { Duration::MAX } else { FIRST };
        let mut bytes = Box::pin(opened.read_counted(ReadOptions { range }));
        let first = tokio::time::timeout(patience, bytes.try_next()).await.unwrap_or(Ok(None))?;
        let rest = bytes.inspect_err(move |error| failures.note(&id, error.clone()));
        Body::from_stream(progress.count(stream::iter(first.map(Ok)).chain(rest)))
    };
    let fail = |e| NodeError::new(ErrorCode::Other, format!("the answer has an impossible header: {e}"));
    Ok(response.body(body).map_err(fail)?)
}

/// What the content is, and what a browser may do with it.
fn described(response: Builder, opened: &Opened, inline: bool) -> Builder {
    let is_file = opened.kind() == ContentKind::File;
    let shown_as = shown::inline_type(opened.media_type()).filter(|_| inline && is_file);
    let how = if shown_as.is_some() { "inline" } else { "attachment" };
    let known = [
        (MTIME_HEADER, opened.mtime().map(|seconds| seconds.to_string())),
        (MODE_HEADER, opened.mode().map(|mode| format!("{mode:o}"))),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known
        .fold(response, |response, (name, value)| response.header(name, value))
        .header(KIND_HEADER, if is_file { "file" } else { "dir" })
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::CONTENT_SECURITY_POLICY, shown::POLICY)
        .header(header::REFERRER_POLICY, "no-referrer")
        .header("cross-origin-resource-policy", "same-origin")
        .header(header::CACHE_CONTROL, CACHED)
        .header(header::CONTENT_DISPOSITION, shown::disposition(how, &opened.file_name(), &opened.cid()))
        .header(
            header::CONTENT_TYPE,
            match shown_as {
                Some(kind) => kind,
                None if is_file => shown::media_type(opened.media_type()),
                None => HeaderValue::from_static("application/x-tar"),
            },
        )
}

/// One block as it is stored here, sealed.
#[utoipa::path(get, path = "/blocks/{cid}", tag = "files", params(("cid" = Cid, Path, description = "of the block")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 404), (status = 422)))]
pub(super) async fn block(
    State(door): State<Door>,
    Segment(text): Segment<String>,
) -> Result<Response, Problem> {
    let cid: Cid = text.parse().map_err(|_| {
        Problem::bad_request(
            "this is no CID of a block",
            "one looks like bafyrcifi5zl5wmkkcjxqmxbyzhq5p2fyhlemoyq",
        )
    })?;
    let bytes = door.node.block(&cid).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Bytes::from(bytes)).into_response())
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else {
        return Ok(None);
    };
    let seconds = value.to_str().ok().and_then(|text| text.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(Some).ok_or_else(|| {
        let message = format!("{TIMEOUT_HEADER} is not a number of seconds");
        Problem::bad_request(message, "it is written in decimal digits, for example 2.5")
    })
}

/// By strong comparison (RFC 9110, 13.1.1).
fn etag_demanded(value: &HeaderValue, etag: &str) -> bool {
    value.to_str().is_ok_and(|text| text.split(',').map(str::trim).any(|one| one == "*" || one == etag))
}

fn etag_listed(value: &HeaderValue, etag: &str) -> bool {
    let Ok(text) = value.to_str() else { return false };
    text.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// A range counts where there is no `If-Range`, or where it names this very content (strong comparison).
fn if_range_holds(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes())
}
