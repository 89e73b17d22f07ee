//! Commands that ask a node something and print the answer.

use axum::{body::Body, http::Method};
use futures::StreamExt;

use super::{
    Context,
    client::{Client, Target, escape},
    door::{Door, Need, needs_a_node_here},
    output,
};
use crate::{
    node::{
        ErrorCode, NodeError,
        report::{Event, FileInfo, FileKind, FileList, PeerReport, RemoveReport, Status},
    },
    store::read_lock,
};

/// Opens the door, asks, and closes it whatever the answer is.
pub(super) async fn ask<T>(
    context: &Context,
    need: Need,
    question: impl AsyncFnOnce(&Client) -> Result<T, NodeError>,
) -> Result<T, NodeError> {
    needs_a_node_here(context)?;
    let door = Door::open(context, need).await?;
    let answer = question(&door.client).await;
    door.close().await;
    answer
}

pub(super) fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The files whose name contains `query`, or all; the newest first.
async fn listed(client: &Client, query: Option<&str>) -> Result<Vec<FileInfo>, NodeError> {
    let mut files = Vec::new();
    let mut cursor = String::new();
    loop {
        let query = query.map_or_else(String::new, |query| format!("&q={}", escape(query)));
        let target = Target::path(format!("/api/v1/files?limit=1000&sort=created&order=desc{query}{cursor}"));
        let page: FileList = client.json(Method::GET, &target).await?;
        files.extend(page.files);
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(files),
        }
    }
}

/// Tells a user who named a file by its name that others have it too.
pub(super) async fn say_whether_newest(context: &Context, client: &Client, reference: &str) {
    if context.quiet || context.json || !Target::is_name(reference) {
        return;
    }
    let Ok(target) = Target::file(reference, "") else { return };
    // It is a remark: without an answer it is left out.
    if let Ok(info) = client.json::<FileInfo>(Method::GET, &target).await {
        say_whether_alone_of_its_name(context, &info, reference);
    }
}

fn say_whether_alone_of_its_name(context: &Context, info: &FileInfo, reference: &str) {
    let Some(others) = info.older else { return };
    let have = if others == 1 { "file has" } else { "files have" };
    let name = output::clean(reference);
    output::say(
        context,
        &format!(
            "{others} older {have} this name: the newest one is taken; `storgo-node ls {name}` shows all"
        ),
    );
}

/// When a file came here.
fn moment(file: &FileInfo) -> String {
    let seconds = file.created.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or_else(
        || "-".into(),
        |seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            humantime::format_rfc3339_seconds(time).to_string()
        },
    )
}

pub(super) async fn ls(context: &Context, query: Option<&str>) -> Result<(), NodeError> {
    let files = ask(context, Need::Store, async |client| listed(client, query).await).await?;
    match query {
        _ if !files.is_empty() => {}
        None => output::say(context, "no files here yet: store one with `storgo-node provide FILE`"),
        Some(query) => output::say(context, &format!("no name contains {query:?}")),
    }
    let mut cut = false;
    output::result(context, &files, |files| {
        if files.is_empty() {
            return String::new();
        }
        let row = |file: &FileInfo| {
            let kind = if file.kind == FileKind::Dir { "folder" } else { "file" };
            let state = match (file.pinned, file.sealed) {
                _ if file.missing > 0 => "damaged",
                (false, _) => "known",
                (true, true) => "sealed",
                (true, false) => "public",
            };
            let name = output::clean(file.name.as_deref().unwrap_or("-"));
            vec![
                file.cid.to_string(),
                output::bytes(file.size),
                kind.into(),
                state.into(),
                moment(file),
                name,
            ]
        };
        let head = ["CID", "SIZE", "KIND", "STATE", "STORED", "NAME"];
        let mut rows: Vec<_> = files.iter().map(row).collect();
        // The name gives way first, down to what can still be told apart; then the CID.
        output::fit(&head, &mut rows, output::stdout_columns(), &[(5, 24), (0, 17), (5, 8)]);
        cut = rows[0][0] != files[0].cid.to_string();
        output::table(&head, &rows)
    })?;
    if cut {
        output::say(
            context,
            "CIDs are cut to fit; `storgo-node info NAME` shows one, a wider terminal or a pipe all",
        );
    }
    Ok(())
}

