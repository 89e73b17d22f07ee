//! The check of `Host` and `Origin`.
//!
//! A web page must not reach this API by pointing its own name at this address (DNS rebinding), and only the page of this
//! node may use a browser session.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::super::{problem::Problem, serve::ClientConnection};
use crate::node::error::ErrorCode;

/// The names of this node besides `localhost`, in lower case.
pub(in super::super) struct HostNames(pub(in super::super) Vec<String>);

/// Middleware that refuses a `Host` that is not this node's.
pub(in super::super) async fn check(
    State(names): State<Arc<HostNames>>,
    request: Request,
    next: Next,
) -> Response {
    // A name can be pointed at any address; an address as the Host is harmless wherever the server can be reached by it.
    let any_address =
        request.extensions().get::<ClientConnection>().is_some_and(|connection| !connection.loopback());
    if is_ours(&names, any_address, request.headers(), request.uri()) {
        return next.run(request).await;
    }
    let headers = request.headers();
    // Load balancers send probes without one. These two paths tell only whether the node lives, and why it cannot store.
    if !headers.contains_key(header::HOST) && matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    let detail = match host(headers) {
        Some(_) => "the header Host of this request is not a name of this node",
        None => "this request has no valid header Host",
    };
    let hint = "use 127.0.0.1, [::1] or localhost, or add the name to the setting http.hosts; a proxy must pass \
                the header Host unchanged";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, ErrorCode::Denied, detail, hint).into_response()
}

fn is_ours(names: &HostNames, any_address: bool, headers: &HeaderMap, uri: &Uri) -> bool {
    let Some(host) = host(headers) else {
        return false;
    };
    // An absolute URI in the request line must name the same host.
    if uri.authority().is_some_and(|target| target.host() != host.host()) {
        return false;
    }
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = name.parse::<IpAddr>() {
        return any_address || ip.is_loopback();
    }
    let name = name.to_ascii_lowercase();
    name == "localhost" || names.0.contains(&name)
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    host.to_str().ok()?.parse().ok()
}

/// Whether the page of this node sent this request, according to the browser. A page on another port is another site,
/// although it shares the cookies.
pub(in super::super) fn same_origin(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_read = method == Method::GET || method == Method::HEAD;
    match (text("origin"), text("sec-fetch-site")) {
        (Some(origin), _) => {
            origin.split_once("://").is_some_and(|(scheme, origin)| {
                let (origin, host) = (origin.parse::<Authority>().ok(), host(headers));
                // Without a port, that of the scheme is meant: a proxy may add or remove it.
                let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
                let parts =
                    |one: &Authority| (one.host().to_ascii_lowercase(), one.port_u16().unwrap_or(default));
                origin.is_some() && origin.as_ref().map(parts) == host.as_ref().map(parts)
            })
        }
        (None, Some("same-origin")) => true,
        // `none`: the user typed the URL or opened a bookmark.
        (None, Some("none") | None) => is_read,
        (None, Some(_)) => false,
    }
}

/// The problem of a request that [`same_origin`] refuses.
pub(in super::super) fn foreign_origin() -> Problem {
    let detail = "the header Origin of this request names another site than its header Host";
    let hint = "use the page of this node, or a token in programs; a proxy must pass the header Host unchanged, and \
                the setting http.hosts must list the name";
    Problem::denied(detail, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    fn accepts(names: &HostNames, any_address: bool, host: &str) -> bool {
        is_ours(names, any_address, &headers(&[("host", host)]), &Uri::from_static("/"))
    }

    #[test]
    fn a_foreign_host_is_refused() {
        let names = HostNames(Vec::new());
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.0.0.2"] {
            assert!(accepts(&names, false, host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8080", "127.0.0.1@evil", "", "[::2]"]
        {
            assert!(!accepts(&names, false, host), "{host}");
        }
        assert!(!is_ours(&names, false, &HeaderMap::new(), &Uri::from_static("/")));
        let names = HostNames(vec!["box.example".into()]);
        for host in ["BOX.example:8443", "10.0.0.1", "[2001:db8::1]:1", "localhost"] {
            assert!(accepts(&names, true, host), "{host}");
        }
        assert!(!accepts(&names, true, "evil.example"));
    }

    #[test]
    fn only_the_page_of_this_node_may_use_a_session() {
        let from = |method: &Method, pairs: &[(&'static str, &str)]| {
            let mut all = headers(pairs);
            all.insert(header::HOST, "127.0.0.1:8080".parse().expect("a value"));
            same_origin(method, &all)
        };
        let ours = ("origin", "http://127.0.0.1:8080");
        assert!(from(&Method::POST, &[ours]) && from(&Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(from(&Method::GET, &[]) && from(&Method::GET, &[("sec-fetch-site", "none")]));
        for origin in ["http://127.0.0.1:8081", "http://evil.example", "null", "http://localhost:8080"] {
            assert!(!from(&Method::POST, &[("origin", origin)]), "{origin}");
            assert!(!from(&Method::GET, &[("origin", origin)]), "{origin}");
        }
        for (origin, host, same) in [
            ("https://box.example", "box.example:443", true),
            ("https://Box.example:443", "box.example", true),
            ("http://box.example", "box.example:80", true),
            ("https://box.example", "box.example:80", false),
            ("http://box.example", "box.example:443", false),
            ("https://box.example:8443", "box.example", false),
            ("https://user@box.example", "box.example.org", false),
        ] {
            let all = headers(&[("origin", origin), ("host", host)]);
            assert_eq!(same_origin(&Method::POST, &all), same, "{origin} {host}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!from(&Method::GET, &[("sec-fetch-site", site)]), "{site}");
        }
        assert!(!from(&Method::POST, &[]) && !from(&Method::DELETE, &[("sec-fetch-site", "none")]));
    }
}
