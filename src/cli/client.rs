//! Client of the HTTP API: over TCP, or directly into the router of a node in this process.

use std::{borrow::Cow, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, header},
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use super::error::{CliError, Problem};
use crate::{
    content::{cid::Cid, link::Link},
    http::{KEY_HEADER, REQUEST_ID_HEADER},
    node::{ErrorCode, Reason, invite::Invite, report::Status},
};

/// Maximum length of a response that is read into memory.
const MAX_RESPONSE: usize = 64 << 20;

pub(super) enum Transport {
    /// A node in another process.
    Tcp(SocketAddr),
    /// A node in this process.
    InProcess(Router),
}

pub(super) struct Client {
    transport: Transport,
    token: String,
}

/// A path of the API, and the read key that goes into a header.
pub(super) struct Endpoint {
    path: String,
    key: Option<String>,
    /// Whether the reference is a name with slashes, perhaps meant as a path into a folder.
    is_path: bool,
}

/// The next step after a path into a folder.
const PATH_IN_FOLDER: &str = "files in a folder have links of their own: `storgo-node info --json FOLDER` lists them, and `get LINK` reads one";

impl Endpoint {
    /// The endpoint `/api/v1/files/{reference}` followed by `rest`; `reference` is a link, CID or name.
    pub(super) fn file(reference: &str, rest: &str) -> Result<Self, CliError> {
        if reference.is_empty() {
            return Err(CliError::bad_request("the reference is empty")
                .hint("give a link, a CID or a name; `storgo-node ls` lists the files here"));
        }
        if Invite::is_one(reference) {
            return Err(CliError::bad_request("this is an invite to a cluster, not a link")
                .hint("`storgo-node join INVITE` brings this node into the cluster"));
        }
        let (id, key) = if is_link(reference.trim()) {
            // `provide` prints the path behind a tab, and no link has white space.
            let link = reference.split_whitespace().next().unwrap_or_default();
            if link.split_once('#').is_some_and(|(_, key)| key.contains('/')) {
                let message = "a path behind a link, into its folder, is not supported";
                return Err(CliError::bad_request(message).hint(PATH_IN_FOLDER));
            }
            let link: Link = lower_case_scheme(link).parse().map_err(|e| {
                CliError::bad_request(format!("invalid link: {e}"))
                    .hint("a link looks like storgo://<cid>#<key>; quote it if your shell treats # specially")
            })?;
            let key = link.key.map(|key| data_encoding::BASE64URL_NOPAD.encode(key.as_bytes()));
            (link.cid.to_string(), key)
        } else {
            (escape(reference), None)
        };
        let is_path = key.is_none() && reference.contains('/');
        Ok(Self { path: format!("/api/v1/files/{id}{rest}"), key, is_path })
    }

    pub(super) fn path(path: impl Into<String>) -> Self {
        Self { path: path.into(), key: None, is_path: false }
    }
}

/// Returns whether a text is a link or an invite, where a command expects something else. No message repeats it: it contains
/// a key.
pub(super) fn secret_kind(text: &str) -> Option<&'static str> {
    let text = text.trim();
    if Invite::is_one(text) { Some("an invite to a cluster") } else { is_link(text).then_some("a link") }
}

/// Whether a reference is neither a link nor a CID.
pub(super) fn is_name(reference: &str) -> bool {
    !is_link(reference.trim()) && reference.trim().parse::<Cid>().is_err()
}

/// How a link begins; some programs turn a scheme into capitals.
const SCHEME: &str = "storgo:";

fn lower_case_scheme(link: &str) -> Cow<'_, str> {
    match link.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme != SCHEME && scheme.eq_ignore_ascii_case(SCHEME) => {
            Cow::Owned(format!("{SCHEME}{rest}"))
        }
        _ => Cow::Borrowed(link),
    }
}

/// A name may contain a #. A link without its scheme begins with a CID.
fn is_link(text: &str) -> bool {
    lower_case_scheme(text).starts_with(SCHEME)
        || text.split_once('#').is_some_and(|(cid, _)| cid.parse::<Cid>().is_ok())
}

/// Percent-encodes one segment of a path or one value of a query.
pub(super) fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && text.len() > 2) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
        out
    })
}

impl Client {
    pub(super) fn new(transport: Transport, token: String) -> Self {
        Self { transport, token }
    }

