//! The entries of a folder that a read could not send.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::node::{
    error::{ErrorCode, NodeError, Reason},
    report::LeftOut,
};

/// Maximum number of entries that are listed; the others are counted.
const MAX_LISTED: usize = 1000;

/// The gaps in a tar stream. Filled while the stream is read.
#[derive(Clone, Default)]
pub(crate) struct Gaps(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    listed: Vec<LeftOut>,
    count: u64,
    broken_at: Option<String>,
}

impl Gaps {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leave_out(&self, path: &str, error: &NodeError) {
        let mut noted = self.lock();
        noted.count += 1;
        if noted.listed.len() < MAX_LISTED {
            noted.listed.push(LeftOut { path: path.into(), error: error.message.clone() });
        }
    }

    pub(super) fn break_at(&self, path: &str) {
        self.lock().broken_at = Some(path.into());
    }

    /// Returns the path of the file in whose middle the stream broke off.
    pub(crate) fn broken_at(&self) -> Option<String> {
        self.lock().broken_at.clone()
    }

    /// Returns the entries that were left out, at most the first 1000, and their number.
    pub(crate) fn left_out(&self) -> (Vec<LeftOut>, u64) {
        let noted = self.lock();
        (noted.listed.clone(), noted.count)
    }

    /// Returns the error of a stream that is complete but for these entries; `None` if nothing is missing.
    pub(crate) fn error(&self) -> Option<NodeError> {
        let (listed, count) = self.left_out();
        let first = listed.first()?;
        let (entries, are) = if count == 1 { ("entry", "is") } else { ("entries", "are") };
        let message = format!(
            "{count} {entries} of the folder could not be read and {are} left out, first {:?}: {}",
            first.path, first.error
        );
        Some(NodeError::new(ErrorCode::Partial, message).reason(Reason::EntriesLeftOut))
    }

    /// Returns the JSON list that ends the stream; `None` if nothing is missing.
    pub(super) fn report(&self) -> Option<Vec<u8>> {
        let (left_out, count) = self.left_out();
        let report = serde_json::json!({ "left_out": left_out, "count": count });
        (count > 0).then(|| format!("{report:#}\n").into_bytes())
    }
}

/// Returns the name of the entry that lists what the tar stream of a folder lacks.
///
/// No folder has such an entry of its own: nothing can be named by the CID of the folder that it is in.
pub fn left_out_name(root: impl std::fmt::Display) -> String {
    format!("storgo-left-out-{root}.json")
}
