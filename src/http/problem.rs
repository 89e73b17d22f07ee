//! Errors over HTTP: problem documents (RFC 9457) with a stable `code` for programs and a `hint` for people.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::task::JoinError;

use crate::node::{
    Gaps,
    error::{ErrorCode, NodeError, Reason},
    report::LeftOut,
};

const MEDIA_TYPE: &str = "application/problem+json";
/// `Retry-After` of a 503 that is sent because all permits are taken.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// An error response.
///
/// Neither `detail` nor `hint` may quote the request: it may hold a key or a token in the wrong place.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) reason: Option<Reason>,
    pub(super) detail: String,
    pub(super) hint: Cow<'static, str>,
    retry_after: Option<Duration>,
    gaps: Option<Box<FolderGaps>>,
}

/// The gaps in the tar stream of a folder.
#[derive(Debug, Clone)]
struct FolderGaps {
    /// The file in whose middle the stream broke off.
    entry: Option<String>,
    /// Entries that were left out, and their number.
    left_out: (Vec<LeftOut>, u64),
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: ErrorCode,
        detail: impl Into<String>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (detail, hint) = (detail.into(), hint.into());
        Self { status, code, reason: None, detail, hint, retry_after: None, gaps: None }
    }

    pub(super) fn bad_request(detail: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, detail, hint)
    }

    pub(super) fn not_found(detail: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, detail, hint)
    }

    pub(super) fn denied(detail: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, detail, hint)
    }

    pub(super) fn unauthorized(detail: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Denied, detail, hint)
    }

    /// An error of this node for which a client can do nothing.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        NodeError::new(ErrorCode::Other, detail).into()
    }

    /// 503 with `Retry-After`: other clients hold all permits.
    pub(super) fn busy(detail: impl Into<String>) -> Self {
        let hint = "try again after the number of seconds in the header Retry-After";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Other, detail, hint);
        Self { retry_after: Some(RETRY_AFTER), ..problem }
    }

    /// Adds what the tar stream of a folder lacks.
    pub(super) fn with_gaps(self, gaps: &Gaps) -> Self {
        let gaps = FolderGaps { entry: gaps.broken_at(), left_out: gaps.left_out() };
        Self { gaps: Some(Box::new(gaps)), ..self }
    }

    fn document(&self) -> Document<'_> {
        let gaps = self.gaps.as_deref();
        Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            reason: self.reason,
            hint: &self.hint,
            entry: gaps.and_then(|gaps| gaps.entry.as_deref()),
            left_out: gaps.map_or(&[], |gaps| &gaps.left_out.0),
            left_out_count: gaps.map_or(0, |gaps| gaps.left_out.1),
        }
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        let hint = hint(error.code, error.reason);
        let status = match error.reason {
            // Of the node's own files: no other token helps.
            Some(Reason::PermissionDenied) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => status(error.code),
        };
        Self { reason: error.reason, ..Self::new(status, error.code, error.message, hint) }
    }
}

impl From<JoinError> for Problem {
    fn from(_: JoinError) -> Self {
        NodeError::new(ErrorCode::Other, "a task of this node panicked").reason(Reason::WorkerFailed).into()
    }
}

const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Partial => StatusCode::MULTI_STATUS,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Unreachable => StatusCode::BAD_GATEWAY,
        ErrorCode::Denied => StatusCode::FORBIDDEN,
        ErrorCode::Integrity => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Collision | ErrorCode::Locked => StatusCode::CONFLICT,
        ErrorCode::BelowTarget => StatusCode::ACCEPTED,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The next step for a client.
