//! The blocks of a root, and the number of nodes that have each. Each block is listed once, in however many places it is.

use std::collections::HashMap;

use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
        preorder::Preorder,
    },
    node::{error::NodeError, handles::Wanted},
    store::{Presence, Store},
    transfer::Holding,
};

/// Maximum number of links that are followed, each of which takes memory: as many as fit into one answer of a peer.
const MAX_LINKS: usize = 2_000_000;
/// Upcoming blocks that are searched for node blocks to fetch ahead.
const AHEAD_WINDOW: usize = 256;

/// A block of a root.
struct Block {
    cid: Cid,
    len: u32,
    below: Below,
    presence: Presence,
    /// Number of nodes that have it. This one counts if it keeps the block.
    holders: u16,
    /// Number of the last peer that was counted in `holders`.
    counted: u16,
    visited: bool,
}

/// The blocks that a block links to.
enum Below {
    /// Not known: a data block, which links to none, or a node block that could not be read.
    Unknown,
    /// Indexes of blocks.
    Blocks(Box<[u32]>),
}

/// All blocks of a root.
#[derive(Default)]
pub(super) struct BlockMap {
    /// The root is the first.
    blocks: Vec<Block>,
    by_cid: HashMap<Cid, u32>,
    /// Indexes of blocks in the order of their first places.
    order: Vec<u32>,
    /// Whether a node block could not be read, so that the blocks below it are not listed.
    pub(super) incomplete: bool,
    /// Whether the root has more links than are followed. Only the blocks before that are listed.
    pub(super) cut: bool,
    /// Number of peers counted so far.
    peers: u16,
}

/// Walks the DAG of a root and builds its [`BlockMap`]. It stops at each node block that is not here.
pub(super) struct DagWalk {
    map: BlockMap,
    walk: Preorder,
    /// Number of further links to follow.
    links_left: usize,
}

impl DagWalk {
    pub(super) fn new(root: Cid) -> Self {
        Self { map: BlockMap::default(), walk: Preorder::new(root), links_left: MAX_LINKS }
    }

