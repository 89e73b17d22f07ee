//! Limits the addresses that strangers are told, and those that are believed from them.
//!
//! Everybody may join an open network, and its DHT needs addresses. But an address in a private network is of no use outside
//! it, and shows how that network is built. So peers exchange such addresses only within a private network. A
//! stranger is a peer that is connected from a public address, or through a relay at one. This node tells it public
//! addresses only, and believes no others from it. The members of a cluster tell each other everything.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    kad::{self, KadPeer},
    multiaddr::Protocol,
    swarm::{THandlerInEvent, THandlerOutEvent, ToSwarm},
};

use super::{
    address_ranking::{is_name, is_public, is_public_host, is_relayed},
    connected::{Connection, Shared},
    filtered::{Filter, Filtered},
    provider_records::ProviderRecords,
};

/// Maximum dials whose resolved addresses are remembered: the swarm asks for each as soon as it succeeds.
const DIALS: usize = 512;

/// Knows which connected peers are strangers.
#[derive(Clone)]
pub(super) struct Strangers {
    /// Whether each peer is a member of this node's cluster.
    pub(super) in_cluster: bool,
    shared: Shared,
    /// The peers that answered the last dials, oldest first, and whether each did so in a private network. The swarm knows
    /// the dialled name only, and a name can lead into a private network.
    dialled: Arc<Mutex<VecDeque<(PeerId, bool)>>>,
}

impl Strangers {
    pub(super) fn new(in_cluster: bool, shared: Shared) -> Self {
        Self { in_cluster, shared, dialled: Arc::default() }
    }

