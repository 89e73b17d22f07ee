//! The connected peers: what each has moved, and what it says of itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::PeerId;

use super::{error::NodeError, network::Network, report::PeerReport};
use crate::{net::PeerInfo, transfer::PeerStatus};

/// Time limit for the answer of a peer; a peer that takes longer is asked again later.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer is cached.
const CACHED_FOR: Duration = Duration::from_secs(30);
/// Peers asked by one call; the others are asked by the next calls.
const CONCURRENT: usize = 32;

/// Reports on the connected peers.
#[derive(Default)]
pub(super) struct Peers {
    /// When each peer was asked last, and its answer.
    statuses: Mutex<HashMap<PeerId, (Instant, Option<PeerStatus>)>>,
}

impl Peers {
    /// Lists the connected peers, sorted by id. Asks those whose answer is not cached for their status.
    pub(super) async fn list(&self, network: Option<&Arc<Network>>) -> Result<Vec<PeerReport>, NodeError> {
        let network = Network::require(network)?;
        let mut peers = network.net.peers();
        peers.sort_by_key(|peer| peer.peer);
        let now = Instant::now();
        let stale: Vec<PeerId> = {
            let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
            statuses.retain(|known, _| peers.binary_search_by_key(known, |peer| peer.peer).is_ok());
            let is_stale =
                |peer: &PeerId| statuses.get(peer).is_none_or(|(asked, _)| now - *asked > CACHED_FOR);
            peers.iter().map(|peer| peer.peer).filter(is_stale).take(CONCURRENT).collect()
        };
        let transfers = network.fetcher.transfers();
        let answers = join_all(stale.iter().map(|peer| transfers.status(*peer, TIMEOUT))).await;
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.extend(stale.into_iter().zip(answers.into_iter().map(|answer| (now, answer))));
        let report = |peer: &PeerInfo| {
            let status = statuses.get(&peer.peer).and_then(|(_, status)| status.clone());
            let moved = network.counters.for_peer(&peer.peer);
            PeerReport {
                peer: peer.peer.to_string(),
                addrs: peer.addrs.iter().map(ToString::to_string).collect(),
                transport: peer.transport().into(),
                relayed: peer.relayed(),
                rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                agent: peer.agent.clone(),
                dht: peer.dht,
                region: status.as_ref().and_then(|status| status.region.clone()),
                free: status.and_then(|status| status.free),
                sent_bytes: moved.sent,
                received_bytes: moved.received,
            }
        };
        Ok(peers.iter().map(report).collect())
    }
}
