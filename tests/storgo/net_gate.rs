//! Who may speak to a cluster, seen from the swarm alone.

use libp2p::{
    Multiaddr,
    futures::{AsyncReadExt, AsyncWriteExt},
};
use storgo::{
    content::secret::MembershipKey,
    net::{NetError, NetEvent},
};
use tokio::sync::{broadcast::error::TryRecvError, mpsc};

use super::net::{PROTOCOL, start, within};

const LISTEN: [&str; 4] =
    ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"];

fn any_cluster() -> MembershipKey {
    crate::cluster::random_key().membership()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stranger_gets_a_connection_and_a_member_gets_a_stream() {
    let key = any_cluster();
    for listen in LISTEN {
        let mut inside = start(|options| {
            options.listen = vec![listen.parse().expect("a multiaddr")];
            options.membership = Some(key.clone());
        })
        .await;
        let (addr, peer) = (inside.net.listen_addrs().remove(0), inside.net.peer_id());
        let mut seen = inside.net.events();
        for membership in [None, Some(any_cluster())] {
            let stranger = start(|options| options.membership = membership).await;
            // On QUIC, a stranger who knows of no proof believes to be connected until it is hung up on.
            drop(within("refused", stranger.net.connect(addr.clone())).await);
            if let Ok(mut stream) = within("refused", stranger.net.open(peer, PROTOCOL)).await {
                let heard = within("hung up on", stream.read(&mut [0])).await;
                assert!(!matches!(heard, Ok(1..)), "{listen}: {heard:?}");
            }
            assert!(matches!(inside.streams.try_recv(), Err(mpsc::error::TryRecvError::Empty)), "{listen}");
            stranger.net.shutdown().await;
        }
        assert!(matches!(seen.try_recv(), Err(TryRecvError::Empty)), "{listen}: nobody was let in");

        let member = start(|options| options.membership = Some(key.clone())).await;
        assert_eq!(within("welcome", member.net.connect(addr)).await.expect("welcome"), peer, "{listen}");
        let mut stream = within("opened", member.net.open(peer, PROTOCOL)).await.expect("opened");
        stream.write_all(b"x").await.expect("written");
        stream.flush().await.expect("flushed");
        let (from, _) = within("accepted", inside.streams.recv()).await.expect("a stream");
        assert_eq!(from, member.net.peer_id(), "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_does_not_connect_to_a_node_without_its_key() {
    for listen in LISTEN {
        for membership in [None, Some(any_cluster())] {
            let has_key = membership.is_some();
            let outsider = start(|options| {
                options.listen = vec![listen.parse().expect("a multiaddr")];
                options.membership = membership;
            })
            .await;
            let addr: Multiaddr = outsider.net.listen_addrs().remove(0);
            let member = start(|options| options.membership = Some(any_cluster())).await;
            let mut events = member.net.events();
            let refused = within("refused", member.net.connect(addr)).await;
            let Err(NetError::Dial(why)) = refused else { panic!("{listen}: {refused:?}") };
            assert!(!has_key || why.contains("belongs to a cluster"), "{listen}: {why}");
            while let Ok(event) = events.try_recv() {
                assert!(!matches!(event, NetEvent::Connected { .. }), "{listen}: {event:?}");
            }
            assert_eq!(member.net.connected(), [], "{listen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_hung_up_on_by_a_cluster_is_told_where_on_either_transport() {
    for listen in LISTEN {
        let inside = start(|options| {
            options.listen = vec![listen.parse().expect("a multiaddr")];
            options.membership = Some(any_cluster());
        })
        .await;
        let addr = inside.net.listen_addrs().remove(0);
        let outside = start(|options| options.bootstrap = vec![addr.clone()]).await;
        let told = async {
            loop {
                match outside.net.outside() {
                    Some(told) => return told,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        assert_eq!(within("told", told).await, addr, "{listen}");
    }
}
