//! `/files`: store, list, look at, check and remove.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64URL_NOPAD;
use futures::{Stream, StreamExt, TryStreamExt};
use serde::Deserialize;

use super::{Door, KEY_HEADER, problem::Problem};
use crate::{
    content::secret::Key,
    node::{
        PutOptions, Reference,
        report::{FileInfo, FileKind, FileList, Placement, RemoveReport, VerifyReport},
    },
};

/// Longest wait of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// How long the rest of a refused upload is read.
const MAX_DRAIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
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

/// `POST /files`: stores the body; with `tree=true` the body is a tar stream and becomes a folder.
pub(super) async fn put(
    State(door): State<Door>,
    query: Result<Query<PutQuery>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
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
    let mut bytes = body.into_data_stream().map_err(std::io::Error::other);
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    cursor: Option<String>,
    limit: Option<usize>,
    q: Option<String>,
}

/// `GET /files`: a page of the list.
pub(super) async fn list(
    State(door): State<Door>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<FileList>, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let cursor = query.cursor.map(|text| text.parse()).transpose();
    let cursor = cursor.map_err(|e| Problem::bad_request(format!("cursor: {e}")))?;
    let limit = query.limit.unwrap_or(100).clamp(1, 1000);
    Ok(Json(door.node.list(cursor, limit, query.q.as_deref()).await?))
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InfoQuery {
    #[serde(default)]
    providers: bool,
}

/// `GET /files/{reference}`: what is known of a file; with `providers=true` also who announces it.
pub(super) async fn info(
    State(door): State<Door>,
    Path(text): Path<String>,
    query: Result<Query<InfoQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<FileInfo>, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    Ok(Json(door.node.info(&reference(&text, &headers)?, query.providers).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    #[serde(default)]
    wait: f64,
}

/// `GET /files/{reference}/placement`: how far the announcement is; waits up to `wait` seconds for its end.
pub(super) async fn placement(
    State(door): State<Door>,
    Path(text): Path<String>,
    query: Result<Query<WaitQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Placement>, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let wait =
        Duration::try_from_secs_f64(query.wait).map_err(|e| Problem::bad_request(format!("wait: {e}")))?;
    Ok(Json(door.node.placement(&reference(&text, &headers)?, wait.min(MAX_WAIT)).await?))
}

/// `DELETE /files/{reference}`.
pub(super) async fn remove(
    State(door): State<Door>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Json<RemoveReport>, Problem> {
    Ok(Json(door.node.remove(&reference(&text, &headers)?).await?))
}

/// `POST /files/{reference}/verify`.
pub(super) async fn verify(
    State(door): State<Door>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Json<VerifyReport>, Problem> {
    Ok(Json(door.node.verify(Some(&reference(&text, &headers)?)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    link: String,
}

/// `POST /links/open`: makes a foreign file readable here.
pub(super) async fn open_link(
    State(door): State<Door>,
    body: Result<Json<OpenBody>, JsonRejection>,
) -> Result<Json<FileInfo>, Problem> {
    let Json(body) = body.map_err(|e| Problem::bad_request(e.body_text()))?;
    let link = body.link.parse().map_err(|e| Problem::bad_request(format!("link: {e}")))?;
    Ok(Json(door.node.open_link(&link).await?))
}
