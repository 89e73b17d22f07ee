//! The sealed part of a node block: its list, with the keys and hashes for readers.

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

/// Maximum length of a folder entry's name in bytes (the limit of Unix file systems).
const MAX_NAME: usize = 255;

/// An element of a node's list: a chunk of a file or an entry of a folder.
pub trait ListItem: Serialize + DeserializeOwned + Clone {
    /// Kind of a root over such items.
    const ROOT: NodeKind;
    /// CID and length in bytes of the block that the item points to.
    fn block(&self) -> (Cid, u32);
    /// Whether that block is encrypted.
    fn is_sealed(&self) -> bool;
    /// Plaintext size in bytes.
    fn size(&self) -> u64;
    /// Maximum bytes that the item takes in a node block.
    fn cost(&self) -> usize;
    /// Checks the item, and its order after the item with the name `last`.
    ///
    /// # Errors
    /// [`ContentError::Malformed`], [`ContentError::BadName`], [`ContentError::Unordered`].
    fn check(&self, last: Option<&str>) -> Result<(), ContentError>;
    /// Whether the block is as long as it must be if the item is (`last`) or is not the last one of all.
    fn has_its_length(&self, last: bool) -> bool;
    /// The name that orders the items. `None` for chunks.
    fn name(&self) -> Option<&str>;
}

/// Bytes that each listed block takes in the visible part.
const VISIBLE_COST: usize = 34;

impl ListItem for Entry {
    const ROOT: NodeKind = NodeKind::File;

    fn block(&self) -> (Cid, u32) {
        (self.cid, self.len)
    }

    fn is_sealed(&self) -> bool {
        self.key.is_some()
    }

    fn size(&self) -> u64 {
        u64::from(self.size)
    }

    fn cost(&self) -> usize {
        VISIBLE_COST + 108
    }

    fn check(&self, _: Option<&str>) -> Result<(), ContentError> {
        if self.size == 0 || self.len as usize > MAX_CHUNK {
            return Err(ContentError::Malformed("chunk length out of bounds"));
        }
        Ok(())
    }

    fn has_its_length(&self, last: bool) -> bool {
        self.len == self.padded_len(last)
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl ListItem for DirEntry {
    const ROOT: NodeKind = NodeKind::Dir;

    fn block(&self) -> (Cid, u32) {
        (self.link.cid, self.root_len)
    }

    fn is_sealed(&self) -> bool {
        self.link.key.is_some()
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

    fn has_its_length(&self, _: bool) -> bool {
        true
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// A reference to a list node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) cid: Cid,
    /// Length of the node in bytes.
    pub(super) len: u32,
    pub(super) key: Option<Key>,
    /// Plaintext size below it, in bytes.
    pub(super) size: u64,
    /// Number of items below it.
    pub(super) items: u64,
}

impl Child {
    pub(super) const COST: usize = VISIBLE_COST + 87;
}

/// The list of a node: items, or list nodes.
#[derive(Debug, Clone)]
pub(super) enum Listed<I> {
    Items(Vec<I>),
    Lists(Vec<Child>),
}

impl<I: ListItem> Listed<I> {
    pub(super) fn blocks(&self) -> Vec<(Cid, u32)> {
        match self {
            Self::Items(items) => items.iter().map(ListItem::block).collect(),
            Self::Lists(lists) => lists.iter().map(|child| (child.cid, child.len)).collect(),
        }
    }

    /// Whether all listed blocks are encrypted, or none is, as `sealed` says.
    pub(super) fn is_uniform(&self, sealed: bool) -> bool {
        match self {
            Self::Items(items) => items.iter().all(|item| item.is_sealed() == sealed),
            Self::Lists(lists) => lists.iter().all(|child| child.key.is_some() == sealed),
        }
    }

    /// Returns the plaintext size and the number of items, or `None` if one overflows.
    pub(super) fn totals(&self) -> Option<(u64, u64)> {
        let add = |(size, items): (u64, u64), (more_size, more_items): (u64, u64)| {
            Some((size.checked_add(more_size)?, items.checked_add(more_items)?))
        };
        match self {
            Self::Items(items) => items.iter().map(|item| (item.size(), 1)).try_fold((0, 0), add),
            Self::Lists(lists) => lists.iter().map(|child| (child.size, child.items)).try_fold((0, 0), add),
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

pub(super) fn encode<I: ListItem>(
    meta: Option<Metadata>,
    listed: Listed<I>,
) -> Result<Vec<u8>, ContentError> {
    let (items, lists) = match listed {
        Listed::Items(items) => (Some(items), None),
        Listed::Lists(lists) => (None, Some(lists)),
    };
    serde_ipld_dagcbor::to_vec(&Body { meta, items, lists }).map_err(|_| ContentError::TooLarge("the list"))
}

pub(super) fn decode<I: ListItem>(bytes: &[u8]) -> Result<(Option<Metadata>, Listed<I>), ContentError> {
    let body: Body<I> = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|_| ContentError::Malformed("the sealed part is not a list"))?;
    if serde_ipld_dagcbor::to_vec(&body).ok().as_deref() != Some(bytes) {
        return Err(ContentError::Malformed("the sealed part is not canonical"));
    }
    let listed = match (body.items, body.lists) {
        // Only a root may be empty. An empty list node could be listed any number of times, and a reader would walk
        // without end.
        (Some(items), None) if items.is_empty() && body.meta.is_none() => {
            return Err(ContentError::Malformed("empty list"));
        }
        (None, Some(lists)) if lists.is_empty() || lists.iter().any(|child| child.items == 0) => {
            return Err(ContentError::Malformed("empty list"));
        }
        (Some(items), None) => Listed::Items(items),
        (None, Some(lists)) => Listed::Lists(lists),
        _ => return Err(ContentError::Malformed("exactly one of items and lists is required")),
    };
    Ok((body.meta, listed))
}

/// Serialized as `[cid, len, key, size, items]`.
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

/// Serialized as `[name, cid, root_len, key, dir, size, mtime, mode]`.
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
