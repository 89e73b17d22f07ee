//! `/uploads`: uploads that survive a disconnected client and a restart of this node. They are tus 1.0
//! (<https://tus.io>) with creation, creation-with-upload, checksum, expiration and termination.
//!
//! ```text
//! POST   a record on disk (`upload`)
//! PATCH  bytes ─▶ a file on disk, synced before they are acknowledged (`part_file`)
//!        the last part ─▶ the node stores the file, and the bytes here are removed (`upload_registry`)
//! ```

mod part_file;
mod spooled_file;
mod tus_headers;
mod upload;
mod upload_registry;

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json,
    body::{Body, HttpBody},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;

use self::{
    part_file::{Checksum, PartError, Piece},
    tus_headers::{CID, CONCAT, EXPIRES, LENGTH, METADATA, OFFSET, PART_TYPE},
    upload::{Upload, UploadPhase, UploadPlan, UploadState},
    upload_registry::permit,
};
pub(super) use self::{
    spooled_file::SpooledFile,
    tus_headers::{check_version, override_method},
    upload::UploadInfo,
    upload_registry::UploadRegistry,
};
use super::{
    base_path::BasePath,
    body::with_min_rate,
    event_log::{Direction, EventLog},
    extract::PathParam,
    form::base_name,
    headers::header_value,
    problem::Problem,
};
use crate::node::{check_name, error::ErrorCode};

/// Describes the supported version and extensions of tus.
#[utoipa::path(method(options), path = "/uploads", tag = "uploads",
    responses((status = 204, headers(("tus-version" = String), ("tus-extension" = String), ("tus-checksum-algorithm" = String)))))]
pub(super) async fn discover() -> Response {
    let headers = [
        ("tus-version", tus_headers::VERSION),
        ("tus-extension", tus_headers::EXTENSIONS),
        ("tus-checksum-algorithm", "sha1,sha256"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Creates an upload. With `Content-Type: application/offset+octet-stream`, the body is its first part.
///
/// `Upload-Metadata` may contain `filename`, `filetype`, `mtime` (seconds since 1970), `public` (`true`) and
/// `tree` (`true`: the bytes are a tar stream, to be stored as a folder).
#[utoipa::path(post, path = "/uploads", tag = "uploads",
    params(("tus-resumable" = String, Header, description = "1.0.0"),
        ("upload-length" = u64, Header, description = "Length of the file in bytes"),
        ("upload-metadata" = Option<String>, Header, description = "`key base64value` pairs, separated by commas"),
        ("upload-checksum" = Option<String>, Header, description = "Checksum of this body: `sha1 …` or `sha256 …`, in base64")),
    request_body(content_type = "application/offset+octet-stream", content = Vec<u8>),
    responses((status = 201, description = "The upload was created", headers(("location" = String), ("upload-offset" = u64),
            ("upload-expires" = String), ("storgo-cid" = String))),
        (status = 409), (status = 412), (status = 413), (status = 423), (status = 460, description = "The body does not match its checksum"), (status = 507)))]
pub(super) async fn create(
    State(uploads): State<Arc<UploadRegistry>>,
    State(events): State<Arc<EventLog>>,
    State(base): State<BasePath>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if headers.contains_key(&CONCAT) {
        let detail = "Upload-Concat is not supported: each upload is stored as a file of its own";
        let hint = "send the whole file as one upload; in tus-js-client, leave out `parallelUploads`";
        return Err(Problem::bad_request(detail, hint));
    }
    let length = tus_headers::number(&headers, &LENGTH)?.ok_or_else(|| {
        Problem::bad_request("Upload-Length is missing", "send the length of the file in bytes")
    })?;
    let plan = plan(length, tus_headers::raw_metadata(&headers)?)?;
    let checksum = tus_headers::checksum(&headers)?;
    let upload = uploads.create(plan).await?;
    let with_part = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == PART_TYPE);
    if with_part || length == 0 {
        let body = if with_part { body } else { Body::empty() };
        if let Err(problem) = receive(&uploads, &events, &upload, 0, checksum, body).await {
            // The response names no upload, so no client could resume it.
            let _lock = upload.lock().await?;
            uploads.remove(&upload).await?;
            return Err(problem);
        }
    }
    let mut response = (StatusCode::CREATED, progress(&uploads, &upload)).into_response();
    let location = base.join(&format!("/api/v1/uploads/{}", upload.id));
    response.headers_mut().insert(header::LOCATION, header_value(&location));
    Ok(response)
}

