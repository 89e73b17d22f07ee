//! Resolving what a user names: a link, a CID, or the name of a file here.

use super::{
    error::{ErrorCode, NodeError, Reason},
    handles::BlockingStore,
};
use crate::{
    catalogue::Catalogue,
    content::{cid::Cid, encoder::DirEntry, link::Link, secret::Key},
    store::RootRecord,
};

/// Names a file by a link, a CID or a name. The read key may be given separately.
#[derive(Debug, Clone)]
pub struct Reference {
    text: String,
    key: Option<Key>,
    /// A path inside the folder; empty for the file or folder itself.
    pub(super) path: String,
}

impl Reference {
    /// A reference as the user typed it. `key` takes precedence over the key in a link.
    pub fn new(text: impl Into<String>, key: Option<Key>) -> Self {
        Self { text: text.into(), key, path: String::new() }
    }

    /// Names the entry at `path` inside this folder: names separated by slashes. `None` names the folder itself.
    #[must_use]
    pub fn at(self, path: Option<String>) -> Self {
        Self { path: path.unwrap_or_default(), ..self }
    }
}

impl From<&Link> for Reference {
    fn from(link: &Link) -> Self {
        Self::new(link.cid.to_string(), link.key.clone())
    }
}

impl From<&str> for Reference {
    fn from(text: &str) -> Self {
        Self::new(text, None)
    }
}

/// A resolved reference.
pub(super) struct Found {
    /// CID, and the key if the reference or the store has one.
    pub(super) link: Link,
    /// The record in the store; `None` for a file that is not known here.
    pub(super) record: Option<RootRecord>,
    /// Older files of the same name, if the reference was a name.
    pub(super) namesakes: Vec<RootRecord>,
    /// The entry of a folder that the reference leads to.
    pub(super) entry: Option<FolderEntry>,
}

/// An entry, and the folder where its path begins.
pub(super) struct FolderEntry {
    pub(super) entry: DirEntry,
    /// CID of the folder. Nodes announce this one, not its entries.
    pub(super) folder: Cid,
    pub(super) folder_name: Option<String>,
    /// The folder's record in the store. An entry is kept with its folder.
    pub(super) folder_record: Option<RootRecord>,
}

/// Maximum number of files that an error about an ambiguous name lists.
const MAX_LISTED: usize = 20;

impl Found {
    /// Refuses an ambiguous name: for operations that cannot be undone.
    pub(super) fn unambiguous(self) -> Result<Self, NodeError> {
        if self.namesakes.is_empty() {
            return Ok(self);
        }
        let all: Vec<&RootRecord> = self.record.iter().chain(&self.namesakes).collect();
        let name = all[0].name.as_deref().unwrap_or_default();
        let one = |record: &&RootRecord| format!("{} of {}", record.cid, rfc3339(record.created));
        let mut list: Vec<String> = all.iter().take(MAX_LISTED).map(one).collect();
        list.extend((all.len() > MAX_LISTED).then(|| "and more".into()));
        let message = format!("{} files are named {name:?}: {}", all.len(), list.join(", "));
        Err(NodeError::new(ErrorCode::BadRequest, message).reason(Reason::NameAmbiguous))
    }

    /// Returns the root that nodes announce: the CID, or that of the folder where the path begins.
    pub(super) fn announced(&self) -> Cid {
        self.entry.as_ref().map_or(self.link.cid, |entry| entry.folder)
    }

    /// Whether this node keeps the file, or the folder that it is an entry of.
    pub(super) fn is_kept(&self) -> bool {
        let record = self.entry.as_ref().map_or(&self.record, |entry| &entry.folder_record);
        record.as_ref().is_some_and(|record| record.pinned)
    }

    /// Returns the root of a file that this node keeps.
    pub(super) fn kept(&self) -> Result<Cid, NodeError> {
        if self.record.as_ref().is_some_and(|record| record.pinned) {
            return Ok(self.link.cid);
        }
        Err(NodeError::not_kept(&self.link.cid))
    }
}

/// Formats microseconds since 1970 as a UTC timestamp.
fn rfc3339(micros: i64) -> String {
    let since = std::time::Duration::from_micros(micros.try_into().unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

/// Resolves a reference. The file of a CID or link need not be known here; the file of a name must be.
pub(super) async fn find(store: &BlockingStore, reference: &Reference) -> Result<Found, NodeError> {
    let Reference { text, key, .. } = reference.clone();
    store
        .run(move |store| match text.parse::<Link>() {
            Ok(link) => {
                let record = store.root(&link.cid)?;
                let key = key.or(link.key).or_else(|| record.as_ref().and_then(|r| r.key.clone()));
                Ok(Found { link: Link { cid: link.cid, key }, record, namesakes: Vec::new(), entry: None })
            }
            Err(error) if text.starts_with("storgo:") => {
                Err(NodeError::new(ErrorCode::BadRequest, format!("invalid link: {error}"))
                    .reason(Reason::LinkInvalid))
            }
            Err(_) => {
                let mut named = Catalogue::new(store).named(&text)?.into_iter();
                let record = named.next().ok_or_else(|| unknown_name(&text))?;
                let link = Link { cid: record.cid, key: record.key.clone() };
                Ok(Found { link, record: Some(record), namesakes: named.collect(), entry: None })
            }
        })
        .await
}

fn unknown_name(text: &str) -> NodeError {
    // The text may be a link of an unknown kind with a key in it, or a token in the wrong place: it is not repeated then.
    let (message, reason) = if text.contains("://") || text.contains('#') {
        ("no file here has this name, and it is not a valid link".into(), Reason::LinkInvalid)
    } else if looks_like_a_cid(text) {
        ("no file here has this name, and it is not a valid CID".into(), Reason::CidInvalid)
    } else if looks_like_a_secret(text) {
        ("no file here has this name".into(), Reason::NameUnknown)
    } else {
        (format!("no file here is named {text:?}"), Reason::NameUnknown)
    };
    NodeError::new(ErrorCode::NotFound, message).reason(reason)
}

/// Whether the text could be a token or a read key: 43 characters of base64url, or most of them.
fn looks_like_a_secret(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Whether an invalid CID was perhaps meant as one. CIDs of storgo begin with `bafy` or `bafk`.
fn looks_like_a_cid(text: &str) -> bool {
    text.len() > 30 && text.starts_with("baf") && text.bytes().all(|b| b.is_ascii_alphanumeric())
}
