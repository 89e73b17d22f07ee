//! Which file a user means: a link, a CID, or a name.

use super::{
    Node,
    error::{ErrorCode, NodeError},
};
use crate::{
    content::{cid::Cid, link::Link, secret::Key},
    store::{RootRecord, Store},
};

/// How a user names a file: a link, a CID, or a name, and the read key where it came apart from the link.
#[derive(Debug, Clone)]
pub struct Reference {
    text: String,
    key: Option<Key>,
}

impl Reference {
    /// A reference as it was typed, with a read key that came by another way.
    pub fn new(text: impl Into<String>, key: Option<Key>) -> Self {
        Self { text: text.into(), key }
    }
}

impl From<&Link> for Reference {
    fn from(link: &Link) -> Self {
        Self { text: link.cid.to_string(), key: link.key.clone() }
    }
}

impl From<&str> for Reference {
    fn from(text: &str) -> Self {
        Self::new(text, None)
    }
}

/// A reference that has been looked up.
pub(super) struct Found {
    /// CID, and the key where anyone here knows it.
    pub(super) link: Link,
    /// What the store knows of it.
    pub(super) record: Option<RootRecord>,
}

/// Roots read at a time.
const PAGE: usize = 256;

impl Node {
    /// Looks a reference up. A CID or link need not be known here; a name must be.
    pub(super) async fn find(&self, reference: &Reference) -> Result<Found, NodeError> {
        let Reference { text, key } = reference.clone();
        self.blocking(move |store| match text.parse::<Link>() {
            Ok(link) => {
                let record = store.root(&link.cid)?;
                let key = key.or(link.key).or_else(|| record.as_ref().and_then(|r| r.key.clone()));
                Ok(Found { link: Link { cid: link.cid, key }, record })
            }
            Err(error) if text.starts_with("storgo:") => {
                Err(NodeError::new(ErrorCode::BadRequest, format!("this link cannot be read: {error}"))
                    .hint("a link looks like storgo://<cid>#<key>; quote it, or the shell cuts it at the #"))
            }
            Err(_) => {
                let record = newest_named(store, &text)?.ok_or_else(|| {
                    NodeError::new(ErrorCode::NotFound, format!("no file here is named {text:?}"))
                        .hint("`storgo-node ls` shows what is here; a file elsewhere is read by its link")
                })?;
                Ok(Found { link: Link { cid: record.cid, key: record.key.clone() }, record: Some(record) })
            }
        })
        .await
    }
}

/// Names are not unique: the newest wins.
fn newest_named(store: &Store, name: &str) -> Result<Option<RootRecord>, NodeError> {
    let mut newest: Option<RootRecord> = None;
    let mut after: Option<Cid> = None;
    loop {
        let page = store.roots(after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(newest);
        };
        after = Some(last.cid);
        for record in page {
            let newer = newest.as_ref().is_none_or(|best| record.created >= best.created);
            if newer && record.name.as_deref() == Some(name) {
                newest = Some(record);
            }
        }
    }
}
