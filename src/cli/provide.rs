//! `provide`: store files, folders or stdin.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use axum::http::Method;
use indicatif::ProgressBar;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Stop,
    args::ProvideOptions,
    client::{Endpoint, escape},
    connection::{Connection, Network},
    error::{CliError, InputError},
    input::Input,
    input_errors::{InputErrors, Skipped},
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
        report::{LeftOut, Placement, PutReport},
    },
};

/// How long to wait for the announcement of all files.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(context: &Context, paths: Vec<PathBuf>, options: ProvideOptions) -> Result<(), Stop> {
    let mut stop = run::stop_signal()?;
    let unnamed: Vec<PathBuf> =
        paths.iter().filter(|path| options.name.is_none() && !has_text_name(path)).cloned().collect();
    let walking = CancellationToken::new();
    let _ends_with_command = walking.clone().drop_guard();
    let (name, several, follow) = (options.name.clone(), paths.len() > 1, options.follow);
    let examining = tokio::task::spawn_blocking(move || examine_all(&paths, name.as_ref(), follow, &walking));
    let Some(examined) = unless_stopped(&mut stop, examining).await else {
        output::message(context, "interrupted: nothing was stored yet");
        return Err(Stop::Interrupted);
    };
    let inputs = examined.map_err(|_| CliError::panicked("examining the input"))?.map_err(|error| {
        let nothing = if several { "; nothing was stored" } else { "" };
        CliError { message: format!("{}{nothing}", error.message), ..error }
    })?;
    for path in unnamed {
        let path = sanitize(&path.display().to_string());
        let message = format!("storing {path} without a name: its own is not UTF-8 (--name sets one)");
        output::message(context, &message);
    }
    // Without --no-serve, the node stays and shares what it stores.
    let network = if options.no_serve { Network::Offline } else { Network::Online };
    let opening = unless_stopped(&mut stop, Connection::open(context, network)).await;
    let connection = opening.ok_or(Stop::Interrupted)??;
    let provider = Provider { context, connection: &connection, options: &options };
    let result = provider.run(inputs, &mut stop).await;
    connection.close().await;
    result
}

/// Awaits `work`; `None` if a signal comes first.
fn unless_stopped<T>(
    stop: &mut Receiver<()>,
    work: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    let work = Box::pin(work);
    async {
        tokio::select! {
            done = work => Some(done),
            _ = stop.recv() => None,
        }
    }
}

/// Examines all paths before anything is stored. `stop` ends it.
fn examine_all(
    paths: &[PathBuf],
    name: Option<&String>,
    follow: bool,
    stop: &CancellationToken,
) -> Result<Vec<Input>, CliError> {
    if paths.len() > 1 && name.is_some() {
        return Err(CliError::bad_request("--name names one file, but there are several paths")
            .hint("store them one by one, or as a folder"));
    }
    check_name(name.map(String::as_str))?;
    if paths.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(CliError::bad_request("`-` is given more than once")
            .hint("standard input can be stored only once"));
    }
    paths.iter().map(|path| Input::examine(path, name.cloned(), follow, stop)).collect()
}

struct Provider<'a> {
    context: &'a Context,
    connection: &'a Connection,
    options: &'a ProvideOptions,
}

/// The inputs stored so far.
#[derive(Default)]
struct Stored {
    reports: Vec<PutReport>,
    /// Items of folders that were not stored, and why.
    skipped: Vec<LeftOut>,
    /// Why inputs were not stored, or not as they are.
    errors: Vec<InputError>,
}

