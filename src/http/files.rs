//! `/files`: store, list, look at, check and remove.

use std::time::Duration;

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Door, KEY_HEADER,
    auth::{Caller, Scope},
    extract::{JsonBody, Params, Segment, steady},
    problem::Problem,
};
use crate::{
    content::secret::Key,
    node::{
        PutOptions, Reference,
        report::{FileInfo, FileKind, FileList, Placement, PutReport, RemoveReport, VerifyReport},
    },
};

/// Longest wait of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// How long the rest of a refused upload is read.
const MAX_DRAIN: Duration = Duration::from_secs(10);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutQuery {
    name: Option<String>,
    #[serde(default)]
    public: bool,
    #[serde(default = "yes")]
    dedup: bool,
    chunker: Option<String>,
    media_type: Option<String>,
    mtime: Option<i64>,
    mode: Option<u32>,
    #[serde(default)]
    tree: bool,
}

const fn yes() -> bool {
    true
}

/// Stores the body as a file; with `tree=true` the body is a tar stream and becomes a folder.
#[utoipa::path(post, path = "/files", tag = "files", params(PutQuery),
    request_body(content_type = "application/octet-stream", content = Vec<u8>),
    responses((status = 201, body = PutReport, headers(("location" = String, description = "Its path"))),
        (status = 409), (status = 507)))]
pub(super) async fn put(
    State(door): State<Door>,
    Params(query): Params<PutQuery>,
    body: Body,
) -> Result<Response, Problem> {
    let chunker = query.chunker.map(|text| text.parse()).transpose();
    let options = PutOptions {
        name: query.name,
        public: query.public,
        dedup: query.dedup,
        chunker: chunker.map_err(|e| Problem::bad_request(format!("chunker: {e}")))?,
        media_type: query.media_type,
        mtime: query.mtime,
        mode: query.mode,
    };
    let kind = if query.tree { FileKind::Dir } else { FileKind::File };
    let mut bytes = steady(body);
    let report = match door.node.put_stream(&mut bytes, options, kind).await {
        Ok(report) => report,
        Err(error) => {
            drain(&door, bytes);
            return Err(error.into());
        }
    };
    let location = format!("/api/v1/files/{}", report.cid);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(report)).into_response())
}

/// Reads on for a while where an upload was refused. The caller still sends; if this side just closed, its system would
/// throw away the answer that says why.
fn drain(door: &Door, mut bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static) {
    let stop = door.node.stopping();
    door.node.spawn(async move {
        let all = async { while let Some(Ok(_)) = bytes.next().await {} };
        stop.run_until_cancelled(tokio::time::timeout(MAX_DRAIN, all)).await;
    });
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    cursor: Option<String>,
    limit: Option<usize>,
    q: Option<String>,
}

/// A page of the list of files.
#[utoipa::path(get, path = "/files", tag = "files", params(ListQuery), responses((status = 200, body = FileList)))]
pub(super) async fn list(
    State(door): State<Door>,
    Extension(caller): Extension<Caller>,
    Params(query): Params<ListQuery>,
) -> Result<Json<FileList>, Problem> {
    let cursor = query.cursor.map(|text| text.parse()).transpose();
    let cursor = cursor.map_err(|e| Problem::bad_request(format!("cursor: {e}")))?;
    let limit = query.limit.unwrap_or(100).clamp(1, 1000);
    let mut list = door.node.list(cursor, limit, query.q.as_deref()).await?;
    list.files.iter_mut().for_each(|info| hide_links(&caller, info));
    Ok(Json(list))
}

/// The file that a path and the key header name.
pub(super) fn reference(text: &str, headers: &HeaderMap) -> Result<Reference, Problem> {
    let key = headers.get(KEY_HEADER).map(|value| parse_key(value.as_bytes())).transpose()?;
    Ok(Reference::new(text, key))
}

fn parse_key(text: &[u8]) -> Result<Key, Problem> {
    BASE64URL_NOPAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .map(Key::new)
        .ok_or_else(|| Problem::bad_request("the read key is not 32 bytes in base64url"))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InfoQuery {
    /// Also look for who announces it.
    #[serde(default)]
    providers: bool,
}

/// What is known of a file. `link` is for the scopes write and admin.
#[utoipa::path(method(get, head), path = "/files/{reference}", tag = "files", params(("reference" = String, Path, description = "CID or name"), InfoQuery, ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = FileInfo), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn info(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    Params(query): Params<InfoQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Json<FileInfo>, Problem> {
    let mut info = door.node.info(&reference(&text, &headers)?, query.providers).await?;
    hide_links(&caller, &mut info);
    Ok(Json(info))
}

/// Whoever may only look is shown no link: it can be handed on, and be used when the token is gone.
fn hide_links(caller: &Caller, info: &mut FileInfo) {
    if caller.scope < Scope::Write {
        info.link = None;
        for entry in info.entries.iter_mut().flatten() {
            entry.link = String::new();
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Seconds to wait for its end.
    #[serde(default)]
    #[param(minimum = 0)]
    wait: f64,
}

/// How far the announcement of a file is.
#[utoipa::path(get, path = "/files/{reference}/placement", tag = "files", params(("reference" = String, Path, description = "CID or name"), WaitQuery, ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = Placement), (status = 404), (status = 502)))]
pub(super) async fn placement(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    Params(query): Params<WaitQuery>,
    headers: HeaderMap,
) -> Result<Json<Placement>, Problem> {
    let wait =
        Duration::try_from_secs_f64(query.wait).map_err(|e| Problem::bad_request(format!("wait: {e}")))?;
    Ok(Json(door.node.placement(&reference(&text, &headers)?, wait.min(MAX_WAIT)).await?))
}

/// Removes a file from this node. Its blocks go when no other file needs them.
#[utoipa::path(delete, path = "/files/{reference}", tag = "files", params(("reference" = String, Path, description = "CID or name"), ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = RemoveReport), (status = 404)))]
pub(super) async fn remove(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    headers: HeaderMap,
) -> Result<Json<RemoveReport>, Problem> {
    Ok(Json(door.node.remove(&reference(&text, &headers)?).await?))
}

/// Reads a file's blocks again and checks them; bad ones are fetched from peers.
#[utoipa::path(post, path = "/files/{reference}/verify", tag = "files", params(("reference" = String, Path, description = "CID or name"), ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = VerifyReport), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn verify(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    headers: HeaderMap,
) -> Result<Json<VerifyReport>, Problem> {
    Ok(Json(door.node.verify(Some(&reference(&text, &headers)?)).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    /// `storgo://<cid>#<key>`.
    link: String,
}

/// Makes a foreign file readable here, by its link.
#[utoipa::path(post, path = "/links/open", tag = "files", request_body = OpenBody,
    responses((status = 200, body = FileInfo), (status = 404), (status = 413), (status = 415), (status = 422),
        (status = 502), (status = 504)))]
pub(super) async fn open_link(
    State(door): State<Door>,
    JsonBody(body): JsonBody<OpenBody>,
) -> Result<Json<FileInfo>, Problem> {
    let link = body.link.parse().map_err(|e| Problem::bad_request(format!("link: {e}")))?;
    Ok(Json(door.node.open_link(&link).await?))
}
