//! The limits of what a stranger can do to a node and learn from it, shown on the real program by peers made by hand.

use std::{fs, process::Command, time::Duration};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use storgo::{
    content::{
        cid::{Cid, Codec},
        secret::{ClusterKey, Key, MembershipKey},
    },
    wire::{MAX_CIDS, Message, PutBlock, Request, Response},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{
    binary::{Live, Machine},
    cable::Island,
    hostile::{
        Caller, Connection, PATIENCE, Stream, ask,
        protobuf::{Value, all_bytes, bytes_field, fields, framed, number_field, read_message},
        transfer,
    },
    swarm::noise,
};

/// The attacker's address. Honest peers call from 127.0.0.1.
const ATTACKER: [u8; 4] = [127, 0, 0, 2];
/// Maximum time until an honest peer gets its answer. Generous, because all tests run at once.
const AT_ONCE: Duration = Duration::from_secs(30);
/// Maximum unanswered requests for blocks on one stream.
const UNANSWERED: usize = 4096;
const KAD: &str = "/storgo/kad/1.0.0";

fn addr_of(node: &Live) -> Multiaddr {
    node.addr().parse().expect("a multiaddr")
}

fn absent() -> Cid {
    Cid::of(Codec::Raw, b"nowhere")
}

/// Asks for a block that the node does not have.
async fn is_served(caller: &Caller, addr: &Multiaddr) {
    let served = async {
        let connection = caller.connect(addr).await.expect("connected");
        let mut stream = transfer(&connection).await.expect("opened");
        let answer = ask(&mut stream, &Request::Get { cids: vec![absent()] }).await;
        assert_eq!(answer.expect("answered"), Response::Missing { cid: absent() });
    };
    timeout(AT_ONCE, served).await.expect("served at once");
}

/// Thousands of sockets need as many files.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let current = Some(limit.maximum.unwrap_or(1 << 16).min(1 << 16));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).expect("raised");
}

fn memory_kib(node: &Live, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.status["pid"])).expect("it runs");
    let line = status.lines().find(|found| found.starts_with(line)).expect("Linux tells");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Sends requests of this kind on many streams of one connection and reads no answer, until the node ends each stream.
async fn flood(connection: &Connection, request: &[u8]) -> u64 {
    let streams = join_all((0..32).map(|_| transfer(connection))).await;
    let flooded = streams.into_iter().flatten().map(|mut stream| async move {
        let mut sent = 0;
        while sent < 16 << 20 {
            match timeout(Duration::from_secs(1), stream.write_all(request)).await {
                Ok(Ok(())) => sent += request.len() as u64,
                // The node ended the stream, or takes no more.
                _ => break,
            }
        }
        sent
    });
    join_all(flooded).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_requests_of_any_kind_take_little_memory() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let addr = addr_of(&node);
    let cid = absent();
    let long = |request: Request| request.encode().expect("encoded");
    let requests = [
        long(Request::Get { cids: vec![cid; MAX_CIDS] }),
        long(Request::Put { root: cid, blocks: vec![PutBlock { cid, len: 0 }; MAX_CIDS], ticket: None }),
        long(Request::Release { root: cid, signed: vec![7; 60_000].into() }),
        long(Request::Withdraw { root: cid }).repeat(100),
    ];
    is_served(&Caller::stranger(), &addr).await;
    let before = memory_kib(&node, "VmRSS:");
    for request in &requests {
        let connections = join_all((0..2).map(|_| async { Caller::stranger().connect(&addr).await })).await;
        let connections: Vec<Connection> =
            connections.into_iter().map(|done| done.expect("connected")).collect();
        let sent: u64 =
            join_all(connections.iter().map(|connection| flood(connection, request))).await.iter().sum();
        assert!(sent > 1 << 20, "{sent} bytes were sent");
        is_served(&Caller::stranger(), &addr).await;
    }
    let grown = memory_kib(&node, "VmHWM:").saturating_sub(before) >> 10;
    assert!(grown < 96, "{grown} MiB");
}

