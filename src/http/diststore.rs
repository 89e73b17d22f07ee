//! Endpoints compatible with DistStore: same paths, same responses. `key` is a name (of several files with that name, the
//! newest), a CID or a link.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    body::BodyErrors,
    content::{self, ContentResponses},
    extract::QueryParams,
    form::{Form, Part, invalid_form},
    problem::Problem,
    put,
    request_id::RequestId,
    uploads::{SpooledFile, UploadRegistry},
};
use crate::node::{ListOptions, Node, PutOptions, Reference, report::FileKind};

const MAX_KEY_BYTES: usize = 4096;
/// Files read at a time.
const PAGE: usize = 1000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct KeyQuery {
    /// Name, CID or link of the file.
    #[param(required = true)]
    key: Option<String>,
}

impl KeyQuery {
    fn reference(self) -> Result<Reference, Problem> {
        match self.key.filter(|key| !key.is_empty()) {
            Some(key) => Ok(Reference::from(key.as_str())),
            None => Err(key_missing()),
        }
    }
}

fn key_missing() -> Problem {
    Problem::bad_request("`key` is missing", "pass the name of the file as `key`")
}

/// A form with a file and its key.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents the form")]
pub(super) struct StoreForm {
    /// The name of the file.
    key: String,
    /// The content of the file.
    #[schema(format = Binary, value_type = String)]
    file: Vec<u8>,
}

/// Stores a file under the name `key`.
#[utoipa::path(post, path = "/api/store", tag = "diststore",
    request_body(content_type = "multipart/form-data", content = StoreForm),
    responses((status = 200, content_type = "text/plain", body = String), (status = 409), (status = 413), (status = 507)))]
pub(super) async fn store(
    State(node): State<Node>,
    State(uploads): State<Arc<UploadRegistry>>,
    request: Request,
) -> Result<&'static str, Problem> {
    let mut form = Form::from_request(request).await?;
    let (mut key, mut spooled) = (None, None);
    while let Some(part) = form.next_part().await? {
        match (part.name.as_deref(), &key) {
            (Some("key"), Some(_)) => return Err(duplicate_part("key", "")),
            (Some("key"), _) => key = Some(short_text(part).await?).filter(|key| !key.is_empty()),
            (Some("file"), Some(key)) => {
                let permit = put::upload_permit(&node, put::PERMIT_TIMEOUT).await?;
                let errors = BodyErrors::default();
                let bytes = errors.watch(part.into_bytes().map_err(std::io::Error::other));
                let stored = permit.put(bytes, PutOptions::named(key), FileKind::File);
                stored.await.map_err(|error| errors.problem(error))?;
                // A second file must not be acknowledged without being stored.
                while let Some(part) = form.next_part().await? {
                    match part.name.as_deref() {
                        Some(name @ ("file" | "key")) => {
                            return Err(duplicate_part(name, "; the first file is stored"));
                        }
                        _ => part.skip().await?,
                    }
                }
                return Ok("File stored successfully");
            }
            (Some("file"), None) if spooled.is_some() => return Err(duplicate_part("file", "")),
            (Some("file"), None) => {
                spooled = Some(
                    SpooledFile::write(&uploads, part.into_bytes().map_err(|e| invalid_form(&e))).await?,
                );
            }
            _ => part.skip().await?,
        }
    }
    let key = key.ok_or_else(key_missing)?;
    let spooled = spooled.ok_or_else(|| {
        Problem::bad_request("the form has no part `file`", "send the content of the file as `file`")
    })?;
    spooled.store(&key).await?;
    Ok("File stored successfully")
}

fn duplicate_part(part: &str, outcome: &str) -> Problem {
    let detail = format!("the form has more than one part `{part}`{outcome}");
    Problem::bad_request(detail, "send one file per form, or several files to POST /api/v1/files")
}

async fn short_text(part: Part<'_>) -> Result<String, Problem> {
    let (mut bytes, mut text) = (part.into_bytes(), Vec::new());
    while let Some(bytes) = bytes.try_next().await.map_err(|e| invalid_form(&e))? {
        text.extend_from_slice(&bytes);
        if text.len() > MAX_KEY_BYTES {
            let detail = format!("`key` is longer than {MAX_KEY_BYTES} bytes");
            return Err(Problem::bad_request(detail, "choose a shorter name"));
        }
    }
    String::from_utf8(text)
        .map_err(|_| Problem::bad_request("`key` is not valid UTF-8", "send `key` as UTF-8"))
}

/// Returns the content of a file.
#[utoipa::path(get, path = "/api/get", tag = "diststore", params(KeyQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, content_type = "application/octet-stream", body = Vec<u8>), (status = 304),
        (status = 404), (status = 412), (status = 416), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn get(
    State(node): State<Node>,
    State(responses): State<ContentResponses>,
    Extension(id): Extension<RequestId>,
    QueryParams(query): QueryParams<KeyQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    content::disposition::refuse_subresources(&headers)?;
    let opened = node.open(&query.reference()?, None).await?;
    content::respond(&responses, &id, opened, false, &method, &headers).await
}

/// DistStore's response to a removal.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    /// Always `File deleted successfully`.
    message: &'static str,
}

/// Removes a file. Of several files with the name `key`, removes the newest.
#[utoipa::path(delete, path = "/api/delete", tag = "diststore", params(KeyQuery),
    responses((status = 200, body = Deleted), (status = 404)))]
pub(super) async fn delete(
    State(node): State<Node>,
    QueryParams(query): QueryParams<KeyQuery>,
) -> Result<Json<Deleted>, Problem> {
    node.remove_newest(&query.reference()?).await?;
    Ok(Json(Deleted { message: "File deleted successfully" }))
}

/// Lists the names of all files, without duplicates.
#[utoipa::path(get, path = "/api/list", tag = "diststore", responses((status = 200, body = Vec<String>)))]
pub(super) async fn list(State(node): State<Node>) -> Result<Response, Problem> {
    let mut names = std::collections::BTreeSet::new();
    let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
    loop {
        let page = node.list(options.clone()).await?;
        names.extend(page.files.into_iter().filter_map(|file| file.name));
        match page.next {
            Some(next) => options.cursor = Some(next),
            None => return Ok(([(header::CACHE_CONTROL, "no-cache")], Json(names)).into_response()),
        }
    }
}
