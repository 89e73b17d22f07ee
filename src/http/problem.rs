//! Errors over HTTP: problem documents (RFC 9457) with a stable `code` and a `hint`, and the memory of transfers
//! that failed after their header had gone out.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::Serialize;

use super::{Door, REQUEST_ID_HEADER, extract::Segment};
use crate::node::error::{ErrorCode, NodeError};

/// A [`NodeError`] as an HTTP response.
#[derive(Debug)]
pub(super) struct Problem {
    error: NodeError,
    status: u16,
    /// After how many seconds it is worth to ask again.
    retry_after_s: Option<u32>,
}

/// After how many seconds whoever was sent away because others were first may come back.
const RETRY_S: u32 = 10;

impl Problem {
    pub(super) fn with_status(error: NodeError, status: u16) -> Self {
        Self { error, status, retry_after_s: None }
    }

    /// A request that cannot be understood, and what would be. Neither says again what was sent: it may be a secret.
    pub(super) fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        NodeError::new(ErrorCode::BadRequest, message).hint(hint).into()
    }

    /// Others are served, and there is no place for this one.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        let error = NodeError::new(ErrorCode::Other, message)
            .hint("try again in a moment: the header Retry-After says in how many seconds");
        Self { retry_after_s: Some(RETRY_S), ..Self::with_status(error, 503) }
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        let status = error.code.http_status();
        Self::with_status(error, status)
    }
}

/// A problem document (RFC 9457).
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// `about:blank`: the status says it.
    r#type: &'a str,
    /// What the status means.
    title: &'a str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened, in a sentence.
    detail: &'a str,
    /// What happened, for programs.
    code: ErrorCode,
    /// What to do next.
    hint: &'a str,
}

impl Problem {
    fn document(&self, status: StatusCode) -> Document<'_> {
        Document {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &self.error.message,
            code: self.error.code,
            hint: if self.error.hint.is_empty() { next_step(self.error.code) } else { &self.error.hint },
        }
    }
}

/// What can be done about an error of which nothing more is known than its code.
const fn next_step(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Other => "try again; where it stays so, the node's log says more",
        ErrorCode::BadRequest => "/api/docs shows what this call takes",
        ErrorCode::Partial => "ask again for what is missing",
        ErrorCode::NotFound => "GET /api/v1/files lists what is here; a file elsewhere is read by its link",
        ErrorCode::Unreachable => "check that a peer runs and that this node knows it: GET /api/v1/peers",
        ErrorCode::Denied => "check what the token may do, and that the read key came along in Storgo-Key",
        ErrorCode::Integrity => {
            "POST /api/v1/verify says what is damaged, POST /api/v1/repair fetches it from peers"
        }
        ErrorCode::Collision => "store it without `public`",
        ErrorCode::BelowTarget => "GET /api/v1/files/{cid}/health says which nodes have it",
        ErrorCode::Timeout => "try again: what has arrived is kept",
        ErrorCode::Locked => "try again in a moment",
        ErrorCode::NoSpace => "free some space, raise storage.capacity, or remove files",
        ErrorCode::ShuttingDown => "start the node again and repeat the request",
    }
}

/// The whole answer, head and all, to a request that cannot even be read; none for a status that says something else.
pub(super) fn unreadable(status: u16) -> Option<Vec<u8>> {
    let (detail, hint) = match status {
        400 => {
            ("this request is not HTTP as RFC 9112 has it", "check what sends it, and the proxies on its way")
        }
        414 => ("the address of this request is too long", "/api/docs shows what there is"),
        431 => ("the header of this request is too large", LESS_HEADER),
        _ => return None,
    };
    let problem = Problem::with_status(NodeError::new(ErrorCode::BadRequest, detail).hint(hint), status);
    let status = StatusCode::from_u16(status).ok()?;
    let body = serde_json::to_string(&problem.document(status)).ok()?;
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {MEDIA_TYPE}\r\n{REQUEST_ID_HEADER}: {}\r\ncontent-length: {}\r\n\
         connection: close\r\ndate: {date}\r\n\r\n{body}",
        new_id(),
        body.len()
    );
    Some(answer.into_bytes())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let document = self.document(status);
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The id of one request, made here; a caller cannot choose it.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