/// Sends as many requests for a block as one stream may have, and reads no answer.
async fn request_much(connection: &Connection, block: Cid) -> Option<Stream> {
    let mut stream = transfer(connection).await.ok()?;
    let request = Request::Get { cids: vec![block; MAX_CIDS] }.encode().expect("encoded");
    stream.write_all(&request.repeat(UNANSWERED / MAX_CIDS)).await.ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_identities_of_one_host_do_not_take_the_requests_of_a_slow_reader() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let addr = addr_of(&node);
    let report = machine.provide("file", &noise(1, 1000));
    let block: Cid = report["cid"].as_str().and_then(|cid| cid.parse().ok()).expect("a CID");
    let reader = Caller::stranger().connect(&addr).await.expect("connected");
    let answer =
        ask(&mut transfer(&reader).await.expect("opened"), &Request::Get { cids: vec![block] }).await;
    let answer = answer.expect("answered");
    let Response::Block { len, .. } = &answer else { panic!("{answer:?}") };
    let len_all = UNANSWERED * (answer.encode().expect("encoded").len() + *len as usize);
    // The reader has more unanswered requests than any other peer.
    let slow: Vec<Stream> =
        join_all((0..3).map(|_| request_much(&reader, block))).await.into_iter().flatten().collect();
    let crowd = join_all((0..64).map(|_| async {
        let identity = Caller::stranger().from(ATTACKER).connect(&addr).await.expect("connected");
        let stream = request_much(&identity, block).await;
        (identity, stream)
    }));
    let _crowd = crowd.await;
    is_served(&Caller::stranger(), &addr).await;
    assert_eq!(slow.len(), 3);
    let read = join_all(slow.into_iter().map(|mut stream| async move {
        let mut answers = vec![0; len_all];
        stream.read_exact(&mut answers).await
    }));
    for answers in timeout(PATIENCE, read).await.expect("in time") {
        answers.expect("every answer");
    }
}

