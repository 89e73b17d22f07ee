//! Extractors for JSON bodies, query parameters and path parameters. They reject with problem documents.

use std::{error::Error, fmt::Write, time::Duration};

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::{IntoParams, PartialSchema};

use super::problem::Problem;
use crate::node::error::ErrorCode;

/// Time limit for a JSON body. Some endpoints that take one need no token.
const JSON_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer names of unknown fields and parameters are not quoted: a key or a token may have been pasted in their place.
const MAX_QUOTED_NAME: usize = 24;
const SEE_DOCS: &str = "see /api/docs for what this endpoint takes";

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + PartialSchema, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match tokio::time::timeout(JSON_TIMEOUT, Json::from_request(request, state)).await {
            Ok(Ok(Json(value))) => Ok(Self(value)),
            Ok(Err(rejection)) => Err(rejected_body::<T>(&rejection)),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::Timeout,
                format!("the body did not arrive within {} s", JSON_TIMEOUT.as_secs()),
                "send the request again",
            )),
        }
    }
}

/// No query parameters: for an endpoint where an ignored one could do harm.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

fn rejected_body<T: PartialSchema>(rejection: &JsonRejection) -> Problem {
    let problem =
        |status, detail: &str, hint: &'static str| Problem::new(status, ErrorCode::BadRequest, detail, hint);
    match rejection {
        JsonRejection::MissingJsonContentType(_) => problem(
            rejection.status(),
            "the Content-Type of the body is not JSON",
            "send `Content-Type: application/json`",
        ),
        JsonRejection::JsonSyntaxError(_) => {
            problem(StatusCode::BAD_REQUEST, "the body is not valid JSON", SEE_DOCS)
        }
        JsonRejection::JsonDataError(error) => {
            let path = error_path::<serde_json::Error>(error).unwrap_or_default();
            let field = path.split(['.', '[']).next().unwrap_or_default();
            let schema = serde_json::to_value(T::schema()).unwrap_or_default();
            let detail = match find_property(&schema, field) {
                Some(property) => invalid("field", field, property),
                None => unknown("field", field).unwrap_or("the body lacks a required field".into()),
            };
            problem(StatusCode::BAD_REQUEST, &detail, SEE_DOCS)
        }
        _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too large for this endpoint",
            "upload files with POST /api/v1/files or /api/v1/uploads",
        ),
        _ => problem(StatusCode::BAD_REQUEST, "the body broke off", "send the request again"),
    }
}

/// Returns the schema of the property `name`, wherever it is in `schema`.
fn find_property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("properties").and_then(|properties| properties.get(name));
            own.or_else(|| fields.values().find_map(|value| find_property(value, name)))
        }
        Value::Array(all) => all.iter().find_map(|value| find_property(value, name)),
        _ => None,
    }
}

/// The query parameters. Unknown ones are rejected if `T` denies unknown fields.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned + IntoParams, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        refuse_other_charsets(parts.uri.query().unwrap_or_default())?;
        let rejection = match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => return Ok(Self(value)),
            Err(rejection) => rejection,
        };
        let name = error_path::<serde::de::value::Error>(&rejection).unwrap_or_default();
        let params = T::into_params(|| None);
        let detail = if let Some(param) = params.iter().find(|param| param.name == name) {
            invalid("query parameter", &name, &serde_json::to_value(&param.schema).unwrap_or_default())
        } else {
            let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
            let unknown = unknown("query parameter", &name).unwrap_or("unknown query parameter".into());
            match names.as_slice() {
                [] => format!("{unknown}; this endpoint takes none"),
                names => format!("{unknown}; this endpoint takes `{}`", names.join("`, `")),
            }
        };
        Err(Problem::bad_request(detail, SEE_DOCS))
    }
}

/// Refuses parameters that are not UTF-8. The decoder would replace their bytes, so that different names became one.
fn refuse_other_charsets(query: &str) -> Result<(), Problem> {
    for parameter in query.split('&') {
        if percent_decode_str(parameter).decode_utf8().is_err() {
            let name = parameter.split('=').next().unwrap_or_default();
            let known = if is_quotable(name) { format!(" `{name}`") } else { String::new() };
            let detail = format!("invalid value of query parameter{known}: it is not UTF-8");
            return Err(Problem::bad_request(detail, "percent-encode names as UTF-8"));
        }
    }
    Ok(())
}

/// Returns the path of the field or parameter that could not be deserialized.
fn error_path<E: Error + 'static>(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref::<serde_path_to_error::Error<E>>() {
        Some(error) => Some(error.path().to_string()),
        None => error_path::<E>(error.source()?),
    }
}

