//! `ls`, `info` and `rm`: the files that this node keeps.

use std::time::Duration;

use axum::http::Method;

use super::{
    Context,
    client::{Client, Endpoint, escape, is_name},
    connection::{Connection, Network, ask, call, require_data_dir},
    error::{CliError, InputError},
    output::{self, fit, plural, table, terminal_columns},
    sanitize::sanitize,
    shell::{complete, quote},
};
use crate::node::report::{DirEntryInfo, FileInfo, FileKind, FileList, RemoveReport};

/// Fetches all pages of a list of files as one; `query` is the query of the request.
pub(super) async fn list(client: &Client, query: &str) -> Result<FileList, CliError> {
    let (mut files, mut cursor) = (Vec::new(), String::new());
    loop {
        let endpoint = Endpoint::path(format!("/api/v1/files?limit=1000&{query}{cursor}"));
        let page: FileList = client.json(Method::GET, &endpoint).await?;
        files.extend(page.files);
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(FileList { files, ..page }),
        }
    }
}

/// If the user named a file by its name, tells about older files of that name.
pub(super) async fn mention_older(context: &Context, client: &Client, reference: &str) {
    if context.quiet || context.json || !is_name(reference) {
        return;
    }
    let Ok(endpoint) = Endpoint::file(reference, "") else { return };
    // Only a remark: left out if the node does not answer.
    if let Ok(info) = client.json::<FileInfo>(Method::GET, &endpoint).await {
        print_older(context, &info, reference);
    }
}

fn print_older(context: &Context, info: &FileInfo, reference: &str) {
    let Some(older) = info.older else { return };
    let have = if older == 1 { "file has" } else { "files have" };
    let message = format!(
        "{older} older {have} this name, using the newest; `storgo-node ls {}` lists all",
        quote(reference)
    );
    output::message(context, &message);
}

const fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Dir => "folder",
        FileKind::File => "file",
    }
}

pub(super) async fn ls(context: &Context, query: Option<&str>) -> Result<(), CliError> {
    let search = query.map_or_else(String::new, |query| format!("&q={}", escape(query)));
    let search = format!("sort=created&order=desc{search}");
    let files = ask(context, Network::Offline, async |client| list(client, &search).await).await?.files;
    match query {
        _ if !files.is_empty() => {}
        None => output::message(context, "no files yet; store one with `storgo-node provide FILE`"),
        Some(query) => output::message(context, &format!("no file name contains {query:?}")),
    }
    let mut shortened = false;
    output::result(context, &files, |files| {
        let row = |file: &FileInfo| {
            let state = match (file.pinned, file.sealed) {
                _ if file.missing > 0 => "damaged",
                (false, _) => "known",
                (true, true) => "sealed",
                (true, false) => "public",
            };
            let (cid, name) = (file.cid.to_string(), sanitize(file.name.as_deref().unwrap_or("-")));
            let stored = file.created.map_or_else(|| "-".into(), output::date);
            let size = output::bytes_if_known(file.size);
            vec![cid, size, kind(file.kind).into(), state.into(), stored, name]
        };
        let head = ["CID", "SIZE", "KIND", "STATE", "STORED", "NAME"];
        let mut rows: Vec<_> = files.iter().map(row).collect();
        // Shorten the name first, while names can still be told apart, then the CID, then the name again.
        fit(&head, &mut rows, terminal_columns(), &[(5, 24), (0, 17), (5, 8)]);
        shortened = rows.iter().zip(files).any(|(row, file)| row[0] != file.cid.to_string());
        table(&head, &rows)
    })?;
    if shortened {
        let message =
            "CIDs are shortened to fit the terminal; `storgo-node info NAME` or a pipe shows them whole";
        output::message(context, message);
    }
    Ok(())
}

pub(super) async fn info(context: &Context, reference: &str) -> Result<(), CliError> {
    let endpoint = Endpoint::file(reference, "?providers=true")?;
    let info: FileInfo = call(context, Network::Online, Method::GET, &endpoint).await?;
    print_older(context, &info, reference);
    output::result(context, &info, describe)
}

