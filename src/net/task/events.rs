//! What the swarm reports: listeners, connections, and what the behaviours say.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, kad, mdns, ping, relay,
    swarm::{ConnectionId, ListenError, SwarmEvent},
};
use tokio::time::Instant;

use super::Task;
use crate::net::{NetEvent, behaviour::BehaviourEvent, book::is_relayed};

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
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                let ours = matches!(error, ListenError::LocalPeerId { .. });
                self.twins.refused(send_back_addr, ours, Instant::now());
                tracing::debug!("a caller was refused: {error}");
            }
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_confirmed(&address),
            SwarmEvent::ExternalAddrExpired { address } => self.relays.expired(&address),
            SwarmEvent::NewExternalAddrOfPeer { peer_id, address } => self.heard(peer_id, &address),
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
        let alone = self.look(|shared| shared.peers.is_empty());
        let unreachable = &mut self.swarm.behaviour_mut().unreachable;
        if alone {
            unreachable.forget_all();
        } else {
            unreachable.connected(&peer);
        }
        if endpoint.is_dialer() && !endpoint.is_relayed() {
            self.book.reached(peer, &addr);
        }
        if self.bootstrap.connected(id, peer) {
            let change = self.kept.bootstrap(peer);
            self.keep(change);
        }
        self.share(|shared| {
            let state = shared.peers.entry(peer).or_default();
            state.connections.insert(id, addr.clone());
        });
        if !first {
            self.swarm.behaviour_mut().streams.keep_ways(peer);
        }
        for reply in self.dialing.remove(&id).into_iter().flatten() {
            drop(reply.send(Ok(peer)));
        }
        for reply in self.opening.remove(&peer).unwrap_or_default().replies {
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
            self.relays.gone(&peer);
            if self.dht_peers.remove(&peer) && self.dht_peers.is_empty() {
                self.rejoin.reset();
            }
            self.bootstrap.lost(&peer, self.dht_peers.len());
            self.no_longer_kept(peer);
            self.emit(NetEvent::Lost { peer });
        }
    }

    /// A peer has gone: where its connection was one that stays, another one takes its place.
    fn no_longer_kept(&mut self, peer: PeerId) {
        let room = self.kept.gone(peer);
        self.swarm.behaviour_mut().streams.keep(peer, false);
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
        if !dht || !self.swarm.is_connected(&peer) {
            return;
        }
        self.book.says(peer, &info.listen_addrs);
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.store_mut().note_addresses(&peer, &info.listen_addrs);
        for addr in self.book.of(&peer) {
            kad.add_address(&peer, addr);
        }
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.on_relay_offered(peer);
        }
        self.meet_directly(peer);
        let change = self.kept.dht_peer(peer);
        self.keep(change);
        if self.dht_peers.insert(peer) {
            self.announcer.peers_came();
            self.growth.peer_came(self.dht_peers.len(), Instant::now());
        }
        self.emit(NetEvent::DhtPeer { peer });
    }
}
