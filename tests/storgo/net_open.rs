//! Connections and streams to peers, with all kinds of addresses and with a peer id alone.

use libp2p::{
    PeerId, StreamProtocol,
    futures::{AsyncReadExt, AsyncWriteExt},
};
use storgo::net::NetError;

use super::{
    net::{PROTOCOL, joined, start, within},
    swarm::tcp,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_address_can_be_dialled() {
    for (listen, transport) in [
        ("/ip4/127.0.0.1/tcp/0", "tcp"),
        ("/ip4/127.0.0.1/udp/0/quic-v1", "quic"),
        ("/ip6/::1/tcp/0", "tcp"),
        ("/ip6/::1/udp/0/quic-v1", "quic"),
    ] {
        let server = start(|options| options.listen = vec![listen.parse().expect("a multiaddr")]).await;
        let full = server.net.listen_addrs().remove(0).to_string();
        let without_id = full.split("/p2p/").next().expect("split").to_owned();
        let named = without_id.replace("/ip4/127.0.0.1/", "/dns4/localhost/");
        for addr in [full, without_id, named] {
            let client = start(|_| {}).await;
            let peer = within(&addr, client.net.connect(addr.parse().expect("a multiaddr"))).await;
            assert_eq!(peer.expect("connected"), server.net.peer_id(), "{addr}");
            let info = client.net.peers().remove(0);
            assert_eq!(
                (info.peer, info.transport(), info.relayed()),
                (server.net.peer_id(), transport, false)
            );
            client.net.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_found_by_its_id_in_the_dht() {
    let hub = start(|options| options.listen = vec![tcp()]).await;
    let addr = hub.net.listen_addrs().remove(0);
    let mut wanted = start(|options| {
        options.listen = vec![tcp()];
        options.bootstrap = vec![addr.clone()];
    })
    .await;
    within("joined", joined(&wanted.net)).await;
    let asker = start(|options| options.bootstrap = vec![addr]).await;
    within("joined", joined(&asker.net)).await;
    let mut stream = within("opened", asker.net.open(wanted.net.peer_id(), PROTOCOL)).await.expect("opened");
    stream.write_all(b"x").await.expect("written");
    stream.flush().await.expect("flushed");
    assert_eq!(within("accepted", wanted.streams.recv()).await.expect("a stream").0, asker.net.peer_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dial_or_stream_reports_the_reason() {
    let (node, other) = (start(|options| options.listen = vec![tcp()]).await, start(|_| {}).await);
    let itself = within("itself", node.net.open(node.net.peer_id(), PROTOCOL)).await;
    assert!(
        matches!(&itself, Err(NetError::Dial { reason: why, .. }) if why.contains("this node itself")),
        "{itself:?}"
    );

    let nobody = PeerId::random();
    let unknown = within("unknown", node.net.open(nobody, PROTOCOL)).await;
    assert!(matches!(unknown, Err(NetError::NoAddress(peer)) if peer == nobody), "{unknown:?}");

    let addr = node.net.listen_addrs().remove(0);
    let other_protocol = StreamProtocol::new("/other/1.0.0");
    within("connected", other.net.connect(addr.clone())).await.expect("connected");
    // The protocol is negotiated with the first bytes.
    let mut stream =
        within("other protocol", other.net.open(node.net.peer_id(), other_protocol)).await.expect("offered");
    let read = within("refused", stream.read(&mut [0])).await;
    assert!(read.is_err(), "{read:?}");

    let wrong = addr.to_string().replace(&node.net.peer_id().to_string(), &nobody.to_string());
    let wrong = within("wrong", other.net.connect(wrong.parse().expect("a multiaddr"))).await;
    let actual = node.net.peer_id().to_string();
    assert!(matches!(&wrong, Err(NetError::Dial { reason: why, .. }) if why.contains(&actual)), "{wrong:?}");

    let no_name =
        within("no name", other.net.connect("/dns4/nosuch.invalid/tcp/1".parse().expect("valid"))).await;
    assert!(
        matches!(&no_name, Err(NetError::Dial { reason: why, .. }) if why.contains("no DNS record for nosuch.invalid")),
        "{no_name:?}"
    );

    let gone = node.net.peer_id();
    within("connected", other.net.connect(addr)).await.expect("connected");
    node.net.shutdown().await;
    within("lost", async {
        let mut events = other.net.events();
        while other.net.connected().contains(&gone) {
            drop(events.recv().await);
        }
    })
    .await;
    let refused = within("gone", other.net.open(gone, PROTOCOL)).await;
    assert!(
        matches!(&refused, Err(NetError::Dial { reason: why, .. }) if why.contains("refused")),
        "{refused:?}"
    );
    other.net.shutdown().await;
    assert!(matches!(other.net.open(gone, PROTOCOL).await, Err(NetError::Closed)));
}
