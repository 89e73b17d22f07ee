//! Who is connected, and what each says of itself and has moved.

use std::{
    collections::HashMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::PeerId;

use super::{Node, error::NodeError, report::PeerReport};
use crate::transfer::PeerStatus;

/// How long a peer may take to say what it is; who takes longer is asked again later.
const ASK: Duration = Duration::from_secs(1);
/// How long what it said is good.
const GOOD: Duration = Duration::from_secs(30);
/// Peers asked in one go; the others have their turn the next time.
const AT_ONCE: usize = 32;

/// What peers have said of themselves, and when they were asked.
pub(super) type Said = HashMap<PeerId, (Instant, Option<PeerStatus>)>;

impl Node {
    /// Connected peers. Each is asked what it is, at most every half minute and for at most a second.
    ///
    /// # Errors
    /// [`super::ErrorCode::Unreachable`] in a node without a network.
    pub async fn peers(&self) -> Result<Vec<PeerReport>, NodeError> {
        let network = self.network()?;
        let mut peers = network.net.peers();
        peers.sort_by_key(|peer| peer.peer);
        let now = Instant::now();
        let stale: Vec<PeerId> = {
            let mut said = self.said();
            said.retain(|known, _| peers.binary_search_by_key(known, |peer| peer.peer).is_ok());
            let is_stale = |peer: &PeerId| said.get(peer).is_none_or(|(asked, _)| now - *asked > GOOD);
            peers.iter().map(|peer| peer.peer).filter(is_stale).take(AT_ONCE).collect()
        };
        let transfers = network.fetcher.transfers();
        let answers = join_all(stale.iter().map(|peer| transfers.status(*peer, ASK))).await;
        let mut said = self.said();
        said.extend(stale.into_iter().zip(answers.into_iter().map(|answer| (now, answer))));
        let report = |peer: &crate::net::PeerInfo| {
            let status = said.get(&peer.peer).and_then(|(_, status)| status.clone());
            let moved = network.counters.of(&peer.peer);
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

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.inner.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
