//! Uploads that survive a cut connection, a closed laptop and a restart of this node: tus 1.0 (<https://tus.io>) with
//! creation, creation-with-upload, checksum, expiration and termination.
//!
//! ```text
//! POST   a plan on disk (`shelf`)
//! PATCH  bytes ─▶ a file on disk, synced before they are acknowledged (`part`)
//!        the last one ─▶ the file is stored by Node like any other, and its bytes here go
//! ```

mod early;
mod part;
mod protocol;
mod shelf;
mod upload;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt;

pub(super) use self::{
    early::Early,
    protocol::{overridden, speak},
    shelf::Uploads,
};
use self::{
    part::{Check, Ended},
    upload::{Plan, Upload},
};
use super::{
    Door,
    extract::{Segment, steady},
    feed::What,
    problem::Problem,
};
use crate::node::{
    check_name,
    error::{ErrorCode, NodeError},
};
pub(super) use upload::UploadInfo;

const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const CID: HeaderName = HeaderName::from_static("storgo-cid");
/// The media type of a part.
const PART_TYPE: &str = "application/offset+octet-stream";

/// What this server speaks.
#[utoipa::path(method(options), path = "/uploads", tag = "uploads",
    responses((status = 204, headers(("tus-version" = String), ("tus-extension" = String), ("tus-checksum-algorithm" = String)))))]
pub(super) async fn discover() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert("tus-version", HeaderValue::from_static(protocol::VERSION));
    headers.insert("tus-extension", HeaderValue::from_static(protocol::EXTENSIONS));
    headers.insert("tus-checksum-algorithm", HeaderValue::from_static("sha1,sha256"));
    response
}

/// Begins an upload. With `Content-Type: application/offset+octet-stream` the body is its first part.
///
/// `Upload-Metadata` may name `filename`, `filetype`, `mtime` (seconds since 1970), `public` (`true`) and
/// `tree` (`true`: the bytes are a tar that becomes a folder).
#[utoipa::path(post, path = "/uploads", tag = "uploads",
    params(("tus-resumable" = String, Header, description = "1.0.0"),
        ("upload-length" = u64, Header, description = "Bytes of the whole file"),
        ("upload-metadata" = Option<String>, Header, description = "`key base64value`, parted by commas"),
        ("upload-checksum" = Option<String>, Header, description = "`sha1 …` or `sha256 …` in base64, of this body")),
    request_body(content_type = "application/offset+octet-stream", content = Vec<u8>),
    responses((status = 201, description = "Begun", headers(("location" = String), ("upload-offset" = u64),
            ("upload-expires" = String), ("storgo-cid" = String))),
        (status = 409), (status = 412), (status = 413), (status = 423), (status = 460, description = "The checksum is another"), (status = 507)))]
pub(super) async fn create(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let length = protocol::number(&headers, &LENGTH)?.ok_or_else(|| {
        Problem::bad_request("Upload-Length is missing", "its length must be known at the start")
    })?;
    let plan = plan(length, protocol::metadata_of(&headers)?)?;
    let check = protocol::checksum(&headers)?;
    let upload = door.uploads.create(plan).await?;
    let with_part = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == PART_TYPE);
    if with_part || length == 0 {
        let body = if with_part { body } else { Body::empty() };
        if let Err(problem) = receive(&door, &upload, 0, check, body).await {
            // The answer names no upload: nobody could go on with it.
            let _turn = upload.take().await?;
            door.uploads.forget(&upload).await?;
            return Err(problem);
        }
    }
    let mut response = (StatusCode::CREATED, progress(&door, &upload)).into_response();
    let location = format!("/api/v1/uploads/{}", upload.id);
    response.headers_mut().insert(header::LOCATION, protocol::value(&location));
    Ok(response)
}