impl Provider<'_> {
    /// Stores the inputs, announces them, and serves them until a signal, if the node was started here.
    async fn run(&self, inputs: Vec<Input>, stop: &mut Receiver<()>) -> Result<(), Stop> {
        let api = match &self.connection.node {
            // Other commands on this data directory talk to this node while it stays.
            Some(node) if !self.options.no_serve => Some(serve(self.context, node).await?),
            _ => None,
        };
        let (wanted, mut stored) = (inputs.len(), Stored::default());
        let Some(result) = unless_stopped(stop, self.store_all(inputs, &mut stored)).await else {
            let message = format!(
                "interrupted: {} of {wanted} stored; run the same command again for the rest, blocks that are sealed already \
                 are kept for a while (gc.grace) and not written again",
                stored.reports.len()
            );
            output::message(self.context, &message);
            return Err(Stop::Interrupted);
        };
        result?;
        let result = summary(&mut stored, wanted);
        match unless_stopped(stop, self.announce_all(&stored.reports)).await {
            Some(announced) => announced?,
            None => return Ok(result?),
        }
        if let Some(addr) = api {
            let it = if stored.reports.len() == 1 { "it" } else { "them" };
            output::message(self.context, &format!("serving {it} until Ctrl-C (API at {addr})"));
            stop.recv().await;
        }
        Ok(result?)
    }

    /// Stores the inputs and prints their links; those of several with their paths.
    async fn store_all(&self, inputs: Vec<Input>, stored: &mut Stored) -> Result<(), CliError> {
        let wanted = inputs.len();
        let total = inputs.iter().map(|input| input.size).sum::<Option<u64>>();
        let bar = output::bar(self.context, "sealing", total);
        for input in inputs {
            let path = input.path.display().to_string();
            let error = match self.store(input, &bar, stored).await {
                Ok((report, changed)) => {
                    let line = |report: &PutReport| match wanted {
                        1 => format!("{}\n", report.link),
                        _ => format!("{}\t{}\n", report.link, sanitize(&path)),
                    };
                    bar.suspend(|| output::result(self.context, &report, line))?;
                    stored.reports.push(report);
                    changed
                }
                Err(error) => Some(error),
            };
            let Some(error) = error else { continue };
            if wanted > 1 {
                bar.suspend(|| output::input_error(self.context, &error));
            }
            stored.errors.push(InputError { input: path, error });
        }
        let elapsed = bar.elapsed();
        bar.finish_and_clear();
        if stored.reports.is_empty() {
            return Err(CliError::of_inputs(std::mem::take(&mut stored.errors), 0, wanted, "stored"));
        }
        output::message(self.context, &sealed(&stored.reports, elapsed));
        Ok(())
    }

    /// Stores one input. Returns the report, and an error if the input changed while it was read.
    async fn store(
        &self,
        mut input: Input,
        bar: &ProgressBar,
        stored: &mut Stored,
    ) -> Result<(PutReport, Option<CliError>), CliError> {
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
        let endpoint = Endpoint::path(format!("/api/v1/files?{}", query.trim_start_matches('&')));
        self.skip(std::mem::take(&mut input.skipped), bar, stored);
        let begun = bar.position();
        let (report, errors) = loop {
            let (body, errors) = input.body(bar)?;
            let report: Result<PutReport, CliError> =
                self.connection.client.json_body(Method::POST, &endpoint, body).await;
            let broken = report.is_err().then(|| errors.take_broken()).flatten();
            let Some(broken) = broken else { break (report, errors) };
            // The second attempt finds the blocks that are sealed already, so it mostly reads.
            input.leave_out(&broken.path);
            self.skip(vec![broken], bar, stored);
            bar.set_position(begun);
        };
        // The node sees only that its input broke off.
        let report = report.map_err(|error| errors.take_failed().unwrap_or(error))?;
        self.skip(errors.take_skipped(), bar, stored);
        Ok((report, input_changed(&errors)))
    }

    /// Tells which items of a folder are not stored, and why.
    fn skip(&self, items: Vec<Skipped>, bar: &ProgressBar, stored: &mut Stored) {
        for Skipped { path, why } in items {
            let message = format!("skipped {}: {}", sanitize(&path.display().to_string()), sanitize(&why));
            bar.suspend(|| output::message(self.context, &message));
            stored.skipped.push(LeftOut { path: path.display().to_string(), error: why });
        }
    }

    /// Waits for a while until peers know that this node has the files.
    async fn announce_all(&self, reports: &[PutReport]) -> Result<(), CliError> {
        let Connection { client, node } = self.connection;
        let message = if node.as_ref().is_some_and(Node::is_offline) {
            let it = if reports.len() == 1 { "the file" } else { "the files" };
            format!("stored on this node; start it with `storgo-node run` to share {it}")
        // A node that was just started may connect to its bootstrap peers in a moment.
        } else if (node.is_none() || self.context.settings.list("bootstrap").is_empty())
            && client.status().await?.peers == 0
        {
            "placed on this node only: no peer is connected".into()
        } else {
            let spinner = output::spinner(self.context, "placing");
            let announced = self.announced(reports).await;
            spinner.finish_and_clear();
            announced?
        };
        output::message(self.context, &message);
        Ok(())
    }

    async fn announced(&self, reports: &[PutReport]) -> Result<String, CliError> {
        let deadline = Instant::now() + ANNOUNCE_TIMEOUT;
        let (mut done, mut peers) = (0, u32::MAX);
        for report in reports {
            let wait = deadline.saturating_duration_since(Instant::now()).as_secs();
            let path = format!("/api/v1/files/{}/placement?wait={wait}", report.cid);
            let placement: Placement =
                self.connection.client.json(Method::GET, &Endpoint::path(path)).await?;
            done += usize::from(placement.done);
            peers = peers.min(placement.announced_to);
        }
        let know = if peers == 1 { "knows" } else { "know" };
        let peers = plural(u64::from(peers), "peer");
        Ok(match (done, reports.len()) {
            (1, 1) => format!("placed: {peers} {know} that this node has it"),
            (_, 1) => "placed on this node; announcing it continues in the background".into(),
            (done, all) if done == all => format!("placed: at least {peers} {know} each of the {all} files"),
            (done, all) => format!(
                "placed on this node; {done} of {all} are announced, announcing the rest continues in the background"
            ),
        })
    }
}

