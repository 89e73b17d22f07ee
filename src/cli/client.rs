//! The client of the HTTP API: over TCP, or straight into the router of a node in this process.

use std::{borrow::Cow, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, Response, header},
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tower::ServiceExt;

use crate::{
    content::{cid::Cid, link::Link},
    http::{KEY_HEADER, REQUEST_ID_HEADER},
    node::{ErrorCode, NodeError, Reason, report::Status},
};

/// Longest answer that is read whole.
const MAX_ANSWER: usize = 64 << 20;

/// How the API is reached.
pub(super) enum Transport {
    /// A node that runs elsewhere.
    Tcp(SocketAddr),
    /// A node in this process.
    InProcess(Router),
}

pub(super) struct Client {
    transport: Transport,
    token: String,
}

/// A file as it goes into a path, and its key as it goes into a header.
pub(super) struct Target {
    path: String,
    key: Option<String>,
}

impl Target {
    /// The target of `reference` (a link, CID or name): `/api/v1/files/{…}` and then `rest`.
    pub(super) fn file(reference: &str, rest: &str) -> Result<Self, NodeError> {
        if reference.is_empty() {
            return Err(NodeError::new(ErrorCode::BadRequest, "an empty reference names no file")
                .hint("give a link, a CID or a name; `storgo-node ls` shows what is here"));
        }
        let (id, key) = if is_link(reference.trim()) {
            let link: Link = in_lower_case(reference.trim()).parse().map_err(|e| {
                NodeError::new(ErrorCode::BadRequest, format!("this link cannot be read: {e}"))
                    .hint("a link looks like storgo://<cid>#<key>; quote it, or the shell cuts it at the #")
            })?;
            let key = link.key.map(|key| data_encoding::BASE64URL_NOPAD.encode(key.as_bytes()));
            (link.cid.to_string(), key)
        } else {
            (escape(reference), None)
        };
        Ok(Self { path: format!("/api/v1/files/{id}{rest}"), key })
    }

    /// Whether a reference is neither a link nor a CID.
    pub(super) fn is_name(reference: &str) -> bool {
        !is_link(reference.trim()) && reference.trim().parse::<Cid>().is_err()
    }

    pub(super) fn path(path: impl Into<String>) -> Self {
        Self { path: path.into(), key: None }
    }
}

/// What a link begins with; programs that pass it on may have put it into capitals.
const SCHEME: &str = "storgo:";

/// A link with its scheme as links are written.
fn in_lower_case(link: &str) -> Cow<'_, str> {
    match link.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme != SCHEME && scheme.eq_ignore_ascii_case(SCHEME) => {
            Cow::Owned(format!("{SCHEME}{rest}"))
        }
        _ => Cow::Borrowed(link),
    }
}

/// A name may hold a #; a link without its scheme begins with a CID.
fn is_link(text: &str) -> bool {
    in_lower_case(text).starts_with(SCHEME)
        || text.split_once('#').is_some_and(|(cid, _)| cid.parse::<Cid>().is_ok())
}

/// Percent-encodes one part of a path or query.
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

#[derive(Deserialize)]
struct Problem {
    detail: String,
    code: ErrorCode,
    #[serde(default)]
    reason: Option<Reason>,
    #[serde(default)]
    hint: String,
}

impl Client {
    pub(super) fn new(transport: Transport, token: String) -> Self {
        Self { transport, token }
    }

    /// Sends a request; an answer that is a problem document becomes an error.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response<Body>, NodeError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&target.path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &target.key {
            request = request.header(KEY_HEADER, key);
        }
        let request = request
            .body(body)
            .map_err(|e| NodeError::new(ErrorCode::BadRequest, format!("this cannot be asked: {e}")))?;
        let response = match &self.transport {
            Transport::InProcess(router) => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Transport::Tcp(addr) => over_tcp(*addr, request).await?,
        };
        if response.status().is_success() { Ok(response) } else { Err(problem(response).await) }
    }

    /// Sends a request without a body and reads the answer as JSON.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
    ) -> Result<T, NodeError> {
        self.json_body(method, target, Body::empty()).await
    }

    /// Sends a request with a body and reads the answer as JSON.
    pub(super) async fn json_body<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Body,
    ) -> Result<T, NodeError> {
        let response =
            self.send(method, target, &[(header::CONTENT_TYPE.as_str(), "application/json")], body).await?;
        let bytes = collect(response.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            NodeError::new(ErrorCode::Other, format!("the node's answer cannot be understood: {e}"))
        })
    }

    /// What a failure to find anything comes to where the peers that were called belong to another cluster.
    pub(super) async fn outside(&self, error: NodeError) -> NodeError {
        if !matches!(error.code, ErrorCode::Unreachable | ErrorCode::NotFound | ErrorCode::Timeout) {
            return error;
        }
        match self.json::<Status>(Method::GET, &Target::path("/api/v1/status")).await {
            Ok(Status { peers: 0, outside: Some(addr), cluster, .. }) => NodeError {
                code: ErrorCode::Unreachable,
                message: format!(
                    "no peer is connected: the node at {addr} belongs to another cluster than this one"
                ),
                reason: None,
                hint: to_get_in(cluster).into(),
            },
            _ => error,
        }
    }

    /// Why the body of an answer broke off.
    pub(super) async fn why_short(&self, request_id: Option<&str>) -> NodeError {
        let lost = NodeError::new(ErrorCode::Unreachable, "the connection to the node broke off")
            .hint("see whether it still runs: `storgo-node status`");
        let Some(id) = request_id else { return lost };
        let target = Target::path(format!("/api/v1/errors/{id}"));
        match self.send(Method::GET, &target, &[], Body::empty()).await {
            Err(error) if error.message.contains("no failure of a request") => lost,
            Err(error) => error,
            Ok(_) => lost,
        }
    }
}