fn plan(length: u64, raw_metadata: Option<String>) -> Result<UploadPlan, Problem> {
    let metadata = tus_headers::parse_metadata(raw_metadata.as_deref().unwrap_or_default())?;
    let text = |key: &str| metadata.get(key).filter(|text| !text.is_empty()).cloned();
    let mtime = text("mtime").map(|text| text.parse());
    let name = text("filename").map(|name| base_name(&name).to_owned());
    let name = name.filter(|name| !name.is_empty());
    // Refused now rather than when all bytes have arrived.
    check_name(name.as_deref())?;
    Ok(UploadPlan {
        length,
        name,
        media_type: text("filetype"),
        mtime: mtime.transpose().map_err(|_| {
            Problem::bad_request("invalid `mtime` in Upload-Metadata", "send whole seconds since 1970")
        })?,
        public: text("public").is_some_and(|public| public == "true"),
        tree: text("tree").is_some_and(|tree| tree == "true"),
        metadata: raw_metadata,
    })
}

/// Returns how many bytes of an upload have arrived.
#[utoipa::path(method(head), path = "/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "Upload id"), ("tus-resumable" = String, Header, description = "1.0.0")),
    responses((status = 200, headers(("upload-offset" = u64), ("upload-length" = u64),
            ("upload-metadata" = String, description = "As it was sent when the upload was created"),
            ("upload-expires" = String), ("storgo-cid" = String))),
        (status = 400, description = "The upload has arrived and was refused"), (status = 404), (status = 409), (status = 412),
        (status = 423)))]
pub(super) async fn offset(
    State(uploads): State<Arc<UploadRegistry>>,
    PathParam(id): PathParam<String>,
) -> Result<Response, Problem> {
    let upload = uploads.find(&id)?;
    // The client may have lost the connection of its last part without this node noticing: end that request.
    drop(upload.lock().await?);
    // An offset at the end would tell the client that the file is stored.
    if let UploadPhase::Refused(error) = &*upload.phase.borrow() {
        return Err(error.clone().into());
    }
    let mut headers = progress(&uploads, &upload);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(LENGTH, HeaderValue::from(upload.plan.length));
    if let Some(metadata) = &upload.plan.metadata {
        headers.insert(METADATA, header_value(metadata));
    }
    Ok(headers.into_response())
}

/// Appends a part. The response to the last part is sent when the file is stored.
///
/// A `POST` with `X-HTTP-Method-Override: PATCH` does the same.
#[utoipa::path(patch, path = "/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "Upload id"), ("tus-resumable" = String, Header, description = "1.0.0"),
        ("upload-offset" = u64, Header, description = "Offset of the part"),
        ("upload-checksum" = Option<String>, Header, description = "Checksum of this body: `sha1 …` or `sha256 …`, in base64")),
    request_body(content_type = "application/offset+octet-stream", content = Vec<u8>),
    responses((status = 204, description = "The part is on disk",
            headers(("upload-offset" = u64), ("upload-expires" = String), ("storgo-cid" = String))),
        (status = 404), (status = 409), (status = 412), (status = 413), (status = 415), (status = 423),
        (status = 460, description = "The body does not match its checksum"), (status = 507)))]
pub(super) async fn patch(
    State(uploads): State<Arc<UploadRegistry>>,
    State(events): State<Arc<EventLog>>,
    PathParam(id): PathParam<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let upload = uploads.find(&id)?;
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != PART_TYPE) {
        let detail = "the Content-Type of the body is not that of a part of an upload";
        let hint = format!("send `Content-Type: {PART_TYPE}`");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, detail, hint));
    }
    let at = tus_headers::number(&headers, &OFFSET)?.ok_or_else(|| {
        Problem::bad_request("Upload-Offset is missing", "send the offset that a HEAD request returns")
    })?;
    let checksum = tus_headers::checksum(&headers)?;
    if body.size_hint().lower() > upload.plan.length.saturating_sub(at) {
        return Err(PartError::TooLong.into());
    }
    receive(&uploads, &events, &upload, at, checksum, body).await?;
    Ok((StatusCode::NO_CONTENT, progress(&uploads, &upload)).into_response())
}

