//! The cluster gate, tested on the swarm alone.

use libp2p::{
    Multiaddr,
    futures::{AsyncReadExt, AsyncWriteExt},
};
use storgo::{
    content::secret::MembershipKey,
    net::{NetError, NetEvent},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{broadcast::error::TryRecvError, mpsc},
};

use super::net::{PROTOCOL, start, within};

const LISTEN: [&str; 4] =
    ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"];

fn any_cluster() -> MembershipKey {
    crate::cluster::random_key().membership()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_key_gets_no_connection_and_a_member_gets_a_stream() {
    let key = any_cluster();
    for listen in LISTEN {
        let mut inside = start(|options| {
            options.listen = vec![listen.parse().expect("a multiaddr")];
            options.membership = Some(key.clone());
        })
        .await;
        let (addr, peer) = (inside.net.listen_addrs().remove(0), inside.net.peer_id());
        let mut events = inside.net.events();
        for membership in [None, Some(any_cluster())] {
            let outsider = start(|options| options.membership = membership).await;
            // On QUIC, a node that knows of no proof is connected until the member closes the connection.
            drop(within("refused", outsider.net.connect(addr.clone())).await);
            if let Ok(mut stream) = within("refused", outsider.net.open(peer, PROTOCOL)).await {
                let read = within("closed", stream.read(&mut [0])).await;
                assert!(!matches!(read, Ok(1..)), "{listen}: {read:?}");
            }
            assert!(matches!(inside.streams.try_recv(), Err(mpsc::error::TryRecvError::Empty)), "{listen}");
            outsider.net.shutdown().await;
        }
        assert!(matches!(events.try_recv(), Err(TryRecvError::Empty)), "{listen}: no connection");

        let member = start(|options| options.membership = Some(key.clone())).await;
        assert_eq!(within("connected", member.net.connect(addr)).await.expect("connected"), peer, "{listen}");
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
            let Err(NetError::Dial { reason: why, .. }) = refused else { panic!("{listen}: {refused:?}") };
            assert!(!has_key || why.contains("belongs to a cluster"), "{listen}: {why}");
            while let Ok(event) = events.try_recv() {
                assert!(!matches!(event, NetEvent::Connected { .. }), "{listen}: {event:?}");
            }
            assert_eq!(member.net.connected(), [], "{listen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_outside_reports_the_address_of_the_cluster_on_every_transport() {
    for listen in LISTEN {
        let inside = start(|options| {
            options.listen = vec![listen.parse().expect("a multiaddr")];
            options.membership = Some(any_cluster());
        })
        .await;
        let addr = inside.net.listen_addrs().remove(0);
        let outside = start(|options| options.bootstrap = vec![addr.clone()]).await;
        let reported = async {
            loop {
                match outside.net.other_cluster() {
                    Some(reported) => return reported,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        assert_eq!(within("reported", reported).await, addr, "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_at_a_dialled_address_is_not_called_another_cluster() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = server.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = server.accept().await {
            let _ = caller.read(&mut [0; 1024]).await;
            let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    for membership in [None, Some(any_cluster())] {
        let node = start(|options| options.membership = membership).await;
        let addr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr");
        let refused = within("refused", node.net.connect(addr)).await;
        let Err(NetError::Dial { reason: why, .. }) = refused else { panic!("{refused:?}") };
        assert!(!why.contains("cluster"), "{why}");
        assert_eq!(node.net.other_cluster(), None);
    }
}