async fn silent_callers_do_not_shut_a_node_off(machine: &Machine, member: Option<&MembershipKey>) {
    raise_file_limit();
    let node = machine.start::<&str>([]);
    let addr = addr_of(&node);
    let attacker = Caller::stranger().from(ATTACKER);
    let mut silent = Vec::new();
    for _ in 0..2000 {
        silent.push(attacker.socket(&addr).await.expect("connected"));
    }
    let honest = || member.map_or_else(Caller::stranger, Caller::member);
    is_served(&honest(), &addr).await;
    // Also from the address of the attacker.
    is_served(&honest().from(ATTACKER), &addr).await;
    // Nobody stays for long without a word.
    let ended =
        silent.iter_mut().map(|socket| async move { socket.read_to_end(&mut Vec::new()).await.is_ok() });
    timeout(AT_ONCE, join_all(ended)).await.expect("all sockets are closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_silent_callers_do_not_shut_off_an_open_node() {
    silent_callers_do_not_shut_a_node_off(&Machine::new(), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_silent_callers_do_not_shut_off_a_member_of_a_cluster() {
    let machine = Machine::new();
    machine.run(["init", "--cluster"]).ok();
    let key = fs::read_to_string(machine.data().join("cluster.key")).expect("a key");
    let key = data_encoding::BASE64URL_NOPAD.decode(key.trim().as_bytes()).expect("base64url");
    let key = ClusterKey::new(Key::new(key.try_into().expect("32 bytes")));
    silent_callers_do_not_shut_a_node_off(&machine, Some(&key.membership())).await;
}

/// An identity of the attacker that keeps its connection busy.
async fn idle(addr: &Multiaddr) -> (Connection, Option<Stream>) {
    let connection = Caller::stranger().from(ATTACKER).connect(addr).await.expect("connected");
    let stream = transfer(&connection).await.ok();
    (connection, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_with_many_identities_does_not_take_all_connections() {
    raise_file_limit();
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let addr = addr_of(&node);
    let mut held = Vec::new();
    for _ in 0..50 {
        held.extend(join_all((0..8).map(|_| idle(&addr))).await);
        is_served(&Caller::stranger(), &addr).await;
    }
    // The limit is 256; the node closes the others.
    let closing: FuturesUnordered<_> = held.iter().map(|(connection, _)| connection.closed()).collect();
    timeout(PATIENCE, closing.take(held.len() - 256).count()).await.expect("the others are closed");
    let open = held.iter().filter(|(connection, _)| !connection.is_closed()).count();
    assert!((200..=256).contains(&open), "{open} connections of one host");
}

fn peer_field(peer: PeerId) -> Vec<u8> {
    let addr: Multiaddr = "/ip4/127.0.0.9/tcp/1".parse().expect("a multiaddr");
    bytes_field(
        9,
        &[bytes_field(1, &peer.to_bytes()), bytes_field(2, &addr.to_vec()), number_field(3, 1)].concat(),
    )
}

/// Announces a root as this caller. Returns the connection, which must stay open until the record is stored.
async fn announce(caller: Caller, addr: &Multiaddr, root: &Cid) -> Connection {
    let connection = caller.connect(addr).await.expect("connected");
    let mut stream = connection.open(KAD).await.expect("opened");
    let peer = caller.keypair.public().to_peer_id();
    let key = bytes_field(2, &root.multihash());
    let record = [number_field(1, 2), key.clone(), peer_field(peer)].concat();
    stream.write_all(&framed(&record)).await.expect("sent");
    // Messages of a stream are handled in order, so the record has been stored when a question is answered.
    let mut question = connection.open(KAD).await.expect("opened");
    let ask = framed(&[number_field(1, 3), key].concat());
    question.write_all(&ask).await.expect("sent");
    timeout(PATIENCE, read_message(&mut question)).await.expect("in time").expect("answered");
    connection
}

async fn providers(addr: &Multiaddr, root: &Cid) -> Vec<PeerId> {
    let connection = Caller::stranger().connect(addr).await.expect("connected");
    let mut stream = connection.open(KAD).await.expect("opened");
    let question = [number_field(1, 3), bytes_field(2, &root.multihash())].concat();
    stream.write_all(&framed(&question)).await.expect("sent");
    let answer = timeout(PATIENCE, read_message(&mut stream)).await.expect("in time").expect("answered");
    let peers = all_bytes(&answer, 9);
    peers.iter().map(|peer| PeerId::from_bytes(&all_bytes(peer, 1)[0]).expect("a peer id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_identities_of_one_host_do_not_hide_the_providers_of_a_root() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let (addr, root) = (addr_of(&node), Cid::of(Codec::DagCbor, b"a root"));
    let honest = Caller::stranger();
    let provider = honest.keypair.public().to_peer_id();
    let mut connections = vec![announce(honest, &addr, &root).await];
    for _ in 0..10 {
        let announced = (0..10).map(|_| announce(Caller::stranger().from(ATTACKER), &addr, &root));
        connections.extend(join_all(announced).await);
    }
    let found = providers(&addr, &root).await;
    assert!(found.contains(&provider), "{found:?}");
    assert_eq!(found.len(), 9, "the honest one, and at most eight of one host");
}

/// Asks the node to dial an address for `AutoNAT`. Returns the status of the dial.
async fn dialled_back(caller: &Caller, node: &Multiaddr, target: &Multiaddr) -> u64 {
    let connection = caller.connect(node).await.expect("connected");
    let mut stream = connection.open("/libp2p/autonat/2/dial-request").await.expect("opened");
    let mut request = bytes_field(1, &target.to_vec());
    request.extend([2 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    stream.write_all(&framed(&bytes_field(1, &request))).await.expect("asked");
    loop {
        let answer = timeout(PATIENCE, read_message(&mut stream)).await.expect("in time").expect("answered");
        let Some((kind, Value::Bytes(body))) = fields(&answer).pop() else { panic!("{answer:?}") };
        let number = |wanted| {
            fields(&body).into_iter().find_map(|field| match field {
                (found, Value::Number(n)) if found == wanted => Some(n),
                _ => None,
            })
        };
        if kind == 2 {
            return number(3).unwrap_or_default();
        }
        // The node wants data first, so that nobody can have others dialled for free.
        let data = framed(&bytes_field(4, &bytes_field(1, &[0; 4096])));
        for _ in 0..number(2).expect("a number").div_ceil(4096) {
            stream.write_all(&data).await.expect("sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_dial_private_addresses_for_others() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = target.local_addr().expect("an address").port();
    let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr");
    let named: Multiaddr = format!("/dns4/localhost/tcp/{port}").parse().expect("a multiaddr");
    let attacker = Caller::stranger().from(ATTACKER);
    for refused in [&addr, &named] {
        assert_eq!(dialled_back(&attacker, &addr_of(&node), refused).await, 100, "{refused}: E_DIAL_ERROR");
    }
    let quiet = timeout(Duration::from_millis(100), target.accept()).await;
    assert!(quiet.is_err(), "nobody calls the target");
    // A peer may have its own host dialled.
    let (node, own) = (addr_of(&node), Caller::stranger());
    let (asked, called) = tokio::join!(dialled_back(&own, &node, &addr), async {
        let (socket, _) = timeout(PATIENCE, target.accept()).await.expect("in time").expect("called");
        drop(socket);
    });
    assert_eq!((asked, called), (100, ()));
}

/// Returns the agent version and the listen addresses that a node reports by Identify.
async fn identified(caller: &Caller, addr: &Multiaddr) -> (String, Vec<Multiaddr>) {
    let connection = caller.connect(addr).await.expect("connected");
    let mut stream = connection.open("/ipfs/id/1.0.0").await.expect("opened");
    let info = timeout(PATIENCE, read_message(&mut stream)).await.expect("in time").expect("answered");
    let agent = String::from_utf8(all_bytes(&info, 6).remove(0)).expect("UTF-8");
    let listen = all_bytes(&info, 2).into_iter();
    (agent, listen.map(|addr| Multiaddr::try_from(addr).expect("a multiaddr")).collect())
}

/// Returns the status that a node reports, or its refusal.
async fn status(caller: &Caller, addr: &Multiaddr) -> Response {
    let connection = caller.connect(addr).await.expect("connected");
    let mut stream = transfer(&connection).await.expect("opened");
    ask(&mut stream, &Request::Status {}).await.expect("answered")
}

/// Runs on a network of its own, where this machine has public addresses: the test starts itself there.
#[test]
fn a_stranger_learns_public_addresses_and_no_version_region_or_space() {
    const INSIDE: &str = "STORGO_TEST_ON_AN_ISLAND";
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(compare_what_a_stranger_and_a_neighbour_learn());
    }
    let island = Island::with_addrs(&["198.51.100.1/32", "198.51.100.2/32", "10.7.0.1/32"]);
    let mut again = Command::new(std::env::current_exe().expect("this test"));
    let name = "strangers::a_stranger_learns_public_addresses_and_no_version_region_or_space";
    again.args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    again.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = island.enter(&again).output().expect("started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

async fn compare_what_a_stranger_and_a_neighbour_learn() {
    let machine = Machine::new();
    let args = ["--listen", "/ip4/0.0.0.0/tcp/3000", "--http", "127.0.0.1:0"];
    let _node = machine.start_on(&args, ["--region", "the attic"]);
    let public: Multiaddr = "/ip4/198.51.100.1/tcp/3000".parse().expect("a multiaddr");
    let private: Multiaddr = "/ip4/10.7.0.1/tcp/3000".parse().expect("a multiaddr");
    let stranger = Caller::stranger().from([198, 51, 100, 2]);
    let (agent, listen) = identified(&stranger, &public).await;
    assert_eq!(agent, "storgo");
    let is_public = |addr: &Multiaddr| addr.to_string().starts_with("/ip4/198.51.100.");
    assert!(listen.iter().all(is_public) && listen.contains(&public), "{listen:?}");
    let refused = status(&stranger, &public).await;
    assert!(matches!(&refused, Response::Refused { .. }), "{refused:?}");

    let neighbour = Caller::stranger().from([10, 7, 0, 1]);
    let (agent, listen) = identified(&neighbour, &private).await;
    assert_eq!(agent, concat!("storgo/", env!("CARGO_PKG_VERSION")));
    assert!(listen.contains(&private) && listen.contains(&public), "{listen:?}");
    let told = status(&neighbour, &private).await;
    assert!(
        matches!(&told, Response::Status { region: Some(region), .. } if region == "the attic"),
        "{told:?}"
    );
}
