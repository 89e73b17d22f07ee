//! Reads the items below a root, in order.
//!
//! A [`Tree`] does no I/O: [`Tree::step`] yields items or names the list node that it needs, and [`Tree::feed`] takes that
//! node. The link's key authenticates every item: each node's key commits to its content, and the CIDs in the sealed
//! part are followed, never the visible ones.

use super::{
    ContentError,
    cid::Cid,
    encoder::{DirEntry, Metadata},
    link::Link,
    node_block::{self, NodeKind},
    seal::Entry,
    sealed::{self, Child, ListItem, Listed},
};

/// Maximum depth of nested list nodes. Full nodes of this depth list more than a disk holds.
const MAX_DEPTH: usize = 8;

/// An opened root.
pub enum Root {
    /// A file.
    File(FileTree),
    /// A folder.
    Dir(DirTree),
}

/// The chunks of a file.
pub type FileTree = Tree<Entry>;
/// The entries of a folder.
pub type DirTree = Tree<DirEntry>;

/// Decrypts a root block with the link's key.
///
/// # Errors
/// [`ContentError::NoKey`], [`ContentError::WrongKey`], [`ContentError::Malformed`].
pub fn open_root(link: &Link, block: &[u8]) -> Result<Root, ContentError> {
    let (visible, body) = node_block::open(&link.cid, link.key.as_ref(), block)?;
    let sealed = link.key.is_some();
    match visible.kind {
        NodeKind::File => Tree::root(sealed, &visible, &body).map(Root::File),
        NodeKind::Dir => Tree::root(sealed, &visible, &body).map(Root::Dir),
        NodeKind::List => Err(ContentError::Malformed("a list node used as a root")),
    }
}

/// Result of [`Tree::step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// The next item.
    Item(T),
    /// This list node must be passed to [`Tree::feed`] first.
    Need {
        /// CID of the node.
        cid: Cid,
        /// Length of the node in bytes.
        len: u32,
    },
    /// All items have been yielded.
    End,
}

/// An item and its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<I> {
    /// The item.
    pub item: I,
    /// Plaintext bytes before the item.
    pub offset: u64,
}

/// The rest of one node's list.
#[derive(Clone)]
enum Frame<I> {
    Items(std::vec::IntoIter<I>),
    Lists(std::vec::IntoIter<Child>),
}

/// Walks the items below a root.
#[derive(Clone)]
pub struct Tree<I> {
    metadata: Metadata,
    /// Whether the root is encrypted.
    sealed: bool,
    frames: Vec<Frame<I>>,
    pending: Option<Child>,
    offset: u64,
    skip_to: u64,
    items: u64,
    /// Number of items still to skip.
    skip_items: u64,
    last: Option<String>,
}

impl<I: ListItem> Tree<I> {
    fn root(sealed: bool, visible: &node_block::Visible, body: &[u8]) -> Result<Self, ContentError> {
        let (metadata, listed) = sealed::decode::<I>(body)?;
        let metadata = metadata.ok_or(ContentError::Malformed("root without metadata"))?;
        metadata.check()?;
        check_visible(visible, &listed)?;
        let Some((_, items)) = listed.totals().filter(|(size, _)| *size == metadata.size) else {
            return Err(ContentError::Malformed("the size is not the sum of the parts"));
        };
        let mut tree = Self {
            metadata,
            sealed,
            frames: Vec::new(),
            pending: None,
            offset: 0,
            skip_to: 0,
            items,
            skip_items: 0,
            last: None,
        };
        tree.push(listed)?;
        Ok(tree)
    }

    /// The metadata in the root.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Skips items that end at or before this offset, in plaintext bytes. List nodes before it are never needed.
    pub fn seek(&mut self, offset: u64) {
        self.skip_to = offset;
    }

    /// Total number of items, according to the root.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Skips `count` more items. List nodes that contain only skipped items are never needed.
    pub fn skip_items(&mut self, count: u64) {
        self.skip_items = self.skip_items.saturating_add(count);
    }

