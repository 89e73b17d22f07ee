//! Request ids, and why recent responses broke off.
//!
//! A status that has been sent cannot be changed. A client whose body broke off asks `GET /errors/{id}` for the cause.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use futures::stream;

use super::{
    extract::PathParam,
    headers::{REQUEST_ID_HEADER, header_value},
    problem::Problem,
};

/// Maximum number of failed responses that are remembered.
const MAX_REMEMBERED: usize = 256;

/// The id of one request. The node makes it; a client cannot choose it.
#[derive(Debug, Clone)]
pub(super) struct RequestId(String);

/// Gives every request an id, and names it in the response.
pub(super) async fn add(mut request: Request, next: Next) -> Response {
    let id = format!("{:016x}", rand::random::<u64>());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID_HEADER, header_value(&id));
    if response.status() == StatusCode::NOT_MODIFIED {
        // A body of unknown length: `Content-Length: 0` would claim that the content is empty (RFC 9110, 8.6).
        *response.body_mut() = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    }
    response
}

/// The responses that broke off after their status had been sent, newest last.
#[derive(Default)]
pub(super) struct BrokenResponses(Mutex<VecDeque<(String, Problem)>>);

impl BrokenResponses {
    pub(super) fn add(&self, id: &RequestId, problem: Problem) {
        let mut broken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.len() == MAX_REMEMBERED {
            broken.pop_front();
        }
        broken.push_back((id.0.clone(), problem));
    }

    fn get(&self, id: &str) -> Option<Problem> {
        let broken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        broken.iter().rev().find(|(known, _)| known == id).map(|(_, problem)| problem.clone())
    }
}

/// Returns why the body of a response broke off, as the problem document of that request.
#[utoipa::path(get, path = "/errors/{id}", tag = "node", params(("id" = String, Path, description = "The `X-Request-Id` of the response")),
    responses((status = 404), (status = 409), (status = 422), (status = 502), (status = 504), (status = 507)))]
pub(super) async fn error(
    State(broken): State<Arc<BrokenResponses>>,
    PathParam(id): PathParam<String>,
) -> Problem {
    broken.get(&id).unwrap_or_else(|| {
        let hint = "pass the X-Request-Id of the response that broke off; the last 256 are remembered";
        Problem::not_found("no recent response with this request id broke off", hint)
    })
}
