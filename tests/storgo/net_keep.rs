//! Idle connections and the connection limits.

use std::time::Duration;

use libp2p::{
    PeerId, Stream,
    futures::AsyncWriteExt,
    identity::Keypair,
    kad::{KBucketDistance, KBucketKey},
};
use storgo::net::{Net, NetEvent};
use tokio::sync::broadcast::Receiver;

use super::{
    net::{Member, PROTOCOL, start, within},
    swarm::DEADLINE,
};

async fn lost(events: &mut Receiver<NetEvent>) -> PeerId {
    loop {
        if let NetEvent::Lost { peer } = events.recv().await.expect("it runs") {
            return peer;
        }
    }
}

/// Starts a node with this identity that dials the server.
async fn dial(server: &Net, keypair: Keypair) -> Member {
    let client = start(|options| options.keypair = keypair).await;
    drop(client.net.connect(server.listen_addrs().remove(0)).await);
    client
}

/// Returns both ends of a stream. Tries again if the connection closes meanwhile.
async fn open_stream(client: &Net, server: &mut Member) -> (Stream, Stream) {
    loop {
        let Ok(mut stream) = client.open(server.net.peer_id(), PROTOCOL).await else { continue };
        if stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
            let held = tokio::time::timeout(DEADLINE / 10, server.streams.recv()).await;
            if let Ok(Some((peer, held))) = held {
                assert_eq!(peer, client.peer_id());
                return (stream, held);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_except_to_the_nearest_peers() {
    let mut server = start(|options| {
        options.max_connections = 40;
        options.idle_timeout = Duration::from_millis(500);
    })
    .await;
    let local = KBucketKey::from(server.net.peer_id());
    let far = |peer: PeerId| -> KBucketDistance { local.distance(&KBucketKey::from(peer)) };
    let mut keys: Vec<Keypair> = (0..13).map(|_| Keypair::generate_ed25519()).collect();
    keys.sort_by_key(|key| far(key.public().to_peer_id()));
    // A quarter of forty is protected. The farthest peers connect first and lose their protection to the others.
    let nearest: Vec<PeerId> = keys[..10].iter().map(|key| key.public().to_peer_id()).collect();
    let mut events = server.net.events();
    let mut clients = Vec::new();
    for key in keys.into_iter().rev() {
        clients.push(dial(&server.net, key).await);
    }
    // A peer that was disconnected may connect again. No other may be lost.
    let mut unprotected = Vec::new();
    while unprotected.len() < 3 {
        let peer = within("closed", lost(&mut events)).await;
        assert!(!nearest.contains(&peer));
        if !unprotected.contains(&peer) {
            unprotected.push(peer);
        }
    }
    // A connection with an open stream stays, while another one is closed.
    let busy = &clients[0].net;
    let (stream, held) = within("accepted", open_stream(busy, &mut server)).await;
    let mut keys = std::iter::repeat_with(Keypair::generate_ed25519);
    let far_away = |key: &Keypair| far(key.public().to_peer_id()) > far(nearest[9]);
    let idle = dial(&server.net, keys.find(far_away).expect("endless")).await;
    loop {
        let peer = within("closed", lost(&mut events)).await;
        assert!(!nearest.contains(&peer) && peer != busy.peer_id());
        if peer == idle.net.peer_id() {
            break;
        }
    }
    drop((stream, held));
    while within("closed", lost(&mut events)).await != busy.peer_id() {}
    let connected = server.net.connected();
    assert!(nearest.iter().all(|peer| connected.contains(peer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn incoming_connections_leave_room_for_outgoing_ones() {
    let server = start(|options| options.max_connections = 8).await;
    let others = [start(|_| {}).await, start(|_| {}).await];
    let mut events = server.net.events();
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(dial(&server.net, Keypair::generate_ed25519()).await);
    }
    let mut connected = 0;
    while connected < 6 {
        let event = within("connected", events.recv()).await.expect("it runs");
        connected += usize::from(matches!(event, NetEvent::Connected { .. }));
    }
    for other in &others {
        let addr = other.net.listen_addrs().remove(0);
        assert_eq!(within("connected", server.net.connect(addr)).await.expect("room"), other.net.peer_id());
    }
    assert_eq!(server.net.connected().len(), 8);
}
