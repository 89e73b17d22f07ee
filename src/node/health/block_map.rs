//! The blocks of a root in preorder, and the number of nodes that have each.

use std::collections::HashMap;

use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    node::error::{ErrorCode, NodeError, Reason},
    store::Store,
    transfer::Holding,
};

/// Maximum number of blocks of one file: as many as fit into one answer of a peer.
const MAX_BLOCKS: usize = 2_000_000;
/// Upcoming positions that are searched for node blocks to fetch ahead.
const AHEAD_WINDOW: usize = 256;

/// One position in the DAG. A block may have several; `here`, `holders` and `counted` are maintained in its first one.
pub(super) struct Position {
    pub(super) cid: Cid,
    pub(super) len: u32,
    depth: u16,
    /// Index of the first position of the same block.
    first: u32,
    here: bool,
    /// A node block that could not be read: the blocks below it are not listed.
    opaque: bool,
    /// Number of nodes that have it, this one included.
    holders: u16,
    /// Number of the last peer that was counted in `holders`.
    counted: u16,
}

/// All blocks of a root in preorder: the root, then each link with all blocks below it.
pub(super) struct BlockMap {
    pub(super) positions: Vec<Position>,
    /// Whether a node block could not be read, so that the blocks below it are not listed.
    pub(super) incomplete: bool,
    /// Number of peers counted so far.
    peers: u16,
}

/// Walks the DAG of a root and builds its [`BlockMap`]. It stops at each node block that is not here.
pub(super) struct DagWalk {
    positions: Vec<Position>,
    incomplete: bool,
    /// CID, length and depth of the blocks to visit; the next one is last.
    pending: Vec<(Cid, u32, u16)>,
    /// Index of the first position of each node block. A block in several positions is read once.
    nodes: HashMap<Cid, usize>,
}

impl DagWalk {
    pub(super) fn new(root: Cid) -> Self {
        Self { positions: Vec::new(), incomplete: false, pending: vec![(root, 0, 0)], nodes: HashMap::new() }
    }

    /// Visits blocks up to a node block that is not here, which it returns; `None` at the end of the DAG.
    pub(super) fn advance(&mut self, store: &Store) -> Result<Option<Cid>, NodeError> {
        while let Some((cid, len, depth)) = self.pending.pop() {
            self.check_limit(0)?;
            let is_node = cid.codec() == Codec::DagCbor;
            if let Some(first) = self.nodes.get(&cid).copied().filter(|_| is_node) {
                self.repeat(first, depth)?;
                continue;
            }
            let here = store.holds(&cid)?;
            self.push(cid, len, depth, here);
            if is_node {
                self.nodes.insert(cid, self.positions.len() - 1);
                match store.get(&cid) {
                    Ok(Some(block)) if here => self.descend(&block)?,
                    _ => {
                        // A file of the right length whose bytes are damaged is not here either.
                        self.set_here(false);
                        return Ok(Some(cid));
                    }
                }
            }
        }
        Ok(None)
    }

    fn check_limit(&self, more: usize) -> Result<(), NodeError> {
        if self.positions.len() + self.pending.len() + more <= MAX_BLOCKS {
            return Ok(());
        }
        let message = format!("the file has more than {MAX_BLOCKS} blocks");
        Err(NodeError::new(ErrorCode::Other, message).reason(Reason::TooManyBlocks))
    }

    /// Repeats the node block at position `first`, with all blocks below it, at the current position. They have all been
    /// visited, because no block is below itself.
    fn repeat(&mut self, first: usize, depth: u16) -> Result<(), NodeError> {
        let top = self.positions[first].depth;
        let below = self.positions[first + 1..].iter().take_while(|position| position.depth > top).count();
        self.check_limit(1 + below)?;
        for at in first..=first + below {
            let Position { cid, len, depth: old, here, opaque, .. } = self.positions[at];
            self.push(cid, len, depth.saturating_add(old - top), here);
            if let Some(last) = self.positions.last_mut() {
                last.opaque = opaque;
            }
        }
        Ok(())
    }

    /// Returns the next node blocks that are not here, at most `limit`.
    pub(super) fn read_ahead(&self, store: &Store, limit: usize) -> Result<Vec<Cid>, NodeError> {
        let mut ahead = Vec::new();
        for (cid, ..) in self.pending.iter().rev().take(AHEAD_WINDOW) {
            if ahead.len() == limit {
                break;
            }
            if cid.codec() == Codec::DagCbor && !self.nodes.contains_key(cid) && !store.holds(cid)? {
                ahead.push(*cid);
            }
        }
        Ok(ahead)
    }