fn new_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

const MEDIA_TYPE: &str = "application/problem+json";
/// Bytes of a request's header at most.
const MAX_HEADER: usize = 32 << 10;
const LESS_HEADER: &str = "a header may have 32 KiB and 100 fields";

/// Gives every request an id and its response the header that names it.
pub(super) async fn tag(mut request: Request, next: Next) -> Response {
    let id = new_id();
    request.extensions_mut().insert(RequestId(id.clone()));
    let len: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let mut response = if len + request.uri().path().len() > MAX_HEADER {
        let error = NodeError::new(ErrorCode::BadRequest, "the header of this request is too large")
            .hint(LESS_HEADER);
        Problem::with_status(error, 431).into_response()
    } else {
        next.run(request).await
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    if response.status() == StatusCode::NOT_MODIFIED {
        // Of no known length: that of an empty body would be said, and it is not the content's (RFC 9110, 8.6).
        *response.body_mut() = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    }
    response
}

/// Why recent transfers broke off. A status line that has gone out cannot be taken back; whoever got a short body
/// asks here what happened.
#[derive(Default)]
pub(super) struct Failures(Mutex<VecDeque<(String, NodeError)>>);

/// Failures remembered.
const REMEMBERED: usize = 256;

impl Failures {
    pub(super) fn note(&self, id: &RequestId, error: NodeError) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == REMEMBERED {
            failures.pop_front();
        }
        failures.push_back((id.0.clone(), error));
    }

    fn of(&self, id: &str) -> Option<NodeError> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().rev().find(|(known, _)| known == id).map(|(_, error)| error.clone())
    }
}

/// Why the body of an answer broke off: the problem document of that request, under its id.
#[utoipa::path(get, path = "/errors/{id}", tag = "node", params(("id" = String, Path, description = "`X-Request-Id` of the answer")),
    responses((status = 404), (status = 409), (status = 422), (status = 502), (status = 504), (status = 507)))]
pub(super) async fn recall(State(door): State<Door>, Segment(id): Segment<String>) -> Problem {
    match door.failures.of(&id) {
        Some(error) => error.into(),
        None => NodeError::new(ErrorCode::NotFound, "no failure of a request with this id is remembered")
            .hint("the id is `X-Request-Id` of the answer that broke off; the last 256 are remembered")
            .into(),
    }
}

pub(super) async fn no_such_path() -> Problem {
    NodeError::new(ErrorCode::NotFound, "there is nothing at this path")
        .hint("/api/docs shows what there is")
        .into()
}

pub(super) async fn wrong_method() -> Problem {
    let error = NodeError::new(ErrorCode::BadRequest, "this method is not served at this path")
        .hint("the header Allow names those that are");
    Problem::with_status(error, 405)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_code_and_a_next_step() {
        for code in [
            ErrorCode::Other,
            ErrorCode::BadRequest,
            ErrorCode::Partial,
            ErrorCode::NotFound,
            ErrorCode::Unreachable,
            ErrorCode::Denied,
            ErrorCode::Integrity,
            ErrorCode::Collision,
            ErrorCode::BelowTarget,
            ErrorCode::Timeout,
            ErrorCode::Locked,
            ErrorCode::NoSpace,
            ErrorCode::ShuttingDown,
        ] {
            let problem = Problem::from(NodeError::new(code, "it failed"));
            let document = problem.document(StatusCode::from_u16(problem.status).expect("a status"));
            assert!(!document.hint.is_empty() && document.code == code, "{code:?}");
            let own = Problem::from(NodeError::new(code, "it failed").hint("do this"));
            assert_eq!(own.document(StatusCode::OK).hint, "do this");
        }
        let busy = Problem::busy("all places are taken").into_response();
        assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(busy.headers()[header::RETRY_AFTER], HeaderValue::from(RETRY_S));
    }
}
