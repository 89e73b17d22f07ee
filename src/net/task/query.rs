//! Questions to the DHT: a bounded number at a time, the others in their turn.

use libp2p::{PeerId, kad};
use tokio::sync::{mpsc, oneshot};

use super::Task;
use crate::{
    content::cid::Cid,
    net::{NetError, NetEvent, address_ranking::TOLD, provider_records::key},
};

/// Questions to the DHT at a time; more wait.
const QUERIES: usize = 32;
/// Questions that may wait; more are answered with nothing.
const WAITING_QUERIES: usize = 4096;

/// Addresses taken of a peer that nobody looks for, from one answer.
const HEARSAY: usize = 2;

/// A question to the DHT.
pub(super) enum Query {
    Providers {
        root: Cid,
        found: mpsc::Sender<PeerId>,
    },
    Closest {
        root: Cid,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    /// Where is this peer? Streams are waiting for it.
    Address {
        peer: PeerId,
    },
}

impl Query {
    /// Nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Providers { found, .. } => found.is_closed(),
            Self::Closest { reply, .. } => reply.is_closed(),
            Self::Address { .. } => false,
        }
    }
}

impl Task {
    /// Answers with the records held here at once, and asks the DHT for more.
    pub(super) fn find_providers(&mut self, root: Cid, found: mpsc::Sender<PeerId>) {
        let known =
            kad::store::RecordStore::providers(self.swarm.behaviour_mut().kad.store_mut(), &key(&root));
        let local = *self.swarm.local_peer_id();
        for record in known.into_iter().filter(|record| record.provider != local) {
            self.address_book.recorded(record.provider, &record.addresses);
            for addr in &record.addresses {
                self.swarm.behaviour_mut().dial_backoff.heard(&record.provider, addr);
            }
            let _ = found.try_send(record.provider);
        }
        self.ask(Query::Providers { root, found });
    }

    pub(super) fn ask(&mut self, query: Query) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        if self.queries.len() < QUERIES {
            let id = match &query {
                Query::Providers { root, .. } => kad.get_providers(key(root)),
                Query::Closest { root, .. } => kad.get_closest_peers(root.multihash().to_vec()),
                Query::Address { peer } => kad.get_closest_peers(*peer),
            };
            self.queries.insert(id, query);
            return;
        }
        for (id, _) in self.queries.iter().filter(|(_, query)| query.is_abandoned()) {
            if let Some(mut abandoned) = kad.query_mut(id) {
                abandoned.finish();
            }
        }
        if self.waiting.len() < WAITING_QUERIES {
            self.waiting.push_back(query);
        } else if let Query::Address { peer } = query {
            self.give_up(peer, &NetError::NoAddress(peer));
        }
    }

    /// A question has ended: the next one that somebody still wants answered has its turn.
    fn ask_next(&mut self) {
        while self.queries.len() < QUERIES
            && let Some(query) = self.waiting.pop_front()
        {
            if !query.is_abandoned() {
                self.ask(query);
            }
        }
    }

    pub(super) fn on_answer(
        &mut self,
        id: kad::QueryId,
        result: kad::QueryResult,
        successes: u32,
        last: bool,
    ) {
        match result {
            kad::QueryResult::StartProviding(result) => {
                // Each peer that took the record was first asked for its neighbours: two successes for one peer. More were
                // asked than took it, so this is an estimate; Kademlia does not tell the two apart. One that ran out of
                // time has sent nothing to anybody.
                let peers = if result.is_ok() { (successes / 2).min(20) } else { 0 };
                let announced = self.announcer.ended(id, peers);
                self.count_announcements(u64::from(announced.is_some() && peers > 0));
                if let Some(cid) = announced {
                    self.emit(NetEvent::Announced { cid, peers });
                }
                for done in self.leaving.remove(&id).into_iter().flatten() {
                    let _ = done.send(());
                }
            }
            kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) => {
                let local = *self.swarm.local_peer_id();
                if let Some(Query::Providers { found, .. }) = self.queries.get(&id) {
                    let gone = providers.into_iter().filter(|peer| *peer != local).any(|peer| {
                        matches!(found.try_send(peer), Err(mpsc::error::TrySendError::Closed(_)))
                    });
                    if gone && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
                        query.finish();
                    }
                }
            }
            kad::QueryResult::GetClosestPeers(result) if last => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let wanted = match self.queries.get(&id) {
                    Some(Query::Address { peer }) => Some(*peer),
                    _ => None,
                };
                for peer in &peers {
                    // The best is said first; who answers cannot push out everything that others have said.
                    let most = if wanted == Some(peer.peer_id) { TOLD } else { HEARSAY };
                    for addr in peer.addrs.iter().take(most).rev() {
                        self.heard(peer.peer_id, addr);
                    }
                }
                match self.queries.remove(&id) {
                    Some(Query::Closest { reply, .. }) => {
                        drop(reply.send(peers.into_iter().map(|peer| peer.peer_id).collect()));
                    }
                    Some(Query::Address { peer }) => self.dial_elsewhere(peer),
                    _ => {}
                }
            }
            _ => {}
        }
        if last {
            // Dropping the question tells the asker that the answer is complete.
            self.queries.remove(&id);
            self.ask_next();
        }
    }
}
