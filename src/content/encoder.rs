//! From entries to a root: node blocks are made as their lists fill, so memory stays constant whatever the size.

use super::{
    ContentError,
    link::Link,
    node_block::{self, MAX_NODE_LEN, NodeKind},
    seal::{Entry, Sealing},
    sealed::{self, Child, Item, Listed},
};
pub use super::{
    entry::{DirEntry, EntryKind, Metadata},
    node_block::Block,
};

/// Room left in a node block for its frame and for metadata.
const FRAME: usize = 16 << 10;
/// A finished root.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The last node blocks; the root is the very last.
    pub blocks: Vec<Block>,
    /// Root and key.
    pub link: Link,
    /// Length of the root block in bytes.
    pub root_len: u32,
    /// Plaintext bytes.
    pub size: u64,
}

/// Lists the chunks of a file, in order.
pub type FileEncoder = Encoder<Entry>;
/// Lists the names of a folder, in strictly rising byte order.
pub type DirEncoder = Encoder<DirEntry>;

/// Builds the tree of node blocks over items that are pushed in order.
pub struct Encoder<I> {
    sealing: Sealing,
    /// Bytes of list that a node may hold.
    limit: usize,
    items: Vec<I>,
    items_cost: usize,
    /// Unfinished list nodes of each level above the items, lowest first.
    levels: Vec<Vec<Child>>,
    last: Option<String>,
    size: u64,
}

impl<I: Item> Encoder<I> {
    /// An encoder for one file or folder.
    pub fn new(sealing: Sealing) -> Self {
        Self::with_limit(sealing, MAX_NODE_LEN - FRAME)
    }

    /// With another bound on list bytes per node, for tests of deep trees. Part of what fixes the CID.
    fn with_limit(sealing: Sealing, limit: usize) -> Self {
        Self { sealing, limit, items: Vec::new(), items_cost: 0, levels: Vec::new(), last: None, size: 0 }
    }

    /// Adds the next item, and answers with the list nodes that became full.
    ///
    /// # Errors
    /// [`ContentError::BadName`] and [`ContentError::Unordered`] for names; those of encoding.
    pub fn push(&mut self, item: I) -> Result<Vec<Block>, ContentError> {
        item.check(self.last.as_deref())?;
        self.last = item.order().map(String::from);
        self.size = self.size.checked_add(item.size()).ok_or(ContentError::TooLarge("its size"))?;
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

    /// Makes the root. `metadata.size` is filled in.
    ///
    /// # Errors
    /// Those of encoding.
    pub fn finish(mut self, metadata: Metadata) -> Result<Finished, ContentError> {
        metadata.check()?;
        let mut blocks = Vec::new();
        let top = if self.levels.is_empty() {
            Listed::Items(std::mem::take(&mut self.items))
        } else {
            let rest = Listed::Items(std::mem::take(&mut self.items));
            let child = self.list(rest, &mut blocks)?;
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
        let root_len = u32::try_from(root.bytes.len()).map_err(|_| ContentError::TooLarge("its root"))?;
        blocks.push(root);
        Ok(Finished { blocks, link, root_len, size: self.size })
    }

    /// Adds a finished list node to the level above; a level that is full becomes a list node itself.
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
        let overflow = ContentError::TooLarge("its size");
        let (size, items) = (listed.size().ok_or(overflow.clone())?, listed.items().ok_or(overflow)?);
        let blocks = listed.blocks();
        let (block, key) =
            node_block::encode(&self.sealing, NodeKind::List, &blocks, sealed::encode(None, listed)?)?;
        let len = u32::try_from(block.bytes.len()).map_err(|_| ContentError::TooLarge("a list"))?;
        let child = Child { cid: block.cid, len, key, size, items };
        made.push(block);
        Ok(child)
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
