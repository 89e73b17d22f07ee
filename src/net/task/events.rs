//! Events of the swarm: listeners, connections, and reports of the behaviours.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, kad, mdns,
    multiaddr::Protocol,
    ping, relay,
    swarm::{ConnectionId, ListenError, SwarmEvent},
};
use tokio::time::Instant;

use super::Task;
use crate::net::{
    NetEvent,
    address_ranking::{self, is_relayed, without_peer_id},
    behaviour::{BehaviourEvent, addresses, set_addresses},
    connected::Connection,
    discovery::BootstrapMatch,
};

impl Task {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                // Also a private address, which peers in the same network need.
                self.swarm.add_external_address(address.clone());
                self.probe(&address);
                self.shared.update(|shared| shared.listen.push(address.clone()));
                self.emit(NetEvent::Listening { addr: address });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.on_listen_addr_expired(&address);
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                let is_reservation = self.relays.closed(listener_id);
                if let Err(error) = reason
                    && !is_reservation
                {
                    tracing::warn!(?addresses, "no longer listening: {error}");
                }
                for address in &addresses {
                    self.on_listen_addr_expired(address);
                }
            }
            SwarmEvent::ConnectionEstablished {
                peer_id, connection_id, endpoint, num_established, ..
            } => {
                self.on_connected(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, endpoint, num_established, .. } => {
                self.detect_other_cluster(&peer_id, &endpoint);
                self.on_closed(peer_id, connection_id, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                let same_identity = matches!(error, ListenError::LocalPeerId { .. });
                self.duplicate_identity.incoming_failed(send_back_addr, same_identity, Instant::now());
                tracing::debug!("an incoming connection failed: {error}");
            }
            SwarmEvent::ExternalAddrExpired { address } => self.relays.expired(&address),
            // A connected peer reports its addresses by Identify, which is handled there.
            SwarmEvent::NewExternalAddrOfPeer { peer_id, address } if !self.swarm.is_connected(&peer_id) => {
                self.add_reported_address(peer_id, &address);
            }
            SwarmEvent::Dialing { peer_id, connection_id } => {
                self.dials.started(connection_id, peer_id, false, Instant::now());
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => {}
        }
    }

    fn on_listen_addr_expired(&mut self, addr: &Multiaddr) {
        self.swarm.remove_external_address(addr);
        self.relays.expired(addr);
        self.shared.update(|shared| shared.listen.retain(|known| known != addr));
    }

    pub(super) fn on_duplicate_identity(&mut self, addr: Multiaddr) {
        tracing::warn!(
            "another machine at {addr} has the identity of this node, and each hides the other from the swarm; stop one of \
             them and give it a new identity"
        );
        self.shared.update(|shared| shared.duplicate_identity = Some(addr.clone()));
        self.emit(NetEvent::DuplicateIdentity { addr });
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, first: bool) {
        let addr = match endpoint {
            // The remote address of a relayed incoming connection is only a peer id; the local one names the relay.
            ConnectedPoint::Listener { local_addr, .. } if is_relayed(local_addr) => {
                local_addr.clone().with_p2p(peer).unwrap_or_else(|addr| addr)
            }
            _ => endpoint.get_remote_address().clone(),
        };
        self.dials.ended(id);
        self.swarm.behaviour_mut().dial_backoff.filter.connected(&peer);
        let strangers = &self.swarm.behaviour().kad.filter;
        let (incoming, near) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (false, strangers.is_near(&peer, address)),
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                (true, strangers.is_near_caller(&peer, local_addr, send_back_addr))
            }
        };
        if !incoming && !endpoint.is_relayed() {
            self.address_book.set_reached(peer, &addr);
        }
        match self.bootstrap.connected(id, peer, Instant::now()) {
            BootstrapMatch::None => {}
            BootstrapMatch::New => {
                self.swarm.behaviour_mut().limits.add_known(peer);
                self.swarm.behaviour_mut().streams.protect_bootstrap_peer(peer);
            }
            BootstrapMatch::Duplicate => drop(self.swarm.close_connection(id)),
        }
        self.shared.update(|shared| {
            let state = shared.peers.entry(peer).or_default();
            state.connections.insert(id, Connection { addr: addr.clone(), incoming, near });
        });
        if !first {
            self.swarm.behaviour_mut().streams.update_keep_alive(peer);
        }
        if let Some(reply) = self.dialing.remove(&id) {
            drop(reply.send(Ok(peer)));
        }
        for open in self.opening.remove(&peer).unwrap_or_default().streams {
            self.swarm.behaviour_mut().streams.open(peer, open);
        }
        if first {
            self.emit(NetEvent::Connected { peer, addr });
        }
    }

    /// Notes that a node of a cluster closed the connection. Over QUIC it demands a proof that a node outside a cluster
    /// does not know of, so this node was connected until then.
    fn detect_other_cluster(&self, peer: &PeerId, endpoint: &ConnectedPoint) {
        let ConnectedPoint::Dialer { address, .. } = endpoint else { return };
        let quic = address.iter().any(|part| part == Protocol::QuicV1) && !endpoint.is_relayed();
        self.shared.update(|shared| {
            let unidentified = shared.peers.get(peer).is_some_and(|state| state.agent.is_none());
            if quic && unidentified && !self.in_cluster {
                shared.other_cluster = Some(address.clone());
            }
        });
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, last: bool) {
        self.shared.update(|shared| {
            if let Some(state) = shared.peers.get_mut(&peer) {
                state.connections.remove(&id);
            }
            if last {
                shared.peers.remove(&peer);
            }
        });
        if last {
            self.relays.remove(&peer);
            if self.dht_peers.remove(&peer) {
                self.growth.peer_left(self.dht_peers.len(), Instant::now());
                if self.dht_peers.is_empty() {
                    self.reconnect.reset();
                }
            }
            self.identify_limit.remove(&peer);
            self.on_bootstrap_lost(&peer);
            if self.swarm.behaviour_mut().streams.unprotect(peer) {
                for other in &self.dht_peers {
                    self.swarm.behaviour_mut().streams.protect_dht_peer(*other);
                }
            }
            self.emit(NetEvent::Lost { peer });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, &info);
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(rtt), .. }) => self.shared.update(|shared| {
                if let Some(state) = shared.peers.get_mut(&peer) {
                    state.rtt = Some(rtt);
                }
            }),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let now = Instant::now();
                for (peer, addr) in found {
                    if !self.swarm.behaviour().dial_backoff.filter.is_failed(&peer, now) {
                        self.add_reported_address(peer, &addr);
                        self.dial(peer);
                    }
                }
            }
            BehaviourEvent::AutonatClient(probe) => self.on_probed(&probe),
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, stats, step }) => {
                self.on_query_progress(id, result, stats.num_successes(), step.last);
            }
            BehaviourEvent::Kad(kad::Event::InboundRequest {
                request: kad::InboundRequest::AddProvider { record: Some(record) },
            }) => self.on_provider_record(record),
            _ => {}
        }
    }

    /// Stores the provider record of a peer. A cluster trusts its members, so their hosts do not count.
    fn on_provider_record(&mut self, record: kad::ProviderRecord) {
        if !self.swarm.is_connected(&record.provider) {
            // A provider that has hung up already is on no known host.
            return;
        }
        let host = self.shared.read(|shared| shared.host(&record.provider)).filter(|_| !self.in_cluster);
        if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add(record, host) {
            tracing::debug!("a provider record is not stored: {error}");
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let dht = info.protocols.contains(&self.kad_protocol);
        self.shared.update(|shared| {
            if let Some(state) = shared.peers.get_mut(&peer) {
                state.agent = Some(info.agent_version.chars().take(64).collect());
                state.dht = dht;
            }
        });
        // The message can arrive after the peer has disconnected.
        if !self.swarm.is_connected(&peer) {
            return;
        }
        self.bootstrap.identified(&peer);
        if !dht || !self.identify_limit.is_due(peer, Instant::now()) {
            return;
        }
        let mut listen = info.listen_addrs.clone();
        self.swarm.behaviour().kad.filter.retain_for(&peer, &mut listen);
        self.address_book.set_listen(peer, &listen);
        self.update_routing_table(peer);
        self.swarm.behaviour_mut().kad.store_mut().set_addresses(&peer, &listen);
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.on_relay_found(peer);
        }
        self.dial_directly(peer);
        self.swarm.behaviour_mut().streams.protect_dht_peer(peer);
        if self.dht_peers.is_empty() {
            // Dials may have failed because this machine had no network.
            self.swarm.behaviour_mut().dial_backoff.filter.clear();
        }
        if self.dht_peers.insert(peer) {
            self.announcer.peer_connected();
            self.growth.peer_joined(self.dht_peers.len(), Instant::now());
        }
        self.emit(NetEvent::DhtPeer { peer });
    }

    /// Puts a few addresses of a peer into the routing table, confirmed ones first.
    fn update_routing_table(&mut self, peer: PeerId) {
        let (reached, reported) = self.address_book.first_hand(&peer);
        // The source port of an incoming connection is useless, but its IP address confirms a reported address.
        let hosts: Vec<Multiaddr> = self.shared.read(|shared| {
            let direct = shared.connections(&peer).filter(|connection| !connection.is_relayed());
            direct.filter_map(|connection| host(&connection.addr)).collect()
        });
        let confirmed = |addr: &Multiaddr| {
            reached.as_ref() == Some(addr) || host(addr).is_some_and(|host| hosts.contains(&host))
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        let previous: Vec<Multiaddr> = addresses(kad, peer).iter().map(without_peer_id).collect();
        set_addresses(kad, peer, &address_ranking::select(&reported, &previous, confirmed));
    }
}

/// Returns the IP address at the start of an address.
fn host(addr: &Multiaddr) -> Option<Multiaddr> {
    let first = addr.iter().next().filter(|part| matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_)))?;
    Some(Multiaddr::empty().with(first))
}
