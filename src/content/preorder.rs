//! The order in which the blocks of a root are visited: each node block before the blocks below it, and only once.
//!
//! A few node blocks that list each other many times can stand for any number of places. Visiting each node block once bounds
//! a walk by the bytes of the node blocks.

use std::collections::HashSet;

use super::{
    cid::{Cid, Codec},
    node_block::Visible,
};

/// A walk over the blocks of a root. It does no I/O: the caller reads the node blocks.
pub struct Preorder {
    /// CIDs and lengths of blocks to visit, the next one last.
    pending: Vec<(Cid, u32)>,
    /// Node blocks that were visited.
    visited: HashSet<Cid>,
}

impl Preorder {
    /// Starts at a root.
    pub fn new(root: Cid) -> Self {
        Self { pending: vec![(root, 0)], visited: HashSet::new() }
    }

    /// Returns the CID of the next block, and its length according to the node block that lists it (0 for the root). A node
    /// block that occurs again is left out, with all blocks below it; a data block is not.
    pub fn visit_next(&mut self) -> Option<(Cid, u32)> {
        while let Some((cid, len)) = self.pending.pop() {
            if cid.codec() == Codec::Raw || self.visited.insert(cid) {
                return Some((cid, len));
            }
        }
        None
    }

    /// Continues below the node block that was visited last.
    pub fn descend(&mut self, node: &Visible) {
        let links = node.links.iter().copied().zip(node.lens.iter().copied());
        self.pending.extend(links.rev());
    }

    /// Returns the blocks to visit, the next one last. Node blocks may occur again.
    pub fn pending(&self) -> &[(Cid, u32)] {
        &self.pending
    }

    /// Whether a node block was visited.
    pub fn is_visited(&self, cid: &Cid) -> bool {
        self.visited.contains(cid)
    }
}