/// What to do on a node that the peers it knows do not let in.
pub(super) fn to_get_in(cluster: bool) -> &'static str {
    if cluster {
        "the cluster keys differ: `storgo-node invite` there prints a line for `storgo-node join` here, in a new --data-dir"
    } else {
        "it takes that cluster's key: `storgo-node invite` there prints a line for `storgo-node join` here"
    }
}

/// The id of the request that an answer belongs to.
pub(super) fn request_id(response: &Response<Body>) -> Option<String> {
    response.headers().get(REQUEST_ID_HEADER)?.to_str().ok().map(String::from)
}

async fn over_tcp(addr: SocketAddr, request: Request<Body>) -> Result<Response<Body>, NodeError> {
    let unreachable = |e: &dyn std::fmt::Display| {
        NodeError::new(ErrorCode::Unreachable, format!("the node at {addr} does not answer: {e}"))
            .hint("see whether it still runs; start one with `storgo-node run`")
    };
    let socket = tokio::net::TcpStream::connect(addr).await.map_err(|e| unreachable(&e))?;
    // Nagle's algorithm would hold a small request back.
    drop(socket.set_nodelay(true));
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.map_err(|e| unreachable(&e))?;
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("the connection to the node ended: {e}");
        }
    });
    let response = sender.send_request(request).await.map_err(|e| unreachable(&e))?;
    Ok(response.map(Body::new))
}

async fn collect(body: Body) -> Result<Vec<u8>, NodeError> {
    let limited = http_body_util::Limited::new(body, MAX_ANSWER);
    let collected = limited.collect().await;
    collected
        .map(|all| all.to_bytes().to_vec())
        .map_err(|e| NodeError::new(ErrorCode::Unreachable, format!("the node's answer broke off: {e}")))
}

async fn problem(response: Response<Body>) -> NodeError {
    let status = response.status();
    let bytes = collect(response.into_body()).await.unwrap_or_default();
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(Problem { detail, code, reason, mut hint }) => {
            // What can be done about it by the API is no help on the command line.
            if hint.contains("/api/") {
                hint.clear();
            }
            NodeError { code, reason, message: detail, hint }
        }
        Err(_) => NodeError::new(ErrorCode::Other, format!("the node answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_part_of_the_path() {
        assert_eq!(escape("a b/c?d#é"), "a%20b%2Fc%3Fd%23%C3%A9");
        assert_eq!((escape(".."), escape("a.txt")), ("%2E%2E".into(), "a.txt".into()));
    }

    #[test]
    fn a_name_may_hold_what_parts_a_link_from_its_key() {
        let target = Target::file("notes #1.txt", "").expect("a name");
        assert_eq!((target.path.as_str(), target.key), ("/api/v1/files/notes%20%231.txt", None));
        let cid = Cid::of(crate::content::cid::Codec::DagCbor, b"x");
        let link = Link { cid, key: Some(crate::content::secret::Key::new([1; 32])) }.to_string();
        for text in [
            link.clone(),
            format!(" {link}\n"),
            link["storgo://".len()..].into(),
            link.replacen("storgo", "Storgo", 1),
        ] {
            let target = Target::file(&text, "").expect("a link");
            assert!(target.path.ends_with(&cid.to_string()) && target.key.is_some(), "{text}");
        }
        for bad in ["", "storgo://x", &link[..link.len() - 1], &format!("{cid}#short")] {
            assert!(Target::file(bad, "").is_err(), "{bad}");
        }
    }
}