    /// Visits blocks up to a node block that is not here, which it returns; `None` at the end of the DAG, or of the links to
    /// follow.
    pub(super) fn advance(&mut self, store: &Store, wanted: &Wanted) -> Result<Option<Cid>, NodeError> {
        while !self.map.cut
            && let Some((cid, len)) = self.walk.visit_next()
        {
            if !self.map.visit(cid, len) {
                continue;
            }
            let presence = store.presence(&cid)?;
            self.map.last().presence = presence;
            if cid.codec() == Codec::DagCbor {
                wanted.check()?;
                match store.get(&cid) {
                    Ok(Some(block)) if presence.here => self.descend(&block)?,
                    _ => {
                        // A file of the right length whose bytes are damaged is not here either.
                        self.map.last().presence = Presence::default();
                        return Ok(Some(cid));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns the next node blocks that are not here, at most `limit`.
    pub(super) fn read_ahead(&self, store: &Store, limit: usize) -> Result<Vec<Cid>, NodeError> {
        let mut ahead = Vec::new();
        for (cid, _) in self.walk.pending().iter().rev().take(AHEAD_WINDOW) {
            if ahead.len() == limit {
                break;
            }
            let is_new = cid.codec() == Codec::DagCbor && !self.walk.is_visited(cid);
            if is_new && !ahead.contains(cid) && !store.holds(cid)? {
                ahead.push(*cid);
            }
        }
        Ok(ahead)
    }

    /// Whether a node block was skipped.
    pub(super) fn is_incomplete(&self) -> bool {
        self.map.incomplete
    }

    /// Skips the blocks below the last node block, which could not be fetched.
    pub(super) fn skip(&mut self) {
        self.map.incomplete = true;
    }

    /// Continues below the last node block, which has just been fetched and may be stored here now.
    pub(super) fn enter(&mut self, block: &[u8], store: &Store) -> Result<(), NodeError> {
        let last = self.map.last();
        last.presence = store.presence(&last.cid)?;
        self.descend(block)
    }

    /// Adds the links of the last node block to the blocks to visit.
    fn descend(&mut self, block: &[u8]) -> Result<(), NodeError> {
        let visible = node_block::visible(block)?;
        let Some(left) = self.links_left.checked_sub(visible.links.len()) else {
            self.map.cut = true;
            return Ok(());
        };
        self.links_left = left;
        self.walk.descend(&visible);
        let links = visible.links.iter().zip(&visible.lens);
        let below = links.map(|(cid, len)| self.map.index_of(*cid, *len)).collect();
        let last = self.map.last();
        last.len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        last.below = Below::Blocks(below);
        Ok(())
    }

    /// Returns the map.
    pub(super) fn finish(mut self) -> BlockMap {
        for block in &mut self.map.blocks {
            block.holders = block.presence.kept.into();
        }
        self.map
    }
}

impl BlockMap {
    fn index_of(&mut self, cid: Cid, len: u32) -> u32 {
        let blocks = &mut self.blocks;
        *self.by_cid.entry(cid).or_insert_with(|| {
            let (below, presence, visited) = (Below::Unknown, Presence::default(), false);
            blocks.push(Block { cid, len, below, presence, holders: 0, counted: 0, visited });
            u32::try_from(blocks.len() - 1).expect("at most MAX_LINKS and the root")
        })
    }

    /// Adds a block to the order. Returns `false` if it was there.
    fn visit(&mut self, cid: Cid, len: u32) -> bool {
        let at = self.index_of(cid, len);
        let is_new = !std::mem::replace(&mut self.blocks[at as usize].visited, true);
        if is_new {
            self.order.push(at);
        }
        is_new
    }

    /// The block that was visited last. There is one once a walk has begun.
    fn last(&mut self) -> &mut Block {
        let at = self.order.last().copied().unwrap_or_default();
        &mut self.blocks[at as usize]
    }

    /// Counts a peer as a holder of the blocks that it has. Returns their number.
    pub(super) fn count(&mut self, holding: &Holding) -> u64 {
        self.peers += 1;
        let (mut pending, mut visited, mut count) = (vec![0], vec![false; self.blocks.len()], 0);
        for has in holding.iter() {
            let next = loop {
                let Some(at) = pending.pop() else { return count };
                let is_node = self.blocks[at as usize].cid.codec() == Codec::DagCbor;
                // As in [`Preorder`], which the peer followed as far as its own node blocks are there.
                if !is_node || !std::mem::replace(&mut visited[at as usize], true) {
                    break &mut self.blocks[at as usize];
                }
            };
            if !has {
                continue;
            }
            if next.counted != self.peers {
                next.counted = self.peers;
                next.holders = next.holders.saturating_add(1);
                count += 1;
            }
            match &next.below {
                Below::Blocks(below) => pending.extend(below.iter().rev()),
                // The peer's next answers are about blocks below this one, whose number is unknown here.
                Below::Unknown if next.cid.codec() == Codec::DagCbor => break,
                Below::Unknown => {}
            }
        }
        count
    }

    /// Lists the blocks: CID, whether it is here, and the number of holders.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (Cid, Presence, u16)> {
        self.order.iter().map(|at| {
            let block = &self.blocks[*at as usize];
            (block.cid, block.presence, block.holders)
        })
    }

    /// Returns the links of a node block with their lengths; `None` if it could not be read.
    pub(super) fn links(&self, cid: &Cid) -> Option<Vec<(Cid, u32)>> {
        match &self.find(cid)?.below {
            Below::Blocks(below) => {
                let link = |at: &u32| (self.blocks[*at as usize].cid, self.blocks[*at as usize].len);
                Some(below.iter().map(link).collect())
            }
            Below::Unknown => None,
        }
    }

    /// Returns whether a block is here, and the number of nodes that have it; `None` for a block that is not listed.
    pub(super) fn availability(&self, cid: &Cid) -> Option<(bool, u16)> {
        let listed = self.find(cid).filter(|block| block.visited);
        listed.map(|block| (block.presence.here, block.holders))
    }

    /// Returns the length of the root; 0 if it could not be read.
    pub(super) fn root_len(&self) -> u32 {
        self.blocks.first().map_or(0, |root| root.len)
    }

    fn find(&self, cid: &Cid) -> Option<&Block> {
        self.by_cid.get(cid).map(|at| &self.blocks[*at as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::{
            encoder::{DirEncoder, DirEntry, EntryKind, Metadata},
            link::Link,
            seal::Sealing,
        },
        node::handles::BlockingStore,
        store::{PutMode, StoreOptions, Upload},
    };

    fn cid(name: &str) -> Cid {
        // Names of node blocks are in capitals.
        let codec = if name.chars().all(char::is_uppercase) { Codec::DagCbor } else { Codec::Raw };
        Cid::of(codec, name.as_bytes())
    }

    /// A map of node blocks with their links, all of them here; the root comes first. A node block without links could not
    /// be read.
    fn map(nodes: &[(&str, &[&str])]) -> BlockMap {
        let (mut map, mut walk) = (BlockMap::default(), Preorder::new(cid(nodes[0].0)));
        while let Some((next, len)) = walk.visit_next() {
            if !map.visit(next, len) {
                continue;
            }
            map.last().presence = Presence { here: true, kept: true };
            let Some((_, links)) = nodes.iter().find(|(name, links)| cid(name) == next && !links.is_empty())
            else {
                continue;
            };
            let below = links.iter().map(|name| map.index_of(cid(name), 1)).collect();
            map.last().below = Below::Blocks(below);
            let links: Vec<Cid> = links.iter().map(|name| cid(name)).collect();
            let lens = vec![1; links.len()];
            walk.descend(&node_block::Visible { kind: node_block::NodeKind::List, links, lens });
        }
        DagWalk { map, walk, links_left: 0 }.finish()
    }

    fn holders(map: &BlockMap) -> Vec<u16> {
        map.blocks().map(|(.., holders)| holders).collect()
    }

    /// Stores a public folder of these files and folders.
    fn folder(upload: &Upload, entries: &[Link]) -> Link {
        let mut folder = DirEncoder::new(Sealing::Public);
        for (name, link) in entries.iter().enumerate() {
            let (name, kind) = (name.to_string(), EntryKind::Dir);
            let entry =
                DirEntry { name, link: link.clone(), root_len: 1, kind, size: 0, mtime: None, mode: None };
            assert!(folder.push(entry).expect("an entry").is_empty());
        }
        let finished = folder.finish(Metadata::default()).expect("a folder");
        for block in finished.blocks {
            upload.put(&block.cid, &block.bytes, PutMode::Sealed).expect("put");
        }
        finished.link
    }

    #[tokio::test]
    async fn a_root_with_more_links_than_are_followed_is_counted_up_to_there() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let store = BlockingStore(Store::open(StoreOptions::new(dir.path())).expect("opened"));
        let upload = store.0.upload();
        let nothing = folder(&upload, &[]);
        let first = folder(&upload, std::slice::from_ref(&nothing));
        let second = folder(&upload, &[nothing.clone(), nothing.clone()]);
        let root = folder(&upload, &[first.clone(), second.clone(), nothing.clone()]);
        drop(upload);
        let mut walk = DagWalk { links_left: 5, ..DagWalk::new(root.cid) };
        let mut map = store
            .run_while_wanted(move |store, wanted| {
                assert_eq!(walk.advance(store, wanted)?, None);
                Ok(walk.finish())
            })
            .await
            .expect("walked");
        assert!(map.cut && !map.incomplete);
        assert!(map.blocks().map(|(cid, ..)| cid).eq([root.cid, first.cid, nothing.cid, second.cid]));
        // A peer that has all of it is a holder of what was counted, and of nothing else.
        assert_eq!(map.count(&Holding::of(&[true; 6])), 4);
        assert_eq!(map.availability(&second.cid), Some((true, 1)));
        assert_eq!(map.links(&second.cid), None);
    }

    #[test]
    fn the_blocks_of_a_peer_are_counted_at_their_places() {
        let mut whole = map(&[("R", &["A", "B"]), ("A", &["a", "b"]), ("B", &["c"])]);
        // The peer lacks A, so that it leaves out what is below.
        assert_eq!(whole.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&whole), [2, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn answers_about_blocks_below_an_unreadable_one_are_not_counted() {
        let has_all = Holding::of(&[true; 6]);
        let mut incomplete = map(&[("R", &["A", "B"]), ("A", &[]), ("B", &["c"])]);
        assert_eq!(incomplete.count(&has_all), 2);
        assert_eq!(
            holders(&incomplete),
            [2, 2, 1, 1],
            "the third answer may be about another block than the third one here"
        );
        let mut lacking = map(&[("R", &["A", "B"]), ("A", &[]), ("B", &["c"])]);
        assert_eq!(lacking.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&lacking), [2, 1, 2, 2]);
    }

    #[test]
    fn a_block_in_several_places_counts_once() {
        let mut zeros = map(&[("R", &["a", "a", "b", "a"])]);
        assert_eq!(zeros.blocks().count(), 3);
        assert_eq!(zeros.count(&Holding::of(&[true, true, true, false, true])), 2);
        assert_eq!(zeros.count(&Holding::of(&[true; 5])), 3);
        assert_eq!(holders(&zeros), [3, 3, 2]);
    }

    #[test]
    fn a_node_block_in_several_places_is_answered_where_the_peer_met_it_first() {
        // The peer lacks A, above the first place of C here. It has C at the second place.
        let nodes: [(&str, &[&str]); 4] =
            [("R", &["A", "B", "C"]), ("A", &["C", "a"]), ("B", &["C"]), ("C", &["c"])];
        let mut shared = map(&nodes);
        let names = ["R", "A", "C", "c", "a", "B"].map(cid);
        assert!(shared.blocks().map(|(cid, ..)| cid).eq(names));
        // R, A, B, C, c; the third C is left out.
        assert_eq!(shared.count(&Holding::of(&[true, false, true, true, true])), 4);
        assert_eq!(holders(&shared), [2, 1, 2, 2, 1, 2]);
        assert_eq!(shared.links(&cid("B")), Some(vec![(cid("C"), 1)]));
    }

    #[test]
    fn blocks_that_stand_for_more_places_than_can_be_visited_are_mapped() {
        let many = ["B"; 1000];
        let all: Vec<(&str, &[&str])> = vec![("A", &many), ("B", &["C"; 1000]), ("C", &["D"; 1000])];
        let mut map = map(&[all, vec![("D", &["E"; 1000]), ("E", &["e"; 1000])]].concat());
        assert_eq!(map.blocks().count(), 6);
        assert_eq!(map.count(&Holding::of(&[true; 5 + 1000])), 6);
    }
}