    /// Whether a node block was skipped.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    fn push(&mut self, cid: Cid, len: u32, depth: u16, here: bool) {
        let first = u32::try_from(self.positions.len()).unwrap_or(u32::MAX);
        self.positions.push(Position { cid, len, depth, first, here, opaque: false, holders: 0, counted: 0 });
    }

    /// Sets whether the last block is here.
    fn set_here(&mut self, here: bool) {
        if let Some(last) = self.positions.last_mut() {
            last.here = here;
        }
    }

    /// Skips the blocks below the last node block, which could not be fetched.
    pub(super) fn skip(&mut self) {
        self.incomplete = true;
        if let Some(last) = self.positions.last_mut() {
            last.opaque = true;
        }
    }

    /// Continues below the last node block, which has just been fetched and may be stored here now.
    pub(super) fn enter(&mut self, block: &[u8], store: &Store) -> Result<(), NodeError> {
        if let Some(cid) = self.positions.last().map(|last| last.cid) {
            self.set_here(store.holds(&cid)?);
        }
        self.descend(block)
    }

    /// Adds the links of the last node block to the blocks to visit.
    fn descend(&mut self, block: &[u8]) -> Result<(), NodeError> {
        let visible = node_block::visible(block)?;
        let Some(last) = self.positions.last_mut() else { return Ok(()) };
        last.len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let depth = last.depth.saturating_add(1);
        let links = visible.links.into_iter().zip(visible.lens);
        self.pending.extend(links.map(|(cid, len)| (cid, len, depth)).rev());
        Ok(())
    }

    /// Returns the map.
    pub(super) fn finish(self) -> BlockMap {
        let Self { mut positions, incomplete, .. } = self;
        let mut by_cid: Vec<u32> = positions.iter().map(|position| position.first).collect();
        by_cid.sort_unstable_by_key(|at| (positions[*at as usize].cid, *at));
        let mut rest = by_cid.as_slice();
        while let [first, ..] = *rest {
            let cid = positions[first as usize].cid;
            let (same, others) =
                rest.split_at(rest.iter().take_while(|at| positions[**at as usize].cid == cid).count());
            // It may have been fetched between two visits.
            let here = same.iter().any(|at| positions[*at as usize].here);
            for at in same {
                let position = &mut positions[*at as usize];
                (position.first, position.here, position.holders) = (first, here, here.into());
            }
            rest = others;
        }
        BlockMap { positions, incomplete, peers: 0 }
    }
}

impl BlockMap {
    /// Counts a peer as a holder of the blocks that it has. Returns their number, each block counted once.
    pub(super) fn count(&mut self, holding: &Holding) -> u64 {
        self.peers += 1;
        let (mut at, mut count) = (0, 0);
        for has in holding.iter() {
            let Some(position) = self.positions.get(at) else { break };
            let (depth, first, opaque) = (position.depth, position.first as usize, position.opaque);
            at += 1;
            if has {
                let block = &mut self.positions[first];
                if block.counted != self.peers {
                    block.counted = self.peers;
                    block.holders = block.holders.saturating_add(1);
                    count += 1;
                }
                // The peer's next answers are about blocks below this one, whose number is unknown here.
                if opaque {
                    break;
                }
            } else {
                // The peer's answer leaves out the blocks below one that it lacks.
                at += self.positions[at..].iter().take_while(|below| below.depth > depth).count();
            }
        }
        count
    }

