//! `demo`: three nodes on this machine; a file goes in at one and comes out at another.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use libp2p::Multiaddr;
use serde::Serialize;

use super::{Stop, args::Common, output, run};
use crate::{
    http::{Api, ApiOptions, ServeOptions},
    node::{ErrorCode, Node, NodeError, NodeOptions, PutOptions, ReadOptions, Reference},
};

/// Ports of the three nodes, where they are free.
const PORTS: [u16; 3] = [3000, 4000, 5000];
/// Port of the first node's API, where it is free.
const HTTP: u16 = 8080;
/// Length of the file.
const LEN: usize = 64 << 20;
/// How long the nodes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the demo tries to remove its folder, and how long it waits in between.
const REMOVALS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// What the demo did.
#[derive(Serialize)]
struct Done {
    link: String,
    bytes: usize,
    blocks: u64,
    store_s: f64,
    fetch_s: f64,
    identical: bool,
}

pub(super) async fn run(once: bool, common: &Common) -> Result<(), Stop> {
    let talk = Talk { json: common.json, quiet: common.quiet };
    let mut stop = run::stop_signal()?;
    crate::telemetry::start("error", false);
    let dir = Scratch::new()?;
    let mut nodes = Vec::new();
    let shown = tokio::select! {
        shown = show(&dir, talk, &mut nodes) => shown.map_err(Stop::from),
        _ = stop.recv() => Err(Stop::Interrupted),
    };
    let ended = match shown {
        Ok(()) if !once => stay(&nodes[0], talk, &mut stop).await.map_err(Stop::from),
        ended => ended,
    };
    // However it ends: nodes that write would keep their folder from being removed.
    for node in &nodes {
        node.shutdown().await;
    }
    ended
}

async fn stay(node: &Node, talk: Talk, stop: &mut tokio::sync::mpsc::Receiver<()>) -> Result<(), NodeError> {
    let addr = serve(node).await?;
    talk.say(&format!(
        "The three nodes stay up until Ctrl-C. The first one's API: http://{addr}/api/v1/status"
    ));
    talk.say(&format!("Try it: storgo-node --data-dir {} peers", node.data_dir().display()));
    stop.recv().await;
    Ok(())
}

async fn show(dir: &Scratch, talk: Talk, nodes: &mut Vec<Node>) -> Result<(), NodeError> {
    let mut bootstrap: Vec<Multiaddr> = Vec::new();
    for (n, wanted) in PORTS.into_iter().enumerate() {
        let port = free_port(wanted)?;
        if port != wanted {
            talk.say(&format!("port {wanted} is taken: node {} uses {port}", n + 1));
        }
        let addr: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}")
            .parse()
            .map_err(|e| NodeError::new(ErrorCode::Other, format!("no multiaddr: {e}")))?;
        let options = NodeOptions {
            listen: vec![addr.clone()],
            bootstrap: bootstrap.clone(),
            mdns: false,
            timeout: PATIENCE,
            ..NodeOptions::new(dir.0.join(format!("node{}", n + 1)))
        };
        let node = Node::start(options).await?;
        talk.say(&format!("node {} · {} · {addr}", n + 1, node.peer_id()));
        nodes.push(node);
        if bootstrap.is_empty() {
            bootstrap.push(addr);
        }
    }
    let bytes = sample();
    let started = Instant::now();
    let report = nodes[2].put(&bytes[..], PutOptions::named("demo.bin")).await?;
    let store = started.elapsed();
    let rate = super::provide::bytes_per_s(LEN as u64, store);
    talk.say(&format!(
        "stored  {} on node 3 in {} sealed blocks, durable after {:.2} s ({rate})",
        output::bytes(LEN as u64),
        report.blocks,
        store.as_secs_f64()
    ));
    let reference = Reference::from(report.link.as_str());
    let placement = nodes[2].placement(&reference, PATIENCE).await?;
    talk.say(&format!(
        "told    {} peers through the DHT; nodes 2 and 3 know one address: node 1's",
        placement.announced_to
    ));
    let started = Instant::now();
    let opened = nodes[0].open(&reference, Some(PATIENCE)).await?;
    let mut pieces = std::pin::pin!(opened.read(ReadOptions::default()));
    let mut got = Vec::with_capacity(LEN);
    while let Some(piece) = pieces.try_next().await? {
        got.extend_from_slice(&piece);
    }
    let fetch = started.elapsed();
    let identical = got == bytes;
    if !identical {
        return Err(NodeError::new(ErrorCode::Integrity, "what came out is not what went in"));
    }
    let rate = super::provide::bytes_per_s(LEN as u64, fetch);
    talk.say(&format!(
        "fetched by node 1 from its link in {:.2} s ({rate}): identical, byte for byte",
        fetch.as_secs_f64()
    ));
    talk.say(&format!("link    {}", report.link));
    if talk.json {
        let done = Done {
            link: report.link,
            bytes: LEN,
            blocks: report.blocks,
            store_s: store.as_secs_f64(),
            fetch_s: fetch.as_secs_f64(),
            identical,
        };
        let text =
            serde_json::to_string(&done).map_err(|e| NodeError::new(ErrorCode::Other, e.to_string()))?;
        output::print(&format!("{text}\n"))?;
    }
    Ok(())
}

async fn serve(node: &Node) -> Result<SocketAddr, NodeError> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port(HTTP)?));
    Ok(Api::new(node.clone(), ApiOptions::default()).await?.serve(&ServeOptions::new(addr)).await?.addr)
}

/// This port where it is free, else another one.
fn free_port(wanted: u16) -> Result<u16, NodeError> {
    let bound = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    let port = bound.and_then(|listener| listener.local_addr()).map(|addr| addr.port());
    port.map_err(|e| NodeError::new(ErrorCode::Other, format!("no free port: {e}")))
}

/// Bytes that do not repeat.
fn sample() -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    blake3::Hasher::new_derive_key("storgo demo").finalize_xof().fill(&mut bytes);
    bytes
}

/// Where the demo's words go.
#[derive(Clone, Copy)]
struct Talk {
    json: bool,
    quiet: bool,
}

impl Talk {
    fn say(self, text: &str) {
        match self {
            Self { quiet: true, .. } => {}
            Self { json: true, .. } => output::note(text),
            Self { json: false, .. } => drop(output::print(&format!("{text}\n"))),
        }
    }
}

/// A folder that is gone when the demo ends.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, NodeError> {
        let path = std::env::temp_dir().join(format!("storgo-demo-{:08x}", rand::random::<u32>()));
        std::fs::create_dir(&path).map_err(|e| NodeError::io(format_args!("make {}", path.display()), &e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A node that was cut off while it started may still make a file or two.
        for _ in 0..REMOVALS {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}
