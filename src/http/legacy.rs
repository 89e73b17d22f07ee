//! The calls of DistStore, on the same names and with the same answers. `key` is a name (the newest file of that name
//! wins), a CID or a link.

use axum::{
    Extension, Json,
    extract::{Request, State, multipart::Field},
    http::{HeaderMap, Method, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Door, content,
    extract::Params,
    problem::{Problem, RequestId},
    store::{self, Broken, Form, broken_form, skip},
    uploads::Early,
};
use crate::node::{ListOptions, PutOptions, Reference, report::FileKind};

/// Bytes of the longest key.
const MAX_KEY: usize = 4096;
/// Files looked at at a time.
const PAGE: usize = 1000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct KeyQuery {
    /// Name, CID or link.
    #[param(required = true)]
    key: Option<String>,
}

impl KeyQuery {
    fn reference(self) -> Result<Reference, Problem> {
        match self.key.filter(|key| !key.is_empty()) {
            Some(key) => Ok(Reference::from(key.as_str())),
            None => Err(no_key()),
        }
    }
}

fn no_key() -> Problem {
    Problem::bad_request("the key is missing", "pass the file's name as `key`")
}

/// A form with a file and its name.
#[derive(ToSchema)]
#[allow(dead_code, reason = "says in the document what the form holds")]
pub(super) struct StoreForm {
    /// The name.
    key: String,
    /// The bytes.
    #[schema(format = Binary, value_type = String)]
    file: Vec<u8>,
}

/// Stores the file of a form under its key.
#[utoipa::path(post, path = "/api/store", tag = "diststore",
    request_body(content_type = "multipart/form-data", content = StoreForm),
    responses((status = 200, content_type = "text/plain", body = String), (status = 409), (status = 413), (status = 507)))]
pub(super) async fn store(State(door): State<Door>, request: Request) -> Result<&'static str, Problem> {
    let mut form = Form::of(request).await?;
    let (mut key, mut early) = (None, None);
    while let Some(part) = form.next().await? {
        match (part.name(), &key) {
            (Some("key"), Some(_)) => return Err(twice("key", "")),
            (Some("key"), _) => key = Some(short_text(part).await?).filter(|key| !key.is_empty()),
            (Some("file"), Some(key)) => {
                let place = store::place(&door.node, store::PATIENCE).await?;
                let broken = Broken::default();
                let bytes = broken.watch(part.map_err(std::io::Error::other));
                let stored = door.node.put_in(&place, bytes, PutOptions::named(key), FileKind::File);
                stored.await.map_err(|error| broken.blame(error))?;
                // One that came behind it would be acknowledged, and nowhere.
                while let Some(part) = form.next().await? {
                    if matches!(part.name(), Some("file" | "key")) {
                        return Err(twice(part.name().unwrap_or_default(), "; the first file is stored"));
                    }
                    skip(part).await?;
                }
                return Ok("File stored successfully");
            }
            // The name comes behind the bytes: they wait on disk.
            (Some("file"), None) if early.is_some() => return Err(twice("file", "")),
            (Some("file"), None) => {
                early = Some(Early::take(&door.uploads, part.map_err(|e| broken_form(&e))).await?);
            }
            _ => skip(part).await?,
        }
    }
    let key = key.ok_or_else(no_key)?;
    let early =
        early.ok_or_else(|| Problem::bad_request("the form has no part `file`", "send the bytes in one"))?;
    early.store(&key).await?;
    Ok("File stored successfully")
}

fn twice(part: &str, so: &str) -> Problem {
    let message = format!("the form has more than one part `{part}`{so}");
    Problem::bad_request(message, "send each file in a form of its own, or several to POST /api/v1/files")
}

async fn short_text(mut part: Field<'_>) -> Result<String, Problem> {
    let mut text = Vec::new();
    while let Some(bytes) = part.chunk().await.map_err(|e| broken_form(&e))? {
        text.extend_from_slice(&bytes);
        if text.len() > MAX_KEY {
            let message = format!("the key is longer than {MAX_KEY} bytes");
            return Err(Problem::bad_request(message, "choose a shorter one"));
        }
    }
    String::from_utf8(text).map_err(|_| Problem::bad_request("the key is not UTF-8", "send it as UTF-8"))
}

/// The bytes of a file.
#[utoipa::path(get, path = "/api/get", tag = "diststore", params(KeyQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, content_type = "application/octet-stream", body = Vec<u8>), (status = 304),
        (status = 404), (status = 412), (status = 416), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn get(
    State(door): State<Door>,
    Extension(id): Extension<RequestId>,
    Params(query): Params<KeyQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    content::shown::refuse_as_part(&headers)?;
    let opened = door.node.open(&query.reference()?, None).await?;
    content::answer(&door, &id, opened, false, &method, &headers).await
}

/// What DistStore says of a removal.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    /// `File deleted successfully`.
    message: &'static str,
}

/// Removes a file; of several with this name, the newest.
#[utoipa::path(delete, path = "/api/delete", tag = "diststore", params(KeyQuery),
    responses((status = 200, body = Deleted), (status = 404)))]
pub(super) async fn delete(
    State(door): State<Door>,
    Params(query): Params<KeyQuery>,
) -> Result<Json<Deleted>, Problem> {
    door.node.remove_newest(&query.reference()?).await?;
    Ok(Json(Deleted { message: "File deleted successfully" }))
}

/// The names of all files, each once.
#[utoipa::path(get, path = "/api/list", tag = "diststore", responses((status = 200, body = Vec<String>)))]
pub(super) async fn list(State(door): State<Door>) -> Result<Response, Problem> {
    let mut names = std::collections::BTreeSet::new();
    let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
    loop {
        let page = door.node.list(options.clone()).await?;
        names.extend(page.files.into_iter().filter_map(|file| file.name));
        match page.next {
            Some(next) => options.cursor = Some(next),
            None => return Ok(([(header::CACHE_CONTROL, "no-cache")], Json(names)).into_response()),
        }
    }
}
