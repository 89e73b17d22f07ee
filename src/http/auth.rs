//! Who may call: a bearer token, and no `Host` but our own.

use std::{fs, net::IpAddr, path::Path};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;

use super::{Door, problem::Problem};
use crate::{
    content::secret::Key,
    node::{
        error::{ErrorCode, NodeError},
        identity::write_secret,
    },
};

/// Name of the token file inside the data directory.
pub const TOKEN_FILE: &str = "api.token";

/// Reads the token that opens this data directory's API, or makes one (32 random bytes, mode 0600).
///
/// # Errors
/// [`ErrorCode::Other`] where the file cannot be read or written.
pub fn load_or_create_token(data_dir: &Path) -> Result<String, NodeError> {
    let path = data_dir.join(TOKEN_FILE);
    let fail = |e| NodeError::new(ErrorCode::Other, format!("cannot use {}: {e}", path.display()));
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() >= 32 => Ok(token.trim().to_owned()),
        Ok(_) => Err(NodeError::new(ErrorCode::Other, format!("{} holds no token", path.display()))
            .hint("remove the file: the node makes a new one")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let token = BASE64URL_NOPAD.encode(Key::random().as_bytes());
            write_secret(&path, format!("{token}\n").as_bytes()).map_err(fail)?;
            Ok(token)
        }
        Err(e) => Err(fail(e)),
    }
}

/// Lets a request through that shows the token.
pub(super) async fn require_token(State(door): State<Door>, request: Request, next: Next) -> Response {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    // Hashes are compared, in constant time: neither length nor a common prefix of the token shows.
    match shown.map(|token| blake3::hash(token.as_bytes())) {
        Some(hash) if hash == blake3::hash(door.token.as_bytes()) => next.run(request).await,
        shown => {
            let message = if shown.is_some() { "this token is not valid" } else { "a token is needed" };
            let error = NodeError::new(ErrorCode::Denied, message)
                .hint("send `Authorization: Bearer …` with the token from `api.token` in the data directory");
            Problem::with_status(error, 401).into_response()
        }
    }
}

/// Refuses a `Host` that is not a loopback name: a web page must not reach this API by pointing its own name here
/// (DNS rebinding).
pub(super) async fn check_host(request: Request, next: Next) -> Response {
    if host_is_ours(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    let error = NodeError::new(ErrorCode::Denied, "this Host is not served here")
        .hint("call the API as 127.0.0.1, [::1] or localhost");
    Problem::with_status(error, 421).into_response()
}

fn host_is_ours(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Some(host) = host.to_str().ok().and_then(|h| h.parse::<http::uri::Authority>().ok()) else {
        return false;
    };
    // An absolute-form target may not name another host than the header does.
    if uri.authority().is_some_and(|target| target.host() != host.host()) {
        return false;
    }
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header value"));
        host_is_ours(&headers, &Uri::from_static("/"))
    }

    #[test]
    fn only_loopback_names_are_served() {
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.0.0.2"] {
            assert!(accepts(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8080", "127.0.0.1@evil", "", "[::2]"]
        {
            assert!(!accepts(host), "{host}");
        }
        assert!(!host_is_ours(&HeaderMap::new(), &Uri::from_static("/")));
    }
}