/// Describes an unknown field or parameter. `None` if its name cannot be quoted.
fn unknown(what: &str, name: &str) -> Option<String> {
    is_quotable(name).then(|| format!("unknown {what} `{name}`"))
}

fn is_quotable(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    plain && (1..=MAX_QUOTED_NAME).contains(&name.len())
}

/// Describes an invalid value of a field or parameter by the values that its schema allows.
fn invalid(what: &str, name: &str, schema: &Value) -> String {
    let mut text = format!("invalid value of {what} `{name}`");
    if let Some(allowed) = allowed_values(schema) {
        write!(text, ": expected {allowed}").expect("writing to a string does not fail");
    }
    text
}

fn allowed_values(schema: &Value) -> Option<String> {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
        return Some(format!("one of `{}`", values.join("`, `")));
    }
    let is = |kind: &str| {
        schema["type"] == kind
            || schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind))
    };
    let range = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of at least {min}"),
        _ => String::new(),
    };
    if is("boolean") {
        Some("`true` or `false`".into())
    } else if is("integer") {
        Some(format!("an integer{range}"))
    } else if is("number") {
        Some(format!("a number{range}"))
    } else {
        schema["pattern"].as_str().map(|pattern| format!("text that matches {pattern}"))
    }
}

/// Deserializes a boolean parameter: `true`, `false`, `1` or `0`.
pub(super) fn boolean<'de, D: serde::Deserializer<'de>>(input: D) -> Result<bool, D::Error> {
    match <std::borrow::Cow<'de, str>>::deserialize(input)?.as_ref() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(serde::de::Error::custom("expected a boolean")),
    }
}

/// The variable part of a path.
pub(super) struct PathParam<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParam<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|_| {
            Problem::bad_request("the path is not valid UTF-8", "percent-encode names in a path as UTF-8")
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    #[derive(Deserialize, utoipa::ToSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only deserialized")]
    struct Body {
        text: String,
        count: Option<u8>,
    }

    #[derive(Deserialize, utoipa::ToSchema)]
    #[serde(rename_all = "snake_case")]
    enum Order {
        Asc,
        Desc,
    }

    #[derive(Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[into_params(parameter_in = Query)]
    #[allow(dead_code, reason = "only deserialized")]
    struct Params {
        #[param(minimum = 1, maximum = 100)]
        limit: Option<u8>,
        #[param(inline)]
        order: Option<Order>,
        #[serde(default, deserialize_with = "boolean")]
        all: bool,
    }

    const KEY: &str = "gVBoqPqLcFWlvd0UiNQN4g9FpbGTPY3lNtCmUb3vsBk";

    #[tokio::test]
    async fn an_invalid_body_is_explained_without_its_values() {
        for (body, detail) in [
            (r#"{"text":"KEY","extra":1}"#, "unknown field `extra`"),
            (r#"{"KEY":{}}"#, "the body lacks a required field"),
            (r#"["KEY"]"#, "the body lacks a required field"),
            (r#"{"text":["KEY"]}"#, "invalid value of field `text`"),
            (
                r#"{"text":"x","count":"KEY"}"#,
                "invalid value of field `count`: expected an integer of at least 0",
            ),
            (r#"{"text":"KEY"#, "the body is not valid JSON"),
        ] {
            let request = Request::builder()
                .header(header::CONTENT_TYPE, "application/json")
                .body(axum::body::Body::from(body.replace("KEY", KEY)))
                .expect("a request");
            let problem = JsonBody::<Body>::from_request(request, &()).await.err().expect(body);
            assert_eq!(problem.detail, detail, "{body}");
        }
    }

    #[tokio::test]
    async fn an_invalid_query_is_explained_without_its_values() {
        let takes = "this endpoint takes `limit`, `order`, `all`";
        for (query, detail) in [
            (
                "limit=KEY",
                "invalid value of query parameter `limit`: expected an integer from 1 to 100".into(),
            ),
            ("order=KEY", "invalid value of query parameter `order`: expected one of `asc`, `desc`".into()),
            ("all=KEY", "invalid value of query parameter `all`: expected `true` or `false`".into()),
            ("limit=1&foo=KEY", format!("unknown query parameter `foo`; {takes}")),
            ("KEY=1", format!("unknown query parameter; {takes}")),
            ("order=%FCKEY", "invalid value of query parameter `order`: it is not UTF-8".into()),
            ("KEY%FC=1", "invalid value of query parameter: it is not UTF-8".into()),
        ] {
            let uri = format!("/x?{}", query.replace("KEY", KEY));
            let (mut parts, ()) = Request::builder().uri(uri).body(()).expect("a request").into_parts();
            let problem = QueryParams::<Params>::from_request_parts(&mut parts, &()).await;
            assert_eq!(problem.err().expect(query).detail, detail, "{query}");
        }
    }
}
