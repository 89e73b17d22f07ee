//! The swarm alone, over memory and sockets.

use std::io;

use libp2p::{Multiaddr, PeerId, StreamProtocol, identity::Keypair};
use storgo::{
    content::cid::{Cid, Codec},
    net::{IncomingStreams, Net, NetError, NetEvent, NetOptions, Protocols},
};

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::swarm::DEADLINE;

/// A protocol that the network knows nothing of.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1.0.0");

pub struct Member {
    pub net: Net,
    pub streams: IncomingStreams,
}

pub async fn start(change: impl FnOnce(&mut NetOptions)) -> Member {
    let mut options = NetOptions { listen: vec![memory()], ..NetOptions::new(Keypair::generate_ed25519()) };
    change(&mut options);
    let mut protocols = Protocols::default();
    let streams = protocols.accept(PROTOCOL);
    let net = Net::start(options, protocols).await.expect("starts");
    Member { net, streams }
}

fn memory() -> Multiaddr {
    format!("/memory/{}", rand::random::<u64>() >> 1 | 1).parse().expect("a multiaddr")
}

pub fn root(n: u32) -> Cid {
    Cid::of(Codec::DagCbor, &n.to_be_bytes())
}

pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(4 * DEADLINE, work).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

pub async fn providers(net: &Net, root: Cid) -> Vec<PeerId> {
    let mut found = Vec::new();
    let mut search = net.find_providers(root).await;
    while let Some(peer) = search.recv().await {
        found.push(peer);
    }
    found.sort();
    found.dedup();
    found
}

