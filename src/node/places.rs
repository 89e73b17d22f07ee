//! The places of the blocks of a root in preorder: a node block in several places is listed in each, with all blocks below it.
//!
//! A few node blocks that list each other many times have more places than anybody can visit. So the places below a node block
//! are counted once, and a page skips by these counts: it visits the node blocks above its first place, and its own blocks.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{
    error::NodeError,
    report::{BlockInfo, BlockKind, BlockList},
};
use crate::content::cid::{Cid, Codec};

/// Node blocks whose counts are kept.
const MAX_COUNTS: usize = 1 << 16;

/// The counts of node blocks that have all node blocks below them here: these never change.
#[derive(Default)]
pub(super) struct PlaceCounts(Mutex<HashMap<Cid, u64>>);

/// Returns the links of a node block with their lengths; `None` if it cannot be read, so that the blocks below it are unknown.
type Links<'a> = dyn Fn(&Cid) -> Result<Option<Vec<(Cid, u32)>>, NodeError> + 'a;

/// Finds places by their number.
pub(super) struct Places<'a> {
    links: &'a Links<'a>,
    lasting: &'a PlaceCounts,
    counts: HashMap<Cid, Count>,
}

/// The places of a node block and of all blocks below it.
#[derive(Clone, Copy)]
struct Count {
    places: u64,
    /// Whether all node blocks below could be read.
    complete: bool,
}

/// A node block whose places are being counted.
struct Counting {
    cid: Cid,
    count: Count,
    /// Node blocks that it links to and that are not counted yet.
    nodes: Vec<Cid>,
}

/// A page of places.
pub(super) struct Page {
    /// CIDs and lengths; the length of the root is 0.
    blocks: Vec<(Cid, u32)>,
    next: Option<u64>,
}

impl<'a> Places<'a> {
    pub(super) fn new(links: &'a Links<'a>, lasting: &'a PlaceCounts) -> Self {
        Self { links, lasting, counts: HashMap::new() }
    }

    /// Returns at most `limit` places of a root after the first `cursor`.
    pub(super) fn page(&mut self, root: Cid, cursor: u64, limit: usize) -> Result<Page, NodeError> {
        let (mut blocks, mut skip) = (Vec::new(), cursor);
        // The links to visit, each list with the next one last.
        let mut open = vec![vec![(root, 0)]];
        while let Some(links) = open.last_mut() {
            let Some((cid, len)) = links.pop() else {
                open.pop();
                continue;
            };
            let is_node = cid.codec() == Codec::DagCbor;
            if skip > 0 {
                let places = if is_node { self.count(cid)?.places } else { 1 };
                if places <= skip {
                    skip -= places;
                    continue;
                }
                skip -= 1;
            } else if blocks.len() == limit {
                let next = cursor.checked_add(limit as u64);
                return Ok(Page { blocks, next });
            } else {
                blocks.push((cid, len));
            }
            if is_node && let Some(mut below) = (self.links)(&cid)? {
                below.reverse();
                open.push(below);
            }
        }
        Ok(Page { blocks, next: None })
    }

    /// Counts the places of a node block. Without recursion: folders may be nested deeper than a stack allows.
    fn count(&mut self, top: Cid) -> Result<Count, NodeError> {
        let mut open = Vec::new();
        let mut next = top;
        loop {
            let mut add = if let Some(count) = self.known(&next) {
                count
            } else {
                open.push(self.begin(next)?);
                Count { places: 0, complete: true }
            };
            loop {
                let Some(counting) = open.last_mut() else { return Ok(add) };
                counting.count.places = counting.count.places.saturating_add(add.places);
                counting.count.complete &= add.complete;
                if let Some(below) = counting.nodes.pop() {
                    next = below;
                    break;
                }
                add = counting.count;
                self.counts.insert(counting.cid, add);
                if add.complete {
                    self.lasting.keep(counting.cid, add.places);
                }
                open.pop();
            }
        }
    }

    fn known(&self, cid: &Cid) -> Option<Count> {
        let lasting = || self.lasting.get(cid).map(|places| Count { places, complete: true });
        self.counts.get(cid).copied().or_else(lasting)
    }

    /// Starts to count: the node block itself, and the data blocks that it links to.
    fn begin(&self, cid: Cid) -> Result<Counting, NodeError> {
        let Some(links) = (self.links)(&cid)? else {
            return Ok(Counting { cid, count: Count { places: 1, complete: false }, nodes: Vec::new() });
        };
        let all = links.len() as u64;
        let is_node = |(cid, _): (Cid, u32)| (cid.codec() == Codec::DagCbor).then_some(cid);
        let nodes: Vec<Cid> = links.into_iter().filter_map(is_node).collect();
        let places = 1 + all - nodes.len() as u64;
        Ok(Counting { cid, count: Count { places, complete: true }, nodes })
    }
}

