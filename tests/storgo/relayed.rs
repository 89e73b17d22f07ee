//! Nodes that listen nowhere are found and read through a relay.

use libp2p::Multiaddr;
use storgo::net::NetOptions;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::{
    hostile::{
        Caller, Connection,
        protobuf::{bytes_field, framed, number_field, read_message},
    },
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

/// A node that cannot be dialled, with a reservation at the relay.
async fn start_behind(relay: &Multiaddr) -> TestNode {
    let node = start_with(|options| {
        options.listen = Vec::new();
        options.bootstrap = vec![relay.clone()];
    })
    .await;
    let reserved = async {
        while !node.status().await.expect("status").listen.iter().any(|addr| addr.contains("p2p-circuit")) {
            tokio::task::yield_now().await;
        }
    };
    within("reserved", reserved).await;
    node
}

/// Returns whether all connections to the other node are relayed. `None` means that there is none.
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
async fn a_file_longer_than_the_limit_of_a_circuit_is_read_over_several_circuits() {
    let (_relay, addr) = relay(|options| options.circuit_bytes = 4 << 20).await;
    let (writer, reader) = (start_behind(&addr).await, start_behind(&addr).await);
    let (link, bytes) = provided(&writer, 10 << 20).await;
    assert!(get(&reader, &link).await.expect("read") == bytes);
    assert_eq!(is_relayed(&reader, &writer).await, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_connect_directly_if_one_of_them_can_be_dialled() {
    let (_relay, addr) = relay(|_| {}).await;
    let writer = start_behind(&addr).await;
    let (link, bytes) = provided(&writer, 3 << 20).await;
    let reader = start_with(|options| options.bootstrap = vec![addr.clone()]).await;
    assert!(get(&reader, &link).await.expect("read") == bytes);
    let direct = async {
        while is_relayed(&reader, &writer).await != Some(false) {
            tokio::task::yield_now().await;
        }
    };
    within("direct", direct).await;
    assert!(get(&reader, &link).await.expect("read") == bytes);
}

/// Connects to a node through a relay.
async fn connect_through(relay: &Connection, node: &TestNode) -> Connection {
    let mut circuit = relay.open("/libp2p/circuit/relay/0.2.0/hop").await.expect("opened");
    let target = bytes_field(2, &bytes_field(1, &node.peer_id().to_bytes()));
    circuit.write_all(&framed(&[number_field(1, 1), target].concat())).await.expect("sent");
    read_message(&mut circuit).await.expect("connected");
    Caller::stranger().connect_over(circuit).await.expect("authenticated")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_punch_does_not_lead_to_a_private_address_that_a_stranger_names() {
    let (_relay, addr) = relay(|_| {}).await;
    let node = start_behind(&addr).await;
    let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = target.local_addr().expect("an address").port();
    let named: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr");
    let relay = Caller::stranger().connect(&addr).await.expect("connected");
    let stranger = connect_through(&relay, &node).await;
    let punched = async {
        // The node begins again after each dial that has failed.
        for _ in 0..2 {
            let mut stream = loop {
                let (protocol, stream) = stranger.accept().await.expect("a stream");
                if protocol == "/libp2p/dcutr" {
                    break stream;
                }
            };
            read_message(&mut stream).await.expect("its addresses");
            let answer = [number_field(1, 100), bytes_field(2, &named.to_vec())].concat();
            stream.write_all(&framed(&answer)).await.expect("sent");
            read_message(&mut stream).await.expect("the signal");
        }
    };
    tokio::select! {
        () = within("two attempts", punched) => {}
        _ = target.accept() => panic!("the node called the target"),
    }
}
