//! Access to the files of a cluster, and dials by name and with a wrong peer id.

use std::time::Duration;

use libp2p::Multiaddr;
use storgo::{
    content::secret::{ClusterKey, Key},
    node::{ErrorCode, Reference},
};

use super::swarm::{get, noise, put, start_with};

/// Returns the key of a new cluster.
pub(super) fn random_key() -> ClusterKey {
    ClusterKey::new(Key::new(rand::random()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_outside_the_cluster_cannot_read_and_a_member_can() {
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

        for other_key in [None, Some(random_key())] {
            let outsider = start_with(|options| options.cluster = other_key).await;
            // On QUIC, a node that knows of no proof is connected until the member closes the connection.
            if let Err(error) = outsider.connect(addr.clone()).await {
                assert_eq!(error.code, ErrorCode::Unreachable, "{addr}: {error}");
            }
            let reference = Reference::from(report.link.as_str());
            let error =
                outsider.open(&reference, Some(Duration::from_secs(2))).await.map(drop).expect_err("refused");
            let expected =
                matches!(error.code, ErrorCode::Unreachable | ErrorCode::Timeout | ErrorCode::NotFound);
            assert!(expected, "{addr}: {error}");
            assert_eq!(inside.status().await.expect("status").peers, 0, "{addr}");
        }
        let member = start_with(|options| options.cluster = Some(key.clone())).await;
        member.connect(addr.clone()).await.expect("connected");
        assert!(get(&member, &report.link).await.expect("read") == bytes, "{addr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_can_be_dialled_by_a_dns_name() {
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
async fn a_dial_with_a_wrong_peer_id_reports_the_actual_peer() {
    let node = start_with(|_| {}).await;
    let listen = node.status().await.expect("status").listen[0].clone();
    let wrong = listen.replace(&node.peer_id().to_string(), &libp2p::PeerId::random().to_string());
    let other = start_with(|_| {}).await;
    let error = other.connect(wrong.parse().expect("a multiaddr")).await.expect_err("another peer");
    assert!(error.message.contains(&node.peer_id().to_string()), "{error}");
}
