//! The bytes: whole files, ranges of them, folders as tar, and single sealed blocks.

use std::{ops::Range, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;

use super::{
    Door, KIND_HEADER, TIMEOUT_HEADER, files,
    problem::{Problem, RequestId},
};
use crate::node::{
    ContentKind, ReadOptions,
    error::{ErrorCode, NodeError},
};

/// `GET /files/{reference}/content`: the bytes, or the part that `Range` asks for.
pub(super) async fn read(
    State(door): State<Door>,
    Extension(id): Extension<RequestId>,
    Path(text): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reference = files::reference(&text, &headers)?;
    let opened = door.node.open(&reference, timeout(&headers)?).await?;
    let etag = format!("\"{}\"", opened.cid());
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| etag_listed(value, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let size = opened.size();
    let range = if_range_holds(&headers, &etag)
        .then(|| headers.get(header::RANGE))
        .flatten()
        .and_then(|value| value.to_str().ok())
        .filter(|_| opened.kind() == ContentKind::File)
        .and_then(|value| parse_range(value, size));
    let range = match range {
        Some(Wanted::Unsatisfiable) => {
            let error = NodeError::new(ErrorCode::BadRequest, format!("the file has {size} bytes only"));
            let mut response = Problem::with_status(error, 416).into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, header_value(&format!("bytes */{size}")));
            return Ok(response);
        }
        Some(Wanted::Part(range)) => Some(range),
        None => None,
    };
    let mut response =
        Response::builder().header(header::ETAG, etag).header("x-content-type-options", "nosniff");
    response = match opened.kind() {
        ContentKind::File => {
            let len = range.as_ref().map_or(size, |r| r.end - r.start);
            response
                .header(KIND_HEADER, "file")
                .header(header::CONTENT_TYPE, media_type(opened.media_type()))
                .header(header::CONTENT_LENGTH, len)
                .header(header::ACCEPT_RANGES, "bytes")
        }
        ContentKind::Dir => {
            response.header(KIND_HEADER, "dir").header(header::CONTENT_TYPE, "application/x-tar")
        }
    };
    response = response.header(header::CONTENT_DISPOSITION, disposition(&opened.file_name()));
    if let Some(range) = &range {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let failures = door.failures;
        let bytes = opened.read(ReadOptions { range });
        Body::from_stream(bytes.inspect_err(move |error| failures.note(&id, error.clone())))
    };
    response.body(body).map_err(|e| Problem::bad_request(format!("the answer has an impossible header: {e}")))
}

/// What the storer said the content is; nothing in particular where that is no header's value.
fn media_type(said: Option<&str>) -> HeaderValue {
    let said = said.and_then(|said| HeaderValue::from_str(said).ok());
    said.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// `GET /blocks/{cid}`: one block as it is stored here, sealed.
pub(super) async fn block(State(door): State<Door>, Path(text): Path<String>) -> Result<Response, Problem> {
    let cid = text.parse().map_err(|e| Problem::bad_request(format!("{e}")))?;
    let bytes = door.node.block(&cid).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Bytes::from(bytes)).into_response())
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else {
        return Ok(None);
    };
    let seconds = value.to_str().ok().and_then(|text| text.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(Some)
        .ok_or_else(|| Problem::bad_request(format!("{TIMEOUT_HEADER} is not a number of seconds")))
}

fn etag_listed(value: &HeaderValue, etag: &str) -> bool {
    let Ok(text) = value.to_str() else { return false };
    text.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// A range counts where there is no `If-Range`, or where it names this very content (strong comparison).
fn if_range_holds(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes())
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Part(Range<u64>),
    Unsatisfiable,
}

/// A single byte range (RFC 9110, 14.1.2). Anything else, several ranges included, is ignored as the RFC allows:
/// the whole file is the answer.
fn parse_range(text: &str, size: u64) -> Option<Wanted> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // More digits than a u64 holds still are a number: one beyond any file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let len = number(suffix)?;
            (if len == 0 { size } else { size.saturating_sub(len) }, size)
        }
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (start, last) = (number(first)?, number(last)?);
            if last < start {
                return None;
            }
            (start, last.saturating_add(1).min(size))
        }
    };
    Some(if start >= size { Wanted::Unsatisfiable } else { Wanted::Part(start..end) })
}

/// `attachment` with the name twice: in plain ASCII for old readers, and in full by RFC 8187.
fn disposition(name: &str) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let full: String = name.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
        out
    });
    header_value(&format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"))
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_that_is_no_header_hides_no_file() {
        assert_eq!(media_type(Some("text/plain")), "text/plain");
        for odd in [None, Some("text/\nplain"), Some("\u{7f}")] {
            assert_eq!(media_type(odd), "application/octet-stream");
        }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let part = |range| Some(Wanted::Part(range));
        assert_eq!(parse_range("bytes=0-9", 100), part(0..10));
        assert_eq!(parse_range("bytes=90-", 100), part(90..100));
        assert_eq!(parse_range("bytes=-7", 100), part(93..100));
        assert_eq!(parse_range("bytes=-700", 100), part(0..100));
        assert_eq!(parse_range("bytes=5-99999999999999999999999", 100), part(5..100));
        assert_eq!(parse_range("bytes=100-", 100), Some(Wanted::Unsatisfiable));
        assert_eq!(parse_range("bytes=-0", 100), Some(Wanted::Unsatisfiable));
        assert_eq!(parse_range("bytes=0-", 0), Some(Wanted::Unsatisfiable));
        for ignored in ["bytes=9-1", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=-", "bytes=+1-2", "5-6"] {
            assert_eq!(parse_range(ignored, 100), None, "{ignored}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let value = disposition("a\"b\\c\r\nX: y/ü.txt");
        assert_eq!(
            value.to_str().ok(),
            Some(
                "attachment; filename=\"a_b_c__X: y/_.txt\"; filename*=UTF-8''a%22b%5Cc%0D%0AX%3A%20y%2F%C3%BC.txt"
            )
        );
    }
}