    /// Returns the next item, or the list node that is needed to find it.
    ///
    /// # Errors
    /// [`ContentError::BadName`], [`ContentError::Unordered`], [`ContentError::Malformed`] for an invalid item.
    pub fn step(&mut self) -> Result<Step<Placed<I>>, ContentError> {
        loop {
            if let Some(Child { cid, len, .. }) = &self.pending {
                return Ok(Step::Need { cid: *cid, len: *len });
            }
            match self.frames.last_mut() {
                None => return Ok(Step::End),
                Some(Frame::Lists(lists)) => match lists.next() {
                    None => drop(self.frames.pop()),
                    Some(child) if self.skips(child.size) => self.offset += child.size,
                    Some(child) if child.items <= self.skip_items => {
                        self.skip_items -= child.items;
                        self.offset += child.size;
                    }
                    Some(child) => self.pending = Some(child),
                },
                Some(Frame::Items(items)) => match items.next() {
                    None => drop(self.frames.pop()),
                    Some(item) => {
                        item.check(self.last.as_deref())?;
                        self.last = item.name().map(String::from);
                        let (offset, size) = (self.offset, item.size());
                        let skipped = self.skips(size);
                        self.offset += size;
                        if !item.has_its_length(self.offset == self.metadata.size) {
                            return Err(ContentError::Malformed("a chunk has a wrong padding"));
                        }
                        if self.skip_items > 0 {
                            self.skip_items -= 1;
                        } else if !skipped {
                            return Ok(Step::Item(Placed { item, offset }));
                        }
                    }
                },
            }
        }
    }

    /// Skips the list node that [`Tree::step`] needs, and so all items below it. Returns its CID; `None` if no list node was
    /// needed, so that nothing was skipped.
    pub fn skip_needed(&mut self) -> Option<Cid> {
        let child = self.pending.take()?;
        self.offset += child.size;
        Some(child.cid)
    }

    fn skips(&self, size: u64) -> bool {
        size > 0 && self.offset + size <= self.skip_to
    }

    /// Adds the list node that [`Tree::step`] needs. After an error, the tree still needs it.
    ///
    /// # Errors
    /// [`ContentError::WrongKey`] and [`ContentError::Malformed`] if the block is not the listed one.
    pub fn feed(&mut self, block: &[u8]) -> Result<(), ContentError> {
        let child = self.pending.as_ref().ok_or(ContentError::Malformed("unexpected list node"))?;
        let (visible, body) = node_block::open(&child.cid, child.key.as_ref(), block)?;
        if visible.kind != NodeKind::List {
            return Err(ContentError::Malformed("root inside a list"));
        }
        let (metadata, listed) = sealed::decode::<I>(&body)?;
        check_visible(&visible, &listed)?;
        if metadata.is_some() || listed.totals() != Some((child.size, child.items)) {
            return Err(ContentError::Malformed("list node does not match its parent"));
        }
        if self.frames.len() >= MAX_DEPTH {
            return Err(ContentError::Malformed("list nodes nested too deeply"));
        }
        self.push(listed)?;
        self.pending = None;
        Ok(())
    }

    /// Errors: encrypted and public blocks are mixed. Only SHA-1 would protect a public block below an encrypted root.
    fn push(&mut self, listed: Listed<I>) -> Result<(), ContentError> {
        if !listed.is_uniform(self.sealed) {
            return Err(ContentError::Malformed("encrypted and public blocks in one tree"));
        }
        self.frames.push(match listed {
            Listed::Items(items) => Frame::Items(items.into_iter()),
            Listed::Lists(lists) => Frame::Lists(lists.into_iter()),
        });
        Ok(())
    }
}

/// Checks that the visible links are the sealed ones. Otherwise holders would keep and repair the wrong blocks.
fn check_visible<I: ListItem>(visible: &node_block::Visible, listed: &Listed<I>) -> Result<(), ContentError> {
    let shown = visible.links.iter().copied().zip(visible.lens.iter().copied());
    if listed.blocks().into_iter().eq(shown) {
        Ok(())
    } else {
        Err(ContentError::Malformed("visible links differ from the sealed list"))
    }
}