const fn hint(code: ErrorCode, reason: Option<Reason>) -> &'static str {
    match reason {
        Some(Reason::KeyMissing) => "send the read key in the header Storgo-Key: the part of a link after #",
        Some(Reason::KeyWrong) => "check that the read key is complete and belongs to this file",
        Some(Reason::CraftedData) => "store the file without `public`",
        Some(Reason::IndexDamaged | Reason::IndexLost | Reason::IndexBehind) => {
            "stop the node and rebuild the index of its blocks"
        }
        Some(Reason::StorageFull) => {
            "remove files and send POST /api/v1/gc?now=true, or raise storage.capacity"
        }
        Some(Reason::DiskFull) => {
            "free space on the disk of the data directory, or send POST /api/v1/gc?now=true&cache=true"
        }
        Some(Reason::PermissionDenied) => "check the owner and permissions of the data directory",
        Some(Reason::NoProvider) => "check that a node with the file runs and is among GET /api/v1/peers",
        Some(Reason::Offline) => "start the node with a network",
        Some(Reason::EntriesLeftOut) => {
            "connect a node that has the folder, repair it with POST /api/v1/files/{cid}/repair, and request it again"
        }
        Some(Reason::NoGoodCopy) => "connect to another node that has the file, or store the original again",
        Some(Reason::ProvidersSilent | Reason::PeerUnreachable) => {
            "check that the other node runs and that no firewall blocks it"
        }
        Some(Reason::TokenUnknown) => "list the tokens with GET /api/v1/tokens",
        Some(Reason::OwnAddress | Reason::OtherPeer) => {
            "pass the address that GET /api/v1/status of the other node lists"
        }
        Some(Reason::ForeignPeer) => "give both nodes the same cluster key",
        Some(Reason::UnknownHost) => "check the host name",
        Some(Reason::ConnectionRefused) => "check the port, and that the other node runs",
        Some(Reason::NotAnnounced) => "store the file again to announce it",
        Some(Reason::NotKept) => {
            "list the files with GET /api/v1/files, or keep another with POST /api/v1/files/{cid}/keep"
        }
        Some(Reason::BlockNotHere | Reason::RootNotHere) => {
            "fetch missing blocks with POST /api/v1/files/{cid}/repair"
        }
        Some(Reason::CidInvalid) => "check that the CID is complete",
        Some(Reason::LinkInvalid) => "pass a complete link: storgo://<cid>#<key>",
        Some(Reason::NameAmbiguous) => "pass the CID of the file",
        Some(Reason::NameTooLong | Reason::NameHasNul) => "choose another name",
        Some(Reason::PathInvalid | Reason::TarInvalid) => {
            "send a complete, uncompressed tar archive with relative paths"
        }
        Some(Reason::TarUnsupported) => {
            "make one new archive of the folder with `tar -C FOLDER -cf - .`: `-h` follows symbolic links, and \
             `--exclude=PATTERN` leaves out what cannot be stored"
        }
        Some(Reason::InputFailed) => "send the complete body again",
        Some(Reason::CursorInvalid) => "pass `next` of the previous page, or no cursor for the first page",
        Some(Reason::NotAFolder) => "request the file itself with GET /api/v1/files/{cid}",
        Some(Reason::EntryUnknown) => "list the entries with GET /api/v1/files/{cid}/entries",
        Some(Reason::NoCluster) => "start the node with the key of a cluster",
        Some(Reason::WorkerFailed) => "read the log of the node, and report this bug",
        _ => hint_of_code(code),
    }
}

const fn hint_of_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Other => "try again; if it keeps failing, read the log of the node",
        ErrorCode::BadRequest => "see /api/docs for what this endpoint takes",
        ErrorCode::Partial => "request the missing part again",
        ErrorCode::NotFound => {
            "list the files of this node with GET /api/v1/files; to read a file of another node, pass its link"
        }
        ErrorCode::Unreachable => {
            "list connected peers with GET /api/v1/peers and add one with POST /api/v1/peers"
        }
        ErrorCode::Denied => "check the scope of the token, and send the read key in the header Storgo-Key",
        ErrorCode::Integrity => {
            "find damaged blocks with POST /api/v1/verify and fetch them from peers with POST /api/v1/repair"
        }
        ErrorCode::Collision => "store the file without `public`",
        ErrorCode::BelowTarget => "see which nodes hold the file with GET /api/v1/files/{cid}/health",
        ErrorCode::Timeout => "try again; blocks that have arrived are kept",
        ErrorCode::Locked => "try again in a moment",
        ErrorCode::NoSpace => "free disk space, raise storage.capacity or remove files",
        ErrorCode::ShuttingDown => "start the node and send the request again",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A problem document (RFC 9457).
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// Always `about:blank`: the status says what kind of problem it is.
    r#type: &'a str,
    /// The name of the status.
    title: &'a str,
    /// The status of the response.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// Description of the error, for people.
    detail: &'a str,
    /// Kind of the error, for programs.
    code: ErrorCode,
    /// The cause, if it is known more closely than by the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// The next step, for people.
    hint: &'a str,
    /// The file of a folder in whose middle the response broke off; `after` continues behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<&'a str>,
    /// The entries of a folder that the response lacks; at most the first 1000.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    left_out: &'a [LeftOut],
    /// The number of all these entries.
    #[serde(skip_serializing_if = "is_zero")]
    left_out_count: u64,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs()));
        }
        response
    }
}

pub(super) async fn no_such_path() -> Problem {
    Problem::not_found("no endpoint has this path", "see /api/docs for all endpoints")
}

pub(super) async fn method_not_allowed() -> Problem {
    let hint = "the header Allow lists the methods of this path";
    let detail = "this path does not take this method";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest, detail, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_reason_of_its_error() {
        let error = NodeError::new(ErrorCode::Integrity, "it failed");
        let json = |error| serde_json::to_value(Problem::from(error).document()).expect("JSON");
        assert_eq!(json(error.clone().reason(Reason::IndexBehind))["reason"], "index_behind");
        assert_eq!(json(error).get("reason"), None);
    }
}