/// Receives a part. Returns when it is on disk, and when the file is stored if it is the last part.
async fn receive(
    uploads: &Arc<UploadRegistry>,
    events: &Arc<EventLog>,
    upload: &Arc<Upload>,
    at: u64,
    checksum: Option<Checksum>,
    body: Body,
) -> Result<(), Problem> {
    let lock = upload.lock().await?;
    // It may have been removed while this request waited.
    uploads.find(&upload.id)?;
    let offset = upload.offset();
    if at != offset {
        let detail = format!("the part begins at {at}, but the upload has {offset} bytes");
        let hint = "continue from the offset that a HEAD request returns";
        return Err(Problem::new(StatusCode::CONFLICT, ErrorCode::BadRequest, detail, hint));
    }
    if at < upload.plan.length {
        let _permit = permit(&uploads.writers, "parts of uploads").await?;
        let progress = events.transfer(Direction::Put, upload.plan.name.clone(), Some(upload.plan.length));
        let mut progress = progress.part_of(upload.transfer, at);
        let cancelled = lock.cancelled.clone();
        let (pieces, written) = upload
            .write_part(lock, checksum)
            .map_err(|e| Problem::internal(format!("cannot start a thread for this part: {e}")))?;
        let mut body = with_min_rate(body);
        let complete = loop {
            match cancelled.run_until_cancelled(body.next()).await {
                Some(Some(Ok(bytes))) => {
                    upload.bytes_arrived();
                    progress.add(bytes.len());
                    if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                        break false;
                    }
                }
                Some(None) => break pieces.send(Piece::End).await.is_ok(),
                Some(Some(Err(_))) | None => break false,
            }
        };
        drop(pieces);
        written.await.map_err(|_| Problem::internal("a thread of this node panicked"))??;
        if !complete {
            let hint = "continue from the offset that a HEAD request returns: bytes that arrived are kept";
            return Err(Problem::bad_request("the part broke off", hint));
        }
    } else {
        drop(lock);
    }
    if upload.offset() == upload.plan.length {
        uploads.store(upload).await?;
    }
    Ok(())
}

/// Removes an upload and the bytes that have arrived.
#[utoipa::path(delete, path = "/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "Upload id"), ("tus-resumable" = String, Header, description = "1.0.0")),
    responses((status = 204), (status = 404), (status = 412), (status = 423)))]
pub(super) async fn terminate(
    State(uploads): State<Arc<UploadRegistry>>,
    PathParam(id): PathParam<String>,
) -> Result<StatusCode, Problem> {
    let upload = uploads.find(&id)?;
    let _lock = upload.lock().await?;
    if upload.info(uploads.retention).state == UploadState::Storing {
        let detail = "this upload is complete and is being stored";
        let hint = "wait until it is stored, and remove the file then";
        return Err(Problem::new(StatusCode::LOCKED, ErrorCode::Locked, detail, hint));
    }
    uploads.remove(&upload).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the uploads, and those that were stored during the last day.
#[utoipa::path(get, path = "/uploads", tag = "uploads", responses((status = 200, body = Vec<UploadInfo>)))]
pub(super) async fn list(State(uploads): State<Arc<UploadRegistry>>) -> Json<Vec<UploadInfo>> {
    Json(uploads.list())
}

/// Describes an upload.
#[utoipa::path(get, path = "/uploads/{id}", tag = "uploads", params(("id" = String, Path, description = "Upload id")),
    responses((status = 200, body = UploadInfo), (status = 404)))]
pub(super) async fn one(
    State(uploads): State<Arc<UploadRegistry>>,
    PathParam(id): PathParam<String>,
) -> Result<Json<UploadInfo>, Problem> {
    let upload = uploads.find(&id)?;
    Ok(Json(upload.info(uploads.retention)))
}

/// The progress of an upload, as headers.
fn progress(uploads: &UploadRegistry, upload: &Upload) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let info = upload.info(uploads.retention);
    headers.insert(OFFSET, HeaderValue::from(info.offset));
    let expires = UNIX_EPOCH + Duration::from_secs(u64::try_from(info.expires_unix_s).unwrap_or_default());
    headers.insert(EXPIRES, header_value(&httpdate::fmt_http_date(expires)));
    if let Some(cid) = info.cid {
        headers.insert(CID, header_value(&cid.to_string()));
    }
    headers
}
