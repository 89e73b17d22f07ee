//! `demo`: three nodes on this machine; one stores a file, another fetches it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{Stop, args::Common, error::CliError, output, run, shell::quote};
use crate::{
    http::{Api, ApiOptions, ServeOptions},
    node::{ErrorCode, Node, NodeOptions, PutOptions, Reference},
};

/// Preferred ports of the three nodes.
const PORTS: [u16; 3] = [3000, 4000, 5000];
/// Preferred port of the API of the first node.
const HTTP_PORT: u16 = 8080;
/// Length of the file, in bytes.
const LEN: usize = 64 << 20;
/// How long the nodes may take to find each other.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often the demo tries to remove its folder, and how long it waits between attempts.
const REMOVALS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(once: bool, common: &Common) -> Result<(), Stop> {
    let printer = Printer { json: common.json, quiet: common.quiet };
    let mut stop = run::stop_signal()?;
    crate::telemetry::start("error", false);
    let dir = Scratch::new()?;
    let mut nodes = Vec::new();
    let shown = tokio::select! {
        shown = show(&dir, printer, &mut nodes) => shown.map_err(Stop::from),
        _ = stop.recv() => Err(Stop::Interrupted),
    };
    let ended = match shown {
        Ok(()) if !once => stay(&nodes[0], printer, &mut stop).await.map_err(Stop::from),
        ended => ended,
    };
    // In every case: the folder of a node that still writes cannot be removed.
    for node in &nodes {
        node.shutdown().await;
    }
    ended
}

async fn stay(
    node: &Node,
    printer: Printer,
    stop: &mut tokio::sync::mpsc::Receiver<()>,
) -> Result<(), CliError> {
    let addr = serve(node).await?;
    printer.print(&format!("the three nodes stay up until Ctrl-C; API of the first: http://{addr}/api/docs"));
    printer.print(&format!("try it: storgo-node --data-dir {} peers", quote(node.data_dir())));
    stop.recv().await;
    Ok(())
}

async fn show(dir: &Scratch, printer: Printer, nodes: &mut Vec<Node>) -> Result<(), CliError> {
    let mut bootstrap: Vec<Multiaddr> = Vec::new();
    for (n, wanted) in PORTS.into_iter().enumerate() {
        let port = free_port(wanted)?;
        if port != wanted {
            printer.print(&format!("port {wanted} is taken, node {} uses {port}", n + 1));
        }
        let addr = Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Tcp(port));
        let options = NodeOptions {
            listen: vec![addr.clone()],
            bootstrap: bootstrap.clone(),
            mdns: false,
            timeout: TIMEOUT,
            ..NodeOptions::new(dir.0.join(format!("node{}", n + 1)))
        };
        let node = Node::start(options).await?;
        printer.print(&format!("node {} · {} · {addr}", n + 1, node.peer_id()));
        nodes.push(node);
        if bootstrap.is_empty() {
            bootstrap.push(addr);
        }
    }
    let bytes = sample();
    let started = Instant::now();
    let report = nodes[2].put(&bytes[..], PutOptions::named("demo.bin")).await?;
    let store = started.elapsed();
    let rate = output::bytes_per_s(LEN as u64, store);
    printer.print(&format!(
        "stored  {} on node 3 in {} sealed blocks, durable after {:.2} s ({rate})",
        output::bytes(LEN as u64),
        report.blocks,
        store.as_secs_f64()
    ));
    let reference = Reference::from(report.link.as_str());
    let placement = nodes[2].placement(&reference, TIMEOUT).await?;
    printer.print(&format!(
        "announced to {} peers through the DHT; nodes 2 and 3 were given only the address of node 1",
        placement.announced_to
    ));
    let started = Instant::now();
    let opened = nodes[0].open(&reference, Some(TIMEOUT)).await?;
    let mut pieces = std::pin::pin!(opened.read(None));
    let mut got = Vec::with_capacity(LEN);
    while let Some(piece) = pieces.try_next().await? {
        got.extend_from_slice(&piece);
    }
    let fetch = started.elapsed();
    if got != bytes {
        return Err(CliError::new(ErrorCode::Integrity, "the fetched file differs from the stored one")
            .hint("please report this"));
    }
    let rate = output::bytes_per_s(LEN as u64, fetch);
    printer.print(&format!(
        "fetched by node 1 in {:.2} s ({rate}): identical, byte for byte",
        fetch.as_secs_f64()
    ));
    printer.print(&format!("link    {}", report.link));
    if printer.json {
        let done = serde_json::json!({
            "link": report.link,
            "bytes": LEN,
            "blocks": report.blocks,
            "store_s": store.as_secs_f64(),
            "fetch_s": fetch.as_secs_f64(),
            "identical": true,
        });
        output::print(&format!("{done}\n"))?;
    }
    Ok(())
}

async fn serve(node: &Node) -> Result<SocketAddr, CliError> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port(HTTP_PORT)?));
    let api = Api::new(node.clone(), ApiOptions::default()).await?;
    Ok(api.serve(&ServeOptions::new(addr)).await?.addr)
}

/// Returns this port if it is free, or else another one.
fn free_port(wanted: u16) -> Result<u16, CliError> {
    let bound = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    let port = bound.and_then(|listener| listener.local_addr()).map(|addr| addr.port());
    port.map_err(|e| CliError::new(ErrorCode::Other, format!("no free port: {e}")))
}

/// Pseudorandom bytes, always the same.
fn sample() -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    blake3::Hasher::new_derive_key("storgo demo").finalize_xof().fill(&mut bytes);
    bytes
}

/// Prints to stdout; to stderr with `--json`.
#[derive(Clone, Copy)]
struct Printer {
    json: bool,
    quiet: bool,
}

impl Printer {
    fn print(self, text: &str) {
        match self {
            Self { quiet: true, .. } => {}
            Self { json: true, .. } => output::stderr_line(text),
            Self { json: false, .. } => drop(output::print(&format!("{text}\n"))),
        }
    }
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("storgo-demo-{:08x}", rand::random::<u32>()));
        std::fs::create_dir(&path)
            .map_err(|e| CliError::io(format_args!("create {}", path.display()), &e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A node that was interrupted while it started may still create files.
        for _ in 0..REMOVALS {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}
