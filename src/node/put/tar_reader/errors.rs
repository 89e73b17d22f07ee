//! Errors of archives: damaged, or with something that a folder here cannot hold.

use std::{fmt::Display, path::Path};

use crate::node::error::{ErrorCode, NodeError, Reason};

/// Maximum number of characters of a path in an error.
const MAX_QUOTED: usize = 200;

/// Returns a path for an error: in quotes, escaped, and shortened.
pub(in super::super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

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
    let message = format!("cannot store {}: {what}", quoted(path));
    NodeError::new(ErrorCode::BadRequest, message).reason(Reason::TarUnsupported)
}