fn plan(length: u64, said: Option<String>) -> Result<Plan, Problem> {
    let metadata = protocol::metadata(said.as_deref().unwrap_or_default())?;
    let text = |key: &str| metadata.get(key).filter(|text| !text.is_empty()).cloned();
    let mtime = text("mtime").map(|text| text.parse());
    let name = text("filename").map(|name| super::store::base_name(&name).to_owned());
    let name = name.filter(|name| !name.is_empty());
    // Said now, and not when all bytes are here.
    check_name(name.as_deref())?;
    Ok(Plan {
        length,
        name,
        media_type: text("filetype"),
        mtime: mtime.transpose().map_err(|_| {
            Problem::bad_request("mtime is no number of seconds", "it counts whole seconds since 1970")
        })?,
        public: text("public").is_some_and(|public| public == "true"),
        tree: text("tree").is_some_and(|tree| tree == "true"),
        metadata: said,
    })
}

/// How far an upload is.
#[utoipa::path(method(head), path = "/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "of the upload"), ("tus-resumable" = String, Header, description = "1.0.0")),
    responses((status = 200, headers(("upload-offset" = u64), ("upload-length" = u64),
            ("upload-metadata" = String, description = "As it was sent at the start, where it was"),
            ("upload-expires" = String), ("storgo-cid" = String))),
        (status = 404), (status = 412), (status = 423)))]
pub(super) async fn offset(
    State(door): State<Door>,
    Segment(id): Segment<String>,
) -> Result<Response, Problem> {
    let upload = door.uploads.find(&id)?;
    // Who asks may have lost its connection, and that may not be known here: what hangs ends now.
    drop(upload.take().await?);
    let mut headers = progress(&door, &upload);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(LENGTH, HeaderValue::from(upload.plan.length));
    if let Some(metadata) = &upload.plan.metadata {
        headers.insert(METADATA, protocol::value(metadata));
    }
    Ok(headers.into_response())
}

/// Adds a part. The last one is answered when the file is stored. Where `PATCH` does not get through, a `POST` with
/// `X-HTTP-Method-Override: PATCH` is the same.
#[utoipa::path(patch, path = "/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "of the upload"), ("tus-resumable" = String, Header, description = "1.0.0"),
        ("upload-offset" = u64, Header, description = "Where the part begins"),
        ("upload-checksum" = Option<String>, Header, description = "`sha1 …` or `sha256 …` in base64, of this body")),
    request_body(content_type = "application/offset+octet-stream", content = Vec<u8>),
    responses((status = 204, description = "All of the part is on disk",
            headers(("upload-offset" = u64), ("upload-expires" = String), ("storgo-cid" = String))),
        (status = 404), (status = 409), (status = 412), (status = 413), (status = 415), (status = 423),
        (status = 460, description = "The checksum is another"), (status = 507)))]
pub(super) async fn patch(
    State(door): State<Door>,
    Segment(id): Segment<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let upload = door.uploads.find(&id)?;
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != PART_TYPE) {
        let error = NodeError::new(ErrorCode::BadRequest, "this body is not said to be a part of an upload")
            .hint(format!("send `Content-Type: {PART_TYPE}`"));
        return Err(Problem::with_status(error, 415));
    }
    let at = protocol::number(&headers, &OFFSET)?.ok_or_else(|| {
        Problem::bad_request("Upload-Offset is missing", "ask by HEAD how far the upload is")
    })?;
    let check = protocol::checksum(&headers)?;
    let said: Option<u64> =
        headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    if said.is_some_and(|len| len > upload.plan.length.saturating_sub(at)) {
        return Err(part::PartError::TooLong.into());
    }
    receive(&door, &upload, at, check, body).await?;
    Ok((StatusCode::NO_CONTENT, progress(&door, &upload)).into_response())
}

