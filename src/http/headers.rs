//! Names of the headers that the API adds to HTTP.

use axum::http::HeaderValue;

/// Header with a file's read key in base64url, so that no URL carries it.
pub const KEY_HEADER: &str = "storgo-key";
/// Header with the number of seconds without progress after which a read fails.
pub const TIMEOUT_HEADER: &str = "storgo-timeout";
/// Header that says whether content is a `file` or a `dir` (as tar).
pub const KIND_HEADER: &str = "storgo-kind";
/// Header with the modification time of content, in seconds since 1970.
pub const MTIME_HEADER: &str = "storgo-mtime";
/// Header with the Unix permission bits of content, in octal.
pub const MODE_HEADER: &str = "storgo-mode";
/// Header with the id of a request.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Makes a header value of ASCII text.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
