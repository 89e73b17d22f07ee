//! The command line: parse arguments, call the API of a node, print the answer.
//!
//! Commands talk to a node only through its HTTP API (`client`). If no node runs on the data directory, `connection`
//! starts one in this process and calls the same API without a socket. Results go to stdout, messages to stderr.

mod args;
mod attributes;
mod auth;
mod backup;
mod beneath;
mod client;
mod cluster_key;
mod connection;
mod context;
mod demo;
mod destination;
mod doctor;
mod error;
mod files;
mod get;
mod input;
mod input_errors;
mod maintenance;
mod manual;
mod options;
mod output;
mod provide;
mod run;
mod sanitize;
mod secret_input;
mod settings;
mod settings_file;
mod setup;
mod shell;
mod status;
mod tar_reader;
mod tar_writer;
mod walk;

use std::{process::ExitCode, time::Duration};

use clap::FromArgMatches;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::node::ErrorCode;
use args::{Args, Command};
use context::Context;
use error::CliError;

/// Maximum number of file descriptors to ask for.
const MAX_DESCRIPTORS: u64 = 1 << 16;
/// Exit code after SIGINT, SIGTERM or SIGHUP.
const INTERRUPTED: u8 = 130;

/// Runs the command that the arguments name and returns its exit code.
pub fn main() -> ExitCode {
    let parsed = args::command().try_get_matches().and_then(|matches| Args::from_arg_matches(&matches));
    let args = match parsed {
        Ok(args) => args,
        Err(error) if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => {
            let error = CliError::from(error);
            output::error(&error, true);
            return ExitCode::from(error.exit_code());
        }
        // Also prints --help and --version.
        Err(error) => error.exit(),
    };
    let json = args.common.json;
    shell::remember(&args.common);
    raise_descriptor_limit();
    // `get` removes an unfinished folder on a blocking thread. A blocking read of stdin cannot be interrupted, so other
    // commands do not wait for long.
    let shutdown =
        Duration::from_millis(if matches!(args.command, Some(Command::Get { .. })) { 2000 } else { 100 });
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(interruptible(args));
            runtime.shutdown_timeout(shutdown);
            result
        }
        Err(e) => Err(Stop::Error(CliError::new(ErrorCode::Other, format!("cannot start the runtime: {e}")))),
    };
    match result {
        // A closed stdout is no error: the reader, such as `head`, has what it wanted.
        Ok(()) | Err(Stop::NoReader) => ExitCode::SUCCESS,
        Err(Stop::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(Stop::Error(error)) => {
            output::error(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Raises the soft limit of file descriptors: blocks, peers and HTTP connections share them, and the usual 1024 are few.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < wanted) {
        // On failure, the node works with the present limit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}

/// Why a command ended without success.
enum Stop {
    Interrupted,
    /// The reader of stdout has closed it before the end.
    NoReader,
    Error(CliError),
}

impl<E: Into<CliError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Runs a command. A signal ends it at once, unless the command handles signals itself.
async fn interruptible(args: Args) -> Result<(), Stop> {
    let handles_signals =
        matches!(args.command, None | Some(Command::Run | Command::Demo { .. } | Command::Provide { .. }));
    if handles_signals {
        return Box::pin(dispatch(args)).await;
    }
    let mut stop = run::stop_signal()?;
    let keeps_blocks = matches!(
        args.command,
        Some(Command::Get { .. } | Command::Keep { .. } | Command::Repair { .. } | Command::Verify { .. })
    );
    let quiet = args.common.quiet || args.common.json;
    tokio::select! {
        done = dispatch(args) => done,
        _ = stop.recv() => {
            if keeps_blocks && !quiet {
                output::stderr_line("interrupted: blocks that have arrived are kept; run the same command again to continue");
            }
            Err(Stop::Interrupted)
        }
    }
}

async fn dispatch(args: Args) -> Result<(), Stop> {
    let context = match &args.command {
        Some(Command::Completions { shell }) => return Ok(manual::completions(*shell)?),
        Some(Command::Man { command, dir }) => {
            return Ok(manual::man(&args.common, command, dir.as_deref())?);
        }
        Some(Command::Demo { once }) => return demo::run(*once, &args.common).await,
        _ => Context::new(&args)?,
    };
    let is_backup = matches!(args.command, Some(Command::Key { action: args::KeyAction::Backup { .. } }));
    let unused = |key: &str| !(is_backup && key == "bootstrap");
    let flags = context.sources.flags.iter().filter(|(key, ..)| unused(key));
    let flags: Vec<_> = flags.map(|(.., flag)| flag.as_str()).collect();
    if (is_backup || matches!(args.command, Some(Command::Id))) && !flags.is_empty() {
        output::message(
            &context,
            &format!("ignored {}: this command uses no such settings", flags.join(", ")),
        );
    }
    let command = args.command.unwrap_or(Command::Run);
    if !matches!(command, Command::Run) {
        let level = match (args.common.verbose, args.common.quiet || args.common.json) {
            (true, _) => "info,storgo=debug",
            (false, true) => "error",
            // The user wants to know that a bootstrap peer does not answer.
            (false, false) => "error,storgo::bootstrap=warn",
        };
        crate::telemetry::start(level, false);
    }
    match command {
        Command::Run => run::run(&context).await?,
        Command::Provide { paths, options } => return provide::run(&context, paths, options).await,
        Command::Get { reference, file, options } => {
            let reference = secret_input::resolve(reference, file).await?;
            return get::run(&context, &reference, options).await;
        }
        Command::Ls { query } => files::ls(&context, query.as_deref()).await?,
        Command::Info { reference } => {
            files::info(&context, &secret_input::resolve(Some(reference), None).await?).await?;
        }
        Command::Rm { mut references } => {
            for reference in &mut references {
                *reference = secret_input::resolve(Some(std::mem::take(reference)), None).await?;
            }
            files::rm(&context, &references).await?;
        }
        Command::Verify { reference, rebuild_index } => {
            let reference = optional(reference).await?;
            maintenance::verify(&context, reference.as_deref(), rebuild_index).await?;
        }
        Command::Health { reference } => {
            maintenance::health(&context, optional(reference).await?.as_deref()).await?;
        }
        Command::Keep { reference } => {
            maintenance::keep(&context, &secret_input::resolve(Some(reference), None).await?).await?;
        }
        Command::Repair { reference } => {
            maintenance::repair(&context, optional(reference).await?.as_deref()).await?;
        }
        Command::Gc { now, cache } => maintenance::gc(&context, now, cache).await?,
        Command::Peers { add } => status::peers(&context, add).await?,
        Command::Status => status::status(&context).await?,
        Command::Events => return status::events(&context).await,
        Command::Id => setup::id(&context)?,
        Command::Doctor => doctor::run(&context).await?,
        Command::Init { cluster } => setup::init(&context, cluster)?,
        Command::Invite => setup::invite(&context).await?,
        Command::Join { invite, file } => {
            setup::join(&context, &secret_input::resolve(invite, file).await?)?;
        }
        Command::Leave => setup::leave(&context)?,
        Command::Key { action } => backup::key(&context, action).await?,
        Command::Web => auth::web(&context).await?,
        Command::Token { action } => auth::token(&context, action).await?,
        Command::Config { action } => settings::config(&context, &action).await?,
        Command::Demo { .. } | Command::Completions { .. } | Command::Man { .. } => {}
    }
    Ok(())
}

/// Resolves a reference that may be left out.
async fn optional(reference: Option<String>) -> Result<Option<String>, CliError> {
    match reference {
        Some(reference) => secret_input::resolve(Some(reference), None).await.map(Some),
        None => Ok(None),
    }
}
