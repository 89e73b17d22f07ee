//! `provide`: store files, folders or stdin.

use std::path::PathBuf;

use axum::http::Method;

use super::{
    Context, Stop,
    args::ProvideOptions,
    client::{Target, escape},
    door::{Door, Need, api_options, to_run},
    output,
    pack::{self, Input, Trouble},
    run,
    show::plural,
};
use crate::{
    config::Origin,
    http::{Api, Tls},
    node::{
        ErrorCode, Node, NodeError, check_name,
        report::{Placement, PutReport},
    },
};

/// How long to wait for the announcement, seconds.
const PLACE_S: u32 = 10;

/// Names that a message lists.
const NAMED: usize = 5;

pub(super) async fn run(context: &Context, paths: Vec<PathBuf>, options: ProvideOptions) -> Result<(), Stop> {
    let mut stop = run::stop_signal()?;
    let mut nameless = paths.clone();
    nameless.retain(|path| options.name.is_none() && !pack::is_text(path));
    let inputs = {
        let (name, several) = (options.name.clone(), paths.len() > 1);
        let looked = tokio::task::spawn_blocking(move || look_at_all(&paths, name.as_ref()))
            .await
            .map_err(|_| NodeError::new(ErrorCode::Other, "looking at the input failed"))?;
        // Of several, it could be thought that those before it were.
        let nothing = |error: NodeError| {
            let whole = if several { "; nothing was stored" } else { "" };
            NodeError { message: format!("{}{whole}", error.message), ..error }
        };
        looked.map_err(nothing)?
    };
    for path in nameless {
        let path = output::clean(&path.display().to_string());
        output::say(
            context,
            &format!("{path} is stored without a name: its own is not UTF-8; --name gives it one"),
        );
    }
    let skipped: Vec<PathBuf> = inputs.iter().flat_map(|input| input.skipped.clone()).collect();
    for path in &skipped {
        let why = match std::fs::read_link(path) {
            Ok(target) if !path.exists() => {
                let target = output::clean(&target.display().to_string());
                format!("it is a symbolic link to {target}, which is not there")
            }
            _ if !pack::is_text(path) => "its name is not UTF-8".into(),
            _ if path.is_dir() => "it is a node's data directory: its keys are for nobody else".into(),
            _ => "it is neither a file nor a folder".into(),
        };
        let path = output::clean(&path.display().to_string());
        output::say(context, &format!("skipped {path}: {why}"));
    }
    // A node that ends with the command is of no use to others.
    let door = Door::open(context, if options.no_serve { Need::Store } else { Need::Network }).await?;
    let api = match &door.node {
        // Other commands on this data directory can talk to this node while it stays.
        Some(node) if !options.no_serve => Some(serve(context, node).await?),
        _ => None,
    };
    let wanted = inputs.len();
    let stored = tokio::select! {
        stored = store_all(context, &door, inputs, &options) => stored,
        _ = stop.recv() => {
            door.close().await;
            return Err(Stop::Interrupted);
        }
    };
    let (reports, failed) = match stored {
        Ok(stored) => stored,
        Err(error) => {
            door.close().await;
            return Err(error.into());
        }
    };
    tokio::select! {
        placed = place_all(context, &door, &reports) => {
            if let Err(error) = placed {
                door.close().await;
                return Err(error.into());
            }
        }
        _ = stop.recv() => {
            door.close().await;
            return Ok(partly(reports.len(), wanted, failed, &skipped)?);
        }
    }
    if let Some(addr) = api {
        let it = if reports.len() == 1 { "it" } else { "them" };
        output::say(context, &format!("serving {it} until Ctrl-C (API at {addr})"));
        stop.recv().await;
    }
    door.close().await;
    Ok(partly(reports.len(), wanted, failed, &skipped)?)
}

/// Looks at everything before anything is stored.
fn look_at_all(paths: &[PathBuf], name: Option<&String>) -> Result<Vec<Input>, NodeError> {
    if paths.len() > 1 && name.is_some() {
        return Err(NodeError::new(ErrorCode::BadRequest, "--name names one file, and there are several")
            .hint("store them one by one, or in a folder"));
    }
    check_name(name.map(String::as_str))?;
    if paths.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(
            NodeError::new(ErrorCode::BadRequest, "standard input can be stored once").hint("name `-` once")
        );
    }
    paths.iter().map(|path| pack::look_at(path, name.cloned())).collect()
}

