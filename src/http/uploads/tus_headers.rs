//! The headers of tus 1.0, and the rules that hold for all of its requests.

use std::collections::HashMap;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE64;

use super::{super::problem::Problem, part_file::Checksum};
use crate::node::error::ErrorCode;

pub(super) const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub(super) const CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
pub(super) const EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
/// The header of the extension for uploads in parallel parts, which is not supported.
pub(super) const CONCAT: HeaderName = HeaderName::from_static("upload-concat");
/// The header with the CID of the stored file.
pub(super) const CID: HeaderName = HeaderName::from_static("storgo-cid");
/// The media type of a part.
pub(super) const PART_TYPE: &str = "application/offset+octet-stream";

pub(super) const VERSION: &str = "1.0.0";
/// The supported extensions.
pub(super) const EXTENSIONS: &str = "creation,creation-with-upload,checksum,expiration,termination";
const RESUMABLE: &str = "tus-resumable";
const MAX_METADATA_BYTES: usize = 8 << 10;

/// Names the method of a `POST`, for clients whose proxy or runtime does not allow others.
const METHOD_OVERRIDE: &str = "x-http-method-override";

/// Replaces the method of a `POST` to an upload by the one that its header names. Must run before routing.
pub(in super::super) fn override_method(mut request: Request) -> Request {
    if *request.method() == Method::POST && request.uri().path().starts_with("/api/v1/uploads/") {
        let method = match request.headers().get(METHOD_OVERRIDE).map(HeaderValue::as_bytes) {
            Some(b"PATCH") => Method::PATCH,
            Some(b"DELETE") => Method::DELETE,
            Some(b"HEAD") => Method::HEAD,
            _ => return request,
        };
        *request.method_mut() = method;
    }
    request
}

/// Middleware that refuses other versions of tus, and names the version in each response. `GET` is not part of tus.
pub(in super::super) async fn check_version(request: Request, next: Next) -> Response {
    let supported = request.headers().get(RESUMABLE).is_some_and(|version| version == VERSION);
    let exempt = matches!(*request.method(), Method::GET | Method::OPTIONS);
    let mut response = if supported || exempt {
        next.run(request).await
    } else {
        let detail = "Tus-Resumable is missing or names an unsupported version";
        let hint = "send `Tus-Resumable: 1.0.0`";
        let mut response = Problem::new(StatusCode::PRECONDITION_FAILED, ErrorCode::BadRequest, detail, hint)
            .into_response();
        response.headers_mut().insert("tus-version", HeaderValue::from_static(VERSION));
        response
    };
    response.headers_mut().insert(RESUMABLE, HeaderValue::from_static(VERSION));
    response
}

/// Parses a header with a number of bytes.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    // Larger numbers are beyond any disk, and could overflow sums.
    let number = text.and_then(|text| text.parse().ok()).filter(|number| *number < 1 << 60);
    number.map(Some).ok_or_else(|| {
        let hint = "send decimal digits only";
        Problem::bad_request(format!("invalid {name}: expected a number of bytes"), hint)
    })
}

fn invalid_metadata() -> Problem {
    let hint = "send `key base64value` pairs separated by commas: at most 8 KiB, unique keys, UTF-8 values";
    Problem::bad_request("invalid Upload-Metadata", hint)
}

/// Returns `Upload-Metadata` as it was sent.
pub(super) fn raw_metadata(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(METADATA) else { return Ok(None) };
    value.to_str().map(|text| Some(text.to_owned())).map_err(|_| invalid_metadata())
}

/// Parses `key base64value, key base64value, key`.
pub(super) fn parse_metadata(text: &str) -> Result<HashMap<String, String>, Problem> {
    if text.len() > MAX_METADATA_BYTES {
        return Err(invalid_metadata());
    }
    let mut found = HashMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value =
            BASE64.decode(value.trim().as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if found.insert(key.to_owned(), value.ok_or_else(invalid_metadata)?).is_some() {
            return Err(invalid_metadata());
        }
    }
    Ok(found)
}

/// Parses `Upload-Checksum`.
pub(super) fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Problem> {
    let Some(value) = headers.get(CHECKSUM) else { return Ok(None) };
    let invalid = || {
        Problem::bad_request("invalid Upload-Checksum", "send `sha1 …` or `sha256 …` with the sum in base64")
    };
    let (algorithm, sum) =
        value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or_else(invalid)?;
    let sum = BASE64.decode(sum.trim().as_bytes()).map_err(|_| invalid())?;
    Checksum::new(algorithm, sum).map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn metadata_is_parsed_as_tus_defines() {
        let read = parse_metadata("filename YS50eHQ=, public dHJ1ZQ==,empty").expect("read");
        assert_eq!(
            (read["filename"].as_str(), read["public"].as_str(), read["empty"].as_str()),
            ("a.txt", "true", "")
        );
        for bad in ["filename !", "a YQ==,a YQ==", "a /w=="] {
            assert!(parse_metadata(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn all_metadata_is_parsed(pairs in proptest::collection::hash_map("[a-z_]{1,9}", any::<String>(), 0..5)) {
            let text: Vec<_> = pairs.iter().map(|(key, value)| format!("{key} {}", BASE64.encode(value.as_bytes()))).collect();
            prop_assert_eq!(parse_metadata(&text.join(",")).ok(), Some(pairs));
        }

        #[test]
        fn no_header_makes_a_parser_panic(text in "[ -~\\t]{0,80}") {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(&text).expect("plain characters");
            headers.insert(CHECKSUM, value.clone());
            headers.insert("upload-offset", value);
            drop((parse_metadata(&text), checksum(&headers)));
            if let Ok(number) = number(&headers, &HeaderName::from_static("upload-offset")) {
                prop_assert_eq!(number.map(u128::from), text.parse::<u128>().ok());
            }
        }
    }
}
