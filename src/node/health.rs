//! The health of a file: which of its blocks are here, and which nodes have the others. Nothing is assumed: every holder that
//! counts has just answered block by block. Blocks that this node has in its cache, or has yet to collect, do not count.

mod block_map;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future, stream};
use libp2p::PeerId;
use tokio::sync::Semaphore;

use super::{
    error::{ErrorCode, NodeError, Reason},
    handles::Walks,
    lookup::Found,
    network::Network,
    places::{PlaceCounts, Places, node_links},
    report::{BlockList, Health, HealthReport, Holder},
};
use crate::content::cid::Cid;
use block_map::{BlockMap, DagWalk};

/// Time limit for the answer of one peer.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for fetching one missing node block, and all of one file.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const FETCH_ALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Missing node blocks that are fetched ahead.
const READ_AHEAD: usize = 15;
/// Peers asked at the same time, and in total.
const CONCURRENT: usize = 16;
const MAX_PEERS: usize = 100;
/// Connected peers that are asked although they do not announce the file.
const MAX_CONNECTED: usize = 32;
/// Files surveyed at a time.
const MAX_SURVEYS: usize = 4;
/// Missing blocks listed in a report.
const MAX_MISSING: usize = 100;

/// Finds out how many nodes have each block of a file.
#[derive(Clone)]
pub(super) struct HealthCheck {
    walks: Walks,
    /// Permits for surveys. Each is held as long as the map of a whole file is in memory.
    surveys: Arc<Semaphore>,
    network: Option<Arc<Network>>,
}

impl HealthCheck {
    pub(super) fn new(walks: Walks, network: Option<Arc<Network>>) -> Self {
        Self { walks, surveys: Arc::new(Semaphore::new(MAX_SURVEYS)), network }
    }

    /// Reports on a file.
    pub(super) async fn report(&self, found: Found) -> Result<HealthReport, NodeError> {
        let kept = found.is_kept();
        let _permit = self.surveys.acquire().await;
        let (map, holders) = self.survey(&found).await?;
        let Found { link, record, entry, .. } = found;
        let blocks = map.blocks().count() as u64;
        let here = map.blocks().filter(|(_, presence, _)| presence.here).count() as u64;
        let is_readable =
            !map.incomplete && map.blocks().all(|(_, presence, holders)| presence.here || holders > 0);
        if !kept && !is_readable && !map.blocks().any(|(.., holders)| holders > 0) {
            return Err(not_found(&link.cid, &holders, here));
        }
        let whole = !map.incomplete && map.blocks().all(|(_, presence, _)| presence.kept);
        let weakest =
            if map.incomplete { 0 } else { map.blocks().map(|(.., holders)| holders).min().unwrap_or(0) };
        let away = map.blocks().filter(|(_, presence, _)| !presence.here);
        let copies = holders.iter().filter(|holder| holder.whole).count() + usize::from(whole);
        let state = match weakest {
            0 if is_readable => Health::Unkept,
            0 if holders.iter().any(|holder| holder.blocks.is_none()) => Health::Unknown,
            0 => Health::Lost,
            _ if kept && !whole => Health::Damaged,
            1 => Health::AtRisk,
            _ => Health::Ok,
        };
        Ok(HealthReport {
            cid: link.cid,
            counted_all: !map.cut,
            name: entry.map(|entry| entry.entry.name).or(record.and_then(|record| record.name)),
            state,
            kept,
            blocks,
            here,
            missing: away.take(MAX_MISSING).map(|(cid, ..)| cid).collect(),
            lost: map.blocks().filter(|(.., holders)| *holders == 0).count() as u64,
            only_here: map.blocks().filter(|(_, presence, holders)| presence.kept && *holders == 1).count()
                as u64,
            copies: u32::try_from(copies).unwrap_or(u32::MAX),
            may_lose: u32::from(weakest.saturating_sub(1)),
            holders,
        })
    }

    /// Lists blocks of a file with the number of nodes that have each: `limit` of them, after the first `cursor`.
    pub(super) async fn block_holders(
        &self,
        found: &Found,
        cursor: u64,
        limit: usize,
    ) -> Result<BlockList, NodeError> {
        let _permit = self.surveys.acquire().await;
        let (map, _) = self.survey(found).await?;
        let root = found.link.cid;
        self.walks
            .run(move |store, wanted| {
                let links = |cid: &Cid| match map.links(cid) {
                    None if map.cut => wanted.check().and_then(|()| node_links(store, cid)),
                    links => wanted.check().map(|()| links),
                };
                // The map may be complete where the store is not, so its counts are not kept.
                let page = Places::new(&links, &PlaceCounts::default()).page(root, cursor, limit)?;
                page.map(map.root_len(), |cid| match map.availability(cid) {
                    Some((here, holders)) => Ok((here, Some(holders.into()))),
                    None => Ok((store.holds(cid)?, None)),
                })
            })
            .await
    }

