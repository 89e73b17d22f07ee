//! What a request says, taken apart; where it cannot be, the answer is a problem document.

use std::error::Error;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
};
use futures::{Stream, StreamExt};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;
use utoipa::{IntoParams, PartialSchema};

use super::{JSON_TIME, PACE, STALL, problem::Problem};
use crate::node::{ErrorCode, NodeError};

/// A JSON body, read whole: at most [`super::MAX_JSON`] bytes.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + PartialSchema, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // Some of these calls come before it is known who calls: what is short has a short time, too.
        match tokio::time::timeout(JSON_TIME, Json::from_request(request, state)).await {
            Ok(Ok(Json(value))) => Ok(Self(value)),
            Ok(Err(rejection)) => Err(refused::<T>(&rejection)),
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

/// Whether a schema has a property of this name.
fn has_property(schema: &Value, name: &str) -> bool {
    let inner = |(key, value): (&String, &Value)| {
        key == "properties" && value.get(name).is_some() || has_property(value, name)
    };
    match schema {
        Value::Object(fields) => fields.iter().any(inner),
        Value::Array(all) => all.iter().any(|one| has_property(one, name)),
        _ => false,
    }
}

/// The serde message of a body may quote it, and a body may hold a secret: what is said is its place alone, and that
/// where it is one of ours.
fn refused<T: PartialSchema>(rejection: &JsonRejection) -> Problem {
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
            let path = in_field(data).map(|e| e.path().to_string()).unwrap_or_default();
            let field = path.split(['.', '[']).next().unwrap_or_default();
            let schema = serde_json::to_value(T::schema()).unwrap_or_default();
            let message = match Some(field).filter(|field| has_property(&schema, field)) {
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

impl<T: DeserializeOwned + IntoParams, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                // A value may be a secret: what is named is a parameter of ours, or none.
                let said = text.split(": ").nth(1).unwrap_or_default();
                let known: Vec<String> = T::into_params(|| None).into_iter().map(|one| one.name).collect();
                let message = match known.iter().find(|name| *name == said) {
                    Some(name) => format!("behind the `?`: {name} is not what this call takes"),
                    None => "behind the `?` stands what this call does not take".into(),
                };
                let hint = format!("it takes {}: /api/docs says how each looks", known.join(", "));
                Err(Problem::bad_request(message, hint))
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
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|_| {
            let hint = "what its % stand for is no UTF-8: names are, and CIDs are plain";
            Problem::bad_request("this path cannot be read", hint)
        })
    }
}

/// The bytes of a body as they arrive; an error where waiting for [`PACE`] bytes takes longer than [`STALL`].
///
/// The time that the node takes for them does not count.
pub(super) fn steady(body: Body) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static {
    let begin = Some((body.into_data_stream(), STALL, 0));
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

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    #[derive(Deserialize, utoipa::ToSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its reading is of interest")]
    struct Body {
        text: String,
        count: Option<u8>,
    }

    #[derive(Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[into_params(parameter_in = Query)]
    #[allow(dead_code, reason = "only its reading is of interest")]
    struct Query {
        limit: Option<u8>,
    }

    async fn detail(problem: Problem) -> String {
        let body = axum::response::IntoResponse::into_response(problem).into_body();
        String::from_utf8_lossy(&axum::body::to_bytes(body, 10_000).await.expect("a body")).into_owned()
    }

    #[tokio::test]
    async fn what_was_sent_is_not_said_again() {
        let secret = "hunter2";
        for (body, named) in [
            (r#"{"text":"x","hunter2":1}"#, None),
            (r#"{"hunter2":{}}"#, None),
            (r#"["hunter2"]"#, None),
            (r#"{"text":["hunter2"]}"#, Some("text is not")),
            (r#"{"text":"x","count":"hunter2"}"#, Some("count is not")),
            (r#"{"text":"hunter2"#, None),
        ] {
            let request = Request::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .body(axum::body::Body::from(body))
                .expect("a request");
            let refused = JsonBody::<Body>::from_request(request, &()).await.err().expect(body);
            let said = detail(refused).await;
            assert!(!said.contains(secret) && said.contains(named.unwrap_or("body")), "{body}: {said}");
        }
        for (query, named) in [
            ("limit=hunter2", "limit is not"),
            ("hunter2=1", "does not take"),
            ("limit=1&hunter2", "does not take"),
        ] {
            let (mut parts, ()) =
                Request::builder().uri(format!("/x?{query}")).body(()).expect("a request").into_parts();
            let refused = Params::<Query>::from_request_parts(&mut parts, &()).await.err().expect(query);
            let said = detail(refused).await;
            assert!(!said.contains(secret) && said.contains(named), "{query}: {said}");
        }
    }
}
