//! `verify`, `health`, `keep`, `repair` and `gc`: check and tidy what is stored.

use std::collections::HashSet;

use axum::http::Method;
use serde::de::DeserializeOwned;

use super::{
    Context,
    client::Endpoint,
    connection::{Network, ask, call, require_data_dir, require_stopped},
    error::CliError,
    files,
    options::node_options,
    output::{self, plural, table},
    sanitize::sanitize,
    shell::complete,
};
use crate::{
    catalogue,
    node::{
        ErrorCode, NodeError,
        report::{FileInfo, GcReport, Health, HealthReport, RepairReport, VerifyReport},
    },
    store::{Store, StoreError, StoreOptions},
};

pub(super) async fn verify(
    context: &Context,
    reference: Option<&str>,
    rebuild: bool,
) -> Result<(), CliError> {
    require_data_dir(context)?;
    if rebuild {
        rebuild_index(context).await?;
    }
    let report: VerifyReport = run_job(context, Network::Offline, "verify", reference).await?;
    output::result(context, &report, |report| {
        let mut text =
            format!("{} checked, {}\n", plural(report.checked, "block"), output::bytes(report.bytes));
        for (state, cids) in
            [("damaged", &report.bad), ("missing", &report.missing), ("repaired", &report.repaired)]
        {
            text.extend(cids.iter().map(|cid| format!("{state:<9} {cid}\n")));
        }
        text
    })?;
    let repaired: HashSet<_> = report.repaired.iter().collect();
    let lost: Vec<_> =
        report.bad.iter().chain(&report.missing).filter(|cid| !repaired.contains(cid)).collect();
    match lost.first() {
        None if report.index_behind => Err(NodeError::from(StoreError::IndexBehind).into()),
        None => Ok(()),
        Some(_) if let Some(failure) = report.failure => Err(failure.into()),
        Some(first) => {
            let blocks = plural(lost.len() as u64, "block");
            Err(CliError::new(ErrorCode::Integrity, format!("no good copy here of {blocks}, first {first}")).hint(
                "connect to a node that has the file and run `storgo-node verify` again: it fetches what is missing",
            ))
        }
    }
}

/// Requests a verification or a repair of one file or of all, and waits for its report.
async fn run_job<T: DeserializeOwned>(
    context: &Context,
    network: Network,
    job: &'static str,
    reference: Option<&str>,
) -> Result<T, CliError> {
    let endpoint = match reference {
        Some(reference) => Endpoint::file(reference, &format!("/{job}"))?,
        None => Endpoint::path(format!("/api/v1/{job}")),
    };
    let spinner = output::spinner(context, job);
    let report = call(context, network, Method::POST, &endpoint).await;
    spinner.finish_and_clear();
    report
}

pub(super) async fn health(context: &Context, reference: Option<&str>) -> Result<(), CliError> {
    let Some(reference) = reference else { return list_damaged(context).await };
    let endpoint = Endpoint::file(reference, "/health")?;
    let report: HealthReport = call(context, Network::Online, Method::GET, &endpoint).await?;
    output::result(context, &report, describe_health)?;
    match report.state {
        Health::Ok | Health::AtRisk | Health::Unkept => Ok(()),
        Health::Damaged => {
            let message = format!("{} not on this node", is_or_are(report.blocks - report.here));
            Err(CliError::new(ErrorCode::Integrity, message)
                .hint("`storgo-node repair` fetches them from peers"))
        }
        Health::Unknown => {
            let code = if report.kept { ErrorCode::Integrity } else { ErrorCode::Timeout };
            Err(CliError::new(code, nowhere(&report))
                .hint("check that the holders listed above run and that a firewall lets this node through"))
        }
        Health::Lost => {
            Err(CliError::new(ErrorCode::Integrity, nowhere(&report))
                .hint("connect to a node that has the file"))
        }
    }
}

fn describe_health(report: &HealthReport) -> String {
    let state = match (report.state, report.may_lose) {
        (Health::Ok, n) => format!("ok for now: survives the loss of any {}", plural(n.into(), "node")),
        (Health::AtRisk, _) if report.here > 0 && report.only_here > 0 => {
            format!("at risk: {} only on this node", is_or_are(report.only_here))
        }
        (Health::AtRisk, _) => "at risk: some blocks are on a single node".into(),
        (Health::Unkept, _) => {
            let only = plural(report.lost, "block");
            format!(
                "can be read here, but no node that answered keeps {only} of it; `keep` with the same link or name keeps it here"
            )
        }
        (Health::Damaged, _) => {
            complete("damaged here: `storgo-node repair` fetches the missing blocks").into_owned()
        }
        (Health::Unknown, _) => format!("unknown: {}", nowhere(report)),
        (Health::Lost, _) => format!("lost: {}", nowhere(report)),
    };
    let mut lines = vec![("cid", report.cid.to_string())];
    lines.extend(report.name.as_deref().map(|name| ("name", sanitize(name))));
    lines.push(("health", state));
    if !report.counted_all {
        let counted = format!("the first {}; nothing is known of the rest", plural(report.blocks, "block"));
        lines.push(("counted", counted));
    }
    let unkept = if report.kept || report.here == 0 { "" } else { ", not kept: they may go at any time" };
    lines.push(("blocks", format!("{} of {} here{unkept}", report.here, report.blocks)));
    let here = if report.kept && report.here == report.blocks { ", with this node's own" } else { "" };
    // A node that only read the file holds it in its cache.
    let cached = if report.copies > 1 { "; other nodes may drop copies from their cache" } else { "" };
    lines.push(("copies", format!("{} complete{here}{cached}", report.copies)));
    lines.extend(report.holders.iter().map(|holder| {
        let has = match (holder.whole, holder.blocks) {
            (true, _) => "all blocks".into(),
            (_, Some(blocks)) => plural(blocks, "block"),
            (_, None) => "did not answer".into(),
        };
        ("holder", format!("{} ({has})", holder.peer))
    }));
    lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}

