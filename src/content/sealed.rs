//! The sealed part of a node block: what it lists, with everything that a reader needs.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::{
    ContentError, MAX_CHUNK,
    cid::Cid,
    entry::{DirEntry, EntryKind, Metadata},
    link::Link,
    node_block::NodeKind,
    seal::Entry,
    secret::Key,
};

/// Longest name of a folder's entry, in bytes (the limit of Unix file systems).
const MAX_NAME: usize = 255;

/// Something that a list node lists: chunks of a file, or names of a folder.
pub trait Item: Serialize + DeserializeOwned + Clone {
    /// What a root over such items is.
    const ROOT: NodeKind;
    /// The block that it points to, and that block's length in bytes.
    fn block(&self) -> (Cid, u32);
    /// Plaintext bytes that it stands for.
    fn size(&self) -> u64;
    /// Bytes that it takes in a node block, at most.
    fn cost(&self) -> usize;
    /// Whether it may follow `last`.
    ///
    /// # Errors
    /// Where it may not, or is out of bounds by itself.
    fn check(&self, last: Option<&str>) -> Result<(), ContentError>;
    /// What the next item is checked against.
    fn order(&self) -> Option<&str>;
}

/// Bytes of a link and its length in the visible part, and of a link inside the body.
const VISIBLE_COST: usize = 34;

impl Item for Entry {
    const ROOT: NodeKind = NodeKind::File;

    fn block(&self) -> (Cid, u32) {
        (self.cid, self.len)
    }

    fn size(&self) -> u64 {
        u64::from(self.len)
    }

    fn cost(&self) -> usize {
        VISIBLE_COST + 103
    }

    fn check(&self, _: Option<&str>) -> Result<(), ContentError> {
        if self.len == 0 || self.len as usize > MAX_CHUNK {
            return Err(ContentError::Malformed("a chunk length out of bounds"));
        }
        Ok(())
    }

    fn order(&self) -> Option<&str> {
        None
    }
}

impl Item for DirEntry {
    const ROOT: NodeKind = NodeKind::Dir;

    fn block(&self) -> (Cid, u32) {
        (self.link.cid, self.root_len)
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn cost(&self) -> usize {
        VISIBLE_COST + 100 + self.name.len()
    }

    fn check(&self, last: Option<&str>) -> Result<(), ContentError> {
        let name = self.name.as_str();
        if name.is_empty()
            || name.len() > MAX_NAME
            || matches!(name, "." | "..")
            || name.contains(['/', '\0'])
        {
            return Err(ContentError::BadName(name.chars().take(MAX_NAME).collect()));
        }
        if last.is_some_and(|last| last.as_bytes() >= name.as_bytes()) {
            return Err(ContentError::Unordered(name.into()));
        }
        Ok(())
    }

    fn order(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// A list node inside a longer list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) cid: Cid,
    /// Length of the list node in bytes.
    pub(super) len: u32,
    pub(super) key: Option<Key>,
    /// Plaintext bytes below it.
    pub(super) size: u64,
    /// Items below it.
    pub(super) items: u64,
}

impl Child {
    pub(super) const COST: usize = VISIBLE_COST + 87;
}

/// What a node lists: items, or nodes that list items.
#[derive(Debug, Clone)]
pub(super) enum Listed<I> {
    Items(Vec<I>),
    Lists(Vec<Child>),
}

impl<I: Item> Listed<I> {
    pub(super) fn blocks(&self) -> Vec<(Cid, u32)> {
        match self {
            Self::Items(items) => items.iter().map(Item::block).collect(),
            Self::Lists(lists) => lists.iter().map(|child| (child.cid, child.len)).collect(),
        }
    }

    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Items(items) => items.iter().try_fold(0_u64, |sum, item| sum.checked_add(item.size())),
            Self::Lists(lists) => lists.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.size)),
        }
    }

    pub(super) fn items(&self) -> Option<u64> {
        match self {
            Self::Items(items) => Some(items.len() as u64),
            Self::Lists(lists) => lists.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.items)),
        }
    }
}

/// The body of a node block.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<I> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Metadata>,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    items: Option<Vec<I>>,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    lists: Option<Vec<Child>>,
}

pub(super) fn encode<I: Item>(meta: Option<Metadata>, listed: Listed<I>) -> Result<Vec<u8>, ContentError> {
    let (items, lists) = match listed {
        Listed::Items(items) => (Some(items), None),
        Listed::Lists(lists) => (None, Some(lists)),
    };
    serde_ipld_dagcbor::to_vec(&Body { meta, items, lists })
        .map_err(|_| ContentError::TooLarge("its encoding"))
}

pub(super) fn decode<I: Item>(bytes: &[u8]) -> Result<(Option<Metadata>, Listed<I>), ContentError> {
    let body: Body<I> = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|_| ContentError::Malformed("its sealed part is no list"))?;
    if serde_ipld_dagcbor::to_vec(&body).ok().as_deref() != Some(bytes) {
        return Err(ContentError::Malformed("its sealed part is not in canonical form"));
    }
    let listed = match (body.items, body.lists) {
        // Only a root may be empty. A list that yields nothing could be listed again and again, and a reader would walk
        // for ever without finding anything.
        (Some(items), None) if items.is_empty() && body.meta.is_none() => {
            return Err(ContentError::Malformed("a list of nothing"));
        }
        (None, Some(lists)) if lists.is_empty() || lists.iter().any(|child| child.items == 0) => {
            return Err(ContentError::Malformed("a list of nothing"));
        }
        (Some(items), None) => Listed::Items(items),
        (None, Some(lists)) => Listed::Lists(lists),
        _ => {
            return Err(ContentError::Malformed("it lists neither items nor lists, or both"));
        }
    };
    Ok((body.meta, listed))
}

/// As `[cid, len, key, size, items]`.
impl Serialize for Child {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (cid::Cid::from(self.cid), self.len, &self.key, self.size, self.items).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Child {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Parts = (cid::Cid, u32, Option<Key>, u64, u64);
        let (cid, len, key, size, items) = Parts::deserialize(deserializer)?;
        let cid = cid.try_into().map_err(serde::de::Error::custom)?;
        Ok(Self { cid, len, key, size, items })
    }
}

/// As `[name, cid, root_len, key, dir, size, mtime, mode]`.
impl Serialize for DirEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dir = self.kind == EntryKind::Dir;
        let cid = cid::Cid::from(self.link.cid);
        (&self.name, cid, self.root_len, &self.link.key, dir, self.size, self.mtime, self.mode)
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DirEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Parts = (String, cid::Cid, u32, Option<Key>, bool, u64, Option<i64>, Option<u32>);
        let (name, cid, root_len, key, dir, size, mtime, mode) = Parts::deserialize(deserializer)?;
        let cid = cid.try_into().map_err(serde::de::Error::custom)?;
        let kind = if dir { EntryKind::Dir } else { EntryKind::File };
        Ok(Self { name, link: Link { cid, key }, root_len, kind, size, mtime, mode })
    }
}
