//! Which file a user means: a link, a CID, or a name.

use super::{
    Node,
    error::{ErrorCode, NodeError, Reason},
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
    /// Older files of the same name, where it was found by its name.
    pub(super) namesakes: Vec<RootRecord>,
}

/// Files of one name that an error lists.
const LISTED: usize = 20;

impl Found {
    /// The one file that was meant, for what cannot be undone.
    pub(super) fn only(self) -> Result<Self, NodeError> {
        if self.namesakes.is_empty() {
            return Ok(self);
        }
        let all: Vec<&RootRecord> = self.record.iter().chain(&self.namesakes).collect();
        let name = all[0].name.as_deref().unwrap_or_default();
        let one = |record: &&RootRecord| format!("{} of {}", record.cid, moment(record.created));
        let mut list: Vec<String> = all.iter().take(LISTED).map(one).collect();
        list.extend((all.len() > LISTED).then(|| "and more".into()));
        let message = format!("{} files here are named {name:?}: {}", all.len(), list.join(", "));
        Err(NodeError::new(ErrorCode::BadRequest, message)
            .reason(Reason::NameAmbiguous)
            .hint("say which one by its CID"))
    }
}

/// Microseconds since 1970 as a date and a time, in UTC.
fn moment(micros: i64) -> String {
    let since = std::time::Duration::from_micros(micros.try_into().unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

/// Names looked at at a time.
const PAGE: usize = 256;

impl Node {
    /// Looks a reference up. A CID or link need not be known here; a name must be.
    pub(super) async fn find(&self, reference: &Reference) -> Result<Found, NodeError> {
        let Reference { text, key } = reference.clone();
        self.blocking(move |store| match text.parse::<Link>() {
            Ok(link) => {
                let record = store.root(&link.cid)?;
                let key = key.or(link.key).or_else(|| record.as_ref().and_then(|r| r.key.clone()));
                Ok(Found { link: Link { cid: link.cid, key }, record, namesakes: Vec::new() })
            }
            Err(error) if text.starts_with("storgo:") => {
                Err(NodeError::new(ErrorCode::BadRequest, format!("this link cannot be read: {error}"))
                    .reason(Reason::LinkInvalid)
                    .hint("a link looks like storgo://<cid>#<key>; quote it, or the shell cuts it at the #"))
            }
            Err(_) => {
                let mut named = named(store, &text)?.into_iter();
                let record = named.next().ok_or_else(|| {
                    // A link of a kind that is not known may carry a key: it is not said again.
                    let (what, reason, hint) = if text.contains("://") || text.contains('#') {
                        let hint =
                            "of a file elsewhere the link is needed, which looks like storgo://<cid>#<key>";
                        ("no file here has this name, and it is no link".into(), Reason::LinkInvalid, hint)
                    } else if looks_like_a_cid(&text) {
                        let hint =
                            "is it a CID? Then it is mistyped or cut off, as it is none: copy it once more";
                        (format!("no file here is named {text:?}"), Reason::CidInvalid, hint)
                    } else {
                        let hint =
                            "`storgo-node ls` shows what is here; a file elsewhere is read by its link";
                        (format!("no file here is named {text:?}"), Reason::NameUnknown, hint)
                    };
                    NodeError::new(ErrorCode::NotFound, what).reason(reason).hint(hint)
                })?;
                let link = Link { cid: record.cid, key: record.key.clone() };
                Ok(Found { link, record: Some(record), namesakes: named.collect() })
            }
        })
        .await
    }
}

/// Whether a text that is no CID was perhaps meant as one. Ours begin with `bafy…` or `bafk…`.
fn looks_like_a_cid(text: &str) -> bool {
    text.len() > 30 && text.starts_with("baf") && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The files of this name, newest first: names are not unique, and where one file is meant, the newest wins.
fn named(store: &Store, name: &str) -> Result<Vec<RootRecord>, NodeError> {
    let lower = name.to_lowercase();
    let mut found: Vec<RootRecord> = Vec::new();
    // No CID is so small. Names that differ by letter case alone stand together.
    let mut after = (lower.clone(), [0; Cid::LEN]);
    loop {
        let page = store.names(Some(&after), PAGE)?;
        let alike = page.iter().take_while(|(name, _)| *name == lower).count();
        for (_, bytes) in &page[..alike] {
            let record = Cid::from_bytes(bytes).ok().map(|cid| store.root(&cid)).transpose()?.flatten();
            found.extend(record.filter(|record| record.name.as_deref() == Some(name)));
        }
        if alike < PAGE {
            found.sort_by_key(|record| std::cmp::Reverse(record.created));
            return Ok(found);
        }
        after.1 = page[alike - 1].1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::cid::Codec,
        store::{RootKind, StoreOptions},
    };

    fn file(number: u32, name: &str) -> RootRecord {
        RootRecord {
            cid: Cid::of(Codec::DagCbor, &number.to_le_bytes()),
            key: None,
            kind: RootKind::File,
            name: Some(name.into()),
            size: 1,
            blocks: 1,
            stored_len: 1,
            media_type: None,
            created: number.into(),
            pinned: false,
            owner: Vec::new(),
            public: false,
        }
    }

    #[test]
    fn a_name_is_looked_up_where_it_stands_and_spelt_as_it_is() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path())).expect("opened");
        let spelt = |number: u32| match number % 10 {
            0 => "Same Name".into(),
            1 => "same name".into(),
            _ => format!("another {number}"),
        };
        store.add_roots((0..5_000).map(|number| file(number, &spelt(number))).collect());
        let before = store.records_read();
        let created: Vec<i64> =
            named(&store, "Same Name").expect("found").iter().map(|record| record.created).collect();
        assert_eq!(created, (0..500).rev().map(|tens| tens * 10).collect::<Vec<i64>>());
        assert_eq!(store.records_read() - before, 1_000, "those of this name in either spelling");
        for nobodys in ["SAME NAME", "same nam", "same namf", ""] {
            assert!(named(&store, nobodys).expect("looked up").is_empty(), "{nobodys}");
        }
        assert_eq!(named(&store, "another 4999").expect("found").len(), 1);
    }
}
