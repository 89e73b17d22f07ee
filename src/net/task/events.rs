//! What the swarm reports: listeners, connections, and what the behaviours say.

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
    address_ranking::{self, bare, is_relayed},
    behaviour::{BehaviourEvent, addresses, set_addresses},
    discovery::Led,
};

impl Task {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                // A private address is what private peers need: it is said to whoever asks the DHT for us.
                self.swarm.add_external_address(address.clone());
                self.check_from_outside(&address);
                self.share(|shared| shared.listen.push(address.clone()));
                self.emit(NetEvent::Listening { addr: address });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.relays.expired(&address);
                self.share(|shared| shared.listen.retain(|known| *known != address));
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                let at_a_relay = self.relays.closed(listener_id);
                if let Err(error) = reason
                    && !at_a_relay
                {
                    tracing::warn!(?addresses, "no longer listening: {error}");
                }
                for address in addresses {
                    self.swarm.remove_external_address(&address);
                    self.relays.expired(&address);
                    self.share(|shared| shared.listen.retain(|known| *known != address));
                }
            }
            SwarmEvent::ConnectionEstablished {
                peer_id, connection_id, endpoint, num_established, ..
            } => {
                self.on_connected(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, endpoint, num_established, .. } => {
                self.on_hung_up(&peer_id, &endpoint);
                self.on_closed(peer_id, connection_id, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                let ours = matches!(error, ListenError::LocalPeerId { .. });
                self.duplicate_identity.refused(send_back_addr, ours, Instant::now());
                tracing::debug!("a caller was refused: {error}");
            }
            SwarmEvent::ExternalAddrExpired { address } => self.relays.expired(&address),
            // Of a connected peer, it is what that says itself, and is heeded as such.
            SwarmEvent::NewExternalAddrOfPeer { peer_id, address } if !self.swarm.is_connected(&peer_id) => {
                self.heard(peer_id, &address);
            }
            SwarmEvent::Dialing { peer_id, connection_id } => {
                self.dials.begun(connection_id, peer_id, false, Instant::now());
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => {}
        }
    }

    /// Another machine has our identity.
    pub(super) fn on_twin(&mut self, addr: Multiaddr) {
        tracing::warn!(
            "another machine runs with this node's identity, met at {addr}: the two hide each other from the swarm; stop one \
             of them, and give it an identity of its own (move its identity.key away)"
        );
        self.share(|shared| shared.twin = Some(addr.clone()));
        self.emit(NetEvent::SameIdentity { addr });
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, first: bool) {
        let addr = match endpoint {
            // Through a relay, a caller's own address is its name alone: where it comes from is the relay.
            ConnectedPoint::Listener { local_addr, .. } if is_relayed(local_addr) => {
                local_addr.clone().with_p2p(peer).unwrap_or_else(|addr| addr)
            }
            _ => endpoint.get_remote_address().clone(),
        };
        self.dials.ended(id);
        self.swarm.behaviour_mut().dial_backoff.connected(&peer);
        match endpoint {
            _ if endpoint.is_relayed() => {}
            ConnectedPoint::Dialer { .. } => self.address_book.reached(peer, &addr),
            ConnectedPoint::Listener { .. } => self.relays.called(peer, id),
        }
        match self.bootstrap.connected(id, peer, Instant::now()) {
            Led::Elsewhere => {}
            Led::ToPeer => {
                let change = self.kept.bootstrap(peer);
                self.keep(change);
            }
            // Several addresses, one peer: a connection is enough.
            Led::ToTheSame => drop(self.swarm.close_connection(id)),
        }
        self.share(|shared| {
            let state = shared.peers.entry(peer).or_default();
            state.connections.insert(id, addr.clone());
        });
        if !first {
            self.swarm.behaviour_mut().streams.update_keep_alive(peer);
        }
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Ok(peer)));
        }
        for open in self.opening.remove(&peer).unwrap_or_default().streams {
            self.swarm.behaviour_mut().streams.open(peer, open);
        }
        if first {
            self.emit(NetEvent::Connected { peer, addr });
        }
    }

    /// A node of a cluster demands its proof of whoever calls by QUIC: one that knows of none is connected until then.
    fn on_hung_up(&self, peer: &PeerId, endpoint: &ConnectedPoint) {
        let ConnectedPoint::Dialer { address, .. } = endpoint else { return };
        let quic = address.iter().any(|part| part == Protocol::QuicV1) && !endpoint.is_relayed();
        self.share(|shared| {
            let unknown = shared.peers.get(peer).is_some_and(|state| state.agent.is_none());
            if quic && unknown && !self.in_cluster {
                shared.outside = Some(address.clone());
            }
        });
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, last: bool) {
        self.relays.hung_up(&peer, id);
        self.share(|shared| {
            if let Some(state) = shared.peers.get_mut(&peer) {
                state.connections.remove(&id);
            }
            if last {
                shared.peers.remove(&peer);
            }
        });
        if last {
            self.relays.gone(&peer);
            if self.dht_peers.remove(&peer) {
                self.growth.peer_went(self.dht_peers.len(), Instant::now());
                if self.dht_peers.is_empty() {
                    self.rejoin.reset();
                }
            }
            self.identify_limit.gone(&peer);
            self.bootstrap_lost(&peer);
            self.no_longer_kept(peer);
            self.emit(NetEvent::Lost { peer });
        }
    }

    /// A peer has gone: where its connection was one that stays, another one takes its place.
    fn no_longer_kept(&mut self, peer: PeerId) {
        let room = self.kept.gone(peer);
        self.swarm.behaviour_mut().streams.set_protected(peer, false);
        if room {
            for peer in self.dht_peers.clone() {
                let change = self.kept.dht_peer(peer);
                self.keep(change);
            }
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, &info);
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(rtt), .. }) => self.share(|shared| {
                if let Some(state) = shared.peers.get_mut(&peer) {
                    state.rtt = Some(rtt);
                }
            }),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, addr) in found {
                    if !self.shunned.contains(&peer) {
                        self.heard(peer, &addr);
                        self.dial(peer);
                    }
                }
            }
            BehaviourEvent::AutonatClient(test) => self.on_tested(&test),
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, stats, step }) => {
                self.on_answer(id, result, stats.num_successes(), step.last);
            }
            _ => {}
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let dht = info.protocols.contains(&self.kad_protocol);
        self.share(|shared| {
            if let Some(state) = shared.peers.get_mut(&peer) {
                state.agent = Some(info.agent_version.chars().take(64).collect());
                state.dht = dht;
            }
        });
        // What a peer says can arrive after it has gone.
        if !self.swarm.is_connected(&peer) {
            return;
        }
        self.bootstrap.identified(&peer);
        if !dht || !self.identify_limit.is_due(peer, Instant::now()) {
            return;
        }
        self.address_book.says(peer, &info.listen_addrs);
        self.route(peer);
        self.swarm.behaviour_mut().kad.store_mut().note_addresses(&peer, &info.listen_addrs);
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.on_relay_offered(peer);
        }
        self.meet_directly(peer);
        let change = self.kept.dht_peer(peer);
        self.keep(change);
        if self.dht_peers.is_empty() {
            // What was noted while this machine had no network says nothing of the peers.
            self.swarm.behaviour_mut().dial_backoff.forget_all();
        }
        if self.dht_peers.insert(peer) {
            self.announcer.peers_came();
            self.growth.peer_came(self.dht_peers.len(), Instant::now());
        }
        self.emit(NetEvent::DhtPeer { peer });
    }

    /// Tells the DHT where a peer is: at a few of its addresses, those first where it is known to be.
    fn route(&mut self, peer: PeerId) {
        let (reached, said) = self.address_book.own(&peer);
        // A caller's own port is of no use to anybody, but its host is one of those that it says.
        let hosts: Vec<Multiaddr> = self.look(|shared| {
            let connections =
                shared.peers.get(&peer).into_iter().flat_map(|state| state.connections.values());
            connections.filter(|addr| !is_relayed(addr)).filter_map(host).collect()
        });
        let met = |addr: &Multiaddr| {
            reached.as_ref() == Some(addr) || host(addr).is_some_and(|host| hosts.contains(&host))
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        let told: Vec<Multiaddr> = addresses(kad, peer).iter().map(bare).collect();
        set_addresses(kad, peer, &address_ranking::choose(&said, &told, met));
    }
}

/// The host of an address, where it has one.
fn host(addr: &Multiaddr) -> Option<Multiaddr> {
    let first = addr.iter().next().filter(|part| matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_)))?;
    Some(Multiaddr::empty().with(first))
}
