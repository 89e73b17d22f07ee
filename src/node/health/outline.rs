//! The blocks of a root in their places, and who has each: what the answers of this disk and of peers come to.

use std::collections::HashMap;

use super::super::error::{ErrorCode, NodeError, Reason};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::Store,
    transfer::Holding,
};

/// Blocks of one file that are looked at: as many as a peer can tell of in one answer.
const MAX_BLOCKS: usize = 2_000_000;
/// Places that are looked through for node blocks to be fetched with the next one.
const LOOKED_AHEAD: usize = 256;

/// One place in the DAG. What is known of its block is kept in the first place that this block has.
pub(super) struct Part {
    pub(super) cid: Cid,
    pub(super) len: u32,
    depth: u16,
    /// Where the same block stands first.
    first: u32,
    here: bool,
    /// A node block that could not be read: what is below it is not listed.
    closed: bool,
    /// Nodes that have it.
    holders: u16,
    /// The peer that was last counted for it.
    counted: u16,
}

/// All blocks of a root in preorder: the root, then each link with all below it.
pub(super) struct Outline {
    pub(super) parts: Vec<Part>,
    /// Whether node blocks are missing everywhere, so that there is more than is listed.
    pub(super) torn: bool,
    /// Peers counted so far.
    peers: u16,
}

/// A walk over the outline that waits for a node block.
pub(super) struct Walk {
    parts: Vec<Part>,
    torn: bool,
    /// What is still to be looked at, the next one last.
    open: Vec<(Cid, u32, u16)>,
    /// Where each node block stands first. With all below it, it is read once, in however many places it stands.
    nodes: HashMap<Cid, usize>,
}

impl Walk {
    pub(super) fn new(root: Cid) -> Self {
        Self { parts: Vec::new(), torn: false, open: vec![(root, 0, 0)], nodes: HashMap::new() }
    }

    /// Goes on until a node block is needed that is not here, or all is walked.
    pub(super) fn go_on(&mut self, store: &Store) -> Result<Option<Cid>, NodeError> {
        while let Some((cid, len, depth)) = self.open.pop() {
            self.check_room(0)?;
            let is_node = cid.codec() == Codec::DagCbor;
            if let Some(first) = self.nodes.get(&cid).copied().filter(|_| is_node) {
                self.repeat(first, depth)?;
                continue;
            }
            let here = store.holds(&cid)?;
            self.push(cid, len, depth, here);
            if is_node {
                self.nodes.insert(cid, self.parts.len() - 1);
                match store.get(&cid) {
                    Ok(Some(block)) if here => self.descend(&block)?,
                    _ => {
                        // In its full length, and damaged: that is not here either.
                        self.mark(false);
                        return Ok(Some(cid));
                    }
                }
            }
        }
        Ok(None)
    }

    fn check_room(&self, more: usize) -> Result<(), NodeError> {
        if self.parts.len() + self.open.len() + more <= MAX_BLOCKS {
            return Ok(());
        }
        let message = "this file has more blocks than can be asked for at once";
        Err(NodeError::new(ErrorCode::Other, message)
            .reason(Reason::TooManyBlocks)
            .hint("`storgo-node verify` checks what is here"))
    }

    /// Puts the node block that stands at `first` in another place, with all below it: no block is below itself, so that is
    /// all known.
    fn repeat(&mut self, first: usize, depth: u16) -> Result<(), NodeError> {
        let top = self.parts[first].depth;
        let below = self.parts[first + 1..].iter().take_while(|part| part.depth > top).count();
        self.check_room(1 + below)?;
        for at in first..=first + below {
            let Part { cid, len, depth: old, here, closed, .. } = self.parts[at];
            self.push(cid, len, depth.saturating_add(old - top), here);
            if let Some(last) = self.parts.last_mut() {
                last.closed = closed;
            }
        }
        Ok(())
    }

    /// Node blocks that come next and are not here, at most `limit`.
    pub(super) fn ahead(&self, store: &Store, limit: usize) -> Result<Vec<Cid>, NodeError> {
        let mut ahead = Vec::new();
        for (cid, ..) in self.open.iter().rev().take(LOOKED_AHEAD) {
            if ahead.len() == limit {
                break;
            }
            if cid.codec() == Codec::DagCbor && !self.nodes.contains_key(cid) && !store.holds(cid)? {
                ahead.push(*cid);
            }
        }
        Ok(ahead)
    }

