//! The behaviours of the swarm.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, autonat, connection_limits, dcutr, kad, mdns, ping, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle, dummy},
};

use super::{
    NetOptions,
    address_ranking::without_peer_id,
    connection_limits::{ConnectionLimits, Limits},
    delivered::DeliveredPeers,
    dial_back::DialBack,
    dial_backoff::DialBackoff,
    discovery::peer_of,
    filtered::Filtered,
    identify_scope::ScopedIdentify,
    provider_records::ProviderRecords,
    strangers::{ScopedKad, Strangers},
    streams::Streams,
};
use crate::content::secret::MembershipKey;

/// Maximum DHT message length in bytes: an answer names up to forty peers, some with all their addresses.
const MAX_MESSAGE: usize = 64 << 10;
/// Maximum connections with one peer.
const PER_PEER: u32 = 4;
/// Maximum duration of a DHT query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // These two are first, so that a refused connection reaches no other behaviour.
    simple_limits: connection_limits::Behaviour,
    pub(super) limits: ConnectionLimits,
    pub(super) dial_backoff: Filtered<dummy::Behaviour, DialBackoff>,
    pub(super) streams: Streams,
    pub(super) kad: ScopedKad,
    identify: ScopedIdentify,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    relay_client: relay::client::Behaviour,
    relay_server: Toggle<relay::Behaviour>,
    dcutr: Filtered<dcutr::Behaviour, Strangers>,
    pub(super) autonat_client: autonat::v2::client::Behaviour,
    autonat_server: Filtered<autonat::v2::server::Behaviour, DialBack>,
}

/// Returns the name of the DHT protocol. Each cluster has its own, so that nodes outside are never queried.
pub(super) fn kad_protocol(membership: Option<&MembershipKey>) -> StreamProtocol {
    match membership {
        None => StreamProtocol::new("/storgo/kad/1.0.0"),
        Some(key) => {
            let tag = data_encoding::HEXLOWER.encode(&key.derive("storgo v1 kad protocol").as_bytes()[..8]);
            StreamProtocol::try_from_owned(format!("/storgo/kad/1.0.0/{tag}")).expect("starts with a slash")
        }
    }
}

impl Behaviour {
    pub(super) fn new(
        options: &NetOptions,
        relay_client: relay::client::Behaviour,
        streams: Streams,
        limits: Limits,
        strangers: Strangers,
        delivered: DeliveredPeers,
    ) -> Self {
        let (public_key, local) = (options.keypair.public(), options.keypair.public().to_peer_id());
        let in_cluster = options.membership.is_some();
        let dials = u32::try_from(limits.total).unwrap_or(u32::MAX);
        let simple_limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_outgoing(Some(dials))
            .with_max_established_per_peer(Some(PER_PEER));
        let known = options.bootstrap.iter().filter_map(peer_of);
        let known = known.chain(options.remembered.iter().map(|remembered| remembered.peer));
        Self {
            simple_limits: connection_limits::Behaviour::new(simple_limits),
            limits: ConnectionLimits::new(limits, in_cluster, known, delivered.clone()),
            dial_backoff: Filtered::new(dummy::Behaviour, DialBackoff::default()),
            streams,
            kad: ScopedKad::new(kademlia(options, local, delivered), strangers.clone()),
            identify: ScopedIdentify::new(&public_key, strangers.clone()),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(30))),
            mdns: mdns_behaviour(options, local),
            relay_client,
            relay_server: options
                .relay_server
                .then(|| relay::Behaviour::new(local, relay_config(options)))
                .into(),
            dcutr: Filtered::new(dcutr::Behaviour::new(local), strangers.clone()),
            autonat_client: autonat::v2::client::Behaviour::default(),
            autonat_server: Filtered::new(
                autonat::v2::server::Behaviour::default(),
                DialBack::new(strangers),
            ),
        }
    }
}

