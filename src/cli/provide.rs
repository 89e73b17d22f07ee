//! `provide`: store files, folders or stdin.

use std::path::{Path, PathBuf};

use axum::http::Method;
use tokio::sync::mpsc::Receiver;

use super::{
    Context, Stop,
    args::ProvideOptions,
    client::{Endpoint, escape},
    connection::{Connection, Network},
    error::CliError,
    input::Input,
    input_errors::InputErrors,
    options::{api_options, run_options},
    output::{self, bytes_per_s, plural},
    run,
    sanitize::sanitize,
    walk::has_text_name,
};
use crate::{
    config::Origin,
    http::{Api, Tls},
    node::{
        ErrorCode, Node, check_name,
        report::{Placement, PutReport},
    },
};

/// How long to wait for the announcement, in seconds.
const ANNOUNCE_TIMEOUT_S: u32 = 10;

pub(super) async fn run(context: &Context, paths: Vec<PathBuf>, options: ProvideOptions) -> Result<(), Stop> {
    let mut stop = run::stop_signal()?;
    let unnamed: Vec<PathBuf> =
        paths.iter().filter(|path| options.name.is_none() && !has_text_name(path)).cloned().collect();
    let inputs = {
        let (name, several) = (options.name.clone(), paths.len() > 1);
        let examined = tokio::task::spawn_blocking(move || examine_all(&paths, name.as_ref()))
            .await
            .map_err(|_| CliError::panicked("examining the input"))?;
        examined.map_err(|error| {
            let nothing = if several { "; nothing was stored" } else { "" };
            CliError { message: format!("{}{nothing}", error.message), ..error }
        })?
    };
    for path in unnamed {
        let path = sanitize(&path.display().to_string());
        let message = format!("storing {path} without a name: its own is not UTF-8 (--name sets one)");
        output::message(context, &message);
    }
    let skipped: Vec<PathBuf> = inputs.iter().flat_map(|input| input.skipped.clone()).collect();
    for path in &skipped {
        let shown = sanitize(&path.display().to_string());
        output::message(context, &format!("skipped {shown}: {}", why_skipped(path)));
    }
    // Without --no-serve, the node stays and shares what it stores.
    let network = if options.no_serve { Network::Offline } else { Network::Online };
    let connection = Connection::open(context, network).await?;
    let provider = Provider { context, connection: &connection, options: &options };
    let result = provider.run(inputs, &skipped, &mut stop).await;
    connection.close().await;
    result
}

/// Examines all paths before anything is stored.
fn examine_all(paths: &[PathBuf], name: Option<&String>) -> Result<Vec<Input>, CliError> {
    if paths.len() > 1 && name.is_some() {
        return Err(CliError::bad_request("--name names one file, but there are several paths")
            .hint("store them one by one, or as a folder"));
    }
    check_name(name.map(String::as_str))?;
    if paths.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(CliError::bad_request("`-` is given more than once")
            .hint("standard input can be stored only once"));
    }
    paths.iter().map(|path| Input::examine(path, name.cloned())).collect()
}

fn why_skipped(path: &Path) -> String {
    match std::fs::read_link(path) {
        Ok(target) if !path.exists() => {
            let target = sanitize(&target.display().to_string());
            format!("it is a symbolic link to {target}, which does not exist")
        }
        _ if !has_text_name(path) => "its name is not UTF-8".into(),
        _ if path.is_dir() => "it is the data directory of a node and contains its keys".into(),
        _ => "it is neither a file nor a folder".into(),
    }
}

struct Provider<'a> {
    context: &'a Context,
    connection: &'a Connection,
    options: &'a ProvideOptions,
}

