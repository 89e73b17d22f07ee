//! What the swarm says, and what follows from it.

use libp2p::{
    PeerId,
    core::ConnectedPoint,
    identify, kad, mdns, ping,
    swarm::{ConnectionId, DialError, SwarmEvent},
};
use tokio::sync::mpsc;

use super::{QUERIES, Query, Task, dial_error};
use crate::net::{NetEvent, behaviour::BehaviourEvent};

impl Task {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                // A private address is what private peers need: it is said to whoever asks the DHT for us.
                self.swarm.add_external_address(address.clone());
                self.share(|shared| shared.listen.push(address.clone()));
                self.emit(NetEvent::Listening { addr: address });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.share(|shared| shared.listen.retain(|known| *known != address));
            }
            SwarmEvent::ConnectionEstablished {
                peer_id, connection_id, endpoint, num_established, ..
            } => {
                self.on_connected(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!("a caller was refused: {error}");
            }
            SwarmEvent::NewExternalAddrOfPeer { peer_id, address } => self.book.add(peer_id, address),
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, first: bool) {
        let addr = endpoint.get_remote_address().clone();
        if endpoint.is_dialer() {
            self.book.add(peer, addr.clone());
        }
        self.bootstrap.connected(id, peer);
        self.share(|shared| {
            drop(shared.peers.entry(peer).or_default().connections.insert(id, addr.clone()));
        });
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Ok(peer)));
        }
        for reply in self.opening.remove(&peer).into_iter().flat_map(|(replies, _)| replies) {
            self.swarm.behaviour_mut().streams.open(peer, reply);
        }
        if first {
            self.emit(NetEvent::Connected { peer, addr });
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, last: bool) {
        self.share(|shared| {
            if let Some(state) = shared.peers.get_mut(&peer) {
                state.connections.remove(&id);
            }
            if last {
                shared.peers.remove(&peer);
            }
        });
        if last {
            self.bootstrap.lost(&peer);
            self.emit(NetEvent::Lost { peer });
        }
    }

    fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        if let Some(addr) = self.bootstrap.failed(id, error) {
            match error {
                DialError::WrongPeerId { obtained, .. } => {
                    tracing::warn!(%addr, actual = %obtained, "the bootstrap address belongs to another peer");
                }
                DialError::LocalPeerId { .. } => tracing::info!(%addr, "this bootstrap address is our own"),
                _ => tracing::debug!(%addr, "a bootstrap node cannot be reached: {error}"),
            }
        }
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Err(dial_error(error))));
        }
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.shunned.add(peer);
            self.look_up(peer);
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(rtt), .. }) => self.share(|shared| {
                if let Some(state) = shared.peers.get_mut(&peer) {
                    state.rtt = Some(rtt);
                }
            }),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, addr) in found {
                    if !self.shunned.contains(&peer) {
                        self.book.add(peer, addr);
                        self.dial(peer);
                    }
                }
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, stats, step }) => {
                self.on_answer(id, result, stats.num_successes(), step.last);
            }
            _ => {}
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        let dht = info.protocols.contains(&self.kad_protocol);
        self.share(|shared| {
            if let Some(state) = shared.peers.get_mut(&peer) {
                state.agent = Some(info.agent_version.chars().take(64).collect());
                state.dht = dht;
            }
        });
        if !dht {
            return;
        }
        for addr in info.listen_addrs.into_iter().take(16) {
            self.book.add(peer, addr.clone());
            self.swarm.behaviour_mut().kad.add_address(&peer, addr);
        }
        if self.dht_peers.insert(peer) {
            self.announcer.peers_came();
            if self.dht_peers.len().is_power_of_two() {
                self.announcer.swarm_grew();
            }
        }
        self.emit(NetEvent::DhtPeer { peer });
    }

    fn on_answer(&mut self, id: kad::QueryId, result: kad::QueryResult, successes: u32, last: bool) {
        match result {
            kad::QueryResult::StartProviding(_) => {
                // Each peer that took the record was first asked for its neighbours: two successes for one peer.
                let peers = (successes / 2).min(20);
                if let Some(cid) = self.announcer.ended(id, peers) {
                    self.count_announcements(u64::from(peers > 0));
                    self.emit(NetEvent::Announced { cid, peers });
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
                for peer in &peers {
                    for addr in peer.addrs.iter().take(8) {
                        self.book.add(peer.peer_id, addr.clone());
                    }
                }
                match self.queries.remove(&id) {
                    Some(Query::Closest { reply, .. }) => {
                        drop(reply.send(peers.into_iter().map(|peer| peer.peer_id).collect()));
                    }
                    Some(Query::Address { peer }) => self.dial(peer),
                    _ => {}
                }
            }
            _ => {}
        }
        if last {
            // Dropping the question tells the asker that the answer is complete.
            self.queries.remove(&id);
            while self.queries.len() < QUERIES
                && let Some(query) = self.waiting.pop_front()
            {
                self.ask(query);
            }
        }
    }
}