/// Waits until there are providers: records of an announcement may still be in flight.
pub async fn found(net: &Net, root: Cid) -> Vec<PeerId> {
    let search = async {
        loop {
            let found = providers(net, root).await;
            if !found.is_empty() {
                return found;
            }
        }
    };
    within("found", search).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_nodes_find_the_files_of_each_other() {
    const NODES: u32 = 100;
    let hub = start(|_| {}).await;
    let addr = hub.net.listen_addrs().remove(0);
    let mut members = Vec::new();
    for _ in 0..NODES {
        members.push(start(|options| options.bootstrap = vec![addr.clone()]).await);
    }
    let mut announcements: Vec<_> = members.iter().map(|member| member.net.events()).collect();
    for (n, member) in (0..).zip(&members) {
        member.net.provide(root(n)).await;
    }
    let all_found = async {
        for (n, member) in (0_u32..).zip(&members) {
            let wanted = (n * 7919 + 13) % NODES;
            let holder = &members[wanted as usize].net;
            assert!(holder.announced(root(wanted)).await.expect("announced") > 0);
            while !providers(&member.net, root(wanted)).await.contains(&holder.peer_id()) {
                // While the swarm still grows, a record can be at peers that nobody queries yet. It is announced again.
                let again = next_announcement(&mut announcements[wanted as usize]);
                drop(tokio::time::timeout(DEADLINE / 6, again).await);
            }
        }
    };
    // Five thousand connections take as long as the machine needs.
    tokio::time::timeout(20 * DEADLINE, all_found).await.expect("all files are found");
}

async fn next_announcement(events: &mut Receiver<NetEvent>) {
    loop {
        match events.recv().await {
            Ok(NetEvent::Announced { peers: 1.., .. }) => return,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => panic!("the network has ended"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_many_addresses_find_the_files_of_each_other() {
    const NODES: usize = 25;
    let many = |options: &mut NetOptions| options.listen = (0..16).map(|_| memory()).collect();
    let hub = start(many).await;
    let join = |options: &mut NetOptions| {
        many(options);
        options.bootstrap = hub.net.listen_addrs();
    };
    let mut members = Vec::new();
    for _ in 0..NODES {
        members.push(start(join).await);
    }
    for member in &members {
        while member.net.connected().len() < NODES {
            tokio::task::yield_now().await;
        }
    }
    for (n, member) in (1..).zip(&members) {
        for root in [root(0), root(n)] {
            member.net.provide(root).await;
            within("announced", member.net.announced(root)).await.expect("announced");
        }
    }
    // An answer has twenty providers and twenty peers with their addresses.
    let asker = start(join).await;
    within("joined", joined(&asker.net)).await;
    assert!(found(&asker.net, root(0)).await.len() >= 20);
    for (n, member) in (1..).zip(&members) {
        assert_eq!(found(&asker.net, root(n)).await, [member.net.peer_id()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_addresses_of_a_bootstrap_node_are_one_connection() {
    let hub = start(|options| options.listen = (0..8).map(|_| memory()).collect()).await;
    let with_id = hub.net.listen_addrs();
    let without_id = with_id.iter().map(|addr| {
        addr.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect::<Multiaddr>()
    });
    for bootstrap in [with_id.clone(), without_id.collect()] {
        let member = start(|options| options.bootstrap = bootstrap).await;
        within("joined", joined(&member.net)).await;
        let one = async {
            while member.net.peers().iter().any(|peer| peer.addrs.len() != 1) {
                tokio::task::yield_now().await;
            }
        };
        within("one connection", one).await;
        assert_eq!(member.net.connected(), [hub.net.peer_id()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_roots_of_one_node_are_announced() {
    let hub = start(|_| {}).await;
    let addr = hub.net.listen_addrs().remove(0);
    let provider = start(|options| options.bootstrap = vec![addr.clone()]).await;
    for n in 0..10_000 {
        provider.net.provide(root(n)).await;
    }
    for n in 0..10_000 {
        within("announced", provider.net.announced(root(n))).await.expect("announced");
    }
    let asker = start(|options| options.bootstrap = vec![addr]).await;
    within("joined", joined(&asker.net)).await;
    for n in [0, 1024, 9_999] {
        assert_eq!(found(&asker.net, root(n)).await, [provider.net.peer_id()], "{n}");
    }
}

/// Waits until a DHT peer is connected.
pub async fn joined(net: &Net) {
    let mut events = net.events();
    while !net.peers().iter().any(|peer| peer.dht) {
        if let Ok(NetEvent::DhtPeer { .. }) = events.recv().await {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_survives_a_restart_of_its_holder_unless_it_was_withdrawn() {
    let keypair = Keypair::generate_ed25519();
    let (first, second) = (memory(), memory());
    let hub = start(|options| {
        options.keypair = keypair.clone();
        options.listen = vec![first.clone()];
    })
    .await;
    let provider = start(|options| options.bootstrap = vec![first.clone(), second.clone()]).await;
    for n in [1, 2] {
        provider.net.provide(root(n)).await;
        within("announced", provider.net.announced(root(n))).await.expect("announced");
        // The record must arrive before it is dropped.
        found(&hub.net, root(n)).await;
    }
    provider.net.unprovide(root(2)).await;
    hub.net.drop_provider(root(2), provider.net.peer_id()).await;
    let records = hub.net.snapshot().await.expect("a snapshot").records;
    hub.net.shutdown().await;
    let hub = start(|options| {
        options.keypair = keypair;
        options.listen = vec![second];
        options.records = records;
    })
    .await;
    let mut own = hub.net.find_providers(root(1)).await;
    assert_eq!(within("found", own.recv()).await, Some(provider.net.peer_id()));
    assert_eq!(within("no provider", providers(&hub.net, root(2))).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_streams_opened_in_a_row_arrive() {
    let mut server = start(|_| {}).await;
    let client = start(|_| {}).await;
    client.net.connect(server.net.listen_addrs().remove(0)).await.expect("connected");
    let accepted = tokio::spawn(async move {
        let mut all = Vec::new();
        while all.len() < 64 {
            all.push(server.streams.recv().await.expect("a stream").1);
        }
        (server, all)
    });
    let mut opened = Vec::new();
    let peer = client.net.connected()[0];
    for _ in 0..64 {
        let mut stream = within("opened", client.net.open(peer, PROTOCOL)).await.expect("opened");
        // The stream is negotiated with the first byte.
        libp2p::futures::AsyncWriteExt::write_all(&mut stream, b"x").await.expect("written");
        libp2p::futures::AsyncWriteExt::flush(&mut stream).await.expect("flushed");
        opened.push(stream);
    }
    within("accepted", accepted).await.expect("no panic");
}

/// Returns the address and the kind of the error of a node that cannot listen there.
async fn listen_failure(addr: &Multiaddr) -> (Multiaddr, io::ErrorKind) {
    let options = NetOptions { listen: vec![addr.clone()], ..NetOptions::new(Keypair::generate_ed25519()) };
    match Net::start(options, Protocols::default()).await.map(drop) {
        Err(NetError::Listen { addr, kind, .. }) => (addr, kind),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failed_listener_reports_its_address_and_the_kind_of_the_error() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = holder.local_addr().expect("an address").port();
    let in_use: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr");
    assert_eq!(listen_failure(&in_use).await, (in_use, io::ErrorKind::AddrInUse));
    // TEST-NET-1 is no address of this machine.
    for transport in ["tcp/4001", "udp/4001/quic-v1"] {
        let foreign: Multiaddr = format!("/ip4/192.0.2.1/{transport}").parse().expect("a multiaddr");
        assert_eq!(listen_failure(&foreign).await, (foreign, io::ErrorKind::AddrNotAvailable));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_bootstrap_node_is_dialled_until_it_is_back() {
    let keypair = Keypair::generate_ed25519();
    let hub = start(|options| {
        options.keypair = keypair.clone();
        options.listen = vec![super::swarm::tcp()];
    })
    .await;
    let addr = hub.net.listen_addrs().remove(0);
    let member = start(|options| options.bootstrap = vec![addr.clone()]).await;
    let mut events = member.net.events();
    within("joined", joined(&member.net)).await;
    hub.net.shutdown().await;
    within("lost", async { while !matches!(events.recv().await, Ok(NetEvent::Lost { .. })) {} }).await;
    let back = start(|options| {
        options.keypair = keypair;
        options.listen =
            vec![addr.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect()];
    })
    .await;
    within("back", async { while !matches!(events.recv().await, Ok(NetEvent::Connected { .. })) {} }).await;
    drop(back);
}
