//! Comparison of entity tags (RFC 9110, 13.1).

use axum::http::{HeaderMap, HeaderValue, header};

/// Whether `tags`, the value of an `If-Match`, contains this tag.
pub(super) fn matches_strongly(tags: &HeaderValue, etag: &str) -> bool {
    list(tags).any(|tag| tag == "*" || tag == etag)
}

/// Whether the client has the content with this tag, according to `If-None-Match`.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let mut tags = headers.get_all(header::IF_NONE_MATCH).iter().flat_map(list);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn list(tags: &HeaderValue) -> impl Iterator<Item = &str> {
    tags.to_str().unwrap_or_default().split(',').map(str::trim)
}
