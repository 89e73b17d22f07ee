//! The errors that a user can meet, each with a stable code, an exit code and an HTTP status.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as every door names it. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
        Self {
            code,
            message: message.into(),
            hint: String::new(),
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
