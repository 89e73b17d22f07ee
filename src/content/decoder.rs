//! From a root to what it lists, in order.
//!
//! A [`Tree`] does no I/O: it says which list node it needs, is fed it, and yields items. Everything that it yields
//! hangs on the link's key: each node's key commits to its content, and only sealed CIDs are followed.

use super::{
    ContentError,
    cid::Cid,
    encoder::{DirEntry, Metadata},
    link::Link,
    node_block::{self, NodeKind},
    seal::Entry,
    sealed::{self, Child, Item, Listed},
};

/// List nodes inside list nodes, at most: with full nodes, far beyond what a disk holds.
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

/// Opens a root block with the link's key.
///
/// # Errors
/// [`ContentError::NoKey`], [`ContentError::WrongKey`], [`ContentError::Malformed`].
pub fn open_root(link: &Link, block: &[u8]) -> Result<Root, ContentError> {
    let (visible, body) = node_block::open(&link.cid, link.key.as_ref(), block)?;
    match visible.kind {
        NodeKind::File => Tree::root(&visible, &body).map(Root::File),
        NodeKind::Dir => Tree::root(&visible, &body).map(Root::Dir),
        NodeKind::List => Err(ContentError::Malformed("a list is no file by itself")),
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// An item.
    Item(T),
    /// This list node must be [fed](Tree::feed) first.
    Need {
        /// Its name.
        cid: Cid,
        /// Its length in bytes.
        len: u32,
    },
    /// All items have been yielded.
    End,
}

/// An item and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<I> {
    /// The item.
    pub item: I,
    /// Plaintext bytes before it.
    pub offset: u64,
}

/// What is left of one node's list.
enum Frame<I> {
    Items(std::vec::IntoIter<I>),
    Lists(std::vec::IntoIter<Child>),
}

/// Walks the items below a root.
pub struct Tree<I> {
    metadata: Metadata,
    frames: Vec<Frame<I>>,
    pending: Option<Child>,
    offset: u64,
    skip_to: u64,
    /// Items in all.
    items: u64,
    /// Items that are still passed over.
    skip_items: u64,
    last: Option<String>,
}

impl<I: Item> Tree<I> {
    fn root(visible: &node_block::Visible, body: &[u8]) -> Result<Self, ContentError> {
        let (metadata, listed) = sealed::decode::<I>(body)?;
        let metadata = metadata.ok_or(ContentError::Malformed("a root without metadata"))?;
        metadata.check()?;
        check_visible(visible, &listed)?;
        if listed.size() != Some(metadata.size) {
            return Err(ContentError::Malformed("its size is not the sum of its parts"));
        }
        let mut tree = Self {
            metadata,
            frames: Vec::new(),
            pending: None,
            offset: 0,
            skip_to: 0,
            items: listed.items().unwrap_or(u64::MAX),
            skip_items: 0,
            last: None,
        };
        tree.push(listed);
        Ok(tree)
    }

    /// What the root says of the whole.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Skips items that end at or before this offset, in plaintext bytes. List nodes wholly before it are never needed.
    pub fn seek(&mut self, offset: u64) {
        self.skip_to = offset;
    }

    /// Items in all, as the root says.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Passes over so many items more. List nodes wholly among them are never needed.
    pub fn skip_items(&mut self, count: u64) {
        self.skip_items = self.skip_items.saturating_add(count);
    }

    /// The next item, or the list node that is needed to find it.
    ///
    /// # Errors
    /// [`ContentError::BadName`] and the like for items that may not be there.
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
                        self.last = item.order().map(String::from);
                        let (offset, size) = (self.offset, item.size());
                        let skipped = self.skips(size);
                        self.offset += size;
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

    fn skips(&self, size: u64) -> bool {
        size > 0 && self.offset + size <= self.skip_to
    }

    /// Takes the list node that [`Tree::step`] asked for. After an error the tree still asks for it.
    ///
    /// # Errors
    /// [`ContentError::WrongKey`] and [`ContentError::Malformed`] where the block is not the one that was listed.
    pub fn feed(&mut self, block: &[u8]) -> Result<(), ContentError> {
        let child = self.pending.as_ref().ok_or(ContentError::Malformed("nothing was asked for"))?;
        let (visible, body) = node_block::open(&child.cid, child.key.as_ref(), block)?;
        if visible.kind != NodeKind::List {
            return Err(ContentError::Malformed("a root inside a list"));
        }
        let (metadata, listed) = sealed::decode::<I>(&body)?;
        check_visible(&visible, &listed)?;
        if metadata.is_some() || listed.size() != Some(child.size) || listed.items() != Some(child.items) {
            return Err(ContentError::Malformed("a list is not what its parent says"));
        }
        if self.frames.len() >= MAX_DEPTH {
            return Err(ContentError::Malformed("nested too deeply"));
        }
        self.pending = None;
        self.push(listed);
        Ok(())
    }

    fn push(&mut self, listed: Listed<I>) {
        self.frames.push(match listed {
            Listed::Items(items) => Frame::Items(items.into_iter()),
            Listed::Lists(lists) => Frame::Lists(lists.into_iter()),
        });
    }
}

/// What holders see must be what readers follow: otherwise the wrong blocks would be kept and repaired.
fn check_visible<I: Item>(visible: &node_block::Visible, listed: &Listed<I>) -> Result<(), ContentError> {
    let shown = visible.links.iter().copied().zip(visible.lens.iter().copied());
    if listed.blocks().into_iter().eq(shown) {
        Ok(())
    } else {
        Err(ContentError::Malformed("its visible links are not its own"))
    }
}
