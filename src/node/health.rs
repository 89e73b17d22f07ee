//! How well a file is: which of its blocks are here, and who else has them. Asked for, not assumed: every holder that is
//! counted has said block by block what it has.
//!
//! ```text
//! outline ─ preorder of the DAG, lengths on this disk ─┐
//! DHT, connected peers ─ Have ─ bitmap in preorder ────┴─▶ holders of each block ─▶ the weakest block decides
//! ```

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use libp2p::PeerId;

use super::{
    Node, Reference,
    error::{ErrorCode, NodeError},
    lookup::Found,
    report::{BlockInfo, BlockKind, BlockList, Health, HealthReport, Holder, RepairReport},
};
use crate::{
    content::{
        cid::{Cid, Codec},
        node_block,
    },
    net::transfer::Holding,
    store::Store,
};

/// How long one peer may take to say what it has.
const ASK: Duration = Duration::from_secs(5);
/// How long a node block is looked for that is not here, and all of one file.
const FETCH: Duration = Duration::from_secs(10);
const FETCH_ALL: Duration = Duration::from_secs(30);
/// Peers asked at a time, and in all.
const AT_ONCE: usize = 16;
const MAX_HOLDERS: usize = 100;
/// Connected peers that are asked although they announce nothing.
const ASK_CONNECTED: usize = 32;
/// Blocks of one file that are looked at: as many as a peer can tell of in one answer.
const MAX_BLOCKS: usize = 2_000_000;
/// Missing blocks that an answer names.
const NAMED: usize = 100;
/// Blocks fetched at a time by a repair.
const MENDED_AT_ONCE: usize = 8;
/// How long one repair waits while nothing arrives.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// What is known of damaged files stays good for so many times as long as it took to find out.
const CENSUS_REST: u32 = 20;
/// Roots read at a time.
const PAGE: usize = 256;

/// One block in its place in the DAG.
struct Part {
    cid: Cid,
    len: u32,
    depth: u8,
    here: bool,
    /// A node block that could not be read: what is below it is not listed.
    closed: bool,
    /// Nodes that have it.
    holders: u16,
}

/// All blocks of a root in preorder: the root, then each link with all below it.
struct Outline {
    parts: Vec<Part>,
    /// Whether node blocks are missing everywhere, so that there is more than is listed.
    torn: bool,
}

/// A walk over the outline that waits for a node block.
struct Walk {
    outline: Outline,
    /// What is still to be looked at, the next one last.
    open: Vec<(Cid, u32, u8)>,
}

impl Walk {
    fn new(root: Cid) -> Self {
        Self { outline: Outline { parts: Vec::new(), torn: false }, open: vec![(root, 0, 0)] }
    }

