//! `status`, `peers` and `events`: the state of the running node.

use std::{io, net::SocketAddr, time::Duration};

use axum::{body::Body, http::Method};
use futures::TryStreamExt;
use tokio::io::AsyncBufReadExt;
use tokio_util::io::StreamReader;

use super::{
    Context, Stop,
    client::Endpoint,
    connection::{Connection, Network, ask, require_running_node},
    error::CliError,
    output::{self, plural, table},
    sanitize::sanitize,
    shell::complete,
};
use crate::{
    config::check_peer_address,
    http::url,
    node::{
        ErrorCode,
        report::{Event, PeerReport, Status},
    },
};

/// Why a node must be started again, and how.
pub(super) const RESTART_PENDING: &str = "the cluster or identity in the data directory changed after the node started; stop it and start it again";

pub(super) async fn status(context: &Context) -> Result<(), CliError> {
    require_running_node(context)?;
    let status = ask(context, Network::Offline, async |client| client.status().await).await?;
    output::result(context, &status, describe_status)
}

fn describe_status(status: &Status) -> String {
    let bytes = output::bytes;
    let limit = match (status.capacity, status.disk_free) {
        (Some(capacity), _) => format!(" of {}", bytes(capacity)),
        (None, Some(free)) => format!(", {} free on the disk", bytes(free)),
        (None, None) => String::new(),
    };
    let known = match status.files.saturating_sub(status.kept) {
        0 => String::new(),
        known => format!(", {known} known by link only"),
    };
    let (announced, queued) = (status.announced, status.announce_queue);
    let mut lines = vec![
        ("peer", status.peer.clone()),
        ("version", format!("{} (process {})", status.version, status.pid)),
        ("up", humantime::format_duration(Duration::from_secs(status.uptime_s)).to_string()),
        ("data", format!("{}{}", status.data_dir, if status.cluster { " (in a cluster)" } else { "" })),
        (
            "files",
            format!("{} kept{known} ({announced} announced since start, {queued} queued)", status.kept),
        ),
        (
            "blocks",
            format!(
                "{}, {}{limit}; cache: {}",
                status.blocks,
                bytes(status.stored_bytes),
                bytes(status.cached_bytes)
            ),
        ),
        ("peers", status.peers.to_string()),
        ("traffic", format!("{} sent, {} received", bytes(status.sent_bytes), bytes(status.received_bytes))),
    ];
    if status.restart_pending {
        lines.push(("restart", format!("pending: {RESTART_PENDING}")));
    }
    if status.missing > 0 {
        let missing = plural(status.missing, "block");
        lines.push((
            "missing",
            format!("{missing} of files kept here; `storgo-node verify` fetches what peers have"),
        ));
    }
    lines.extend(status.write_problem.iter().map(|problem| ("storage", problem.clone())));
    if status.index_behind {
        let behind = "may be older than the blocks, so nothing is removed; `storgo-node verify --rebuild-index` repairs it";
        lines.push(("index", behind.into()));
    }
    if status.quarantined > 0 {
        lines.push(("damaged", format!("{} set aside", plural(status.quarantined, "block"))));
    }
    let addr: Option<SocketAddr> = status.http.as_ref().and_then(|http| http.parse().ok());
    lines.extend(addr.map(|addr| {
        let all = if addr.ip().is_unspecified() { " (on all addresses of this machine)" } else { "" };
        ("api", url(addr, status.https) + all)
    }));
    lines.extend(status.listen.iter().map(|addr| ("listen", addr.clone())));
    let lines: String = lines.iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect();
    complete(&lines).into_owned()
}