pub(super) async fn info(context: &Context, reference: &str) -> Result<(), NodeError> {
    let target = Target::file(reference, "?providers=true")?;
    let info: FileInfo =
        ask(context, Need::Network, async |client| client.json(Method::GET, &target).await).await?;
    say_whether_alone_of_its_name(context, &info, reference);
    output::result(context, &info, |info| {
        let mut lines = vec![("cid", info.cid.to_string())];
        let mut add = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
        add("name", info.name.as_deref().map(output::clean));
        add("link", info.link.clone());
        add("kind", Some(if info.kind == FileKind::Dir { "folder".into() } else { "file".into() }));
        add(
            "size",
            info.link.as_ref().map(|_| format!("{} ({} bytes)", output::bytes(info.size), info.size)),
        );
        add("type", info.media_type.as_deref().map(output::clean));
        add("blocks", info.blocks.map(|blocks| blocks.to_string()));
        add("on disk", info.stored_len.map(output::bytes));
        add("stored", info.created.map(|_| moment(info)));
        add("chunker", info.chunker.as_deref().map(output::clean));
        add("sealed", Some(if info.sealed { "yes".into() } else { "no".into() }));
        add(
            "kept here",
            Some(match (info.pinned, info.missing) {
                (false, _) => "no".into(),
                (true, 0) => "yes".into(),
                (true, missing) => format!(
                    "not whole: {} missing or damaged; `storgo-node verify {}` fetches what peers have",
                    plural(missing, "block"),
                    info.cid
                ),
            }),
        );
        let providers = info.providers.as_ref().map(|providers| match providers.len() {
            0 => "no other node announces it".into(),
            _ => providers.join("\n           "),
        });
        add("providers", providers);
        let mut text: String = lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
        if let Some(entries) = &info.entries {
            let row = |entry: &crate::node::report::DirEntryInfo| {
                let name = output::clean(&entry.name);
                vec![
                    output::bytes(entry.size),
                    if entry.kind == FileKind::Dir { format!("{name}/") } else { name },
                ]
            };
            text.push('\n');
            let mut rows: Vec<_> = entries.iter().map(row).collect();
            output::fit(&["SIZE", "NAME"], &mut rows, output::stdout_columns(), &[(1, 24)]);
            text.push_str(&output::table(&["SIZE", "NAME"], &rows));
        }
        text
    })
}

pub(super) async fn rm(context: &Context, references: &[String]) -> Result<(), NodeError> {
    needs_a_node_here(context)?;
    let door = Door::open(context, Need::Network).await?;
    let mut removed: Vec<RemoveReport> = Vec::new();
    let mut failed: Option<NodeError> = None;
    for reference in references {
        let answer = match Target::file(reference, "") {
            Ok(target) => door.client.json(Method::DELETE, &target).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(report) => removed.push(report),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    output::error(&earlier, context.json);
                }
            }
        }
    }
    door.close().await;
    if removed.iter().any(|report| report.withdrawal_pending) {
        output::say(
            context,
            "some peers could not be told: they name this node as a provider until it runs and meets them, for 48 hours at most",
        );
    }
    if let Some(error) = failed.take_if(|_| removed.is_empty()) {
        return Err(error);
    }
    output::result(context, &removed, |removed| {
        let line = |report: &RemoveReport| {
            format!("removed {} {}\n", report.cid, output::clean(report.name.as_deref().unwrap_or("")))
        };
        removed.iter().map(line).collect()
    })?;
    match failed {
        None => Ok(()),
        Some(error) => {
            output::error(&error, context.json);
            let message = format!("{} of {} removed", removed.len(), references.len());
            Err(NodeError::new(ErrorCode::Partial, message))
        }
    }
}

pub(super) async fn peers(context: &Context, add: Option<String>) -> Result<(), NodeError> {
    if let Some(addr) = &add {
        crate::config::address(addr).map_err(|reason| {
            NodeError::new(ErrorCode::BadRequest, format!("{addr:?} cannot be dialled: {reason}"))
                .hint("a multiaddr looks like /ip4/192.0.2.7/tcp/3000")
        })?;
    }
    if add.is_none() {
        needs_a_running_node(context)?;
    }
    let peers: Vec<PeerReport> = ask(context, Need::Network, async |client| {
        let target = Target::path("/api/v1/peers");
        if let Some(addr) = add {
            let body = Body::from(serde_json::json!({ "addr": addr }).to_string());
            let _: serde_json::Value = client.json_body(Method::POST, &target, body).await?;
        }
        client.json(Method::GET, &target).await
    })
    .await?;
    if peers.is_empty() {
        output::say(
            context,
            "no peer is connected: start with --bootstrap MULTIADDR, or `storgo-node peers --add MULTIADDR`",
        );
    }
    output::result(context, &peers, |peers| {
        if peers.is_empty() {
            return String::new();
        }
        let regions = peers.iter().any(|peer| peer.region.is_some());
        let row = |peer: &PeerReport| {
            let rtt = peer.rtt_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
            let way =
                if peer.relayed { format!("{} (relayed)", peer.transport) } else { peer.transport.clone() };
            let agent = output::clean(peer.agent.as_deref().unwrap_or("-"));
            let free = peer.free.map_or_else(|| "-".into(), output::bytes);
            let moved =
                format!("{} / {}", output::bytes(peer.sent_bytes), output::bytes(peer.received_bytes));
            let addr = peer.addrs.first().cloned().unwrap_or_default();
            let region = regions.then(|| output::clean(peer.region.as_deref().unwrap_or("-")));
            let first = [peer.peer.clone(), rtt, way].into_iter().chain(region);
            first.chain([free, moved, agent, addr]).collect::<Vec<_>>()
        };
        let first = ["PEER", "RTT", "WAY"].into_iter().chain(regions.then_some("REGION"));
        output::table(
            &first.chain(["FREE", "SENT / RECEIVED", "AGENT", "ADDRESS"]).collect::<Vec<_>>(),
            &peers.iter().map(row).collect::<Vec<_>>(),
        )
    })
}

