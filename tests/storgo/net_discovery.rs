//! Discovery of peers and providers, and recovery after peers or connections were lost.

use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};
use storgo::net::{NetEvent, RememberedPeer};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    net::{Member, PROTOCOL, found, joined, root, start, within},
    swarm::tcp,
};

async fn start_at(keypair: &Keypair, addr: &Multiaddr) -> Member {
    start(|options| {
        options.keypair = keypair.clone();
        options.listen = vec![addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()];
    })
    .await
}

/// Waits for an event.
async fn until(events: &mut Receiver<NetEvent>, wanted: impl Fn(&NetEvent) -> bool) {
    loop {
        match events.recv().await {
            Ok(event) if wanted(&event) => return,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => panic!("the network has ended"),
        }
    }
}

fn is_lost(event: &NetEvent) -> bool {
    matches!(event, NetEvent::Lost { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_node_finds_a_provider_through_the_dht() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let on_it = || vec![listen.parse().expect("a multiaddr")];
        let hub = start(|options| options.listen = on_it()).await;
        // Without the peer id, as a user types it.
        let full = hub.net.listen_addrs().remove(0).to_string();
        let addr: Multiaddr = full.split("/p2p/").next().expect("split").parse().expect("a multiaddr");
        let join = |options: &mut storgo::net::NetOptions| {
            options.listen = on_it();
            options.bootstrap = vec![addr.clone()];
        };
        let provider = start(join).await;
        provider.net.provide(root(1)).await;
        assert_eq!(within("announced", provider.net.announced(root(1))).await.expect("announced"), 1);
        let asker = start(join).await;
        within("joined", joined(&asker.net)).await;
        assert_eq!(found(&asker.net, root(1)).await, [provider.net.peer_id()], "{listen}");
        within("opened", asker.net.open(provider.net.peer_id(), PROTOCOL)).await.expect("opened");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_rejoins_through_remembered_peers() {
    let hub = start(|options| options.listen = vec![tcp()]).await;
    let member = start(|options| options.bootstrap = hub.net.listen_addrs()).await;
    within("joined", joined(&member.net)).await;
    let remembered = member.net.snapshot().await.expect("a snapshot").remembered;
    member.net.shutdown().await;
    let again = start(|options| options.remembered = remembered).await;
    within("joined", joined(&again.net)).await;
    assert_eq!(again.net.connected(), [hub.net.peer_id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn remembered_peers_that_are_down_at_start_are_dialled_until_they_are_back() {
    let keypair = Keypair::generate_ed25519();
    let hub = start_at(&keypair, &tcp()).await;
    let addr = hub.net.listen_addrs().remove(0);
    let member = start(|options| options.bootstrap = hub.net.listen_addrs()).await;
    within("joined", joined(&member.net)).await;
    let remembered = member.net.snapshot().await.expect("a snapshot").remembered;
    assert_eq!(remembered.len(), 1);
    hub.net.shutdown().await;
    member.net.shutdown().await;

    let again = start(|options| options.remembered.clone_from(&remembered)).await;
    // A run without any peer does not lose the remembered ones.
    assert_eq!(again.net.snapshot().await.expect("a snapshot").remembered, remembered);
    let mut events = again.net.events();
    let back = start_at(&keypair, &addr).await;
    within("joined", joined(&again.net)).await;

    // Once more, after a connection.
    back.net.shutdown().await;
    within("lost", until(&mut events, is_lost)).await;
    let _back = start_at(&keypair, &addr).await;
    within("joined again", joined(&again.net)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_without_peers_is_made_when_a_peer_connects_or_reconnects() {
    let keypair = Keypair::generate_ed25519();
    let hub = start_at(&keypair, &tcp()).await;
    let addr = hub.net.listen_addrs().remove(0);
    hub.net.shutdown().await;
    let alone = start(|options| options.bootstrap = vec![addr.clone()]).await;
    alone.net.provide(root(1)).await;
    // The reply shows that the command before was handled.
    alone.net.snapshot().await.expect("a snapshot");
    assert_eq!(alone.net.announcements(), (0, 1));
    let hub = start_at(&keypair, &addr).await;
    assert_eq!(within("announced", alone.net.announced(root(1))).await.expect("announced"), 1);

    let mut events = alone.net.events();
    hub.net.shutdown().await;
    within("lost", until(&mut events, is_lost)).await;
    alone.net.provide(root(2)).await;
    let hub = start_at(&keypair, &addr).await;
    assert_eq!(within("announced", alone.net.announced(root(2))).await.expect("announced"), 1);
    assert_eq!(found(&hub.net, root(2)).await, [alone.net.peer_id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_unprovide_no_announcement_is_in_flight() {
    let hub = start(|_| {}).await;
    let provider = start(|options| options.bootstrap = hub.net.listen_addrs()).await;
    within("joined", joined(&provider.net)).await;
    for n in 0..200 {
        provider.net.provide(root(n)).await;
        within("ended", provider.net.unprovide(root(n))).await;
        assert_eq!(provider.net.announcements().1, 0, "{n}");
    }
    assert!(within("not provided", provider.net.announced(root(1))).await.is_err(), "it is not provided");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dials_itself_reports_no_duplicate_identity() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr");
    let node = start(|options| {
        options.listen = vec![addr.clone()];
        options.bootstrap = vec![addr];
    })
    .await;
    let mut events = node.net.events();
    let warned = until(&mut events, |event| matches!(event, NetEvent::DuplicateIdentity { .. }));
    // Longer than the detection takes.
    tokio::time::timeout(Duration::from_secs(5), warned).await.expect_err("it is the same machine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_tcp_ends_the_dial_over_quic_early() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    // A UDP socket that never answers.
    let _silent = std::net::UdpSocket::bind(("127.0.0.1", port)).expect("free as well");
    drop(listener);
    let gone = Keypair::generate_ed25519().public().to_peer_id();
    let known = [format!("/ip4/127.0.0.1/tcp/{port}"), format!("/ip4/127.0.0.1/udp/{port}/quic-v1")];
    let addrs = known.iter().map(|addr| addr.parse().expect("a multiaddr")).collect();
    let node = start(|options| options.remembered = vec![RememberedPeer { peer: gone, addrs }]).await;
    let start = Instant::now();
    within("refused", node.net.open(gone, PROTOCOL)).await.expect_err("nobody is there");
    // The handshake timeout of QUIC is five seconds.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

/// A record in a snapshot: key, provider, seconds.
#[derive(serde::Deserialize)]
struct Saved(serde::de::IgnoredAny, serde_bytes::ByteBuf, serde::de::IgnoredAny);

#[derive(serde::Deserialize)]
struct SavedRecords {
    records: Vec<Saved>,
}

/// Returns whether the hub holds a record of this provider. A query would also ask the provider, which names itself.
async fn holds(hub: &Member, provider: PeerId) -> bool {
    let saved = hub.net.snapshot().await.expect("a snapshot").records;
    let saved: SavedRecords = serde_ipld_dagcbor::from_slice(&saved).expect("CBOR");
    saved.records.iter().any(|Saved(_, of, _)| *of == provider.to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_expires_unless_it_is_announced_again() {
    const TTL: Duration = Duration::from_secs(3);
    let hub = start(|options| options.record_ttl = TTL).await;
    let keeper = start(|options| {
        options.bootstrap = hub.net.listen_addrs();
        options.republish = TTL / 10;
    })
    .await;
    let gone = start(|options| options.bootstrap = hub.net.listen_addrs()).await;
    let (kept_id, gone_id) = (keeper.net.peer_id(), gone.net.peer_id());
    let mut announcements = keeper.net.events();
    let begun = Instant::now();
    for provider in [&keeper, &gone] {
        provider.net.provide(root(1)).await;
        within("announced", provider.net.announced(root(1))).await.expect("announced");
    }
    within("both are known", async { while !holds(&hub, gone_id).await {} }).await;
    // It ends without a withdrawal, so its record expires.
    gone.net.shutdown().await;
    let outlived = async {
        loop {
            until(&mut announcements, |event| matches!(event, NetEvent::Announced { .. })).await;
            if begun.elapsed() > 3 * TTL && holds(&hub, kept_id).await && !holds(&hub, gone_id).await {
                return;
            }
        }
    };
    within("outlived", outlived).await;
    keeper.net.shutdown().await;
    within("ended", async { while holds(&hub, kept_id).await {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_another_peer_does_not_fail_the_whole_dial() {
    let without_id =
        |addr: &Multiaddr| addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let own: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr");
    let third = start(|options| options.listen = vec![tcp()]).await;
    let peer = start(|options| options.listen = vec![tcp()]).await;
    // A peer in another network reports addresses that lead to this node and to a third one here.
    let [elsewhere, at] = [&third, &peer].map(|member| without_id(&member.net.listen_addrs()[0]));
    let remembered = RememberedPeer { peer: peer.net.peer_id(), addrs: vec![own.clone(), elsewhere, at] };
    let node = start(|options| {
        options.listen = vec![own];
        options.remembered = vec![remembered];
    })
    .await;
    within("opened", node.net.open(peer.net.peer_id(), PROTOCOL)).await.expect("opened");
}
