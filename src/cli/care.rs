//! Commands that check and tidy what is stored.

use axum::http::Method;

use super::{
    Context,
    client::Target,
    door::{Need, needs_a_node_here, node_options},
    output,
    show::{ask, plural},
};
use crate::{
    node::{
        ErrorCode, NodeError,
        report::{GcReport, VerifyReport},
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
    let lost: Vec<_> =
        report.bad.iter().chain(&report.missing).filter(|cid| !report.repaired.contains(cid)).collect();
    match lost.first() {
        None => Ok(()),
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

async fn rebuild_index(context: &Context) -> Result<(), NodeError> {
    if let Some(note) = read_lock(&context.data_dir) {
        return Err(NodeError::new(ErrorCode::Locked, format!("the node runs, as process {}", note.pid))
            .hint("stop it first: the index cannot be replaced under it"));
    }
    let options = node_options(&context.settings, &context.data_dir)?;
    let layout = options.layout;
    let store =
        StoreOptions { layout: options.layout, grace: options.grace, ..StoreOptions::new(&context.data_dir) };
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
        n => format!(". The names and keys of {} were in the old index: links read them", plural(n, "file")),
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