    /// Maps the blocks of a file, and asks its providers and the connected peers which of them they have.
    async fn survey(&self, found: &Found) -> Result<(BlockMap, Vec<Holder>), NodeError> {
        let root = found.link.cid;
        let mut map = self.map(root).await?;
        let all = map.blocks().count() as u64;
        let mut holders = Vec::new();
        if let Some(network) = &self.network {
            let connected = network.net.connected();
            let providers = network.find_providers(found.announced()).await;
            let others = connected.iter().filter(|peer| !providers.contains(peer)).take(MAX_CONNECTED);
            let asked: Vec<PeerId> = providers.iter().chain(others).copied().take(MAX_PEERS).collect();
            let transfers = network.fetcher.transfers();
            let mut answers = stream::iter(asked)
                .map(|peer| async move { (peer, transfers.have(peer, root, PEER_TIMEOUT).await) })
                .buffered(CONCURRENT);
            while let Some((peer, holding)) = answers.next().await {
                let blocks = holding.as_ref().map(|holding| map.count(holding));
                let announces = providers.contains(&peer);
                // A connected peer that has no block of the file is not a holder.
                if announces || blocks.is_some_and(|blocks| blocks > 0) {
                    holders.push(Holder {
                        peer: peer.to_string(),
                        connected: connected.contains(&peer),
                        announces,
                        blocks,
                        whole: blocks == Some(all) && !map.incomplete,
                    });
                }
            }
        }
        Ok((map, holders))
    }

    /// Lists the blocks of a root. Node blocks that are not here are fetched, as far as they can be.
    async fn map(&self, root: Cid) -> Result<BlockMap, NodeError> {
        let mut walk = DagWalk::new(root);
        let until = Instant::now() + FETCH_ALL_TIMEOUT;
        let network = self.network.as_ref().filter(|network| !network.net.connected().is_empty());
        let session = network.map(|network| network.fetcher.session(root, FETCH_TIMEOUT));
        loop {
            let (walked, needed, ahead) = self
                .walks
                .run(move |store, wanted| {
                    let needed = walk.advance(store, wanted)?;
                    let ahead =
                        if needed.is_some() { walk.read_ahead(store, READ_AHEAD)? } else { Vec::new() };
                    Ok((walk, needed, ahead))
                })
                .await?;
            walk = walked;
            let Some(cid) = needed else { return Ok(walk.finish()) };
            let fetched = match &session {
                // The map stays incomplete anyway.
                Some(_) if walk.is_incomplete() && Instant::now() >= until => None,
                Some(session) => {
                    // Blocks fetched ahead go into the cache, where the walk finds them.
                    let others = future::join_all(ahead.iter().map(|cid| session.block(cid, None)));
                    let both = future::join(session.block(&cid, None), others);
                    match tokio::time::timeout_at(until.into(), both).await {
                        Ok((block, _)) => block.ok(),
                        Err(_) if walk.is_incomplete() => None,
                        Err(_) => return Err(fetch_too_slow(&root)),
                    }
                }
                None => None,
            };
            let Some(block) = fetched else {
                walk.skip();
                continue;
            };
            walk = self
                .walks
                .run(move |store, _| {
                    walk.enter(&block, store)?;
                    Ok(walk)
                })
                .await?;
        }
    }
}

/// The error for a file that no node keeps; `here` is the number of its blocks that this node has all the same.
fn not_found(root: &Cid, holders: &[Holder], here: u64) -> NodeError {
    let silent = holders.iter().filter(|holder| holder.blocks.is_none()).count();
    let left = match here {
        0 => String::new(),
        _ => format!("; {here} of its blocks are still here, in the cache or waiting for collection"),
    };
    if silent > 0 {
        let message =
            format!("{root} is not kept on this node, and {silent} of its providers did not answer{left}");
        NodeError::new(ErrorCode::Timeout, message).reason(Reason::ProvidersSilent)
    } else {
        let message = format!("{root} is not kept on this node, and no peer that was asked has it{left}");
        NodeError::new(ErrorCode::NotFound, message).reason(Reason::NoProvider)
    }
}

fn fetch_too_slow(root: &Cid) -> NodeError {
    let limit = FETCH_ALL_TIMEOUT.as_secs();
    NodeError::new(
        ErrorCode::Timeout,
        format!("the list of blocks of {root} did not arrive within {limit} s"),
    )
    .reason(Reason::FetchTooSlow)
}