    /// Sends a request. A problem document in the response becomes an error.
    pub(super) async fn send(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response<Body>, CliError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&endpoint.path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &endpoint.key {
            request = request.header(KEY_HEADER, key);
        }
        let request = request
            .body(body)
            .map_err(|e| CliError::bad_request(format!("cannot build the request: {e}")))?;
        let response = match &self.transport {
            Transport::InProcess(router) => {
                router.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
            }
            Transport::Tcp(addr) => send_over_tcp(*addr, request).await?,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = collect(response.into_body()).await.unwrap_or_default();
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => match CliError::from(problem) {
                error if error.reason == Some(Reason::NameUnknown) && endpoint.is_path => {
                    error.hint(PATH_IN_FOLDER)
                }
                error => error,
            },
            Err(_) => CliError::new(ErrorCode::Other, format!("the node answered with HTTP status {status}")),
        })
    }

    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        endpoint: &Endpoint,
    ) -> Result<T, CliError> {
        self.json_body(method, endpoint, Body::empty()).await
    }

    pub(super) async fn json_body<T: DeserializeOwned>(
        &self,
        method: Method,
        endpoint: &Endpoint,
        body: Body,
    ) -> Result<T, CliError> {
        let headers = [(header::CONTENT_TYPE.as_str(), "application/json")];
        let response = self.send(method, endpoint, &headers, body).await?;
        let bytes = collect(response.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            CliError::new(ErrorCode::Other, format!("cannot parse the response of the node: {e}"))
                .hint("is the running node of another version? `storgo-node status` shows it")
        })
    }

    pub(super) async fn status(&self) -> Result<Status, CliError> {
        self.json(Method::GET, &Endpoint::path("/api/v1/status")).await
    }

    /// Replaces an error that means "nothing found" if the only peers belong to another cluster.
    pub(super) async fn explain_foreign_cluster(&self, error: CliError) -> CliError {
        if !matches!(error.code, ErrorCode::Unreachable | ErrorCode::NotFound | ErrorCode::Timeout) {
            return error;
        }
        match self.status().await {
            Ok(Status { peers: 0, outside: Some(addr), cluster, .. }) => {
                let message = format!("no peer is connected: the node at {addr} belongs to another cluster");
                CliError::new(ErrorCode::Unreachable, message).hint(how_to_join(cluster))
            }
            _ => error,
        }
    }

    /// Why the body of a response broke off: the node keeps the error under the id of the request.
    pub(super) async fn failure_of(&self, request_id: Option<&str>) -> CliError {
        self.noted_error(request_id).await.unwrap_or_else(|| {
            CliError::new(ErrorCode::Unreachable, "the connection to the node broke off")
                .hint("`storgo-node status` shows whether it still runs")
        })
    }

    /// The error that the node knows of a response that has begun; `None` for a complete one.
    pub(super) async fn noted_error(&self, request_id: Option<&str>) -> Option<CliError> {
        let endpoint = Endpoint::path(format!("/api/v1/errors/{}", request_id?));
        let error = match self.send(Method::GET, &endpoint, &[], Body::empty()).await {
            // The status of a partial success is not an error.
            Ok(response) => {
                serde_json::from_slice::<Problem>(&collect(response.into_body()).await.ok()?).ok()?.into()
            }
            Err(error) => error,
        };
        // Without a reason, the node knows no error of this request.
        (error.code != ErrorCode::NotFound || error.reason.is_some()).then_some(error)
    }
}

/// The hint if all known peers belong to another cluster. `cluster`: whether this node is in one.
pub(super) fn how_to_join(cluster: bool) -> String {
    let join =
        if cluster { "`join INVITE` here, with a new --data-dir" } else { "`storgo-node join INVITE` here" };
    format!("to join that cluster, run `invite` there and {join}")
}

/// The id of the request that a response belongs to.
pub(super) fn request_id(response: &Response<Body>) -> Option<String> {
    response.headers().get(REQUEST_ID_HEADER)?.to_str().ok().map(String::from)
}

async fn send_over_tcp(addr: SocketAddr, request: Request<Body>) -> Result<Response<Body>, CliError> {
    let unreachable = |e: &dyn std::fmt::Display| {
        CliError::new(ErrorCode::Unreachable, format!("the node at {addr} does not answer: {e}"))
            .hint("check whether it still runs; `storgo-node run` starts one")
    };
    let socket = tokio::net::TcpStream::connect(addr).await.map_err(|e| unreachable(&e))?;
    // Nagle's algorithm would delay small requests.
    drop(socket.set_nodelay(true));
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.map_err(|e| unreachable(&e))?;
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("connection to the node ended: {e}");
        }
    });
    let response = sender.send_request(request).await.map_err(|e| unreachable(&e))?;
    Ok(response.map(Body::new))
}

async fn collect(body: Body) -> Result<Vec<u8>, CliError> {
    let collected = http_body_util::Limited::new(body, MAX_RESPONSE).collect().await;
    collected.map(|all| all.to_bytes().to_vec()).map_err(|e| {
        CliError::new(ErrorCode::Unreachable, format!("the response of the node broke off: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(escape("a b/c?d#é"), "a%20b%2Fc%3Fd%23%C3%A9");
        assert_eq!((escape(".."), escape("a.txt")), ("%2E%2E".into(), "a.txt".into()));
    }

    #[test]
    fn a_name_may_contain_a_hash_sign_and_a_link_may_have_any_case() {
        let endpoint = Endpoint::file("notes #1.txt", "").expect("a name");
        assert_eq!((endpoint.path.as_str(), endpoint.key), ("/api/v1/files/notes%20%231.txt", None));
        let cid = Cid::of(crate::content::cid::Codec::DagCbor, b"x");
        let link = Link { cid, key: Some(crate::content::secret::Key::new([1; 32])) }.to_string();
        for text in [
            link.clone(),
            format!(" {link}\n"),
            format!("{link}\ta file.txt"),
            link["storgo://".len()..].into(),
            link.replacen("storgo", "Storgo", 1),
        ] {
            let endpoint = Endpoint::file(&text, "").expect("a link");
            assert!(endpoint.path.ends_with(&cid.to_string()) && endpoint.key.is_some(), "{text}");
        }
        for bad in ["", "storgo://x", &link[..link.len() - 1], &format!("{cid}#short")] {
            assert!(Endpoint::file(bad, "").is_err(), "{bad}");
        }
    }
}
