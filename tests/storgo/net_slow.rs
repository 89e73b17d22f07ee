//! Peers behind a slow link: DHT queries continue without them, and dials to them are not given up.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, identity::Keypair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    net::{Member, PROTOCOL, joined, providers, root, start, within},
    swarm::{DEADLINE, addr_of, get, noise, put, start_knowing, start_with, tcp},
};

/// Longer than a DHT query waits for a dial.
const LONGER_THAN_WAIT: Duration = Duration::from_secs(3);

/// A TCP proxy that forwards nothing until it is opened.
struct Gate {
    addr: Multiaddr,
    /// The port of the node behind it.
    opened: watch::Sender<Option<u16>>,
    connections: Arc<AtomicU32>,
    /// Connections closed by the dialler before the gate was opened.
    given_up: Arc<AtomicU32>,
}

impl Gate {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (opened, _) = watch::channel(None);
        let (connections, given_up) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let gate = Self {
            addr: format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr"),
            opened: opened.clone(),
            connections: Arc::clone(&connections),
            given_up: Arc::clone(&given_up),
        };
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(hold(caller, opened.subscribe(), Arc::clone(&given_up)));
            }
        });
        gate
    }

    fn open(&self, member: &Member) {
        self.open_to(&member.net.listen_addrs()[0]);
    }

    fn open_to(&self, addr: &Multiaddr) {
        let port = addr.iter().find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        self.opened.send_replace(port);
    }

    fn given_up(&self) -> u32 {
        self.given_up.load(Ordering::Relaxed)
    }
}

async fn hold(mut caller: TcpStream, mut opened: watch::Receiver<Option<u16>>, given_up: Arc<AtomicU32>) {
    let (mut held, mut bytes) = (Vec::new(), [0; 1024]);
    let port = loop {
        tokio::select! {
            port = opened.wait_for(Option::is_some) => match port {
                Ok(port) => break port.expect("it is some"),
                Err(_) => return,
            },
            read = caller.read(&mut bytes) => {
                let Ok(len @ 1..) = read else {
                    given_up.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                held.extend_from_slice(&bytes[..len]);
            }
        }
    };
    let Ok(mut node) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    if node.write_all(&held).await.is_ok() {
        // Either side may close the connection.
        drop(copy_bidirectional(&mut caller, &mut node).await);
    }
}

/// Queries the DHT until a dial has reached the gate, and then for longer than a query waits for the dial.
async fn query_for_a_while(member: &Member, gate: &Gate) {
    let mut since = None;
    let querying = async {
        for n in 0.. {
            if gate.connections.load(Ordering::Relaxed) > 0 {
                let since: Instant = *since.get_or_insert_with(Instant::now);
                if since.elapsed() > LONGER_THAN_WAIT {
                    break;
                }
            }
            providers(&member.net, root(n)).await;
        }
    };
    within("queried", querying).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_node_on_a_slow_link_is_connected_while_the_dht_is_queried() {
    let (hub, far) = (
        start(|options| options.listen = vec![tcp()]).await,
        start(|options| options.listen = vec![tcp()]).await,
    );
    let gate = Gate::new().await;
    let far_addr = gate.addr.clone().with_p2p(far.net.peer_id()).expect("no id yet");
    let member = start(|options| options.bootstrap = vec![hub.net.listen_addrs().remove(0), far_addr]).await;
    within("joined", joined(&member.net)).await;
    query_for_a_while(&member, &gate).await;
    assert_eq!(gate.given_up(), 0, "a dial was given up");
    gate.open(&far);
    let connected = async {
        while !member.net.connected().contains(&far.net.peer_id()) {
            tokio::task::yield_now().await;
        }
    };
    within("connected", connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_moved_behind_a_slow_link_is_reached() {
    let keypair = Keypair::generate_ed25519();
    let hub = start(|options| options.listen = vec![tcp()]).await;
    let bootstrap = hub.net.listen_addrs();
    let gate = Gate::new().await;
    // The swarm knows only the address of the gate.
    let before = start(|options| {
        options.keypair = keypair.clone();
        options.listen = Vec::new();
        options.external = vec![gate.addr.clone()];
        options.bootstrap.clone_from(&bootstrap);
    })
    .await;
    within("joined", joined(&before.net)).await;
    within("joined", joined(&hub.net)).await;
    before.net.shutdown().await;
    let moved = start(|options| {
        options.keypair = keypair;
        options.listen = vec![tcp()];
    })
    .await;

    let member = start(|options| options.bootstrap = bootstrap).await;
    within("joined", joined(&member.net)).await;
    let (net, peer) = (member.net.clone(), moved.net.peer_id());
    let opening = tokio::spawn(async move { net.open(peer, PROTOCOL).await });
    query_for_a_while(&member, &gate).await;
    assert_eq!(gate.given_up(), 0, "a dial was given up");
    gate.open(&moved);
    within("opened", opening).await.expect("no panic").expect("a stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_without_peers_asks_the_first_one_that_connects() {
    let hub = start_with(|_| {}).await;
    let writer = start_knowing(&hub).await;
    let bytes = noise(1, 300_000);
    let report = put(&writer, &bytes).await;
    let placed = writer.placement(&report.link.as_str().into(), DEADLINE).await.expect("placed");
    assert!(placed.announced_to > 0);
    let gate = Gate::new().await;
    let reader = start_with(|options| options.bootstrap = vec![gate.addr.clone()]).await;
    let getting = get(&reader, &report.link);
    let mut getting = std::pin::pin!(getting);
    // With peers, the read would have failed by now.
    tokio::time::timeout(LONGER_THAN_WAIT, &mut getting).await.expect_err("no peer yet");
    gate.open_to(&addr_of(&hub).await);
    assert!(getting.await.expect("read") == bytes);
}