/// For questions that a node started for them alone could not answer.
pub(super) fn needs_a_running_node(context: &Context) -> Result<(), NodeError> {
    needs_a_node_here(context)?;
    if read_lock(&context.data_dir).is_some() {
        return Ok(());
    }
    let message = format!("no node runs on {}", context.data_dir.display());
    Err(NodeError::new(ErrorCode::Unreachable, message)
        .hint(format!("start one with `storgo-node --data-dir {} run`", context.data_dir.display())))
}

pub(super) async fn status(context: &Context) -> Result<(), NodeError> {
    needs_a_running_node(context)?;
    let target = Target::path("/api/v1/status");
    let status: Status =
        ask(context, Need::Store, async |client| client.json(Method::GET, &target).await).await?;
    output::result(context, &status, |status| {
        let b = output::bytes;
        let room = match (status.capacity, status.disk_free) {
            (Some(capacity), _) => format!(" of {} allowed", b(capacity)),
            (None, Some(free)) => format!(", {} free on the disk", b(free)),
            (None, None) => String::new(),
        };
        let known = match status.files.saturating_sub(status.kept) {
            0 => String::new(),
            known => format!(" kept, {known} only known by link"),
        };
        let mut lines = vec![
            ("peer", status.peer.clone()),
            ("version", format!("{} (process {})", status.version, status.pid)),
            ("up", humantime::format_duration(std::time::Duration::from_secs(status.uptime_s)).to_string()),
            ("data", format!("{}{}", status.data_dir, if status.cluster { " (in a cluster)" } else { "" })),
            (
                "files",
                format!(
                    "{}{known} ({} announced since start, {} waiting)",
                    status.kept, status.announced, status.announce_queue
                ),
            ),
            (
                "blocks",
                format!(
                    "{}, {}{room}; {} of it cache",
                    status.blocks,
                    b(status.stored_bytes),
                    b(status.cached_bytes)
                ),
            ),
            ("peers", status.peers.to_string()),
            ("moved", format!("{} sent, {} received", b(status.sent_bytes), b(status.received_bytes))),
        ];
        if status.missing > 0 {
            let missing = plural(status.missing, "block");
            lines.push((
                "missing",
                format!("{missing} that files here need (`storgo-node verify` fetches what peers have)"),
            ));
        }
        if status.index_behind {
            let says = "older than the blocks: nothing is removed until `storgo-node verify --rebuild-index`";
            lines.push(("index", says.into()));
        }
        if status.quarantined > 0 {
            lines.push(("bad", format!("{} blocks were damaged and set aside", status.quarantined)));
        }
        let scheme = if status.https { "https" } else { "http" };
        lines.extend(status.http.iter().map(|http| ("api", format!("{scheme}://{http}"))));
        lines.extend(status.listen.iter().map(|addr| ("listen", addr.clone())));
        lines.iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect()
    })
}

pub(super) async fn events(context: &Context) -> Result<(), NodeError> {
    needs_a_running_node(context)?;
    let door = Door::open(context, Need::Network).await?;
    let target = Target::path("/api/v1/events");
    let response = door.client.send(Method::GET, &target, &[], Body::empty()).await?;
    output::say(context, "waiting for events; Ctrl-C ends");
    let mut body = response.into_body().into_data_stream();
    let mut line = Vec::new();
    while let Some(piece) = body.next().await {
        let piece =
            piece.map_err(|e| NodeError::new(ErrorCode::Unreachable, format!("the node is gone: {e}")))?;
        for byte in piece {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            if let Some(data) = line.strip_prefix(b"data: ") {
                let text = String::from_utf8_lossy(data).into_owned();
                let human = || serde_json::from_str(&text).map(|event| describe(&event)).unwrap_or_default();
                output::print(&if context.json { format!("{text}\n") } else { human() })?;
            }
            line.clear();
        }
    }
    door.close().await;
    Ok(())
}

fn describe(event: &Event) -> String {
    let text = match event {
        Event::PeerConnected { peer, addr } => format!("peer {peer} is connected, at {addr}"),
        Event::PeerLost { peer } => format!("peer {peer} is gone"),
        Event::Listening { addr } => format!("listening on {addr}"),
        Event::SameIdentity { addr } => {
            format!(
                "another machine runs with this node's identity, at {addr}: `storgo-node doctor` says more"
            )
        }
        Event::Stored { cid, size } => format!("stored {cid}, {}", output::bytes(*size)),
        Event::Removed { cid } => format!("removed {cid}"),
        Event::Announced { cid, peers } => {
            format!("announced {cid} to {}", plural(u64::from(*peers), "peer"))
        }
        Event::BadBlock { cid, origin } => format!("block {cid} was damaged, from {origin}"),
        Event::Collected { blocks, bytes } => format!("collected {blocks} blocks, {}", output::bytes(*bytes)),
        Event::Skipped { count } => format!("{count} events were missed"),
    };
    text + "\n"
}
