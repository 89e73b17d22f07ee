//! A node under many attacks at once stays within its memory limit and serves honest peers.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::AsyncWriteExt;
use libp2p::{Multiaddr, Stream, identity::Keypair};
use storgo::{
    content::cid::Cid,
    net::{Net, NetOptions, Protocols},
    transfer,
    wire::{MAX_MESSAGE, Message, Request},
};

use super::{
    binary::{Live, Machine, eventually, link},
    swarm::noise,
};

/// Peak memory that a node may use, in KiB: the budget for four transfers at once.
const BOUND_KIB: u64 = 150 << 10;
/// Connections that send nothing.
const SILENT: usize = 300;
/// Connections that send noise without end.
const NOISY: usize = 32;
/// Identities that attack through the transfer protocol, each in all ways.
const PEERS: usize = 8;
/// Streams that each of them opens and keeps open.
const STREAMS: usize = 100;
/// Minimum number of times that each attack is made.
const ROUNDS: u64 = 200;

/// Data sent on a stream.
#[derive(Clone, Copy)]
enum Attack {
    /// A length prefix of four gigabytes, followed by bytes without end.
    Oversized,
    /// A message of the maximum length: nested arrays, as deep as it is long.
    Nested,
    /// Invalid messages without end.
    Endless,
    /// As many requests as possible, and no response is read.
    Greedy,
}

impl Attack {
    const ALL: [Self; 4] = [Self::Oversized, Self::Nested, Self::Endless, Self::Greedy];

    fn bytes(self, root: Cid) -> Vec<u8> {
        let framed = |body: Vec<u8>| {
            let len = u32::try_from(body.len()).expect("short");
            [&len.to_be_bytes()[..], &body].concat()
        };
        match self {
            Self::Oversized => vec![0xff; 64 << 10],
            Self::Nested => framed(vec![0x81; MAX_MESSAGE]),
            Self::Endless => framed(vec![0xff; 1000]).repeat(64),
            Self::Greedy => Request::Get { cids: vec![root; 1000] }.encode().expect("encoded"),
        }
    }

    /// Runs until the node ends the stream, or enough was sent.
    async fn run(self, mut stream: Stream, root: Cid) {
        let bytes = self.bytes(root);
        for _ in 0..16 {
            let sent = async {
                stream.write_all(&bytes).await?;
                stream.flush().await
            };
            if sent.await.is_err() {
                break;
            }
        }
    }
}

/// One identity that attacks until `stop` is set.
async fn attack(addr: Multiaddr, root: Cid, rounds: Arc<[AtomicU64; 4]>, stop: Arc<AtomicBool>) {
    let options = NetOptions::new(Keypair::generate_ed25519());
    let net = Net::start(options, Protocols::default()).await.expect("starts");
    while !stop.load(Ordering::Relaxed) {
        // Reconnect after each disconnection.
        let Ok(peer) = net.connect(addr.clone()).await else { continue };
        let mut held = Vec::new();
        for _ in 0..STREAMS {
            held.extend(net.open(peer, transfer::PROTOCOL).await.ok());
        }
        for stream in &mut held {
            // Opened and never used.
            drop(stream.flush().await);
        }
        let deeds = Attack::ALL.iter().zip(rounds.iter()).map(async |(attack, rounds)| {
            if let Ok(stream) = net.open(peer, transfer::PROTOCOL).await {
                let run = attack.run(stream, root);
                // A stream that nobody reads stops: this attack is over.
                drop(tokio::time::timeout(std::time::Duration::from_secs(1), run).await);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        futures::future::join_all(deeds).await;
    }
    net.shutdown().await;
}

fn noisy(addr: &str, stop: &AtomicBool) {
    let bytes = noise(7, 64 << 10);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut socket) = TcpStream::connect(addr) else { continue };
        while !stop.load(Ordering::Relaxed) && socket.write_all(&bytes).is_ok() {}
    }
}

/// Peak memory of a node, in KiB.
fn peak_kib(node: &Live) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.status["pid"])).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn an_attacked_node_stays_within_its_memory_limit_and_serves_honest_peers() {
    let machine = Machine::new();
    let node = machine.start::<&str>([]);
    let bytes = noise(1, 24 << 20);
    let report = machine.provide("file", &bytes);
    let root: Cid = report["cid"].as_str().expect("a CID").parse().expect("a CID");
    let addr: Multiaddr = node.addr().parse().expect("a multiaddr");
    let port = addr.iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let socket = format!("127.0.0.1:{}", port.expect("TCP"));

    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new([const { AtomicU64::new(0) }; 4]);
    let _silent: Vec<_> = (0..SILENT).filter_map(|_| TcpStream::connect(&socket).ok()).collect();
    let noisy: Vec<_> = (0..NOISY)
        .map(|_| {
            let (socket, stop) = (socket.clone(), Arc::clone(&stop));
            std::thread::spawn(move || noisy(&socket, &stop))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let peers: Vec<_> = (0..PEERS)
        .map(|_| runtime.spawn(attack(addr.clone(), root, Arc::clone(&rounds), Arc::clone(&stop))))
        .collect();

    let begun = || rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) > 0);
    eventually("the attack has begun", begun);
    let reader = Machine::new();
    let _reading = reader.start(["--bootstrap", &node.addr()]);
    reader.run(["get", link(&report), "-o", "got"]).ok();
    assert!(reader.read("got") == bytes);
    eventually("every attack was made many times", || {
        rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) > ROUNDS)
    });
    let peak = peak_kib(&node);
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(futures::future::join_all(peers));
    for thread in noisy {
        thread.join().expect("no panic");
    }
    eprintln!("peak {} MiB", peak >> 10);
    assert!(peak < BOUND_KIB, "{} MiB", peak >> 10);
    machine.run(["status"]).ok();
}
