//! What tus says in headers.

use std::collections::HashMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use data_encoding::BASE64;

use super::{
    CHECKSUM, Check, ErrorCode, IntoResponse, METADATA, Next, NodeError, Problem, Request, Response,
};

/// The version of tus.
pub(super) const VERSION: &str = "1.0.0";
/// What of it is here beside its core.
pub(super) const EXTENSIONS: &str = "creation,creation-with-upload,checksum,expiration,termination";
/// The header that names the version.
const RESUMABLE: &str = "tus-resumable";
/// Bytes of all metadata at most.
const MAX_METADATA: usize = 8 << 10;

/// The header by which a client says the method that its proxy or its runtime does not let through.
const OVERRIDE: &str = "x-http-method-override";

/// The request that is meant by a `POST` to an upload that names another method: before any route is looked for.
pub(in super::super) fn overridden<B>(mut request: axum::http::Request<B>) -> axum::http::Request<B> {
    if *request.method() == Method::POST && request.uri().path().starts_with("/api/v1/uploads/") {
        let said = request.headers().get(OVERRIDE).map(HeaderValue::as_bytes);
        let meant = match said {
            Some(b"PATCH") => Method::PATCH,
            Some(b"DELETE") => Method::DELETE,
            Some(b"HEAD") => Method::HEAD,
            _ => return request,
        };
        *request.method_mut() = meant;
    }
    request
}

/// Refuses another version than ours, and names ours in each answer. Looking at uploads is none of the protocol's calls.
pub(in super::super) async fn speak(request: Request, next: Next) -> Response {
    let ours = request.headers().get(RESUMABLE).is_some_and(|version| version == VERSION);
    let plain = matches!(*request.method(), Method::GET | Method::OPTIONS);
    let mut response = if ours || plain {
        next.run(request).await
    } else {
        let error = NodeError::new(ErrorCode::BadRequest, "this call is one of tus 1.0, and does not say so")
            .hint("send `Tus-Resumable: 1.0.0`");
        let mut response = Problem::with_status(error, 412).into_response();
        response.headers_mut().insert("tus-version", HeaderValue::from_static(VERSION));
        response
    };
    response.headers_mut().insert(RESUMABLE, HeaderValue::from_static(VERSION));
    response
}

/// A header with a number of bytes.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    // Beyond what a disk holds, and beyond what is counted with.
    let number = text.and_then(|text| text.parse().ok()).filter(|number| *number < 1 << 60);
    number.map(Some).ok_or_else(|| {
        Problem::bad_request(format!("{name} is no number of bytes"), "it is written in plain decimal digits")
    })
}

fn bad_metadata() -> Problem {
    Problem::bad_request(
        "Upload-Metadata cannot be read",
        "it is `key base64value`, parted by commas: 8 KiB at most, each key once, each value UTF-8",
    )
}

/// What is said of an upload, as it was sent.
pub(super) fn metadata_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(METADATA) else { return Ok(None) };
    value.to_str().map(|text| Some(text.to_owned())).map_err(|_| bad_metadata())
}

/// `key base64value, key base64value, key`.
pub(super) fn metadata(text: &str) -> Result<HashMap<String, String>, Problem> {
    if text.len() > MAX_METADATA {
        return Err(bad_metadata());
    }
    let mut found = HashMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value =
            BASE64.decode(value.trim().as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if found.insert(key.to_owned(), value.ok_or_else(bad_metadata)?).is_some() {
            return Err(bad_metadata());
        }
    }
    Ok(found)
}

/// What the bytes of a part must hash to.
pub(super) fn checksum(headers: &HeaderMap) -> Result<Option<Check>, Problem> {
    let Some(value) = headers.get(CHECKSUM) else { return Ok(None) };
    let bad =
        || Problem::bad_request("Upload-Checksum cannot be read", "it is `sha1 …` or `sha256 …`, in base64");
    let (algorithm, sum) =
        value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or_else(bad)?;
    let sum = BASE64.decode(sum.trim().as_bytes()).map_err(|_| bad())?;
    Check::new(algorithm, sum).map(Some).ok_or_else(bad)
}

/// A header's value from text that has none but plain characters.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn metadata_is_read_as_tus_says() {
        let read = metadata("filename YS50eHQ=, public dHJ1ZQ==,empty").expect("read");
        assert_eq!(
            (read["filename"].as_str(), read["public"].as_str(), read["empty"].as_str()),
            ("a.txt", "true", "")
        );
        for bad in ["filename !", "a YQ==,a YQ==", "a /w=="] {
            assert!(metadata(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn metadata_comes_back(pairs in proptest::collection::hash_map("[a-z_]{1,9}", any::<String>(), 0..5)) {
            let said: Vec<_> = pairs.iter().map(|(key, value)| format!("{key} {}", BASE64.encode(value.as_bytes()))).collect();
            prop_assert_eq!(metadata(&said.join(",")).ok(), Some(pairs));
        }

        #[test]
        fn no_header_makes_the_reader_panic(text in "[ -~\\t]{0,80}") {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(&text).expect("plain characters");
            headers.insert(CHECKSUM, value.clone());
            headers.insert("upload-offset", value);
            drop((metadata(&text), checksum(&headers)));
            if let Ok(number) = number(&headers, &HeaderName::from_static("upload-offset")) {
                prop_assert_eq!(number.map(u128::from), text.parse::<u128>().ok());
            }
        }
    }
}
