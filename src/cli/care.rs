//! Commands that check and tidy what is stored.

use std::collections::HashSet;

use axum::http::Method;

use super::{
    Context,
    client::Target,
    door::{Need, needs_a_node_here, node_options},
    output,
    show::{ask, plural},
};
use crate::{
    catalogue,
    node::{
        ErrorCode, NodeError,
        report::{FileInfo, FileList, GcReport, Health, HealthReport, RepairReport, VerifyReport},
    },
    store::{Store, StoreOptions, read_lock},
};

pub(super) async fn verify(
    context: &Context,
    reference: Option<&str>,
    rebuild: bool,
) -> Result<(), NodeError> {
    needs_a_node_here(context)?;
    if rebuild {
        rebuild_index(context).await?;
    }
    let target = match reference {
        Some(reference) => Target::file(reference, "/verify")?,
        None => Target::path("/api/v1/verify"),
    };
    let bar = output::spinner(context, "verifying");
    let report =
        ask(context, Need::Store, async |client| client.json::<VerifyReport>(Method::POST, &target).await);
    let report = report.await;
    bar.finish_and_clear();
    let report = report?;
    output::result(context, &report, |report| {
        let mut text =
            format!("{} checked, {}\n", plural(report.checked, "block"), output::bytes(report.bytes));
        for (what, cids) in
            [("damaged", &report.bad), ("missing", &report.missing), ("repaired", &report.repaired)]
        {
            text.extend(cids.iter().map(|cid| format!("{what:<9} {cid}\n")));
        }
        text
    })?;
    let repaired: HashSet<_> = report.repaired.iter().collect();
    let lost: Vec<_> =
        report.bad.iter().chain(&report.missing).filter(|cid| !repaired.contains(cid)).collect();
    match lost.first() {
        None => Ok(()),
        Some(_) if let Some(failure) = report.failure => Err(failure),
        Some(first) => {
            let message = format!(
                "{} without a good copy here, the first is {first}",
                plural(lost.len() as u64, "block")
            );
            Err(NodeError::new(ErrorCode::Integrity, message).hint(
                "with peers that have the file connected, `storgo-node verify` fetches what is missing",
            ))
        }
    }
}

pub(super) async fn health(context: &Context, reference: Option<&str>) -> Result<(), NodeError> {
    let Some(reference) = reference else { return damaged(context).await };
    let target = Target::file(reference, "/health")?;
    let report: HealthReport =
        ask(context, Need::Network, async |client| client.json(Method::GET, &target).await).await?;
    output::result(context, &report, |report| {
        let state = match (report.state, report.may_lose) {
            (Health::Ok, n) => format!("ok as of now: any {} may be lost", plural(n.into(), "node")),
            (Health::AtRisk, _) if report.here > 0 && report.only_here > 0 => {
                format!("at risk: {} nowhere but here", is_or_are(report.only_here))
            }
            (Health::AtRisk, _) => "at risk: a block is on one node alone".into(),
            (Health::Damaged, _) => "damaged here: `storgo-node repair` fetches what is missing".into(),
            (Health::Lost, _) => format!("lost: {} nowhere that could be asked", is_or_are(report.lost)),
        };
        let mut lines = vec![("cid", report.cid.to_string())];
        lines.extend(report.name.as_deref().map(|name| ("name", output::clean(name))));
        lines.push(("health", state));
        lines.push(("blocks", format!("{} of {} here", report.here, report.blocks)));
        let own = if report.here == report.blocks { ", this node's own included" } else { "" };
        // Who only read it has it in its cache.
        let now = if report.copies > 1 { "; a node that only read it may drop its copy" } else { "" };
        lines.push(("copies", format!("{} whole{own}{now}", report.copies)));
        lines.extend(report.holders.iter().map(|holder| {
            let has = match (holder.whole, holder.blocks) {
                (true, _) => "all of it".into(),
                (_, Some(blocks)) => plural(blocks, "block"),
                (_, None) => "did not answer".into(),
            };
            ("holder", format!("{} ({has})", holder.peer))
        }));
        lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
    })?;
    match report.state {
        Health::Ok | Health::AtRisk => Ok(()),
        Health::Damaged => Err(NodeError::new(
            ErrorCode::Integrity,
            format!("{} not here", is_or_are(report.blocks - report.here)),
        )
        .hint("`storgo-node repair` fetches what is missing")),
        Health::Lost => {
            Err(NodeError::new(ErrorCode::Integrity, format!("{} nowhere", is_or_are(report.lost)))
                .hint("connect a node that has the file; what was stored elsewhere is whole there"))
        }
    }
}

