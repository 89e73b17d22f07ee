//! The places of the blocks of a root in preorder: a node block in several places is listed in each, with all blocks below it.
//!
//! A few node blocks that list each other many times have more places than anybody can visit. So the places below a node block
//! are counted when it is visited first, and skipped by this count when it comes again. A page visits each node block before
//! its first place once, and then its own blocks. Counts outlive the page, so that the next page visits only what is new.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{
    error::NodeError,
    report::{BlockInfo, BlockKind, BlockList},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    store::{Store, StoreError},
};

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

/// A node block whose links are being visited.
struct Open {
    cid: Cid,
    /// Links to visit, the next one last.
    links: Vec<(Cid, u32)>,
    /// Number of places before it.
    begin: u64,
    complete: bool,
}

/// A page of places.
pub(super) struct Page {
    /// CIDs and lengths; the length of the root is 0.
    blocks: Vec<(Cid, u32)>,
    next: Option<u64>,
}

/// Returns the links of a node block with their lengths; `None` if it is not here or damaged.
pub(super) fn node_links(store: &Store, cid: &Cid) -> Result<Option<Vec<(Cid, u32)>>, NodeError> {
    let block = match store.get(cid) {
        Ok(Some(block)) => block,
        Ok(None) | Err(StoreError::Corrupt { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let node_block::Visible { links, lens, .. } = node_block::visible(&block)?;
    Ok(Some(links.into_iter().zip(lens).collect()))
}

impl<'a> Places<'a> {
    pub(super) fn new(links: &'a Links<'a>, lasting: &'a PlaceCounts) -> Self {
        Self { links, lasting, counts: HashMap::new() }
    }

    /// Returns at most `limit` places of a root after the first `cursor`. Without recursion: folders may be nested deeper than a
    /// stack allows.
    pub(super) fn page(&mut self, root: Cid, cursor: u64, limit: usize) -> Result<Page, NodeError> {
        let (mut blocks, mut passed) = (Vec::new(), 0_u64);
        let mut open: Vec<Open> = Vec::new();
        let mut next = Some((root, 0));
        loop {
            let Some((cid, len)) = next else {
                let Some(done) = open.pop() else { return Ok(Page { blocks, next: None }) };
                // At the maximum, the number of places is not known.
                if passed < u64::MAX {
                    self.keep(done.cid, Count { places: passed - done.begin, complete: done.complete });
                }
                next = open.last_mut().and_then(|above| {
                    above.complete &= done.complete;
                    above.links.pop()
                });
                continue;
            };
            let is_node = cid.codec() == Codec::DagCbor;
            let known = if is_node && passed < cursor { self.known(&cid) } else { None };
            let skipped = known.and_then(|count| {
                let behind = passed.checked_add(count.places).filter(|behind| *behind <= cursor)?;
                Some((behind, count.complete))
            });
            if let Some((behind, complete)) = skipped {
                passed = behind;
                if let Some(above) = open.last_mut() {
                    above.complete &= complete;
                }
            } else if passed >= cursor && blocks.len() == limit {
                return Ok(Page { blocks, next: cursor.checked_add(limit as u64) });
            } else {
                if passed >= cursor {
                    blocks.push((cid, len));
                }
                let begin = passed;
                passed = passed.saturating_add(1);
                if is_node {
                    let below = (self.links)(&cid)?;
                    let complete = below.is_some();
                    let mut links = below.unwrap_or_default();
                    links.reverse();
                    open.push(Open { cid, links, begin, complete });
                }
            }
            next = open.last_mut().and_then(|above| above.links.pop());
        }
    }

    fn keep(&mut self, cid: Cid, count: Count) {
        if count.complete {
            self.lasting.keep(cid, count.places);
        }
        self.counts.insert(cid, count);
    }

    fn known(&self, cid: &Cid) -> Option<Count> {
        let lasting = || self.lasting.get(cid).map(|places| Count { places, complete: true });
        self.counts.get(cid).copied().or_else(lasting)
    }
}

impl PlaceCounts {
    fn get(&self, cid: &Cid) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cid).copied()
    }

    fn keep(&self, cid: Cid, places: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MAX_COUNTS
            && !counts.contains_key(&cid)
            && let Some(any) = counts.keys().next().copied()
        {
            counts.remove(&any);
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
        let all = (0..=6).map(|level| 1000_u64.pow(level)).sum::<u64>();
        let last = places.page(node(0), all - 3, 10).expect("a page");
        assert_eq!((cids(&last), last.next), (vec![data(997), data(998), data(999)], None));
        // The second node block of the last level begins after the six on the way to the first, and its data blocks.
        let second = places.page(node(0), 6 + 1000, 2).expect("a page");
        assert_eq!((cids(&second), second.next), (vec![node(5), data(0)], Some(1008)));
        assert_eq!(cids(&places.page(node(0), u64::MAX, 10).expect("a page")), []);
        assert_eq!(counts.get(&node(0)), Some(all));
    }

    #[test]
    fn a_page_reads_no_node_block_behind_it_and_none_twice_before_it() {
        let roots: Links = (1..=1000).map(|name| (node(name), 1)).collect();
        let read = std::cell::RefCell::new(Vec::new());
        let links = |cid: &Cid| {
            read.borrow_mut().push(*cid);
            Ok(Some(if *cid == node(0) { roots.clone() } else { vec![(data(1), 1)] }))
        };
        let counts = PlaceCounts::default();
        let second = Places::new(&links, &counts).page(node(0), 11, 10).expect("a page");
        assert_eq!(cids(&second)[..3], [node(6), data(1), node(7)]);
        assert_eq!(read.take(), (0..=10).map(node).collect::<Vec<_>>());
        let third = Places::new(&links, &counts).page(node(0), 21, 10).expect("a page");
        assert_eq!(cids(&third)[..3], [node(11), data(1), node(12)]);
        assert_eq!(read.take(), [0, 11, 12, 13, 14, 15].map(node), "the counts are kept");
        // A chain of folders is followed once.
        let chain = |cid: &Cid| {
            read.borrow_mut().push(*cid);
            let at = (0..200).find(|at| node(*at) == *cid).expect("in the chain");
            Ok(Some(vec![(node(at + 1), 1), (data(at), 1)]))
        };
        let page = Places::new(&chain, &PlaceCounts::default()).page(node(0), 100, 2).expect("a page");
        assert_eq!((cids(&page), read.take().len()), (vec![node(100), node(101)], 102));
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
        let whole = |links: &dyn Fn(&Cid) -> Result<Option<Links>, NodeError>, limit| {
            cids(&Places::new(links, &counts).page(node(0), 0, limit).expect("a page")).len()
        };
        assert_eq!(whole(&missing, 100), 1 + 4 + 16);
        assert_eq!(counts.get(&node(0)), None);
        assert_eq!(whole(&all, 100), 1 + 4 + 16 + 64);
        assert_eq!(counts.get(&node(0)), Some(1 + 4 + 16 + 64));
        // Folders may be nested more deeply than a stack allows.
        let deep = levels(2000, 1);
        assert_eq!(
            Places::new(&deep, &PlaceCounts::default()).page(node(0), 1999, 9).expect("a page").blocks.len(),
            2
        );
    }
}
