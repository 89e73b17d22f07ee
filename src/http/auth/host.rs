//! Where a request says that it goes, and where it comes from.
//!
//! A web page must not reach this API by pointing its own name here (DNS rebinding), and none but our own page may use
//! the session of a browser.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::super::{Door, problem::Problem};
use crate::node::error::{ErrorCode, NodeError};

/// The names that this node is called by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    /// Names beside `localhost`, in lower case.
    pub(crate) names: Vec<String>,
    /// Whether every address will do, not loopback alone. A name can be pointed anywhere; an address cannot.
    pub(crate) any_address: bool,
}

/// Refuses a `Host` that is not ours.
pub(in super::super) async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    if is_ours(&door.hosts, request.headers(), request.uri()) {
        return next.run(request).await;
    }
    let error = NodeError::new(ErrorCode::Denied, "this Host is not served here")
        .hint("call the API as 127.0.0.1, [::1] or localhost, or add the name to the setting http.hosts");
    Problem::with_status(error, 421).into_response()
}

fn is_ours(hosts: &Hosts, headers: &HeaderMap, uri: &Uri) -> bool {
    let Some(host) = host(headers) else {
        return false;
    };
    // An absolute-form target may not name another host than the header does.
    if uri.authority().is_some_and(|target| target.host() != host.host()) {
        return false;
    }
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = name.parse::<IpAddr>() {
        return hosts.any_address || ip.is_loopback();
    }
    let name = name.to_ascii_lowercase();
    name == "localhost" || hosts.names.contains(&name)
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    host.to_str().ok()?.parse().ok()
}

/// Whether a browser says that our own page sent this request. A cookie does not tell ports apart, and a page on another
/// port of this machine is another site.
pub(in super::super) fn same_origin(method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let looks_only = method == Method::GET || method == Method::HEAD;
    match (text("origin"), text("sec-fetch-site")) {
        (Some(origin), _) => {
            let authority = origin.split_once("://").and_then(|(_, rest)| rest.parse::<Authority>().ok());
            authority.is_some() && authority == host(headers)
        }
        (None, Some("same-origin")) => true,
        // `none`: typed by the user, or a bookmark.
        (None, Some("none") | None) => looks_only,
        (None, Some(_)) => false,
    }
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

    fn accepts(hosts: &Hosts, host: &str) -> bool {
        is_ours(hosts, &headers(&[("host", host)]), &Uri::from_static("/"))
    }

    #[test]
    fn only_our_names_are_served() {
        let hosts = Hosts::default();
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.0.0.2"] {
            assert!(accepts(&hosts, host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8080", "127.0.0.1@evil", "", "[::2]"]
        {
            assert!(!accepts(&hosts, host), "{host}");
        }
        assert!(!is_ours(&hosts, &HeaderMap::new(), &Uri::from_static("/")));
        let hosts = Hosts { names: vec!["box.example".into()], any_address: true };
        for host in ["BOX.example:8443", "10.0.0.1", "[2001:db8::1]:1", "localhost"] {
            assert!(accepts(&hosts, host), "{host}");
        }
        assert!(!accepts(&hosts, "evil.example"));
    }

    #[test]
    fn a_session_serves_our_own_page_alone() {
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
        for site in ["cross-site", "same-site"] {
            assert!(!from(&Method::GET, &[("sec-fetch-site", site)]), "{site}");
        }
        assert!(!from(&Method::POST, &[]) && !from(&Method::DELETE, &[("sec-fetch-site", "none")]));
    }
}
