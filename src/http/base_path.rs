//! The path under which a reverse proxy serves this API.
//!
//! The page and the documentation use relative URLs. Only `Location` and the OpenAPI document name paths. A proxy may cut
//! the path off or pass it on.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{Uri, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};

/// The setting `http.base_path`: empty, or a path without a slash at its end.
#[derive(Clone)]
pub(super) struct BasePath(pub(super) Arc<str>);

impl BasePath {
    /// Returns a path of this API as clients name it.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

/// Middleware that cuts the base path off. Must run before routing.
pub(super) async fn strip(State(base): State<BasePath>, mut request: Request, next: Next) -> Response {
    if base.0.is_empty() {
        return next.run(request).await;
    }
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    match path.strip_prefix(&*base.0) {
        // Relative URLs of the page need the slash.
        Some(rest) if rest.is_empty() || rest.starts_with('?') => {
            return Redirect::permanent(&base.join(&format!("/{rest}"))).into_response();
        }
        Some(rest) if rest.starts_with('/') => {
            let mut parts = uri.clone().into_parts();
            parts.path_and_query = rest.parse().ok();
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        _ => {}
    }
    next.run(request).await
}
