//! `/api/docs`: a page that shows the OpenAPI document. All of it is in the binary.

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

const HTML: &str = include_str!("docs_page/page.html");
const SCRIPT: &str = include_str!("docs_page/page.js");
const STYLE: &str = include_str!("docs_page/page.css");

/// The page loads its script, its style and the document, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// Returns a page that shows this document.
#[utoipa::path(get, path = "/api/docs", tag = "node", security(()),
    responses((status = 200, content_type = "text/html", body = String), (status = 304)))]
pub(super) async fn page(headers: HeaderMap) -> Response {
    respond(&headers, "text/html; charset=utf-8", HTML)
}

/// Returns the script of that page.
#[utoipa::path(get, path = "/api/docs.js", tag = "node", security(()),
    responses((status = 200, content_type = "text/javascript", body = String), (status = 304)))]
pub(super) async fn script(headers: HeaderMap) -> Response {
    respond(&headers, "text/javascript; charset=utf-8", SCRIPT)
}

/// Returns the style of that page.
#[utoipa::path(get, path = "/api/docs.css", tag = "node", security(()),
    responses((status = 200, content_type = "text/css", body = String), (status = 304)))]
pub(super) async fn style(headers: HeaderMap) -> Response {
    respond(&headers, "text/css; charset=utf-8", STYLE)
}

fn respond(request: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let etag = format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..16]);
    if request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, [(header::ETAG, etag)], text).into_response()
}