fn describe(info: &FileInfo) -> String {
    let yes_or_no = |yes| String::from(if yes { "yes" } else { "no" });
    let kept = match (info.pinned, info.missing) {
        (true, missing @ 1..) => complete(&format!(
            "incomplete: {} missing or damaged; `storgo-node verify {}` fetches what peers have",
            plural(missing, "block"),
            info.cid
        ))
        .into_owned(),
        (kept, _) => yes_or_no(kept),
    };
    let providers = info.providers.as_ref().map(|providers| match providers.len() {
        0 => "no other node announces it".into(),
        _ => providers.join("\n           "),
    });
    let size = info.size.map(|size| format!("{} ({size} bytes)", output::bytes(size)));
    let lines = [
        ("cid", Some(info.cid.to_string())),
        ("name", info.name.as_deref().map(sanitize)),
        ("link", info.link.clone()),
        ("kind", Some(kind(info.kind).into())),
        ("size", size),
        ("type", info.media_type.as_deref().map(sanitize)),
        ("blocks", info.blocks.map(|blocks| blocks.to_string())),
        ("on disk", info.stored_len.map(output::bytes)),
        ("stored", info.created.map(output::date)),
        ("chunker", info.chunker.as_deref().map(sanitize)),
        ("sealed", Some(yes_or_no(info.sealed))),
        ("kept here", Some(kept)),
        ("providers", providers),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| Some(format!("{name:<10} {}\n", value?)));
    let mut text: String = lines.collect();
    if let Some(entries) = &info.entries {
        let row = |entry: &DirEntryInfo| {
            let slash = if entry.kind == FileKind::Dir { "/" } else { "" };
            vec![output::bytes(entry.size), sanitize(&entry.name) + slash]
        };
        let mut rows: Vec<_> = entries.iter().map(row).collect();
        fit(&["SIZE", "NAME"], &mut rows, terminal_columns(), &[(1, 24)]);
        text.push('\n');
        text.push_str(&table(&["SIZE", "NAME"], &rows));
    }
    text
}

pub(super) async fn rm(context: &Context, references: &[String]) -> Result<(), CliError> {
    require_data_dir(context)?;
    let connection = Connection::open(context, Network::Online).await?;
    let mut removed: Vec<RemoveReport> = Vec::new();
    let mut errors = Vec::new();
    for reference in references {
        let answer = match Endpoint::file(reference, "") {
            Ok(endpoint) => connection.client.json(Method::DELETE, &endpoint).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(report) => removed.push(report),
            Err(error) => {
                if references.len() > 1 {
                    output::input_error(context, &error);
                }
                errors.push(InputError { input: reference.clone(), error });
            }
        }
    }
    connection.close().await;
    if removed.iter().any(|report| report.withdrawal_pending) {
        let message = "some peers were not reached and still list this node as a provider; they learn of the removal when \
                       they meet it again, or forget it within 48 hours";
        output::message(context, message);
    }
    let failed =
        (!errors.is_empty()).then(|| CliError::of_inputs(errors, removed.len(), references.len(), "removed"));
    if removed.is_empty() {
        return failed.map_or(Ok(()), Err);
    }
    output::result(context, &removed, |removed| {
        let line = |report: &RemoveReport| {
            format!("removed {} {}\n", report.cid, sanitize(report.name.as_deref().unwrap_or("")))
        };
        removed.iter().map(line).collect()
    })?;
    let (now, later): (Vec<_>, Vec<_>) = removed.iter().partition(|report| report.freed_after_s == 0);
    let sum = |reports: &[&RemoveReport]| reports.iter().map(|report| report.stored_len).sum::<u64>();
    if sum(&now) > 0 {
        output::message(context, &format!("freed {}", output::bytes(sum(&now))));
    }
    if let Some(report) = later.first().filter(|_| sum(&later) > 0) {
        let wait = humantime::format_duration(Duration::from_secs(report.freed_after_s));
        let message = format!(
            "up to {} will be freed in {wait}, except blocks that other files need; `storgo-node gc --now` frees them at once",
            output::bytes(sum(&later))
        );
        output::message(context, &message);
    }
    failed.map_or(Ok(()), Err)
}