impl PlaceCounts {
    fn get(&self, cid: &Cid) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cid).copied()
    }

    fn keep(&self, cid: Cid, places: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() == MAX_COUNTS {
            counts.clear();
        }
        counts.insert(cid, places);
    }
}

impl Page {
    /// Describes the blocks. `find` returns whether a block is here, and the number of nodes that have it.
    pub(super) fn map(
        self,
        root_len: u32,
        find: impl Fn(&Cid) -> Result<(bool, Option<u32>), NodeError>,
    ) -> Result<BlockList, NodeError> {
        let describe = |(cid, len): (Cid, u32)| {
            let (here, holders) = find(&cid)?;
            let kind = if cid.codec() == Codec::DagCbor { BlockKind::Node } else { BlockKind::Data };
            Ok(BlockInfo { cid, len: if len == 0 { root_len } else { len }, here, kind, holders })
        };
        let blocks = self.blocks.into_iter().map(describe).collect::<Result<_, NodeError>>()?;
        Ok(BlockList { blocks, next: self.next.map(|next| next.to_string()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: u64) -> Cid {
        Cid::of(Codec::DagCbor, &name.to_be_bytes())
    }

    fn data(name: u64) -> Cid {
        Cid::of(Codec::Raw, &name.to_be_bytes())
    }

    type Links = Vec<(Cid, u32)>;

    /// Every node block of a level links to `width` times the one of the next level, and the last to data blocks.
    fn levels(depth: u64, width: u64) -> impl Fn(&Cid) -> Result<Option<Links>, NodeError> {
        let of = move |level| {
            let below = move |n| if level + 1 == depth { data(n) } else { node(level + 1) };
            (node(level), (0..width).map(|n| (below(n), 1)).collect::<Vec<_>>())
        };
        let all: HashMap<Cid, Vec<(Cid, u32)>> = (0..depth).map(of).collect();
        move |cid| Ok(all.get(cid).cloned())
    }

    fn cids(page: &Page) -> Vec<Cid> {
        page.blocks.iter().map(|(cid, _)| *cid).collect()
    }

    #[test]
    fn any_page_of_a_root_with_more_places_than_can_be_visited_is_found_at_once() {
        let (links, counts) = (levels(6, 1000), PlaceCounts::default());
        let mut places = Places::new(&links, &counts);
        let all = places.count(node(0)).expect("counted").places;
        assert_eq!(all, (0..=6).map(|level| 1000_u64.pow(level)).sum::<u64>());
        let last = places.page(node(0), all - 3, 10).expect("a page");
        assert_eq!((cids(&last), last.next), (vec![data(997), data(998), data(999)], None));
        // The second node block of the last level begins after the six on the way to the first, and its data blocks.
        let second = places.page(node(0), 6 + 1000, 2).expect("a page");
        assert_eq!((cids(&second), second.next), (vec![node(5), data(0)], Some(1008)));
        assert_eq!(cids(&places.page(node(0), u64::MAX, 10).expect("a page")), []);
    }

    #[test]
    fn pages_of_any_size_make_up_the_whole_list() {
        let (links, counts) = (levels(3, 4), PlaceCounts::default());
        let whole = cids(&Places::new(&links, &counts).page(node(0), 0, 1000).expect("a page"));
        assert_eq!(whole.len(), 1 + 4 + 16 + 64);
        for limit in [1, 2, 7, 85] {
            let (mut read, mut cursor) = (Vec::new(), Some(0));
            while let Some(at) = cursor {
                let page = Places::new(&links, &counts).page(node(0), at, limit).expect("a page");
                read.extend(cids(&page));
                cursor = page.next;
            }
            assert_eq!(read, whole, "{limit}");
        }
    }

    #[test]
    fn an_unreadable_node_block_is_one_place_whose_count_is_not_kept() {
        let all = levels(3, 4);
        let missing = |cid: &Cid| if *cid == node(2) { Ok(None) } else { all(cid) };
        let counts = PlaceCounts::default();
        assert_eq!(Places::new(&missing, &counts).count(node(0)).expect("counted").places, 1 + 4 + 16);
        assert_eq!(Places::new(&all, &counts).count(node(0)).expect("counted").places, 1 + 4 + 16 + 64);
        // Folders may be nested more deeply than a stack allows.
        let deep = levels(2000, 1);
        let counts = PlaceCounts::default();
        assert_eq!(Places::new(&deep, &counts).count(node(0)).expect("counted").places, 2001);
    }
}
