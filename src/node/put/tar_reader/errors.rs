//! Errors of archives: damaged, or with something that a folder here cannot hold.

use std::{fmt::Display, path::Path};

use crate::node::error::{ErrorCode, NodeError, Reason};

pub(in super::super) fn invalid(why: impl Display) -> NodeError {
    NodeError::new(ErrorCode::BadRequest, format!("invalid tar archive: {why}")).reason(Reason::TarInvalid)
}

pub(super) fn cut_short() -> NodeError {
    invalid("it is cut short")
}

pub(super) fn unsupported_archive(what: &str) -> NodeError {
    let message = format!("cannot store this tar archive: {what}");
    NodeError::new(ErrorCode::BadRequest, message).reason(Reason::TarUnsupported)
}

/// An entry that no folder here can hold.
pub(in super::super) fn unsupported(path: &Path, what: &str) -> NodeError {
    let message = format!("cannot store {:?}: {what}", path.display().to_string());
    NodeError::new(ErrorCode::BadRequest, message).reason(Reason::TarUnsupported)
}