impl Provider<'_> {
    /// Stores the inputs, announces them, and serves them until a signal, if the node was started here.
    async fn run(
        &self,
        inputs: Vec<Input>,
        skipped: &[PathBuf],
        stop: &mut Receiver<()>,
    ) -> Result<(), Stop> {
        let api = match &self.connection.node {
            // Other commands on this data directory talk to this node while it stays.
            Some(node) if !self.options.no_serve => Some(serve(self.context, node).await?),
            _ => None,
        };
        let wanted = inputs.len();
        let (reports, failed) = tokio::select! {
            stored = self.store_all(inputs) => stored?,
            _ = stop.recv() => return Err(Stop::Interrupted),
        };
        let result = summary(reports.len(), wanted, failed, skipped);
        tokio::select! {
            announced = self.announce_all(&reports) => announced?,
            _ = stop.recv() => return Ok(result?),
        }
        if let Some(addr) = api {
            let it = if reports.len() == 1 { "it" } else { "them" };
            output::message(self.context, &format!("serving {it} until Ctrl-C (API at {addr})"));
            stop.recv().await;
        }
        Ok(result?)
    }

    /// Stores the inputs and prints their links. Returns the reports, and whether an input failed or changed.
    async fn store_all(&self, inputs: Vec<Input>) -> Result<(Vec<PutReport>, bool), CliError> {
        let (wanted, mut reports, mut failed) = (inputs.len(), Vec::new(), None);
        for input in inputs {
            let error = match self.store(input).await {
                Ok((report, changed)) => {
                    output::result(self.context, &report, |report| format!("{}\n", report.link))?;
                    reports.push(report);
                    changed
                }
                Err(error) => Some(error),
            };
            let Some(error) = error else { continue };
            // If nothing is stored of a single input, the error is the result of the command.
            if wanted > 1 || !reports.is_empty() {
                output::error(&error, self.context.json);
            }
            failed = Some(error);
        }
        match failed {
            Some(error) if wanted == 1 && reports.is_empty() => Err(error),
            Some(error) if reports.is_empty() => {
                Err(CliError { message: format!("none of {wanted} stored"), hint: String::new(), ..error })
            }
            failed => Ok((reports, failed.is_some())),
        }
    }

    /// Stores one input. Returns the report, and an error if the input changed while it was read.
    async fn store(&self, input: Input) -> Result<(PutReport, Option<CliError>), CliError> {
        let mut query = input.query.clone();
        for (key, value) in [
            ("name", input.name.as_deref()),
            ("public", Some(if self.options.public { "true" } else { "false" })),
            ("dedup", Some(if self.options.no_dedup { "false" } else { "true" })),
            // A running node has a setting of its own, which the flag overrides.
            ("chunker", self.context.settings.get("chunker")),
        ] {
            if let Some(value) = value {
                query = format!("{query}&{key}={}", escape(value));
            }
        }
        let bar = output::bar(self.context, "sealing", input.size);
        let expected = input.expected_len();
        let (body, errors) = input.body(&bar).await?;
        let endpoint = Endpoint::path(format!("/api/v1/files?{}", query.trim_start_matches('&')));
        let report: Result<PutReport, CliError> =
            self.connection.client.json_body(Method::POST, &endpoint, body).await;
        bar.finish_and_clear();
        // The node sees only that its input broke off.
        let report = report.map_err(|error| errors.take_failed().unwrap_or(error))?;
        let (size, rate) = (output::bytes(report.size), bytes_per_s(report.size, bar.elapsed()));
        let (blocks, new) = (plural(report.blocks, "block"), report.new_blocks);
        output::message(self.context, &format!("sealed {size} in {blocks} ({new} new), {rate}"));
        let changed = input_changed(expected.filter(|len| *len != report.size), &errors, report.size);
        Ok((report, changed))
    }

    async fn announce_all(&self, reports: &[PutReport]) -> Result<(), CliError> {
        for report in reports {
            let message = self.announce(report).await?;
            output::message(self.context, &message);
        }
        Ok(())
    }

    /// Waits until peers know that this node has the file. Returns the message for the user.
    async fn announce(&self, report: &PutReport) -> Result<String, CliError> {
        let Connection { client, node } = self.connection;
        if node.as_ref().is_some_and(Node::is_offline) {
            return Ok("stored on this node; start it with `storgo-node run` to share the file".into());
        }
        // A node that was just started may connect to its bootstrap peers in a moment.
        let connecting = node.is_some() && !self.context.settings.list("bootstrap").is_empty();
        if !connecting && client.status().await?.peers == 0 {
            return Ok("placed on this node only: no peer is connected".into());
        }
        let spinner = output::spinner(self.context, "placing");
        let path = format!("/api/v1/files/{}/placement?wait={ANNOUNCE_TIMEOUT_S}", report.cid);
        let placement: Result<Placement, CliError> = client.json(Method::GET, &Endpoint::path(path)).await;
        spinner.finish_and_clear();
        Ok(match placement? {
            Placement { done: true, announced_to, .. } => {
                let know = if announced_to == 1 { "knows" } else { "know" };
                format!("placed: {} {know} that this node has it", plural(u64::from(announced_to), "peer"))
            }
            Placement { .. } => "placed on this node; announcing it continues in the background".into(),
        })
    }
}

/// An error if something was not stored as it is.
fn summary(stored: usize, wanted: usize, failed: bool, skipped: &[PathBuf]) -> Result<(), CliError> {
    let message = if failed {
        let changed = if stored == wanted { ", but some inputs changed meanwhile" } else { "" };
        format!("{stored} of {wanted} stored{changed}")
    } else if skipped.is_empty() {
        return Ok(());
    } else {
        format!("stored without {}: {}", plural(skipped.len() as u64, "item"), output::list_paths(skipped))
    };
    Err(CliError::new(ErrorCode::Partial, message))
}

/// Serves the API where the settings say, or else on any free port: the default port is for a node that stays.
/// Returns its URL.
async fn serve(context: &Context, node: &Node) -> Result<String, CliError> {
    let (_, mut options) = run_options(&context.settings, &context.data_dir)?;
    if *context.settings.origin("http") == Origin::BuiltIn {
        options.addr.set_port(0);
    }
    let scheme = if matches!(options.tls, Tls::Off) { "http" } else { "https" };
    let api = Api::new(node.clone(), api_options(&context.settings)).await?;
    Ok(format!("{scheme}://{}", api.serve(&options).await?.addr))
}

fn input_changed(expected: Option<u64>, errors: &InputErrors, stored: u64) -> Option<CliError> {
    let changed = errors.take_changed();
    let message = match expected {
        Some(expected) => format!("the file changed while it was read: stored {stored} of {expected} bytes"),
        None if changed.is_empty() => return None,
        None => format!("changed while it was read, may be half old and half new: {}", output::list_paths(&changed)),
    };
    Some(CliError::new(ErrorCode::Partial, message).hint("store it again when nothing writes to it"))
}
