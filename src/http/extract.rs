//! What a request says, taken apart; where it cannot be, the answer is a problem document.

use std::{error::Error, time::Duration};

use axum::{
    Json,
    body::{Body, BodyDataStream, Bytes},
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, PathRejection},
    },
    http::{StatusCode, request::Parts},
};
use futures::{Stream, StreamExt};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{runtime::Handle, time::Instant};

use super::{JSON_TIME, PACE, STALL, problem::Problem};
use crate::node::{ErrorCode, NodeError};

/// How long the rest of a refused body is read.
const MAX_DRAIN: Duration = Duration::from_secs(10);

/// A JSON body, read whole: at most [`super::MAX_JSON`] bytes.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // Some of these calls come before it is known who calls: what is short has a short time, too.
        match tokio::time::timeout(JSON_TIME, Json::from_request(request, state)).await {
            Ok(Ok(Json(value))) => Ok(Self(value)),
            Ok(Err(rejection)) => Err(refused(&rejection)),
            Err(_) => {
                let error = NodeError::new(ErrorCode::Timeout, "the body did not arrive in time");
                Err(Problem::with_status(error.hint("send the request again"), 408))
            }
        }
    }
}

/// An error of the reader that knows in which field it is.
type InField = serde_path_to_error::Error<serde_json::Error>;

fn in_field<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a InField> {
    error.downcast_ref().or_else(|| in_field(error.source()?))
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
        JsonRejection::JsonDataError(data) => {
            let field = in_field(data);
            let field = field.map(|e| e.path().to_string()).filter(|path| path != "." && path.len() <= 100);
            let message = match field {
                Some(field) => format!("{field} is not what this call takes"),
                None => "the body lacks a field, or has one that does not belong".into(),
            };
            bad(&message, "see /api/docs for what this call takes")
        }
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
            Err(rejection) => {
                let text = rejection.body_text();
                let (_, what) = text.split_once(": ").unwrap_or(("", &text));
                Err(Problem::bad_request(format!("behind the `?`: {what}")))
            }
        }
    }
}

/// A parameter that is `true` or `false`; `1` and `0` are the same.
pub(super) fn flag<'de, D: serde::Deserializer<'de>>(input: D) -> Result<bool, D::Error> {
    match <std::borrow::Cow<'de, str>>::deserialize(input)?.as_ref() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(serde::de::Error::custom("neither true nor false")),
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

/// The bytes of a body as they arrive; an error where waiting for [`PACE`] bytes takes longer than [`STALL`].
///
/// The time that the node takes for them does not count. Where the node wants no more of them, the rest is read for a
/// while all the same: the caller still sends, and if this side just closed, its system would throw away the answer that
/// says why.
pub(super) fn steady(body: Body) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static {
    let begin = Some((Rest(Some(body.into_data_stream())), STALL, 0));
    let stream = futures::stream::unfold(begin, |state| async {
        let (mut body, mut left, mut got) = state?;
        let asked = Instant::now();
        match tokio::time::timeout(left, body.next()).await {
            Ok(Some(Ok(bytes))) => {
                got += bytes.len();
                left = left.saturating_sub(asked.elapsed());
                if got >= PACE {
                    (left, got) = (STALL, 0);
                }
                Some((Ok(bytes), Some((body, left, got))))
            }
            Ok(Some(Err(e))) => Some((Err(std::io::Error::other(e)), None)),
            Ok(None) => None,
            Err(_) => {
                let slow = std::io::Error::new(std::io::ErrorKind::TimedOut, "the bytes came too slowly");
                Some((Err(slow), None))
            }
        }
    });
    Box::pin(stream)
}

/// A body, the rest of which is read when it is dropped.
struct Rest(Option<BodyDataStream>);

impl Rest {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let next = self.0.as_mut()?.next().await;
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        next
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let (Some(mut body), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            let all = async move { while let Some(Ok(_)) = body.next().await {} };
            runtime.spawn(tokio::time::timeout(MAX_DRAIN, all));
        }
    }
}