    /// Lists each block once, in the order of first positions: its CID, whether it is here, and the number of holders.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (Cid, bool, u16)> {
        let first = |(at, position): &(usize, &Position)| position.first as usize == *at;
        self.positions
            .iter()
            .enumerate()
            .filter(first)
            .map(|(_, position)| (position.cid, position.here, position.holders))
    }

    /// Returns whether the block at a position is here, and the number of nodes that have it.
    pub(super) fn availability(&self, position: &Position) -> (bool, u16) {
        let block = &self.positions[position.first as usize];
        (block.here, block.holders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::{
            encoder::{Block, DirEncoder, DirEntry, EntryKind, FileEncoder, Finished, Metadata},
            seal::Sealing,
        },
        store::{PutMode, StoreOptions, Upload},
    };

    /// A map of blocks given by depth and content; the one at index `opaque` could not be read.
    fn map(positions: &[(u16, u8)], opaque: Option<usize>) -> BlockMap {
        let mut walk = DagWalk::new(Cid::of(Codec::Raw, b"the root"));
        for (at, (depth, block)) in positions.iter().enumerate() {
            walk.push(Cid::of(Codec::Raw, &[*block]), 1, *depth, true);
            if opaque == Some(at) {
                walk.skip();
            }
        }
        walk.finish()
    }

    /// A map of blocks given by depth, all different.
    fn of_depths(depths: &[u16], opaque: Option<usize>) -> BlockMap {
        let positions: Vec<_> = depths.iter().copied().zip(0..).collect();
        map(&positions, opaque)
    }

    fn holders(map: &BlockMap) -> Vec<u16> {
        map.positions.iter().map(|position| map.availability(position).1).collect()
    }

    #[test]
    fn the_blocks_of_a_peer_are_counted_at_their_positions() {
        // A root, a node with two blocks that the peer lacks, and another with one.
        let mut whole = of_depths(&[0, 1, 2, 2, 1, 2], None);
        assert_eq!(whole.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&whole), [2, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn answers_about_blocks_below_an_unreadable_one_are_not_counted() {
        let has_all = Holding::of(&[true; 6]);
        let mut incomplete = of_depths(&[0, 1, 1, 2], Some(1));
        assert_eq!(incomplete.count(&has_all), 2);
        assert_eq!(
            holders(&incomplete),
            [2, 2, 1, 1],
            "the third answer may be about another block than the third one here"
        );
        let mut lacking = of_depths(&[0, 1, 1, 2], Some(1));
        assert_eq!(lacking.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&lacking), [2, 1, 2, 2]);
    }

    #[test]
    fn a_block_in_several_positions_counts_once() {
        // A root with one block three times, and another one.
        let mut zeros = map(&[(0, 0), (1, 7), (1, 7), (1, 8), (1, 7)], None);
        assert_eq!(zeros.blocks().count(), 3);
        assert_eq!(zeros.count(&Holding::of(&[true, true, true, false, true])), 2);
        assert_eq!(zeros.count(&Holding::of(&[true; 5])), 3);
        assert_eq!(holders(&zeros), [3, 3, 3, 2, 3]);
    }

    /// Folders that are stored for a test.
    struct Dag(Upload);

    impl Dag {
        fn put(&self, blocks: &[Block]) {
            for block in blocks {
                self.0.put(&block.cid, &block.bytes, PutMode::Sealed).expect("put");
            }
        }

        fn file(&self) -> Finished {
            let file = FileEncoder::new(Sealing::Public).finish(Metadata::default()).expect("an empty file");
            self.put(&file.blocks);
            file
        }

        fn folder(&self, entries: &[(&str, EntryKind, &Finished)]) -> Finished {
            let mut folder = DirEncoder::new(Sealing::Public);
            for (name, kind, Finished { link, root_len, .. }) in entries {
                let (name, link, root_len, kind) = ((*name).into(), link.clone(), *root_len, *kind);
                let entry = DirEntry { name, link, root_len, kind, size: 0, mtime: None, mode: None };
                self.put(&folder.push(entry).expect("pushed"));
            }
            let finished = folder.finish(Metadata::default()).expect("finished");
            self.put(&finished.blocks);
            finished
        }
    }

    /// Stores what `build` puts and maps the root that it returns.
    fn map_of(build: impl FnOnce(&Dag) -> Cid) -> BlockMap {
        let dir = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path())).expect("opened");
        let dag = Dag(store.upload());
        let mut walk = DagWalk::new(build(&dag));
        // The end of the upload lists its blocks.
        drop(dag);
        assert_eq!(walk.advance(&store).expect("walked"), None);
        walk.finish()
    }

    #[test]
    fn folders_may_be_nested_more_than_255_levels_deep() {
        const DEEP: u16 = 300;
        let map = map_of(|dag| {
            let mut top = dag.folder(&[("file", EntryKind::File, &dag.file())]);
            for _ in 1..DEEP {
                top = dag.folder(&[("in", EntryKind::Dir, &top)]);
            }
            top.link.cid
        });
        let depths: Vec<u16> = map.positions.iter().map(|position| position.depth).collect();
        assert_eq!(depths, (0..=DEEP).collect::<Vec<_>>());
    }

    #[test]
    fn a_folder_in_two_positions_is_read_once_and_listed_twice() {
        let mut expected = Vec::new();
        let map = map_of(|dag| {
            let file = dag.file();
            let inner = dag.folder(&[("a", EntryKind::File, &file)]);
            let middle = dag.folder(&[("b", EntryKind::Dir, &inner)]);
            let outer = dag.folder(&[("one", EntryKind::Dir, &middle), ("two", EntryKind::Dir, &inner)]);
            expected.extend(
                [(&outer, 0), (&middle, 1), (&inner, 2), (&file, 3), (&inner, 1), (&file, 2)]
                    .map(|(block, depth)| (block.link.cid, depth, true)),
            );
            outer.link.cid
        });
        let positions: Vec<_> =
            map.positions.iter().map(|position| (position.cid, position.depth, position.here)).collect();
        assert_eq!((positions, map.blocks().count()), (expected, 4));
    }
}
