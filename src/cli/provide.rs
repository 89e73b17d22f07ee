//! `provide`: store a file, a folder or stdin.

use std::{net::SocketAddr, path::Path};

use axum::http::Method;

use super::{
    Context, Stop,
    args::ProvideOptions,
    client::{Target, escape},
    door::{Door, Need},
    output,
    pack::{self, Input},
    run,
    show::plural,
};
use crate::{
    http::{self, ServeOptions},
    node::{
        ErrorCode, Node, NodeError,
        report::{Placement, PutReport},
    },
};

/// How long to wait for the announcement, seconds.
const PLACE_S: u32 = 10;

pub(super) async fn run(context: &Context, path: &Path, options: ProvideOptions) -> Result<(), Stop> {
    let mut stop = run::stop_signal()?;
    let input = {
        let (path, name) = (path.to_owned(), options.name.clone());
        tokio::task::spawn_blocking(move || pack::look_at(&path, name))
            .await
            .map_err(|_| NodeError::new(ErrorCode::Other, "looking at the input failed"))??
    };
    // A node that ends with the command is of no use to others.
    let door = Door::open(context, if options.no_serve { Need::Store } else { Need::Network }).await?;
    let api = match &door.node {
        // Other commands on this data directory can talk to this node while it stays.
        Some(node) if !options.no_serve => Some(serve(node).await?),
        _ => None,
    };
    let stored = tokio::select! {
        stored = store(context, &door, input, &options) => stored,
        _ = stop.recv() => {
            door.close().await;
            return Err(Stop::Interrupted);
        }
    };
    let report = match stored {
        Ok(report) => report,
        Err(error) => {
            door.close().await;
            return Err(error.into());
        }
    };
    output::result(context, &report, |report| format!("{}\n", report.link))?;
    tokio::select! {
        placed = place(context, &door, &report) => {
            if let Err(error) = placed {
                door.close().await;
                return Err(error.into());
            }
        }
        _ = stop.recv() => {
            door.close().await;
            return Ok(());
        }
    }
    if let Some(addr) = api {
        output::say(context, &format!("serving it until Ctrl-C (API at http://{addr})"));
        stop.recv().await;
    }
    door.close().await;
    Ok(())
}

async fn serve(node: &Node) -> Result<SocketAddr, NodeError> {
    let served = http::serve(node, ServeOptions::new(SocketAddr::from(([127, 0, 0, 1], 0))))
        .await
        .map(|served| served.addr);
    if served.is_err() {
        node.shutdown().await;
    }
    served
}

async fn store(
    context: &Context,
    door: &Door,
    input: Input,
    options: &ProvideOptions,
) -> Result<PutReport, NodeError> {
    let mut query = input.query.clone();
    for (key, value) in [
        ("name", input.name.as_deref()),
        ("public", Some(if options.public { "true" } else { "false" })),
        ("dedup", Some(if options.no_dedup { "false" } else { "true" })),
        // The flag is the node's own setting too; a node that runs elsewhere is told.
        ("chunker", context.settings.get("chunker")),
    ] {
        if let Some(value) = value {
            query.push('&');
            query.push_str(key);
            query.push('=');
            query.push_str(&escape(value));
        }
    }
    let bar = output::progress(context, "sealing", input.size);
    let (body, trouble) = input.body(&bar).await?;
    let target = Target::path(format!("/api/v1/files?{}", query.trim_start_matches('&')));
    let report: Result<PutReport, NodeError> = door.client.json_body(Method::POST, &target, body).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| trouble.take().unwrap_or(error))?;
    let rate = bytes_per_s(report.size, bar.elapsed());
    let (size, new) = (output::bytes(report.size), report.new_blocks);
    output::say(context, &format!("sealed {size} in {} ({new} new), {rate}", plural(report.blocks, "block")));
    Ok(report)
}

/// The second stage: other nodes are told where the file is.
async fn place(context: &Context, door: &Door, report: &PutReport) -> Result<(), NodeError> {
    if door.node.as_ref().is_some_and(Node::is_offline) {
        output::say(context, "stored here; a node that runs on this data directory shares it");
        return Ok(());
    }
    let status: crate::node::report::Status =
        door.client.json(Method::GET, &Target::path("/api/v1/status")).await?;
    // One that was named may be connected in a moment.
    let expected = door.node.is_some() && !context.settings.list("bootstrap").is_empty();
    if status.peers == 0 && !expected {
        output::say(context, "placed on this node alone: no peer is connected");
        return Ok(());
    }
    let bar = output::spinner(context, "placing");
    let target = Target::path(format!("/api/v1/files/{}/placement?wait={PLACE_S}", report.cid));
    let placement: Result<Placement, NodeError> = door.client.json(Method::GET, &target).await;
    bar.finish_and_clear();
    match placement? {
        Placement { done: true, announced_to, .. } => {
            let peers = plural(u64::from(announced_to), "peer");
            let know = if announced_to == 1 { "knows" } else { "know" };
            output::say(context, &format!("placed: {peers} {know} that this node has it"));
        }
        Placement { .. } => {
            output::say(context, "placed on this node; telling the others goes on in the background");
        }
    }
    Ok(())
}

pub(super) fn bytes_per_s(bytes: u64, took: std::time::Duration) -> String {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    format!("{}/s", output::bytes(bytes.saturating_mul(1000) / millis))
}
