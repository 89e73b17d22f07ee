//! What a request says, taken apart; where it cannot be, the answer is a problem document.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, PathRejection},
    },
    http::{StatusCode, request::Parts},
};
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::{STALL, problem::Problem};
use crate::node::{ErrorCode, NodeError};

/// A JSON body, read whole: at most [`super::MAX_JSON`] bytes.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let request = request.map(|body| Body::from_stream(steady(body)));
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(refused(&rejection)),
        }
    }
}

/// The serde message of a body may quote it, and a body may hold a secret: what is said is its place alone.
fn refused(rejection: &JsonRejection) -> Problem {
    let status = rejection.status();
    let bad = |message: &str, hint: &str| {
        let error = NodeError::new(ErrorCode::BadRequest, message).hint(hint);
        // A body that is JSON and no answer to what was asked is a bad request like any other.
        let status =
            if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
        Problem::with_status(error, status.as_u16())
    };
    match rejection {
        JsonRejection::MissingJsonContentType(_) => {
            bad("the body is not said to be JSON", "send `Content-Type: application/json`")
        }
        JsonRejection::JsonSyntaxError(_) => {
            bad("the body is not JSON", "see /api/docs for what this call takes")
        }
        JsonRejection::JsonDataError(_) => bad(
            "the body lacks a field, or has one that does not belong",
            "see /api/docs for what this call takes",
        ),
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => {
            bad("the body is too large", "files go to /api/v1/files or /api/v1/uploads")
        }
        _ => bad("the body broke off", "send the request again"),
    }
}

/// The parameters behind `?`. Unknown ones are refused where `T` denies them.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

/// The variable part of a path.
pub(super) struct Segment<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segment<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(e)) => Err(Problem::bad_request(e.body_text())),
            Err(_) => Err(Problem::bad_request("this path cannot be read")),
        }
    }
}

/// The bytes of a body as they arrive; an error where none does for a while.
pub(super) fn steady(body: Body) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static {
    let stream = futures::stream::unfold(Some(body.into_data_stream()), |body| async {
        let mut body = body?;
        match tokio::time::timeout(STALL, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(e))) => Some((Err(std::io::Error::other(e)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    });
    Box::pin(stream)
}