    /// Whether a node block was to be had nowhere.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    fn push(&mut self, cid: Cid, len: u32, depth: u16, here: bool) {
        let first = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        self.parts.push(Part { cid, len, depth, first, here, closed: false, holders: 0, counted: 0 });
    }

    /// Says of the block that was met last whether it is here.
    fn mark(&mut self, here: bool) {
        if let Some(last) = self.parts.last_mut() {
            last.here = here;
        }
    }

    /// Goes past the node block that was met last, which is to be had nowhere.
    pub(super) fn pass(&mut self) {
        self.torn = true;
        if let Some(last) = self.parts.last_mut() {
            last.closed = true;
        }
    }

    /// Goes on below the node block that was met last, which has just been fetched: it may be here by that.
    pub(super) fn enter(&mut self, block: &[u8], store: &Store) -> Result<(), NodeError> {
        if let Some(cid) = self.parts.last().map(|last| last.cid) {
            self.mark(store.holds(&cid)?);
        }
        self.descend(block)
    }

    /// Opens the node block that was met last.
    fn descend(&mut self, block: &[u8]) -> Result<(), NodeError> {
        let visible = node_block::visible(block)?;
        let Some(last) = self.parts.last_mut() else { return Ok(()) };
        last.len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let depth = last.depth.saturating_add(1);
        let links = visible.links.into_iter().zip(visible.lens);
        self.open.extend(links.map(|(cid, len)| (cid, len, depth)).rev());
        Ok(())
    }

    /// What was walked.
    pub(super) fn finish(self) -> Outline {
        let Self { mut parts, torn, .. } = self;
        let mut by_cid: Vec<u32> = parts.iter().map(|part| part.first).collect();
        by_cid.sort_unstable_by_key(|at| (parts[*at as usize].cid, *at));
        let mut rest = by_cid.as_slice();
        while let [first, ..] = *rest {
            let cid = parts[first as usize].cid;
            let (same, others) =
                rest.split_at(rest.iter().take_while(|at| parts[**at as usize].cid == cid).count());
            // One that was not here when it was met first may have been fetched since.
            let here = same.iter().any(|at| parts[*at as usize].here);
            for at in same {
                let part = &mut parts[*at as usize];
                (part.first, part.here, part.holders) = (first, here, here.into());
            }
            rest = others;
        }
        Outline { parts, torn, peers: 0 }
    }
}

impl Outline {
    /// Counts what a peer has; answers how many blocks, of which each counts once.
    pub(super) fn count(&mut self, holding: &Holding) -> u64 {
        self.peers += 1;
        let (mut at, mut count) = (0, 0);
        for has in holding.iter() {
            let Some(part) = self.parts.get(at) else { break };
            let (depth, first, closed) = (part.depth, part.first as usize, part.closed);
            at += 1;
            if has {
                let block = &mut self.parts[first];
                if block.counted != self.peers {
                    block.counted = self.peers;
                    block.holders = block.holders.saturating_add(1);
                    count += 1;
                }
                // It goes on with what is below, and how much that is nobody knows here.
                if closed {
                    break;
                }
            } else {
                // Of what is below, the peer said nothing.
                at += self.parts[at..].iter().take_while(|below| below.depth > depth).count();
            }
        }
        count
    }