/// `sealed 1.50 MiB in 2 blocks (1 new), 1.50 MiB/s`
fn sealed(reports: &[PutReport], elapsed: Duration) -> String {
    let sum = |of: fn(&PutReport) -> u64| reports.iter().map(of).sum::<u64>();
    let (size, blocks) = (sum(|report| report.size), sum(|report| report.blocks));
    let files = match reports.len() {
        1 => String::new(),
        n => format!("{}, ", plural(n as u64, "file")),
    };
    let (new, rate) = (sum(|report| report.new_blocks), bytes_per_s(size, elapsed));
    format!("sealed {files}{} in {} ({new} new), {rate}", output::bytes(size), plural(blocks, "block"))
}

/// An error if something was not stored as it is.
fn summary(stored: &mut Stored, wanted: usize) -> Result<(), CliError> {
    let errors = std::mem::take(&mut stored.errors);
    let left_out = std::mem::take(&mut stored.skipped);
    let error = if !errors.is_empty() {
        let done = stored.reports.len();
        let verb = if done == wanted { "stored, but some inputs changed meanwhile" } else { "stored" };
        CliError::of_inputs(errors, done, wanted, verb)
    } else if left_out.is_empty() {
        return Ok(());
    } else {
        let paths: Vec<PathBuf> = left_out.iter().map(|item| PathBuf::from(&item.path)).collect();
        let items = plural(paths.len() as u64, "item");
        let message = format!("stored without {items}: {}", output::list_paths(&paths));
        CliError::new(ErrorCode::Partial, message)
            .hint("the reasons are above, with --json in `left_out`; correct them and run the command again")
    };
    Err(CliError { left_out, ..error })
}

/// Serves the API where the settings say, or else on any free port: the default port is for a node that stays.
/// Returns its URL.
async fn serve(context: &Context, node: &Node) -> Result<String, CliError> {
    let (_, mut options) = run_options(&context.settings, &context.data_dir)?;
    if *context.settings.origin("http") == Origin::BuiltIn {
        options.addr.set_port(0);
    }
    let scheme = if matches!(options.tls, Tls::Off) { "http" } else { "https" };
    let api = Api::new(node.clone(), api_options(&context.settings, &context.data_dir)?).await?;
    Ok(format!("{scheme}://{}", api.serve(&options).await?.addr))
}

fn input_changed(errors: &InputErrors) -> Option<CliError> {
    let changed = errors.take_changed();
    if changed.is_empty() {
        return None;
    }
    let message =
        format!("changed while it was read, may be half old and half new: {}", output::list_paths(&changed));
    Some(CliError::new(ErrorCode::Partial, message).hint("store it again when nothing writes to it"))
}
