//! How well a file is: which of its blocks are here, and who else has them. Asked for, not assumed: every holder that is
//! counted has said block by block what it has.
//!
//! ```text
//! outline ─ preorder of the DAG, lengths on this disk ─┐
//! DHT, connected peers ─ Have ─ bitmap in preorder ────┴─▶ holders of each block ─▶ the weakest block decides
//! ```

mod census;
mod outline;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures::{StreamExt, future, stream};
use libp2p::PeerId;

use super::{
    Node, Reference,
    error::{ErrorCode, NodeError, Reason},
    lookup::Found,
    report::{BlockInfo, BlockKind, BlockList, Health, HealthReport, Holder, RepairReport},
};
use crate::{
    content::cid::{Cid, Codec},
    store::Store,
};
pub(super) use census::Census;
use outline::{Outline, Part, Walk};

/// How long one peer may take to say what it has.
const ASK: Duration = Duration::from_secs(5);
/// How long a node block is looked for that is not here, and all of one file.
const FETCH: Duration = Duration::from_secs(10);
const FETCH_ALL: Duration = Duration::from_secs(30);
/// Node blocks that are fetched with one that is missing.
const NODES_AHEAD: usize = 15;
/// Peers asked at a time, and in all.
const AT_ONCE: usize = 16;
const MAX_HOLDERS: usize = 100;
/// Connected peers that are asked although they announce nothing.
const ASK_CONNECTED: usize = 32;
/// Missing blocks that an answer names.
const NAMED: usize = 100;
/// Blocks fetched at a time by a repair.
const MENDED_AT_ONCE: usize = 8;
/// How long one repair waits while nothing arrives.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// [`ErrorCode::NotFound`] where nothing is known of the file, here or anywhere; [`ErrorCode::Timeout`] where those who
    /// announce it do not answer.
    pub async fn health(&self, reference: &Reference) -> Result<HealthReport, NodeError> {
        let Found { link, record, .. } = self.find(reference).await?;
        let kept = record.as_ref().is_some_and(|record| record.pinned);
        let Survey { outline, holders } = self.survey(link.cid).await?;
        let blocks = outline.blocks().count() as u64;
        if !kept && !outline.blocks().any(|(.., holders)| holders > 0) {
            let silent = holders.iter().filter(|holder| holder.blocks.is_none()).count();
            return Err(if silent > 0 {
                let message =
                    format!("{} is not here, and {silent} of those who announce it did not answer", link.cid);
                NodeError::new(ErrorCode::Timeout, message)
                    .reason(Reason::ProvidersSilent)
                    .hint("ask again when they can be reached")
            } else {
                let message = format!("{} is not here, and nobody who was asked has it", link.cid);
                NodeError::new(ErrorCode::NotFound, message)
                    .reason(Reason::NoProvider)
                    .hint("connect a node that has it, or check the link")
            });
        }
        let here = outline.blocks().filter(|(_, here, _)| *here).count() as u64;
        let whole = !outline.torn && here == blocks;
        let weakest =
            if outline.torn { 0 } else { outline.blocks().map(|(.., holders)| holders).min().unwrap_or(0) };
        let away = outline.blocks().filter(|(_, here, _)| !here);
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
            blocks,
            here,
            missing: away.take(NAMED).map(|(cid, ..)| cid).collect(),
            lost: outline.blocks().filter(|(.., holders)| *holders == 0).count() as u64,
            only_here: outline.blocks().filter(|(_, here, holders)| *here && *holders == 1).count() as u64,
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
        let info = |part: &Part| {
            let (here, holders) = outline.standing(part);
            let kind = if part.cid.codec() == Codec::DagCbor { BlockKind::Node } else { BlockKind::Data };
            BlockInfo { cid: part.cid, len: part.len, here, kind, holders: Some(holders.into()) }
        };
        let blocks: Vec<_> = outline.parts.iter().skip(skipped).take(limit).map(info).collect();
        let read = cursor.saturating_add(blocks.len() as u64);
        Ok(BlockList { blocks, next: (read < outline.parts.len() as u64).then(|| read.to_string()) })
    }

    /// Fetches from peers what is missing here of a file, or of all files that are kept. Counts what is missing now,
    /// whatever was known.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where the file is not kept here; [`ErrorCode::NoSpace`], and other errors of the store, where
    /// peers have what is missing and it cannot be kept. That something stays missing is no error: it is what the answer
    /// lists.
    pub async fn repair(&self, reference: Option<&Reference>) -> Result<RepairReport, NodeError> {
        let mut report = RepairReport::default();
        let mut failure = None;
        let roots = if let Some(reference) = reference {
            vec![self.kept(reference).await?]
        } else {
            self.inner.census.forget();
            self.census().await?.damaged.to_vec()
        };
        for root in roots {
            let mut tried = HashSet::new();
            loop {
                let mut missing = self.blocking(move |store| Ok(store.lacks(&root, usize::MAX)?)).await?;
                missing.retain(|cid| tried.insert(*cid));
                if missing.is_empty() {
                    break;
                }
                let Mended { blocks: repaired, failure: failed } = self.mend(Some(root), &missing).await;
                let mended: HashSet<&Cid> = repaired.iter().collect();
                report.missing.extend(missing.into_iter().filter(|cid| !mended.contains(cid)));
                // With a node block, blocks below it may become known that are missing too.
                let again = repaired.iter().any(|cid| cid.codec() == Codec::DagCbor);
                report.repaired.extend(repaired);
                failure = failure.or(failed);
                if !again {
                    break;
                }
            }
        }
        self.inner.census.forget();
        failure.map_or(Ok(report), Err)
    }

    /// The root that is meant, where it is kept here.
    pub(super) async fn kept(&self, reference: &Reference) -> Result<Cid, NodeError> {
        let found = self.find(reference).await?;
        if found.record.is_some_and(|record| record.pinned) {
            return Ok(found.link.cid);
        }
        Err(NodeError::new(ErrorCode::NotFound, format!("{} is not kept here", found.link.cid))
            .reason(Reason::NotKept))
    }

    /// Fetches blocks of a root from peers; answers with those that are here then.
    pub(super) async fn mend(&self, root: Option<Cid>, blocks: &[Cid]) -> Mended {
        let mut mended = Mended::default();
        let Some(network) = &self.inner.network else { return mended };
        if blocks.is_empty() || network.net.connected().is_empty() {
            return mended;
        }
        let together = root.map(|root| network.fetcher.session(root, REPAIR_TIMEOUT));
        let fetch = |cid: Cid| {
            // A peer that has this very block may not announce this root: connected ones are asked anyway.
            let session = together.clone().unwrap_or_else(|| network.fetcher.session(cid, REPAIR_TIMEOUT));
            async move {
                let block = session.block(&cid, None).await.ok()?;
                Some((cid, self.blocking(move |store| keep(store, &cid, &block)).await))
            }
        };
        let mut fetched = stream::iter(blocks.iter().copied()).map(fetch).buffered(MENDED_AT_ONCE);
        while let Some(fetched) = fetched.next().await {
            match fetched {
                Some((cid, Ok(true))) => mended.blocks.push(cid),
                Some((_, Err(error))) => drop(mended.failure.get_or_insert(error)),
                Some((_, Ok(false))) | None => {}
            }
        }
        mended
    }

    async fn survey(&self, root: Cid) -> Result<Survey, NodeError> {
        let mut outline = self.outline(root).await?;
        let all = outline.blocks().count() as u64;
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
                        whole: has == Some(all) && !outline.torn,
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
        let network = self.inner.network.as_ref().filter(|network| !network.net.connected().is_empty());
        let session = network.map(|network| network.fetcher.session(root, FETCH));
        loop {
            let (walked, needed, ahead) = self
                .blocking(move |store| {
                    let needed = walk.go_on(store)?;
                    let ahead = if needed.is_some() { walk.ahead(store, NODES_AHEAD)? } else { Vec::new() };
                    Ok((walk, needed, ahead))
                })
                .await?;
            walk = walked;
            let Some(cid) = needed else { return self.blocking(move |_| Ok(walk.finish())).await };
            let fetched = match &session {
                // It is known already that not all of it is to be had.
                Some(_) if walk.is_torn() && Instant::now() >= until => None,
                Some(session) => {
                    // What comes next is kept as cache, and found there.
                    let others = future::join_all(ahead.iter().map(|cid| session.block(cid, None)));
                    let both = future::join(session.block(&cid, None), others);
                    match tokio::time::timeout_at(until.into(), both).await {
                        Ok((block, _)) => block.ok(),
                        Err(_) if walk.is_torn() => None,
                        Err(_) => return Err(out_of_time(&root)),
                    }
                }
                None => None,
            };
            let Some(block) = fetched else {
                walk.pass();
                continue;
            };
            walk = self
                .blocking(move |store| {
                    walk.enter(&block, store)?;
                    Ok(walk)
                })
                .await?;
        }
    }
}

/// What came of mending.
#[derive(Default)]
pub(super) struct Mended {
    /// Blocks that were missing and are here now.
    pub(super) blocks: Vec<Cid>,
    /// Why the first one was not kept that peers did give.
    pub(super) failure: Option<NodeError>,
}

fn out_of_time(root: &Cid) -> NodeError {
    let message = format!("{root} has more parts that are not here than could be asked for in time");
    NodeError::new(ErrorCode::Timeout, message)
        .reason(Reason::FetchTooSlow)
        .hint("ask again: what has come is here now, and the rest comes sooner")
}

/// Whether a fetched block is here now. A reader goes on where it could not be kept; who mends is told why.
fn keep(store: &Store, cid: &Cid, block: &[u8]) -> Result<bool, NodeError> {
    if !store.holds(cid)? {
        store.put_cached(cid, block)?;
    }
    Ok(store.holds(cid)?)
}
