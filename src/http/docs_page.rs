//! `/api/docs`: a page that shows the OpenAPI document. All of it is in the binary.

use axum::{http::HeaderMap, response::Response};

use super::ui;

/// The page loads its script, its style and the document, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// Returns a page that shows this document.
#[utoipa::path(get, path = "/api/docs", tag = "node", security(()),
    responses((status = 200, content_type = "text/html", body = String), (status = 304)))]
pub(super) async fn page(headers: HeaderMap) -> Response {
    ui::respond(&headers, ui::HTML, POLICY, include_bytes!("docs_page/page.html"))
}

/// Returns the script of that page.
#[utoipa::path(get, path = "/api/docs.js", tag = "node", security(()),
    responses((status = 200, content_type = "text/javascript", body = String), (status = 304)))]
pub(super) async fn script(headers: HeaderMap) -> Response {
    ui::respond(&headers, ui::JS, POLICY, include_bytes!("docs_page/page.js"))
}

/// Returns the style of that page.
#[utoipa::path(get, path = "/api/docs.css", tag = "node", security(()),
    responses((status = 200, content_type = "text/css", body = String), (status = 304)))]
pub(super) async fn style(headers: HeaderMap) -> Response {
    ui::respond(&headers, ui::CSS, POLICY, include_bytes!("docs_page/page.css"))
}