/// Stores one after the other and prints their links; answers also whether one of them failed.
async fn store_all(
    context: &Context,
    door: &Door,
    inputs: Vec<Input>,
    options: &ProvideOptions,
) -> Result<(Vec<PutReport>, bool), NodeError> {
    let (wanted, mut reports, mut failed) = (inputs.len(), Vec::new(), None);
    for input in inputs {
        match store(context, door, input, options).await {
            Ok((report, changed)) => {
                output::result(context, &report, |report| format!("{}\n", report.link))?;
                reports.push(report);
                if let Some(error) = changed {
                    output::error(&error, context.json);
                    failed = Some(error);
                }
            }
            Err(error) => {
                // The only one is told at the end; of several, each when it happens.
                if wanted > 1 {
                    output::error(&error, context.json);
                }
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if wanted == 1 && reports.is_empty() => Err(error),
        Some(error) if reports.is_empty() => {
            Err(NodeError { message: format!("none of {wanted} stored"), hint: String::new(), ..error })
        }
        failed => Ok((reports, failed.is_some())),
    }
}

async fn place_all(context: &Context, door: &Door, reports: &[PutReport]) -> Result<(), NodeError> {
    for report in reports {
        place(context, door, report).await?;
    }
    Ok(())
}

/// An error where not everything was stored.
fn partly(stored: usize, wanted: usize, failed: bool, skipped: &[PathBuf]) -> Result<(), NodeError> {
    if failed {
        let whole = if stored == wanted { ", not all of it whole" } else { "" };
        return Err(NodeError::new(ErrorCode::Partial, format!("{stored} of {wanted} stored{whole}")));
    }
    if skipped.is_empty() {
        return Ok(());
    }
    let count = plural(skipped.len() as u64, "item");
    let message = format!("stored without {count}: {}", named(skipped));
    Err(NodeError::new(ErrorCode::Partial, message))
}

/// Serves the API where the settings say; at a port that is free where they say nothing: a node for one command takes none
/// from a node that stays. Answers with its address.
async fn serve(context: &Context, node: &Node) -> Result<String, NodeError> {
    let serving = async {
        let (_, mut options) = to_run(&context.settings, &context.data_dir)?;
        if *context.settings.origin("http") == Origin::BuiltIn {
            options.addr.set_port(0);
        }
        let scheme = if matches!(options.tls, Tls::Off) { "http" } else { "https" };
        Ok(format!(
            "{scheme}://{}",
            Api::new(node.clone(), api_options(&context.settings)).await?.serve(&options).await?.addr
        ))
    };
    let served = serving.await;
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
) -> Result<(PutReport, Option<NodeError>), NodeError> {
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
    let expected = input.expected();
    let (body, trouble) = input.body(&bar).await?;
    let target = Target::path(format!("/api/v1/files?{}", query.trim_start_matches('&')));
    let report: Result<PutReport, NodeError> = door.client.json_body(Method::POST, &target, body).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| trouble.take().unwrap_or(error))?;
    let rate = bytes_per_s(report.size, bar.elapsed());
    let (size, new) = (output::bytes(report.size), report.new_blocks);
    output::say(context, &format!("sealed {size} in {} ({new} new), {rate}", plural(report.blocks, "block")));
    let changed =
        whether_changed(expected.filter(|expected| *expected != report.size), &trouble, report.size);
    Ok((report, changed))
}

/// What is wrong where somebody wrote to the input while it was read.
fn whether_changed(expected: Option<u64>, trouble: &Trouble, stored: u64) -> Option<NodeError> {
    let changed = trouble.changed();
    let message = match (expected, changed.len()) {
        (Some(expected), _) => {
            format!("the file changed while it was read: {stored} of {expected} bytes are stored")
        }
        (None, 0) => return None,
        (None, _) => {
            format!("changed while it was read, and may be stored half old and half new: {}", named(&changed))
        }
    };
    Some(NodeError::new(ErrorCode::Partial, message).hint("store it again when nothing writes to it"))
}

/// The first few of these.
fn named(paths: &[PathBuf]) -> String {
    let named = paths.iter().take(NAMED).map(|path| output::clean(&path.display().to_string()));
    let more = (paths.len() > NAMED).then(|| "and more".into());
    named.chain(more).collect::<Vec<String>>().join(", ")
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