    /// The blocks, each once, in the order of their first places: its name, whether it is here, and how many nodes have it.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (Cid, bool, u16)> {
        let first = |(at, part): &(usize, &Part)| part.first as usize == *at;
        self.parts.iter().enumerate().filter(first).map(|(_, part)| (part.cid, part.here, part.holders))
    }

    /// Whether the block of a part is here, and how many nodes have it.
    pub(super) fn standing(&self, part: &Part) -> (bool, u16) {
        let block = &self.parts[part.first as usize];
        (block.here, block.holders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::{
            encoder::{DirEncoder, DirEntry, EntryKind, FileEncoder, Metadata},
            seal::Sealing,
        },
        store::{PutMode, StoreOptions},
    };

    /// Parts by their depth and their block; of the one in `closed` nobody knows what is below.
    fn outline(parts: &[(u16, u8)], closed: Option<usize>) -> Outline {
        let mut walk = Walk::new(Cid::of(Codec::Raw, b"the root"));
        for (at, (depth, block)) in parts.iter().enumerate() {
            walk.push(Cid::of(Codec::Raw, &[*block]), 1, *depth, true);
            if closed == Some(at) {
                walk.pass();
            }
        }
        walk.finish()
    }

    /// Parts by their depth, each another block.
    fn of_depths(depths: &[u16], closed: Option<usize>) -> Outline {
        let parts: Vec<_> = depths.iter().copied().zip(0..).collect();
        outline(&parts, closed)
    }

    fn holders(outline: &Outline) -> Vec<u16> {
        outline.parts.iter().map(|part| outline.standing(part).1).collect()
    }

    #[test]
    fn what_a_peer_has_is_counted_where_it_is() {
        // A root, a node with two blocks that the peer lacks, and another with one.
        let mut whole = of_depths(&[0, 1, 2, 2, 1, 2], None);
        assert_eq!(whole.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&whole), [2, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn what_a_peer_says_below_a_block_that_is_unknown_here_is_counted_nowhere() {
        let has_all = Holding::of(&[true; 6]);
        let mut torn = of_depths(&[0, 1, 1, 2], Some(1));
        assert_eq!(torn.count(&has_all), 2);
        assert_eq!(
            holders(&torn),
            [2, 2, 1, 1],
            "its third answer may be about another block than the third here"
        );
        let mut lacking = of_depths(&[0, 1, 1, 2], Some(1));
        assert_eq!(lacking.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&lacking), [2, 1, 2, 2]);
    }

    #[test]
    fn a_block_in_many_places_is_one_block() {
        // A root with one block three times, and another one.
        let mut zeros = outline(&[(0, 0), (1, 7), (1, 7), (1, 8), (1, 7)], None);
        assert_eq!(zeros.blocks().count(), 3);
        assert_eq!(zeros.count(&Holding::of(&[true, true, true, false, true])), 2);
        assert_eq!(zeros.count(&Holding::of(&[true; 5])), 3);
        assert_eq!(holders(&zeros), [3, 3, 3, 2, 3]);
    }

    #[test]
    fn folders_may_be_deeper_than_a_byte_counts() {
        const DEEP: u16 = 300;
        let dir = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path())).expect("opened");
        let upload = store.upload();
        let empty = FileEncoder::new(Sealing::Public).finish(Metadata::default()).expect("an empty file");
        let (mut below, mut root) = (empty.link.clone(), None);
        let put = |blocks: &[crate::content::encoder::Block]| {
            for block in blocks {
                upload.put(&block.cid, &block.bytes, PutMode::Sealed).expect("put");
            }
        };
        put(&empty.blocks);
        let mut root_len = empty.root_len;
        for depth in (0..DEEP).rev() {
            let mut folder = DirEncoder::new(Sealing::Public);
            let kind = if root.is_none() { EntryKind::File } else { EntryKind::Dir };
            let name = format!("in {depth}");
            let entry = DirEntry { name, link: below, root_len, kind, size: 0, mtime: None, mode: None };
            put(&folder.push(entry).expect("pushed"));
            let finished = folder.finish(Metadata::default()).expect("finished");
            put(&finished.blocks);
            (below, root, root_len) = (finished.link.clone(), Some(finished.link.cid), finished.root_len);
        }
        // What it has put is listed then.
        drop(upload);
        let mut walk = Walk::new(root.expect("a folder"));
        assert_eq!(walk.go_on(&store).expect("walked"), None);
        let depths: Vec<u16> = walk.finish().parts.iter().map(|part| part.depth).collect();
        assert_eq!(depths, (0..=DEEP).collect::<Vec<_>>());
    }

    #[test]
    fn a_folder_in_two_places_is_read_once_and_stands_in_both() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path())).expect("opened");
        let upload = store.upload();
        let put = |block: &crate::content::encoder::Block| {
            upload.put(&block.cid, &block.bytes, PutMode::Sealed).expect("put");
        };
        let file = FileEncoder::new(Sealing::Public).finish(Metadata::default()).expect("an empty file");
        file.blocks.iter().for_each(put);
        let folder = |below: &[(&str, &crate::content::link::Link, u32, EntryKind)]| {
            let mut folder = DirEncoder::new(Sealing::Public);
            for (name, link, root_len, kind) in below {
                let (name, link) = ((*name).to_owned(), (*link).clone());
                let entry = DirEntry {
                    name,
                    link,
                    root_len: *root_len,
                    kind: *kind,
                    size: 0,
                    mtime: None,
                    mode: None,
                };
                folder.push(entry).expect("pushed").iter().for_each(put);
            }
            let finished = folder.finish(Metadata::default()).expect("finished");
            finished.blocks.iter().for_each(put);
            finished
        };
        let inner = folder(&[("a", &file.link, file.root_len, EntryKind::File)]);
        let middle = folder(&[("b", &inner.link, inner.root_len, EntryKind::Dir)]);
        let outer = folder(&[
            ("one", &middle.link, middle.root_len, EntryKind::Dir),
            ("two", &inner.link, inner.root_len, EntryKind::Dir),
        ]);
        drop(upload);
        let mut walk = Walk::new(outer.link.cid);
        assert_eq!(walk.go_on(&store).expect("walked"), None);
        let outline = walk.finish();
        let (inner, middle, file) = (inner.link.cid, middle.link.cid, file.link.cid);
        let parts: Vec<_> = outline.parts.iter().map(|part| (part.cid, part.depth, part.here)).collect();
        let expected = [(outer.link.cid, 0), (middle, 1), (inner, 2), (file, 3), (inner, 1), (file, 2)]
            .map(|(cid, depth)| (cid, depth, true));
        assert_eq!((parts, outline.blocks().count()), (expected.to_vec(), 4));
    }
}