    fn dialled<T>(&self, access: impl FnOnce(&mut VecDeque<(PeerId, bool)>) -> T) -> T {
        access(&mut self.dialled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes the peer that answered a dial, with the resolved address.
    pub(super) fn set_dialled(&self, peer: PeerId, endpoint: &ConnectedPoint) {
        if let ConnectedPoint::Dialer { address, .. } = endpoint {
            self.dialled(|dialled| {
                if dialled.len() >= DIALS {
                    dialled.pop_front();
                }
                dialled.push_back((peer, !is_public_host(address)));
            });
        }
    }

    /// Returns whether a peer that answered a dial is in a private network that this node is in too, or on this machine. For
    /// a relayed connection, the address of the relay decides.
    pub(super) fn is_near(&self, peer: &PeerId, dialled: &Multiaddr) -> bool {
        if !is_name(dialled) {
            return !is_public_host(dialled);
        }
        self.dialled(|all| all.iter().rev().find(|(known, _)| known == peer).is_some_and(|(_, near)| *near))
    }

    /// As [`Strangers::is_near`], for a caller. The remote address of a relayed connection is only a peer id; the local one
    /// names the relay.
    pub(super) fn is_near_caller(&self, peer: &PeerId, local: &Multiaddr, remote: &Multiaddr) -> bool {
        self.is_near(peer, if is_relayed(local) { local } else { remote })
    }

    fn any_connection(&self, peer: &PeerId, is: impl Fn(&Connection) -> bool) -> bool {
        self.shared.read(|state| state.connections(peer).any(is))
    }

    /// Returns whether a peer is a stranger: this node is open, and no connection to the peer is within a private network.
    pub(super) fn is_stranger(&self, peer: &PeerId) -> bool {
        !self.in_cluster && !self.any_connection(peer, |connection| connection.near)
    }

    /// Returns whether this node may dial an address because a peer names it: a public one, or one of the host from which
    /// the peer is connected. A name could lead to any host.
    pub(super) fn may_name(&self, peer: &PeerId, addr: &Multiaddr) -> bool {
        let Some(host) = ip(addr) else { return false };
        let calls_from =
            |connection: &Connection| connection.is_direct_call() && ip(&connection.addr) == Some(host);
        is_public(addr) || self.any_connection(peer, calls_from)
    }

    /// Removes the addresses that this peer must not be told, or cannot know.
    pub(super) fn retain_for(&self, peer: &PeerId, addrs: &mut Vec<Multiaddr>) {
        if self.is_stranger(peer) {
            addrs.retain(is_public_host);
        }
    }

    fn retain_of<'a>(&self, peer: &PeerId, described: impl IntoIterator<Item = &'a mut KadPeer>) {
        for other in described {
            self.retain_for(peer, &mut other.multiaddrs);
        }
    }
}

/// Returns the IP address at the start of an address.
fn ip(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

type Kad = kad::Behaviour<ProviderRecords>;
type ToHandler = THandlerInEvent<Kad>;
type FromHandler = THandlerOutEvent<Kad>;

/// Kademlia that exchanges addresses of private networks only with peers that share one.
pub(super) type ScopedKad = Filtered<Kad, Strangers>;

impl Filter<Kad> for Strangers {
    fn received(&mut self, peer: PeerId, event: &mut FromHandler) {
        match event {
            FromHandler::FindNodeRes { closer_peers, .. }
            | FromHandler::GetRecordRes { closer_peers, .. } => self.retain_of(&peer, closer_peers),
            FromHandler::GetProvidersRes { closer_peers, provider_peers, .. } => {
                self.retain_of(&peer, closer_peers.iter_mut().chain(provider_peers));
            }
            FromHandler::AddProvider { provider, .. } => self.retain_of(&peer, [provider]),
            _ => {}
        }
    }

    fn sent(&mut self, event: &mut ToSwarm<kad::Event, ToHandler>) {
        let ToSwarm::NotifyHandler { peer_id: peer, event, .. } = event else { return };
        match event {
            ToHandler::FindNodeRes { closer_peers, .. } | ToHandler::GetRecordRes { closer_peers, .. } => {
                self.retain_of(peer, closer_peers);
            }
            ToHandler::GetProvidersRes { closer_peers, provider_peers, .. } => {
                self.retain_of(peer, closer_peers.iter_mut().chain(provider_peers));
            }
            ToHandler::AddProvider { provider, .. } => self.retain_of(peer, [provider]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        core::{Endpoint, transport::PortUse},
        swarm::ConnectionId,
    };

    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    #[test]
    fn a_peer_dialled_by_name_is_near_if_the_name_leads_into_a_private_network() {
        let strangers = Strangers::new(false, Shared::default());
        let [home, away, unknown] = std::array::from_fn(|_| PeerId::random());
        let dial = |peer, resolved: &str| {
            let endpoint = ConnectedPoint::Dialer {
                address: addr(resolved),
                role_override: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            };
            strangers.set_dialled(peer, &endpoint);
        };
        dial(home, "/ip4/172.18.0.2/tcp/3000");
        dial(away, "/ip4/198.51.100.1/tcp/3000");
        let name = addr("/dns4/node1/tcp/3000");
        assert_eq!([home, away, unknown].map(|peer| strangers.is_near(&peer, &name)), [true, false, false]);
        assert!(!strangers.is_near(&home, &addr("/ip4/198.51.100.2/tcp/3000")));
        // The last dial counts.
        dial(home, "/ip4/198.51.100.1/tcp/3000");
        assert!(!strangers.is_near(&home, &name));
        (0..2 * DIALS).for_each(|_| dial(PeerId::random(), "/ip4/10.0.0.1/tcp/1"));
        assert_eq!(strangers.dialled(|dialled| dialled.len()), DIALS);
    }

    #[test]
    fn a_peer_may_name_only_public_addresses_and_its_own_host() {
        let shared = Shared::default();
        let strangers = Strangers::new(false, shared.clone());
        let [near, far, relayed] = std::array::from_fn(|_| PeerId::random());
        let relay = format!("/ip4/10.0.0.7/tcp/1/p2p/{far}/p2p-circuit/p2p/{relayed}");
        for (peer, remote) in
            [(near, "/ip4/10.0.0.7/tcp/1"), (far, "/ip4/198.51.100.7/tcp/1"), (relayed, &relay)]
        {
            let connection = Connection { addr: addr(remote), incoming: true, near: true };
            shared.update(|state| {
                let connections = &mut state.peers.entry(peer).or_default().connections;
                connections.insert(ConnectionId::new_unchecked(1), connection);
            });
        }
        let may_name = |addr: &str| {
            let addr = addr.parse().expect("a multiaddr");
            [near, far, relayed].map(|peer| strangers.may_name(&peer, &addr))
        };
        for public in ["/ip4/198.51.100.1/tcp/1", "/ip6/2001:db8::1/udp/1/quic-v1"] {
            assert_eq!(may_name(public), [true; 3], "{public}");
        }
        assert_eq!(may_name("/ip4/10.0.0.7/tcp/22"), [true, false, false]);
        for private in [
            "/ip4/127.0.0.1/tcp/3000",
            "/ip4/10.0.0.8/tcp/22",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/::1/tcp/1",
            "/ip6/::ffff:127.0.0.1/tcp/1",
            "/dns4/localhost/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
        ] {
            assert_eq!(may_name(private), [false; 3], "{private}");
        }
    }
}
