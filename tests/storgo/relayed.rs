//! Nodes that nobody can call, since they listen nowhere: found and read through a relay.

use libp2p::Multiaddr;
use storgo::net::NetOptions;

use super::{
    net::{Member, start, within},
    swarm::{DEADLINE, TestNode, get, noise, put, start_with, tcp},
};

async fn relay(change: impl FnOnce(&mut NetOptions)) -> (Member, Multiaddr) {
    let relay = start(|options| {
        options.listen = vec![tcp()];
        options.relay_server = true;
        change(options);
    })
    .await;
    let addr = relay.net.listen_addrs().remove(0);
    (relay, addr)
}

/// A node that calls and cannot be called; ready when it has a place at the relay.
async fn uncallable(relay: &Multiaddr) -> TestNode {
    let node = start_with(|options| {
        options.listen = Vec::new();
        options.bootstrap = vec![relay.clone()];
    })
    .await;
    let placed = async {
        while !node.status().await.expect("status").listen.iter().any(|addr| addr.contains("p2p-circuit")) {
            tokio::task::yield_now().await;
        }
    };
    within("a place at the relay", placed).await;
    node
}

/// Whether all ways from one node to the other lead through a relay; none where there is no way.
async fn is_relayed(from: &TestNode, to: &TestNode) -> Option<bool> {
    let peers = from.peers().await.expect("peers");
    peers.iter().find(|peer| peer.peer == to.peer_id().to_string()).map(|peer| peer.relayed)
}

async fn provided(node: &TestNode, len: usize) -> (String, Vec<u8>) {
    let bytes = noise(1, len);
    let report = put(node, &bytes).await;
    let placed = node.placement(&report.link.as_str().into(), DEADLINE).await.expect("placed");
    assert!(placed.announced_to > 0);
    (report.link, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_longer_than_a_circuit_comes_through_circuit_by_circuit() {
    let (_relay, addr) = relay(|options| options.circuit_bytes = 4 << 20).await;
    let (writer, reader) = (uncallable(&addr).await, uncallable(&addr).await);
    let (link, bytes) = provided(&writer, 10 << 20).await;
    assert!(get(&reader, &link).await.expect("read") == bytes);
    assert_eq!(is_relayed(&reader, &writer).await, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_of_two_can_be_called_they_meet_without_the_relay() {
    let (_relay, addr) = relay(|_| {}).await;
    let writer = uncallable(&addr).await;
    let (link, bytes) = provided(&writer, 3 << 20).await;
    let reader = start_with(|options| options.bootstrap = vec![addr.clone()]).await;
    assert!(get(&reader, &link).await.expect("read") == bytes);
    let direct = async {
        while is_relayed(&reader, &writer).await != Some(false) {
            tokio::task::yield_now().await;
        }
    };
    within("met", direct).await;
    assert!(get(&reader, &link).await.expect("read") == bytes);
}
