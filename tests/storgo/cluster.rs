//! Strangers and members.

use std::time::Duration;

use libp2p::Multiaddr;
use storgo::{
    content::secret::{ClusterKey, Key},
    node::{ErrorCode, Reference},
};

use super::swarm::{get, noise, put, start_with};

/// The key of a new cluster.
pub(super) fn random_key() -> ClusterKey {
    ClusterKey::new(Key::new(rand::random()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_on_tcp_and_on_quic_and_a_member_is_not() {
    let key = random_key();
    for listen in
        ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"]
    {
        let listen: Multiaddr = listen.parse().expect("a multiaddr");
        let inside = start_with(|options| {
            options.cluster = Some(key.clone());
            options.listen = vec![listen.clone()];
        })
        .await;
        let addr: Multiaddr = inside.status().await.expect("status").listen[0].parse().expect("a multiaddr");
        let bytes = noise(1, 100_000);
        let report = put(&inside, &bytes).await;

        for stranger_key in [None, Some(random_key())] {
            let stranger = start_with(|options| options.cluster = stranger_key).await;
            // On QUIC, one who knows of no proof believes to be connected until it is hung up on.
            if let Err(error) = stranger.connect(addr.clone()).await {
                assert_eq!(error.code, ErrorCode::Unreachable, "{addr}: {error}");
            }
            let reference = Reference::from(report.link.as_str());
            let error =
                stranger.open(&reference, Some(Duration::from_secs(2))).await.map(drop).expect_err("refused");
            let outside =
                matches!(error.code, ErrorCode::Unreachable | ErrorCode::Timeout | ErrorCode::NotFound);
            assert!(outside, "{addr}: {error}");
            assert_eq!(inside.status().await.expect("status").peers, 0, "{addr}");
        }
        let member = start_with(|options| options.cluster = Some(key.clone())).await;
        member.connect(addr.clone()).await.expect("welcome");
        assert!(get(&member, &report.link).await.expect("read") == bytes, "{addr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_as_good_as_an_address() {
    let node = start_with(|_| {}).await;
    let listen = node.status().await.expect("status").listen[0].clone();
    let named = listen.replace("/ip4/127.0.0.1", "/dns4/localhost");
    let other = start_with(|_| {}).await;
    assert_eq!(
        other.connect(named.parse().expect("a multiaddr")).await.expect("connected"),
        node.peer_id().to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_another_peers_id_says_who_is_there() {
    let node = start_with(|_| {}).await;
    let listen = node.status().await.expect("status").listen[0].clone();
    let wrong = listen.replace(&node.peer_id().to_string(), &libp2p::PeerId::random().to_string());
    let other = start_with(|_| {}).await;
    let error = other.connect(wrong.parse().expect("a multiaddr")).await.expect_err("another peer");
    assert!(error.message.contains(&node.peer_id().to_string()), "{error}");
}
