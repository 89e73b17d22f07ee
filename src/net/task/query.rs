//! DHT queries: a bounded number at a time, the others in a queue.

use libp2p::{PeerId, kad};
use tokio::sync::{mpsc, oneshot};

use super::Task;
use crate::{
    content::cid::Cid,
    net::{NetError, NetEvent, address_ranking::MAX_SHARED, provider_records::key},
};

/// Maximum queries at a time.
const QUERIES: usize = 32;
/// Maximum queued queries. Above it, a query gets no answer.
const WAITING_QUERIES: usize = 4096;

/// Maximum addresses used from one answer of a peer that the query does not look for.
const OTHER_ADDRS: usize = 2;

/// A DHT query.
pub(super) enum Query {
    Providers {
        root: Cid,
        found: mpsc::Sender<PeerId>,
    },
    Closest {
        root: Cid,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    /// Addresses of a peer for which streams wait.
    Address {
        peer: PeerId,
    },
}

impl Query {
    /// Returns whether the caller has given up.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Providers { found, .. } => found.is_closed(),
            Self::Closest { reply, .. } => reply.is_closed(),
            Self::Address { .. } => false,
        }
    }
}

impl Task {
    /// Sends the providers in records of this node at once, and queries the DHT for more.
    pub(super) fn find_providers(&mut self, root: Cid, found: mpsc::Sender<PeerId>) {
        let known =
            kad::store::RecordStore::providers(self.swarm.behaviour_mut().kad.store_mut(), &key(&root));
        let local = *self.swarm.local_peer_id();
        for record in known.into_iter().filter(|record| record.provider != local) {
            self.address_book.set_recorded(record.provider, &record.addresses);
            for addr in &record.addresses {
                self.swarm.behaviour_mut().dial_backoff.filter.add_address(&record.provider, addr);
            }
            let _ = found.try_send(record.provider);
        }
        self.query(Query::Providers { root, found });
    }

    pub(super) fn query(&mut self, query: Query) {
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
        if self.queued_queries.len() < WAITING_QUERIES {
            self.queued_queries.push_back(query);
        } else if let Query::Address { peer } = query {
            self.give_up(peer, &NetError::NoAddress(peer));
        }
    }

    /// Starts the next queued query whose caller has not given up.
    fn query_next(&mut self) {
        while self.queries.len() < QUERIES
            && let Some(query) = self.queued_queries.pop_front()
        {
            if !query.is_abandoned() {
                self.query(query);
            }
        }
    }

    pub(super) fn on_query_progress(
        &mut self,
        id: kad::QueryId,
        result: kad::QueryResult,
        successes: u32,
        last: bool,
    ) {
        match result {
            kad::QueryResult::StartProviding(result) => {
                // Kademlia counts two successes for a peer that got the record: one for its neighbours, one for the record.
                // More peers are asked for neighbours than get the record, so this is an estimate. A query that timed out
                // has sent no record.
                let peers = if result.is_ok() { (successes / 2).min(20) } else { 0 };
                let announced = self.announcer.ended(id, peers);
                self.count_announcements(u64::from(announced.is_some() && peers > 0));
                if let Some(cid) = announced {
                    self.emit(NetEvent::Announced { cid, peers });
                }
                for done in self.unproviding.remove(&id).into_iter().flatten() {
                    let _ = done.send(());
                }
            }
            kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) => {
                let local = *self.swarm.local_peer_id();
                if let Some(Query::Providers { found, .. }) = self.queries.get(&id) {
                    let closed = providers.into_iter().filter(|peer| *peer != local).any(|peer| {
                        matches!(found.try_send(peer), Err(mpsc::error::TrySendError::Closed(_)))
                    });
                    if closed && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
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
                    // The best address comes first. The limit keeps one answer from replacing all earlier reports.
                    let max = if wanted == Some(peer.peer_id) { MAX_SHARED } else { OTHER_ADDRS };
                    for addr in peer.addrs.iter().take(max).rev() {
                        self.add_reported_address(peer.peer_id, addr);
                    }
                }
                match self.queries.remove(&id) {
                    Some(Query::Closest { reply, .. }) => {
                        drop(reply.send(peers.into_iter().map(|peer| peer.peer_id).collect()));
                    }
                    Some(Query::Address { peer }) => self.on_addresses_found(peer),
                    _ => {}
                }
            }
            _ => {}
        }
        if last {
            // Dropping the query closes the channel to the caller.
            self.queries.remove(&id);
            self.query_next();
        }
    }
}
