//! Builds the tree of node blocks over a list of items. Full nodes are returned at once, so memory does not grow with the
//! list.

use super::{
    ContentError,
    link::Link,
    node_block::{self, MAX_NODE_LEN, NodeKind},
    seal::{Entry, Sealing},
    sealed::{self, Child, ListItem, Listed},
};
pub use super::{
    entry::{DirEntry, EntryKind, Metadata},
    node_block::Block,
};

/// Bytes of a node block reserved for metadata and CBOR framing.
const OVERHEAD: usize = 16 << 10;

/// A finished root.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The remaining node blocks. The last one is the root.
    pub blocks: Vec<Block>,
    /// Root CID and key.
    pub link: Link,
    /// Length of the root block in bytes.
    pub root_len: u32,
    /// Plaintext size in bytes.
    pub size: u64,
}

/// Encodes the chunks of a file, in order.
pub type FileEncoder = Encoder<Entry>;
/// Encodes the entries of a folder, in strictly ascending byte order of their names.
pub type DirEncoder = Encoder<DirEntry>;

/// Builds the tree of node blocks over items that are pushed in order.
pub struct Encoder<I> {
    sealing: Sealing,
    /// Maximum length of a node's list in bytes.
    limit: usize,
    items: Vec<I>,
    items_cost: usize,
    /// The unfinished list of each level above the items, lowest first.
    levels: Vec<Vec<Child>>,
    last: Option<String>,
    size: u64,
}

impl<I: ListItem> Encoder<I> {
    /// Creates an encoder for one file or folder.
    pub fn new(sealing: Sealing) -> Self {
        Self::with_limit(sealing, MAX_NODE_LEN - OVERHEAD)
    }

    /// Creates an encoder with another `limit`, for tests of deep trees. The limit affects CIDs.
    fn with_limit(sealing: Sealing, limit: usize) -> Self {
        Self { sealing, limit, items: Vec::new(), items_cost: 0, levels: Vec::new(), last: None, size: 0 }
    }

    /// Adds the next item. Returns the list nodes that became full.
    ///
    /// # Errors
    /// [`ContentError::BadName`], [`ContentError::Unordered`], [`ContentError::TooLarge`], [`ContentError::Collision`].
    pub fn push(&mut self, item: I) -> Result<Vec<Block>, ContentError> {
        item.check(self.last.as_deref())?;
        self.last = item.name().map(String::from);
        self.size = self.size.checked_add(item.size()).ok_or(ContentError::TooLarge("the total size"))?;
        let mut made = Vec::new();
        if self.items_cost + item.cost() > self.limit {
            let full = std::mem::take(&mut self.items);
            self.items_cost = 0;
            let child = self.list(Listed::Items(full), &mut made)?;
            self.add(0, child, &mut made)?;
        }
        self.items_cost += item.cost();
        self.items.push(item);
        Ok(made)
    }

    /// Builds the root. Sets `metadata.size`.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`], [`ContentError::Collision`].
    pub fn finish(mut self, metadata: Metadata) -> Result<Finished, ContentError> {
        metadata.check()?;
        let mut blocks = Vec::new();
        let items = Listed::Items(std::mem::take(&mut self.items));
        let top = if self.levels.is_empty() {
            items
        } else {
            let child = self.list(items, &mut blocks)?;
            self.add(0, child, &mut blocks)?;
            let mut level = 0;
            while level + 1 < self.levels.len() {
                let rest = Listed::<I>::Lists(std::mem::take(&mut self.levels[level]));
                let child = self.list(rest, &mut blocks)?;
                self.add(level + 1, child, &mut blocks)?;
                level += 1;
            }
            Listed::Lists(self.levels.pop().unwrap_or_default())
        };
        let metadata = Metadata { size: self.size, ..metadata };
        let listed = top.blocks();
        let body = sealed::encode(Some(metadata), top)?;
        let (root, key) = node_block::encode(&self.sealing, I::ROOT, &listed, body)?;
        let link = Link { cid: root.cid, key };
        let root_len =
            u32::try_from(root.bytes.len()).map_err(|_| ContentError::TooLarge("the root block"))?;
        blocks.push(root);
        Ok(Finished { blocks, link, root_len, size: self.size })
    }

    /// Adds a finished list node to a level. A full level becomes a list node of the level above.
    fn add(&mut self, level: usize, child: Child, made: &mut Vec<Block>) -> Result<(), ContentError> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if (self.levels[level].len() + 1) * Child::COST > self.limit {
            let full = std::mem::take(&mut self.levels[level]);
            let parent = self.list(Listed::Lists(full), made)?;
            self.add(level + 1, parent, made)?;
        }
        self.levels[level].push(child);
        Ok(())
    }

    fn list(&self, listed: Listed<I>, made: &mut Vec<Block>) -> Result<Child, ContentError> {
        let (size, items) = listed.totals().ok_or(ContentError::TooLarge("the total size"))?;
        let blocks = listed.blocks();
        let body = sealed::encode(None, listed)?;
        let (block, key) = node_block::encode(&self.sealing, NodeKind::List, &blocks, body)?;
        let len = u32::try_from(block.bytes.len()).map_err(|_| ContentError::TooLarge("a list node"))?;
        let child = Child { cid: block.cid, len, key, size, items };
        made.push(block);
        Ok(child)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