fn is_or_are(blocks: u64) -> String {
    format!("{} {}", plural(blocks, "block"), if blocks == 1 { "is" } else { "are" })
}

/// The files that lack blocks here.
async fn damaged(context: &Context) -> Result<(), NodeError> {
    let files: Vec<FileInfo> = ask(context, Need::Store, async |client| {
        let (mut files, mut cursor) = (Vec::new(), String::new());
        loop {
            let target = Target::path(format!("/api/v1/files?health=damaged&limit=1000{cursor}"));
            let page: FileList = client.json(Method::GET, &target).await?;
            files.extend(page.files);
            match page.next {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(files),
            }
        }
    })
    .await?;
    output::result(context, &files, |files| {
        let row = |file: &FileInfo| {
            let name = output::clean(file.name.as_deref().unwrap_or("-"));
            vec![file.cid.to_string(), output::bytes(file.size), name]
        };
        match files.as_slice() {
            [] => "every kept file has all its blocks here\n".into(),
            files => output::table(&["CID", "SIZE", "NAME"], &files.iter().map(row).collect::<Vec<_>>()),
        }
    })?;
    match files.len() as u64 {
        0 => Ok(()),
        n => Err(NodeError::new(ErrorCode::Integrity, format!("{} without blocks here", plural(n, "file")))
            .hint("`storgo-node repair` fetches them from peers that have them")),
    }
}

pub(super) async fn repair(context: &Context, reference: Option<&str>) -> Result<(), NodeError> {
    let target = match reference {
        Some(reference) => Target::file(reference, "/repair")?,
        None => Target::path("/api/v1/repair"),
    };
    let bar = output::spinner(context, "repairing");
    let report =
        ask(context, Need::Network, async |client| client.json::<RepairReport>(Method::POST, &target).await);
    let report = report.await;
    bar.finish_and_clear();
    let report = report?;
    output::result(context, &report, |report| {
        let mut text = match report.repaired.len() as u64 {
            0 if report.missing.is_empty() => "nothing is missing here\n".into(),
            n => format!("{} fetched\n", plural(n, "block")),
        };
        text.extend(report.missing.iter().map(|cid| format!("missing   {cid}\n")));
        text
    })?;
    match report.missing.len() as u64 {
        0 => Ok(()),
        n => Err(NodeError::new(ErrorCode::Integrity, format!("{} still missing", is_or_are(n)))
            .hint("connect a node that has the file, and repair again")),
    }
}

async fn rebuild_index(context: &Context) -> Result<(), NodeError> {
    if let Some(note) = read_lock(&context.data_dir) {
        return Err(NodeError::new(ErrorCode::Locked, format!("the node runs, as process {}", note.pid))
            .hint("stop it first: the index cannot be replaced under it"));
    }
    let options = node_options(&context.settings, &context.data_dir)?;
    let layout = options.layout;
    let store = StoreOptions {
        layout: options.layout,
        grace: options.grace,
        observers: catalogue::observers(),
        ..StoreOptions::new(&context.data_dir)
    };
    let bar = output::spinner(context, "rebuilding");
    let rebuilt = tokio::task::spawn_blocking(move || Store::rebuild(store).map(|(_, found)| found)).await;
    bar.finish_and_clear();
    let found = rebuilt.map_err(|_| NodeError::new(ErrorCode::Other, "rebuilding failed"))??;
    let moved = match found.moved {
        0 => String::new(),
        n => format!("; {} moved to layout {layout}", plural(n, "block")),
    };
    let nameless = match found.roots - found.known {
        0 => String::new(),
        n => format!(
            ". The names and keys of {} were in the old index and are gone: a link reads one whose blocks are all here or with peers",
            plural(n, "file")
        ),
    };
    let text = format!(
        "index rebuilt: {}, {}; {} damaged{moved}{nameless}",
        plural(found.blocks, "block"),
        plural(found.roots, "file"),
        found.damaged
    );
    output::say(context, &text);
    Ok(())
}

pub(super) async fn gc(context: &Context, now: bool) -> Result<(), NodeError> {
    let target = Target::path(if now { "/api/v1/gc?now=true" } else { "/api/v1/gc" });
    let report: GcReport =
        ask(context, Need::Store, async |client| client.json(Method::POST, &target).await).await?;
    output::result(context, &report, |report| {
        let waiting = match report.waiting {
            0 => String::new(),
            n => format!("; {} in the grace period (--now removes them)", plural(n, "more block")),
        };
        format!(
            "{} removed, {} freed{waiting}\n",
            plural(report.blocks, "block"),
            output::bytes(report.bytes)
        )
    })
}