/// Which blocks were found nowhere, and why that may be.
fn nowhere(report: &HealthReport) -> String {
    let silent = report.holders.iter().filter(|holder| holder.blocks.is_none()).count() as u64;
    let silent = match silent {
        0 => String::new(),
        n => format!("; {} that announced the file did not answer", plural(n, "node")),
    };
    format!("{} on no node that answered{silent}", is_or_are(report.lost))
}

fn is_or_are(blocks: u64) -> String {
    format!("{} {}", plural(blocks, "block"), if blocks == 1 { "is" } else { "are" })
}

/// Lists the kept files of which blocks are missing here.
async fn list_damaged(context: &Context) -> Result<(), CliError> {
    let list =
        ask(context, Network::Offline, async |client| files::list(client, "health=damaged").await).await?;
    let (files, kept) = (list.files, list.kept.unwrap_or_default());
    output::result(context, &files, |files| {
        let row = |file: &FileInfo| {
            let name = sanitize(file.name.as_deref().unwrap_or("-"));
            vec![file.cid.to_string(), output::bytes_if_known(file.size), name]
        };
        match files.as_slice() {
            [] if kept == 0 => "this node keeps no files\n".into(),
            [] => format!("all kept files are complete: {}\n", plural(kept, "file")),
            files => table(&["CID", "SIZE", "NAME"], &files.iter().map(row).collect::<Vec<_>>()),
        }
    })?;
    match files.len() as u64 {
        0 => Ok(()),
        n => Err(CliError::new(ErrorCode::Integrity, format!("{} with missing blocks", plural(n, "file")))
            .hint("`storgo-node repair` fetches them from peers")),
    }
}

pub(super) async fn keep(context: &Context, reference: &str) -> Result<(), CliError> {
    let file: FileInfo = run_job(context, Network::Online, "keep", Some(reference)).await?;
    output::result(context, &file, |file| {
        let name = file.name.as_deref().map_or_else(|| file.cid.to_string(), sanitize);
        format!("kept here: {name}, {}\n", output::bytes_if_known(file.size))
    })
}

pub(super) async fn repair(context: &Context, reference: Option<&str>) -> Result<(), CliError> {
    let report: RepairReport = run_job(context, Network::Online, "repair", reference).await?;
    output::result(context, &report, |report| {
        let mut text = match report.repaired.len() as u64 {
            0 if report.missing.is_empty() => "nothing to repair\n".into(),
            n => format!("{} fetched\n", plural(n, "block")),
        };
        text.extend(report.missing.iter().map(|cid| format!("missing   {cid}\n")));
        text
    })?;
    match report.missing.len() as u64 {
        0 => Ok(()),
        n => Err(CliError::new(ErrorCode::Integrity, format!("{} still missing", is_or_are(n)))
            .hint("connect to a node that has the file, then repair again")),
    }
}

async fn rebuild_index(context: &Context) -> Result<(), CliError> {
    require_stopped(context, "stop it first: it uses the index")?;
    let options = node_options(&context.settings, &context.data_dir)?;
    let layout = options.store.layout;
    let observers = catalogue::observers();
    let store = StoreOptions {
        layout,
        grace: options.store.grace,
        observers,
        ..StoreOptions::new(&context.data_dir)
    };
    let spinner = output::spinner(context, "rebuilding");
    let rebuilt = tokio::task::spawn_blocking(move || Store::rebuild(store).map(|(_, found)| found)).await;
    spinner.finish_and_clear();
    let found = rebuilt.map_err(|_| CliError::panicked("rebuilding the index"))?.map_err(NodeError::from)?;
    let moved = match found.moved {
        0 => String::new(),
        n => format!("; {} moved to layout {layout}", plural(n, "block")),
    };
    let nameless = match found.roots - found.known {
        0 => String::new(),
        n => format!(
            "\nthe names and keys of {} were only in the old index; their links still read them",
            plural(n, "file")
        ),
    };
    let (blocks, roots) = (plural(found.blocks, "block"), plural(found.roots, "file"));
    let damaged = found.damaged;
    output::message(
        context,
        &format!("index rebuilt: {blocks}, {roots}; {damaged} damaged{moved}{nameless}"),
    );
    Ok(())
}

pub(super) async fn gc(context: &Context, now: bool, cache: bool) -> Result<(), CliError> {
    let endpoint = Endpoint::path(format!("/api/v1/gc?now={now}&cache={cache}"));
    let report: GcReport = call(context, Network::Offline, Method::POST, &endpoint).await?;
    output::result(context, &report, |report| {
        let waiting = match report.waiting {
            0 => String::new(),
            n => format!("; {} in the grace period, --now removes them too", plural(n, "more block")),
        };
        let blocks = plural(report.blocks, "block");
        format!("{blocks} removed, {} freed{waiting}\n", output::bytes(report.bytes))
    })
}
