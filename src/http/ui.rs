//! The web page: files embedded in the binary, served with headers that restrict what the page may load and do.
//!
//! No token is needed for them: they hold no secrets, and the page has to load before anybody can sign in. The page does
//! everything through the API.

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{etag, headers::header_value, problem};

/// The page may load its own files and call its own API. Inline scripts, inline styles and HTML made from text are
/// forbidden.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
     media-src 'self' blob:; connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'";

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";
pub(super) const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// One file of the page.
struct Asset {
    /// Its path below `/ui/`.
    path: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($media_type:ident: $($path:literal)+;)+) => {
        &[$($(Asset { path: $path, media_type: $media_type, bytes: include_bytes!(concat!("ui/", $path)) },)+)+]
    };
}

static ASSETS: &[Asset] = assets! {
    HTML: "index.html";
    CSS: "style.css";
    SVG: "icon.svg";
    JS: "activity-log.js" "add-files.js" "api.js" "base.js" "block-grid.js" "charts.js" "connection.js" "dialog.js"
        "dom.js" "download.js" "drag-and-drop.js" "event-text.js" "events.js" "file-address.js" "file-cards.js"
        "file-names.js" "file-source.js" "file-table.js" "format.js" "health.js" "icons.js" "main.js"
        "node-status.js" "open-link.js" "overview-summary.js" "peers.js" "placeholders.js" "preview.js"
        "problem.js" "remove-file.js" "router.js" "session.js" "share.js" "speed.js" "tar.js" "toasts.js"
        "tokens.js" "transfers.js" "tus.js" "upload-list.js" "upload-lock.js" "upload-store.js"
        "upload-transfer.js" "upload.js" "uploads.js" "views/activity.js" "views/file.js" "views/files.js"
        "views/not-found.js" "views/overview.js" "views/peers.js" "views/settings.js" "views/signin.js";
};

/// `GET /` returns the page, `GET /ui/…` its scripts, style and icon.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(index)).route("/ui/{*path}", get(file))
}

async fn index(headers: HeaderMap) -> Response {
    file(Path("index.html".into()), headers).await
}

/// Paths are compared with the list as a whole, so no path can lead outside it.
async fn file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.path == path) {
        Some(asset) => respond(&headers, asset.media_type, POLICY, asset.bytes),
        None => problem::no_such_path().await.into_response(),
    }
}

/// Returns an embedded file, or 304 if the browser has it.
pub(super) fn respond(
    request: &HeaderMap,
    media_type: &'static str,
    policy: &'static str,
    bytes: &'static [u8],
) -> Response {
    let etag = format!("\"{}\"", &blake3::hash(bytes).to_hex()[..32]);
    let mut response = if etag::is_known(request, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, media_type)], Body::from(bytes)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, header_value(&etag));
    // Browsers revalidate every time, so that the page of a new binary appears at once.
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path};

    use axum::http::{Method, Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn call(method: Method, path: &str, if_none_match: Option<&str>) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(tag) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.body(Body::empty()).expect("a request");
        routes().with_state(()).oneshot(request).await.expect("an answer")
    }

    async fn body(response: Response) -> Vec<u8> {
        response.into_body().collect().await.expect("a body").to_bytes().to_vec()
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
    }

    #[test]
    fn every_file_of_the_page_is_embedded_in_the_binary() {
        fn collect(folder: &path::Path, below: &str, into: &mut BTreeSet<String>) {
            for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
                let name = format!("{below}{}", entry.file_name().to_string_lossy());
                if entry.path().is_dir() {
                    collect(&entry.path(), &format!("{name}/"), into);
                } else {
                    into.insert(name);
                }
            }
        }
        let mut there = BTreeSet::new();
        collect(&path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/ui"), "", &mut there);
        let served: BTreeSet<_> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        assert_eq!(served, there);
        assert_eq!(ASSETS.len(), served.len(), "a file is listed twice");
    }

    #[test]
    fn the_page_has_no_inline_code_and_never_parses_html() {
        for asset in ASSETS.iter().filter(|asset| asset.media_type != SVG) {
            let text = std::str::from_utf8(asset.bytes).expect("UTF-8");
            for word in [
                " style=\"",
                " onclick",
                "<style",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "http://",
                "https://",
            ] {
                let known = word == "http://" && asset.path == "dom.js";
                assert!(known || !text.contains(word), "{} has {word}", asset.path);
            }
            assert!(text.lines().count() <= 500, "{} has more than 500 lines: split it", asset.path);
        }
    }

    #[tokio::test]
    async fn the_page_is_served_with_strict_headers() {
        for path in ["/", "/ui/main.js", "/ui/style.css", "/ui/icon.svg", "/ui/views/files.js"] {
            let response = call(Method::GET, path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let policy = header(&response, "content-security-policy");
            assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(header(&response, "x-content-type-options"), "nosniff");
            assert_eq!(header(&response, "referrer-policy"), "no-referrer");
            assert_eq!(header(&response, "cache-control"), "no-cache");
            assert!(!body(response).await.is_empty());
        }
        assert_eq!(header(&call(Method::GET, "/", None).await, "content-type"), HTML);
        assert_eq!(header(&call(Method::GET, "/ui/main.js", None).await, "content-type"), JS);
    }

    #[tokio::test]
    async fn a_file_that_the_browser_has_cached_is_not_sent_again() {
        let first = call(Method::GET, "/ui/main.js", None).await;
        let tag = header(&first, "etag").to_owned();
        assert_eq!(tag.len(), 34);
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let again = call(Method::GET, "/ui/main.js", Some(&known)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(header(&again, "etag"), tag);
            assert!(body(again).await.is_empty());
        }
        assert_eq!(call(Method::GET, "/", Some(&tag)).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn paths_outside_the_page_are_not_found() {
        for path in [
            "/ui/",
            "/ui/nothing.js",
            "/ui/../ui.rs",
            "/ui/%2e%2e/ui.rs",
            "/ui/views",
            "/ui//main.js",
            "/ui/main.js/",
        ] {
            assert_eq!(call(Method::GET, path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(call(Method::POST, "/", None).await.status(), StatusCode::METHOD_NOT_ALLOWED);
        let head = call(Method::HEAD, "/", None).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(body(head).await.is_empty());
    }
}
