//! The errors that a user can meet, each with a stable code, an exit code and an HTTP status.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{content::ContentError, fetch::FetchError, net::NetError, store::StoreError};

/// What went wrong, as every door names it. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// Nothing more is known than the message.
    Other,
    /// The request itself is wrong: a bad link, name, range or option.
    BadRequest,
    /// Some of it was done, some was not.
    Partial,
    /// No such file, block or provider.
    NotFound,
    /// No storgo node (or no other peer) can be reached.
    Unreachable,
    /// The caller may not do this, or lacks the key.
    Denied,
    /// Bytes were not what their name or key says, and no good copy was found.
    Integrity,
    /// Two different blocks with one CID (possible in public mode only).
    Collision,
    /// Stored, but below the redundancy that was asked for.
    BelowTarget,
    /// Not done in the time given.
    Timeout,
    /// Another process holds the data directory.
    Locked,
    /// The disk or the quota is full.
    NoSpace,
    /// The node is stopping.
    ShuttingDown,
}

impl ErrorCode {
    /// The name in JSON and in problem documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::BadRequest => "bad_request",
            Self::Partial => "partial",
            Self::NotFound => "not_found",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Integrity => "integrity",
            Self::Collision => "collision",
            Self::BelowTarget => "below_target",
            Self::Timeout => "timeout",
            Self::Locked => "locked",
            Self::NoSpace => "no_space",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// What an error of the operating system comes to: denied, no room, or nothing in particular.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;

        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Other,
        }
    }

    /// The exit code of the command line (DESIGN 6).
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Other | Self::Collision => 1,
            Self::BadRequest => 2,
            Self::Partial => 3,
            Self::NotFound => 4,
            Self::Unreachable | Self::ShuttingDown => 5,
            Self::Denied => 6,
            Self::Integrity => 7,
            Self::BelowTarget => 8,
            Self::Timeout => 9,
            Self::Locked => 11,
            Self::NoSpace => 13,
        }
    }

    /// The HTTP status that carries this code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Other => 500,
            Self::BadRequest => 400,
            Self::Partial => 207,
            Self::NotFound => 404,
            Self::Unreachable => 502,
            Self::Denied => 403,
            Self::Integrity => 422,
            Self::Collision | Self::Locked => 409,
            Self::BelowTarget => 202,
            Self::Timeout => 504,
            Self::NoSpace => 507,
            Self::ShuttingDown => 503,
        }
    }
}

/// An error at the edge of the node: what happened and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeError {
    /// The stable code.
    pub code: ErrorCode,
    /// One sentence: what happened.
    pub message: String,
    /// One sentence: what the user can do next; empty where nothing useful can be said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl NodeError {
    /// An error of this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    /// An error of the operating system, about what was tried.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ErrorCode::of_io(error), format!("cannot {what}: {error}")).explained()
    }

    /// The next step that every error of its code has.
    fn explained(self) -> Self {
        match self.code {
            ErrorCode::Denied => self.hint("check to whom it belongs and what its permissions are"),
            ErrorCode::NoSpace => self.hint("free some space on that disk"),
            _ => self,
        }
    }

    /// The same error with a next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}

impl NodeError {
    /// The node is on its way down.
    pub(super) fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the node is stopping")
            .hint("start it again and repeat the request")
    }

    /// A thread of ours panicked: a bug, said as such.
    pub(super) fn lost_worker() -> Self {
        Self::new(ErrorCode::Other, "a worker of this node failed")
            .hint("the node's log says where; please report it")
    }
}

impl From<ContentError> for NodeError {
    fn from(error: ContentError) -> Self {
        let message = error.to_string();
        match error {
            ContentError::Collision => Self::new(ErrorCode::Collision, message)
                .hint("this data was crafted to share its SHA-1 with other data; store it without --public"),
            ContentError::NoKey => Self::new(ErrorCode::Denied, message)
                .hint("ask for the whole link: the part behind # is the read key"),
            ContentError::WrongKey { .. } => Self::new(ErrorCode::Integrity, message)
                .hint("check that the link is complete; if it is, this is not the file that it was made for"),
            // Only what is to be written can be: readers call it malformed.
            ContentError::TooLarge(_) => Self::new(ErrorCode::BadRequest, message),
            _ => Self::new(ErrorCode::Integrity, message),
        }
    }
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Locked { .. } => Self::new(ErrorCode::Locked, message)
                .hint("one process per data directory: stop the other one, or use another --data-dir"),
            StoreError::NoSpace { .. } => Self::new(ErrorCode::NoSpace, message).hint(
                "free some space, raise storage.capacity, or remove files and run `storgo-node gc --now`",
            ),
            StoreError::Corrupt { .. } | StoreError::IndexBehind => Self::new(ErrorCode::Integrity, message),
            StoreError::Collision { .. } => Self::new(ErrorCode::Collision, message)
                .hint("two different blocks share one SHA-1; store this file without --public"),
            StoreError::Io { source, .. } => Self::new(ErrorCode::of_io(&source), message).explained(),
            _ => Self::new(ErrorCode::Other, message),
        }
    }
}

impl From<FetchError> for NodeError {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        match error {
            FetchError::NotFound { .. } => Self::new(ErrorCode::NotFound, message)
                .hint("check that a node that has it is running and that this node knows a peer (`storgo-node peers`)"),
            FetchError::Timeout { .. } => Self::new(ErrorCode::Timeout, message)
                .hint("what has arrived is kept: the same command goes on from there"),
            FetchError::Alone { .. } => Self::new(ErrorCode::Unreachable, message)
                .hint("name a peer with --bootstrap or `storgo-node peers --add`, or let this node find them by --mdns true"),
            FetchError::Corrupt { .. } => Self::new(ErrorCode::Integrity, message)
                .hint("`storgo-node verify` where the file is kept says what is damaged; another copy of the file brings it back"),
            FetchError::Store(error) => error.into(),
            _ => Self::new(ErrorCode::Other, message),
        }
    }
}

impl From<NetError> for NodeError {
    fn from(error: NetError) -> Self {
        let message = error.to_string();
        match error {
            NetError::Listen { reason, .. } if reason.contains("in use") => Self::new(ErrorCode::Other, message)
                .hint("another program has this port; choose others with `--listen`, for example /ip4/0.0.0.0/tcp/0"),
            NetError::Listen { reason, .. } if reason.contains("Permission denied") => {
                Self::new(ErrorCode::Denied, message)
                    .hint("this user may not listen at that port: choose one from 1024 on with `--listen`")
            }
            NetError::Listen { .. } => Self::new(ErrorCode::Other, message).hint(
                "a node listens at addresses that its machine has; /ip4/0.0.0.0/tcp/3000 stands for all of them",
            ),
            NetError::Closed => Self::shutting_down(),
            NetError::NotProvided(_) => Self::new(ErrorCode::NotFound, message)
                .hint("it has been removed; store it again to have it announced"),
            _ => Self::new(ErrorCode::Unreachable, message),
        }
    }
}