/// Takes one part; where it is the last, the file is stored when this returns.
async fn receive(
    door: &Door,
    upload: &std::sync::Arc<Upload>,
    at: u64,
    check: Option<Check>,
    body: Body,
) -> Result<(), Problem> {
    let turn = upload.take().await?;
    let known = upload.offset();
    if at != known {
        let error = NodeError::new(
            ErrorCode::BadRequest,
            format!("the part begins at {at}, and {known} bytes are here"),
        )
        .hint("ask by HEAD how far the upload is, and go on from there");
        return Err(Problem::with_status(error, 409));
    }
    if at < upload.plan.length {
        let _writer = door.uploads.writer().await?;
        let sending = door.feed.transfer(What::Put, upload.plan.name.clone(), Some(upload.plan.length));
        let mut sending = sending.going_on(upload.transfer, at);
        let stopped = turn.stopped.clone();
        let (pieces, writing) = upload
            .write(turn, check)
            .map_err(|e| NodeError::new(ErrorCode::Other, format!("no thread for this part: {e}")))?;
        let mut body = steady(body);
        let mut ended = Ended::Broken;
        loop {
            match stopped.run_until_cancelled(body.next()).await {
                Some(Some(Ok(bytes))) => {
                    upload.heard();
                    sending.add(bytes.len());
                    if pieces.send(part::Piece::Bytes(bytes)).await.is_err() {
                        break;
                    }
                }
                Some(None) => {
                    ended = Ended::Whole;
                    break;
                }
                Some(Some(Err(_))) | None => break,
            }
        }
        if ended == Ended::Whole {
            drop(pieces.send(part::Piece::End).await);
        }
        drop(pieces);
        writing.await.map_err(|_| NodeError::new(ErrorCode::Other, "a worker of this node failed"))??;
        if ended == Ended::Broken {
            return Err(Problem::bad_request(
                "this part broke off",
                "what has arrived is kept: ask by HEAD how far the upload is, and go on from there",
            ));
        }
    } else {
        drop(turn);
    }
    if upload.offset() == upload.plan.length {
        door.uploads.store(upload).await?;
    }
    Ok(())
}

/// Ends an upload and forgets what has arrived.
#[utoipa::path(delete, path = "/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "of the upload"), ("tus-resumable" = String, Header, description = "1.0.0")),
    responses((status = 204), (status = 404), (status = 412), (status = 423)))]
pub(super) async fn terminate(
    State(door): State<Door>,
    Segment(id): Segment<String>,
) -> Result<StatusCode, Problem> {
    let upload = door.uploads.find(&id)?;
    let _turn = upload.take().await?;
    if upload.is_storing() {
        let error = NodeError::new(ErrorCode::Locked, "this upload is whole, and is being stored")
            .hint("it ends in a moment: remove the file then");
        return Err(Problem::with_status(error, 423));
    }
    door.uploads.forget(&upload).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The uploads there are, those that are stored included, for a while.
#[utoipa::path(get, path = "/uploads", tag = "uploads", responses((status = 200, body = Vec<UploadInfo>)))]
pub(super) async fn list(State(door): State<Door>) -> Json<Vec<UploadInfo>> {
    Json(door.uploads.list())
}

/// One upload.
#[utoipa::path(get, path = "/uploads/{id}", tag = "uploads", params(("id" = String, Path, description = "of the upload")),
    responses((status = 200, body = UploadInfo), (status = 404)))]
pub(super) async fn one(
    State(door): State<Door>,
    Segment(id): Segment<String>,
) -> Result<Json<UploadInfo>, Problem> {
    Ok(Json(door.uploads.find(&id)?.info(door.uploads.keep())))
}

/// How far an upload is, as headers.
fn progress(door: &Door, upload: &Upload) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let info = upload.info(door.uploads.keep());
    headers.insert(OFFSET, HeaderValue::from(info.offset));
    let expires = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(u64::try_from(info.expires_unix_s).unwrap_or_default());
    headers.insert(EXPIRES, protocol::value(&httpdate::fmt_http_date(expires)));
    if let Some(cid) = info.cid {
        headers.insert(CID, protocol::value(&cid.to_string()));
    }
    headers
}
