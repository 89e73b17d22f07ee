//! Errors over HTTP: problem documents (RFC 9457) with a stable `code` and a `hint`, and the memory of transfers
//! that failed after their header had gone out.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{Door, REQUEST_ID_HEADER, extract::Segment};
use crate::node::error::{ErrorCode, NodeError};

/// A [`NodeError`] as an HTTP response.
#[derive(Debug)]
pub(super) struct Problem {
    error: NodeError,
    status: u16,
}

impl Problem {
    pub(super) fn with_status(error: NodeError, status: u16) -> Self {
        Self { error, status }
    }

    /// The same problem with a next step.
    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.error = self.error.hint(hint);
        self
    }

    /// A request that cannot be understood.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        NodeError::new(ErrorCode::BadRequest, message).into()
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        Self { status: error.code.http_status(), error }
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
    /// What to do next; may be empty.
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
            hint: &self.error.hint,
        }
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
        None => {
            NodeError::new(ErrorCode::NotFound, "no failure of a request with this id is remembered").into()
        }
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    NodeError::new(ErrorCode::NotFound, format!("there is nothing at {}", uri.path()))
        .hint("/api/docs shows what there is")
        .into()
}

pub(super) async fn wrong_method() -> Problem {
    let error = NodeError::new(ErrorCode::BadRequest, "this method is not served at this path")
        .hint("the header Allow names those that are");
    Problem::with_status(error, 405)
}