fn kademlia(
    options: &NetOptions,
    local: PeerId,
    delivered: DeliveredPeers,
) -> kad::Behaviour<ProviderRecords> {
    let mut config = kad::Config::new(kad_protocol(options.membership.as_ref()));
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_max_packet_size(MAX_MESSAGE)
        .set_provider_record_ttl(Some(options.record_ttl))
        // `announce` schedules announcements.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        // `on_provider_record` stores the records of peers, with the host that they come from.
        .set_record_filtering(kad::StoreInserts::FilterBoth);
    let mut records = ProviderRecords::new(local, delivered);
    records.restore(&options.records, std::time::Instant::now());
    let mut kad = kad::Behaviour::with_config(local, records, config);
    // By default, a node without a confirmed public address does not serve, which would leave a private network without a
    // DHT.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// Replaces the addresses of a peer in the routing table. Kademlia itself only adds addresses, without limit.
pub(super) fn set_addresses(kad: &mut kad::Behaviour<ProviderRecords>, peer: PeerId, addrs: &[Multiaddr]) {
    let known = addresses(kad, peer);
    if known.is_empty() {
        // The peer may be pending for a full bucket, and addresses of pending peers cannot be read.
        kad.remove_peer(&peer);
    }
    for addr in addrs {
        kad.add_address(&peer, addr.clone());
    }
    for old in known.iter().filter(|old| !addrs.contains(&without_peer_id(old))) {
        kad.remove_address(&peer, old);
    }
}

/// Returns the addresses of a peer in the routing table.
pub(super) fn addresses(kad: &mut kad::Behaviour<ProviderRecords>, peer: PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(peer) else { return Vec::new() };
    let entry = bucket.iter().find(|entry| *entry.node.key.preimage() == peer);
    entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
}

/// Limits for relayed file transfers; the defaults of libp2p are for short messages.
fn relay_config(options: &NetOptions) -> relay::Config {
    relay::Config {
        max_circuits: 64,
        max_circuit_duration: Duration::from_secs(2 * 3600),
        max_circuit_bytes: options.circuit_bytes,
        ..relay::Config::default()
    }
}

/// Returns mDNS if it is enabled and the machine has a multicast interface.
fn mdns_behaviour(options: &NetOptions, local: PeerId) -> Toggle<mdns::tokio::Behaviour> {
    if !options.mdns {
        return None.into();
    }
    match mdns::tokio::Behaviour::new(mdns::Config::default(), local) {
        Ok(behaviour) => Some(behaviour).into(),
        Err(e) => {
            tracing::warn!("mDNS is not available, peers on the local network are not discovered: {e}");
            None.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;
    use crate::content::secret::{ClusterKey, Key};

    #[test]
    fn the_dht_protocol_of_a_cluster_matches_the_golden_vectors() {
        let vectors = include_str!("../../tests/vectors/keys.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).expect("JSON");
        let mut checked = 0;
        for case in vectors["cases"].as_array().expect("cases") {
            let Some(key) = case["given"]["cluster_key"].as_str() else { continue };
            let key = data_encoding::HEXLOWER.decode(key.as_bytes()).expect("hexadecimal");
            let cluster = ClusterKey::new(Key::new(key.try_into().expect("32 bytes")));
            let name = kad_protocol(Some(&cluster.membership()));
            assert_eq!(Some(name.as_ref()), case["expect"]["kad_protocol"].as_str());
            checked += 1;
        }
        assert!(checked > 0);
    }

    #[test]
    fn new_addresses_of_a_peer_replace_the_old_ones() {
        let options = NetOptions::new(Keypair::generate_ed25519());
        let mut kad = kademlia(&options, options.keypair.public().to_peer_id(), DeliveredPeers::default());
        // So many that some of them are pending.
        let peers: Vec<PeerId> = (0..60).map(|_| PeerId::random()).collect();
        for round in 0..50 {
            for peer in &peers {
                let reported: Vec<Multiaddr> = (0..4)
                    .map(|n| format!("/ip4/192.0.2.{n}/tcp/{}", 1000 + round).parse().expect("a multiaddr"))
                    .collect();
                set_addresses(&mut kad, *peer, &reported);
                let known: Vec<Multiaddr> = addresses(&mut kad, *peer).iter().map(without_peer_id).collect();
                assert!(known.is_empty() || known == reported, "{known:?}");
            }
        }
        assert!(peers.iter().any(|peer| !addresses(&mut kad, *peer).is_empty()));
    }
}