    /// Goes on until a node block is needed that is not here, or all is walked.
    fn go_on(&mut self, store: &Store) -> Result<Option<Cid>, NodeError> {
        while let Some((cid, len, depth)) = self.open.pop() {
            if self.outline.parts.len() + self.open.len() > MAX_BLOCKS {
                return Err(NodeError::new(
                    ErrorCode::Other,
                    "this file has more blocks than can be asked for at once",
                )
                .hint("`storgo-node verify` checks what is here"));
            }
            let here = store.holds(&cid)?;
            self.outline.parts.push(Part { cid, len, depth, here, closed: false, holders: u16::from(here) });
            if cid.codec() == Codec::DagCbor {
                match store.get(&cid) {
                    Ok(Some(block)) if here => self.descend(&block)?,
                    _ => {
                        // In its full length, and damaged: that is not here either.
                        if let Some(last) = self.outline.parts.last_mut() {
                            (last.here, last.holders) = (false, 0);
                        }
                        return Ok(Some(cid));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Goes past the node block that was met last, which is to be had nowhere.
    fn pass(&mut self) {
        self.outline.torn = true;
        if let Some(last) = self.outline.parts.last_mut() {
            last.closed = true;
        }
    }

    /// Opens the node block that was met last.
    fn descend(&mut self, block: &[u8]) -> Result<(), NodeError> {
        let visible = node_block::visible(block)?;
        let Some(last) = self.outline.parts.last_mut() else { return Ok(()) };
        last.len = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let depth = last.depth.saturating_add(1);
        let links = visible.links.into_iter().zip(visible.lens);
        self.open.extend(links.map(|(cid, len)| (cid, len, depth)).rev());
        Ok(())
    }
}

impl Outline {
    /// Counts what a peer has; answers how many blocks.
    fn count(&mut self, holding: &Holding) -> u64 {
        let (mut at, mut count) = (0, 0);
        for has in holding.iter() {
            let Some(part) = self.parts.get_mut(at) else { break };
            at += 1;
            if has {
                part.holders = part.holders.saturating_add(1);
                count += 1;
                // It goes on with what is below, and how much that is nobody knows here.
                if part.closed {
                    break;
                }
            } else {
                // Of what is below, the peer said nothing.
                let depth = part.depth;
                at += self.parts[at..].iter().take_while(|below| below.depth > depth).count();
            }
        }
        count
    }

    fn len(&self) -> u64 {
        self.parts.len() as u64
    }
}

/// What a file is like here and elsewhere.
struct Survey {
    outline: Outline,
    holders: Vec<Holder>,
}

impl Node {
    /// How well a file is: which of its blocks are here, which nodes have the others, and how many of them may be lost.
    ///
    /// Peers that announce the file, and those that are connected, are asked now for what they have; who does not
    /// answer within seconds is not counted. Bytes are not read: that is what [`Node::verify`] does.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where nothing is known of the file, here or anywhere.
    pub async fn health(&self, reference: &Reference) -> Result<HealthReport, NodeError> {
        let Found { link, record, .. } = self.find(reference).await?;
        let kept = record.as_ref().is_some_and(|record| record.pinned);
        let Survey { outline, holders } = self.survey(link.cid).await?;
        if !kept && !outline.parts.iter().any(|part| part.holders > 0) {
            return Err(NodeError::new(
                ErrorCode::NotFound,
                format!("{} is not here, and nobody who was asked has it", link.cid),
            )
            .hint("connect a node that has it, or check the link"));
        }
        let here = outline.parts.iter().filter(|part| part.here).count() as u64;
        let whole = !outline.torn && here == outline.len();
        let weakest =
            if outline.torn { 0 } else { outline.parts.iter().map(|part| part.holders).min().unwrap_or(0) };
        let away = outline.parts.iter().filter(|part| !part.here);
        let copies = holders.iter().filter(|holder| holder.whole).count() + usize::from(whole);
        let state = match weakest {
            0 => Health::Lost,
            _ if kept && !whole => Health::Damaged,
            1 => Health::AtRisk,
            _ => Health::Ok,
        };
        Ok(HealthReport {
            cid: link.cid,
            name: record.and_then(|record| record.name),
            state,
            kept,
            blocks: outline.len(),
            here,
            missing: away.clone().take(NAMED).map(|part| part.cid).collect(),
            lost: outline.parts.iter().filter(|part| part.holders == 0).count() as u64,
            only_here: outline.parts.iter().filter(|part| part.here && part.holders == 1).count() as u64,
            copies: u32::try_from(copies).unwrap_or(u32::MAX),
            may_lose: u32::from(weakest.saturating_sub(1)),
            holders,
        })
    }

    /// A page of the blocks of a file with the number of nodes that have each, as [`Node::health`] counts them.
    ///
    /// # Errors
    /// As [`Node::health`].
    pub async fn block_holders(
        &self,
        reference: &Reference,
        cursor: u64,
        limit: usize,
    ) -> Result<BlockList, NodeError> {
        let Found { link, .. } = self.find(reference).await?;
        let Survey { outline, .. } = self.survey(link.cid).await?;
        let skipped = usize::try_from(cursor).unwrap_or(usize::MAX);
        let info = |part: &Part| BlockInfo {
            cid: part.cid,
            len: part.len,
            here: part.here,
            kind: if part.cid.codec() == Codec::DagCbor { BlockKind::Node } else { BlockKind::Data },
            holders: Some(part.holders.into()),
        };
        let blocks: Vec<_> = outline.parts.iter().skip(skipped).take(limit).map(info).collect();
        let read = cursor.saturating_add(blocks.len() as u64);
        Ok(BlockList { blocks, next: (read < outline.len()).then(|| read.to_string()) })
    }

    /// Fetches from peers what is missing here of a file, or of all files that are kept.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where the file is not kept here. That something stays missing is no error: it is what the
    /// answer lists.
    pub async fn repair(&self, reference: Option<&Reference>) -> Result<RepairReport, NodeError> {
        let mut report = RepairReport::default();
        let roots = match reference {
            Some(reference) => vec![self.kept(reference).await?],
            None => self.census().await?.damaged.to_vec(),
        };
        for root in roots {
            let missing = self.blocking(move |store| Ok(store.lacks(&root, usize::MAX)?)).await?;
            let repaired = self.mend(Some(root), &missing).await;
            let mended: HashSet<&Cid> = repaired.iter().collect();
            report.missing.extend(missing.into_iter().filter(|cid| !mended.contains(cid)));
            report.repaired.extend(repaired);
        }
        self.forget_census();
        Ok(report)
    }

    /// The root that is meant, where it is kept here.
    pub(super) async fn kept(&self, reference: &Reference) -> Result<Cid, NodeError> {
        let found = self.find(reference).await?;
        if found.record.is_some_and(|record| record.pinned) {
            return Ok(found.link.cid);
        }
        Err(NodeError::new(ErrorCode::NotFound, format!("{} is not kept here", found.link.cid)))
    }

    /// Fetches blocks of a root from peers; answers with those that came.
    pub(super) async fn mend(&self, root: Option<Cid>, blocks: &[Cid]) -> Vec<Cid> {
        let Some(network) = &self.inner.network else { return Vec::new() };
        if blocks.is_empty() || network.net.connected().is_empty() {
            return Vec::new();
        }
        let together = root.map(|root| network.fetcher.session(root, REPAIR_TIMEOUT));
        let fetch = |cid: Cid| {
            // A peer that has this very block may not announce this root: connected ones are asked anyway.
            let session = together.clone().unwrap_or_else(|| network.fetcher.session(cid, REPAIR_TIMEOUT));
            async move { session.block(&cid, None).await.is_ok().then_some(cid) }
        };
        let fetched = stream::iter(blocks.iter().copied()).map(fetch).buffered(MENDED_AT_ONCE);
        fetched.filter_map(std::future::ready).collect().await
    }

    /// The kept files: how many they are, and those with blocks that are not on this disk.
    pub(super) async fn census(&self) -> Result<Count, NodeError> {
        let mut known = self.inner.census.lock().await;
        if let Some(census) = known.as_ref().filter(|census| Instant::now() < census.until) {
            return Ok(census.count.clone());
        }
        let begun = Instant::now();
        let count = self.blocking(count).await?;
        let now = Instant::now();
        let until = now + (now - begun) * CENSUS_REST;
        *known = Some(Census { count: count.clone(), until });
        Ok(count)
    }

    fn forget_census(&self) {
        if let Ok(mut known) = self.inner.census.try_lock() {
            *known = None;
        }
    }

    async fn survey(&self, root: Cid) -> Result<Survey, NodeError> {
        let mut outline = self.outline(root).await?;
        let mut holders = Vec::new();
        if let Some(network) = &self.inner.network {
            let connected = network.net.connected();
            let providers = self.providers(root).await?;
            let others = connected.iter().filter(|peer| !providers.contains(peer)).take(ASK_CONNECTED);
            let asked: Vec<PeerId> = providers.iter().chain(others).copied().take(MAX_HOLDERS).collect();
            let transfers = network.fetcher.transfers();
            let mut answers = stream::iter(asked)
                .map(|peer| async move { (peer, transfers.have(peer, root, ASK).await) })
                .buffered(AT_ONCE);
            while let Some((peer, holding)) = answers.next().await {
                let has = holding.as_ref().map(|holding| outline.count(holding));
                let announces = providers.contains(&peer);
                // One that is only connected, and has nothing, has nothing to do with this file.
                if announces || has.is_some_and(|has| has > 0) {
                    holders.push(Holder {
                        peer: peer.to_string(),
                        connected: connected.contains(&peer),
                        announces,
                        blocks: has,
                        whole: has == Some(outline.len()) && !outline.torn,
                    });
                }
            }
        }
        Ok(Survey { outline, holders })
    }

    /// The blocks of a root in preorder. Node blocks that are not here are fetched, so that all is known that can be.
    async fn outline(&self, root: Cid) -> Result<Outline, NodeError> {
        let mut walk = Walk::new(root);
        let until = Instant::now() + FETCH_ALL;
        loop {
            let (walked, needed) = self
                .blocking(move |store| {
                    let needed = walk.go_on(store)?;
                    Ok((walk, needed))
                })
                .await?;
            walk = walked;
            let Some(cid) = needed else { return Ok(walk.outline) };
            let fetched = match &self.inner.network {
                Some(network) if !network.net.connected().is_empty() => {
                    let patience = FETCH.min(until.saturating_duration_since(Instant::now()));
                    network.fetcher.session(root, patience).block(&cid, None).await.ok()
                }
                _ => None,
            };
            match fetched {
                Some(block) => walk.descend(&block)?,
                None => walk.pass(),
            }
        }
    }
}

/// What was found of the kept files, for a while.
pub(super) struct Census {
    count: Count,
    until: Instant,
}

/// The kept files.
#[derive(Clone)]
pub(super) struct Count {
    /// Those with blocks that are not here, in the order of CIDs.
    pub(super) damaged: Arc<[Cid]>,
    /// How many there are, these included.
    pub(super) kept: u64,
}

fn count(store: &Store) -> Result<Count, NodeError> {
    let (mut damaged, mut kept, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.roots(after, PAGE)?;
        let Some(last) = page.last() else {
            damaged.sort_unstable();
            return Ok(Count { damaged: damaged.into(), kept });
        };
        after = Some(last.cid);
        for record in page {
            kept += u64::from(record.pinned);
            if !store.lacks(&record.cid, 1)?.is_empty() {
                damaged.push(record.cid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts by their depth; of the one in `closed` nobody knows what is below.
    fn outline(depths: &[u8], closed: Option<usize>) -> Outline {
        let part = |(at, depth): (usize, &u8)| Part {
            cid: Cid::of(Codec::Raw, &[*depth]),
            len: 1,
            depth: *depth,
            here: true,
            closed: closed == Some(at),
            holders: 1,
        };
        Outline { parts: depths.iter().enumerate().map(part).collect(), torn: closed.is_some() }
    }

    fn holders(outline: &Outline) -> Vec<u16> {
        outline.parts.iter().map(|part| part.holders).collect()
    }

    #[test]
    fn what_a_peer_has_is_counted_where_it_is() {
        // A root, a node with two blocks that the peer lacks, and another with one.
        let mut whole = outline(&[0, 1, 2, 2, 1, 2], None);
        assert_eq!(whole.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&whole), [2, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn what_a_peer_says_below_a_block_that_is_unknown_here_is_counted_nowhere() {
        let has_all = Holding::of(&[true; 6]);
        let mut torn = outline(&[0, 1, 1, 2], Some(1));
        assert_eq!(torn.count(&has_all), 2);
        assert_eq!(
            holders(&torn),
            [2, 2, 1, 1],
            "its third answer may be about another block than the third here"
        );
        let mut lacking = outline(&[0, 1, 1, 2], Some(1));
        assert_eq!(lacking.count(&Holding::of(&[true, false, true, true])), 3);
        assert_eq!(holders(&lacking), [2, 1, 2, 2]);
    }
}