pub(super) async fn peers(context: &Context, add: Option<String>) -> Result<(), CliError> {
    match &add {
        Some(addr) => check_peer_address(addr).map_err(|reason| {
            CliError::bad_request(format!("cannot dial {addr:?}: {reason}")).hint(
                "`status` on the other node lists its addresses; a multiaddr looks like /ip4/192.0.2.7/tcp/3000",
            )
        })?,
        None => require_running_node(context)?,
    }
    let peers: Vec<PeerReport> = ask(context, Network::Online, async |client| {
        let endpoint = Endpoint::path("/api/v1/peers");
        if let Some(addr) = add {
            let body = Body::from(serde_json::json!({ "addr": addr }).to_string());
            let _: serde_json::Value = client.json_body(Method::POST, &endpoint, body).await?;
        }
        client.json(Method::GET, &endpoint).await
    })
    .await?;
    if peers.is_empty() {
        output::message(context, "no peer is connected; `storgo-node peers --add MULTIADDR` connects to one");
    }
    output::result(context, &peers, |peers| {
        let has_regions = peers.iter().any(|peer| peer.region.is_some());
        let row = |peer: &PeerReport| {
            let rtt = peer.rtt_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
            let relayed = if peer.relayed { " (relayed)" } else { "" };
            let agent = sanitize(peer.agent.as_deref().unwrap_or("-"));
            let free = peer.free.map_or_else(|| "-".into(), output::bytes);
            let traffic =
                format!("{} / {}", output::bytes(peer.sent_bytes), output::bytes(peer.received_bytes));
            let addr = peer.addrs.first().cloned().unwrap_or_default();
            let region = has_regions.then(|| sanitize(peer.region.as_deref().unwrap_or("-")));
            let first =
                [peer.peer.clone(), rtt, format!("{}{relayed}", peer.transport)].into_iter().chain(region);
            first.chain([free, traffic, agent, addr]).collect::<Vec<_>>()
        };
        let first = ["PEER", "RTT", "TRANSPORT"].into_iter().chain(has_regions.then_some("REGION"));
        table(
            &first.chain(["FREE", "SENT / RECEIVED", "AGENT", "ADDRESS"]).collect::<Vec<_>>(),
            &peers.iter().map(row).collect::<Vec<_>>(),
        )
    })
}

pub(super) async fn events(context: &Context) -> Result<(), Stop> {
    require_running_node(context)?;
    let connection = Connection::open(context, Network::Online).await?;
    let endpoint = Endpoint::path("/api/v1/events");
    let response = connection.client.send(Method::GET, &endpoint, &[], Body::empty()).await?;
    output::message(context, "waiting for events, Ctrl-C ends");
    let body = response.into_body().into_data_stream().map_err(io::Error::other);
    let mut lines = StreamReader::new(body).lines();
    let broken =
        |e| CliError::new(ErrorCode::Unreachable, format!("the connection to the node broke off: {e}"));
    while let Some(line) = lines.next_line().await.map_err(broken)? {
        let Some(json) = line.strip_prefix("data: ") else { continue };
        let text = || serde_json::from_str(json).map(|event| describe_event(&event)).unwrap_or_default();
        let shown = if context.json { format!("{json}\n") } else { text() };
        match output::stream(shown.as_bytes()) {
            Err(Stop::NoReader) => break,
            written => written?,
        }
    }
    connection.close().await;
    Ok(())
}

fn describe_event(event: &Event) -> String {
    let text = match event {
        Event::PeerConnected { peer, addr } => format!("connected to peer {peer} at {addr}"),
        Event::PeerLost { peer } => format!("lost peer {peer}"),
        Event::Listening { addr } => format!("listening on {addr}"),
        Event::SameIdentity { addr } => {
            format!(
                "another machine uses the identity of this node, at {addr}; `storgo-node doctor` says more"
            )
        }
        Event::Stored { cid, size } => format!("stored {cid}, {}", output::bytes(*size)),
        Event::Removed { cid } => format!("removed {cid}"),
        Event::Announced { cid, peers } => {
            format!("announced {cid} to {}", plural(u64::from(*peers), "peer"))
        }
        Event::BadBlock { cid, origin } => format!("damaged block {cid} from {origin}"),
        Event::Collected { blocks, bytes } => {
            format!("collected {}, {}", plural(*blocks, "block"), output::bytes(*bytes))
        }
        Event::LeftOut { cid, count, paths } => {
            let paths: Vec<String> = paths.iter().map(|path| sanitize(path)).collect();
            format!("folder {cid} was read without {}: {}", plural(*count, "item"), paths.join(", "))
        }
        Event::Skipped { count } => format!("missed {}", plural(*count, "event")),
    };
    text + "\n"
}
