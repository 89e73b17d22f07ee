//! The command line: parse, call the API, print.
//!
//! Commands talk to a node through its HTTP API alone (`client`). Where none runs on the data directory, `door` starts
//! one in this process and calls the same API without a socket. stdout carries the result, stderr the words.

mod access;
mod args;
mod care;
mod client;
mod demo;
mod doctor;
mod door;
mod get;
mod manual;
mod names;
mod output;
mod pack;
mod place;
mod provide;
mod run;
mod settings;
mod setup;
mod show;
mod unpack;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{
    config::{ConfigError, Settings, Sources},
    node::{ErrorCode, NodeError},
};
use args::{Args, Command};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a process takes at most.
const MAX_DESCRIPTORS: u64 = 1 << 16;

/// What every command works with.
struct Context {
    data_dir: PathBuf,
    sources: Sources,
    settings: Settings,
    json: bool,
    quiet: bool,
    /// Why the settings cannot be used: then they are the built-in ones, for a command that can do with them.
    mistake: Option<NodeError>,
}

/// Parses the command line, does what it says, and answers with the exit code (DESIGN 6).
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() && manual::asks_for_json(std::env::args_os()) => {
            let error = manual::mistake(&error);
            output::error(&error, true);
            return ExitCode::from(error.code.exit_code());
        }
        // Help and version too.
        Err(error) => error.exit(),
    };
    let json = args.common.json;
    more_descriptors();
    // An unfinished folder is cleared away by a thread of its own. Blocking reads of stdin cannot be interrupted: they
    // end with the process.
    let clearing = if matches!(args.command, Some(Command::Get { .. })) { 2000 } else { 100 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(interruptible(args));
            runtime.shutdown_timeout(std::time::Duration::from_millis(clearing));
            result
        }
        Err(e) => Err(Stop::Error(NodeError::new(ErrorCode::Other, format!("cannot start: {e}")))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Interrupted) => ExitCode::from(130),
        Err(Stop::Error(error)) => {
            output::error(&error, json);
            ExitCode::from(error.code.exit_code())
        }
    }
}

/// Takes as many descriptors as the system gives: blocks, peers and callers share them, and the usual 1024 are few.
fn more_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let more = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < more) {
        // Without them, the node does with those that it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(more), ..limit });
    }
}

/// Why a command ended without success.
enum Stop {
    Interrupted,
    Error(NodeError),
}

impl From<NodeError> for Stop {
    fn from(error: NodeError) -> Self {
        Self::Error(error)
    }
}

async fn interruptible(args: Args) -> Result<(), Stop> {
    let stays =
        matches!(args.command, None | Some(Command::Run | Command::Demo { .. } | Command::Provide { .. }));
    if stays {
        return dispatch(args).await;
    }
    let mut stop = run::stop_signal()?;
    tokio::select! {
        done = dispatch(args) => done,
        _ = stop.recv() => Err(Stop::Interrupted),
    }
}

async fn dispatch(args: Args) -> Result<(), Stop> {
    let context = match &args.command {
        Some(Command::Completions { shell }) => {
            return Ok(manual::completions(*shell)?);
        }
        Some(Command::Man { command, dir }) => {
            return Ok(manual::man(&args.common, command, dir.as_deref())?);
        }
        Some(Command::Demo { once }) => return demo::run(*once, &args.common).await,
        _ => Context::new(&args)?,
    };
    let command = args.command.unwrap_or(Command::Run);
    if !matches!(command, Command::Run) {
        let level = match (args.common.verbose, args.common.quiet || args.common.json) {
            (true, _) => "info,storgo=debug",
            (false, true) => "error",
            // A peer that was named and does not answer is for its user to know.
            (false, false) => "error,storgo::bootstrap=warn",
        };
        crate::telemetry::start(level, false);
    }
    match command {
        Command::Run => run::run(&context).await?,
        Command::Provide { paths, options } => return provide::run(&context, paths, options).await,
        Command::Get { reference, options } => get::run(&context, &reference, options).await?,
        Command::Ls { query } => show::ls(&context, query.as_deref()).await?,
        Command::Info { reference } => show::info(&context, &reference).await?,
        Command::Rm { references } => show::rm(&context, &references).await?,
        Command::Verify { reference, rebuild_index } => {
            care::verify(&context, reference.as_deref(), rebuild_index).await?;
        }
        Command::Health { reference } => care::health(&context, reference.as_deref()).await?,
        Command::Repair { reference } => care::repair(&context, reference.as_deref()).await?,
        Command::Gc { now } => care::gc(&context, now).await?,
        Command::Peers { add } => show::peers(&context, add).await?,
        Command::Status => show::status(&context).await?,
        Command::Events => show::events(&context).await?,
        Command::Id => setup::id(&context)?,
        Command::Doctor => doctor::run(&context).await?,
        Command::Init { cluster } => setup::init(&context, cluster)?,
        Command::Invite => setup::invite(&context).await?,
        Command::Join { invite } => setup::join(&context, &invite)?,
        Command::Key { action } => setup::key(&context, action).await?,
        Command::Web => access::web(&context).await?,
        Command::Token { action } => access::token(&context, action).await?,
        Command::Config { action } => settings::config(&context, &action).await?,
        Command::Demo { .. } | Command::Completions { .. } | Command::Man { .. } => {}
    }
    Ok(())
}

/// Variables that name files.
const PATHS: [&str; 2] = ["STORGO_DATA_DIR", "STORGO_CONFIG"];

impl Context {
    fn new(args: &Args) -> Result<Self, NodeError> {
        let data_dir = match &args.common.data_dir {
            Some(dir) => {
                has_place(dir)?;
                dir.clone()
            }
            None => default_data_dir()?,
        };
        let sources = Sources {
            profile: args.common.profile.clone(),
            file: args.common.config.clone(),
            default_file: Some(data_dir.join("config.toml")),
            env: environment()?,
            flags: args.common.flags.given(),
        };
        let (settings, mistake) = match Settings::load(&sources) {
            Ok(settings) => (settings, None),
            // What looks for mistakes must not stumble over them.
            Err(error) if matches!(args.command, Some(Command::Doctor)) => {
                (Settings::load(&Sources::default())?, Some(error.into()))
            }
            Err(error) => return Err(error.into()),
        };
        let (json, quiet) = (args.common.json, args.common.quiet);
        Ok(Self { data_dir, sources, settings, json, quiet, mistake })
    }
}

impl From<ConfigError> for NodeError {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            // Every command reads the settings, so none can list them now.
            ConfigError::UnknownKey { .. } | ConfigError::UnknownGroup { .. } => {
                let keys: Vec<&str> = crate::config::TABLE.iter().map(|setting| setting.key).collect();
                format!("correct or remove it there; the settings are {}", keys.join(", "))
            }
            ConfigError::UnknownProfile(_) => String::new(),
            ConfigError::Read { source, origin, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                let named = "name a file that is there";
                match origin {
                    Some(_) => named.into(),
                    None => format!(
                        "{named}; without --config, config.toml in the data directory is read where it is"
                    ),
                }
            }
            ConfigError::Read { source, .. } => {
                let code = match ErrorCode::of_io(source) {
                    ErrorCode::Denied => ErrorCode::Denied,
                    _ => ErrorCode::BadRequest,
                };
                return Self::new(code, error.to_string()).hint("this user must be able to read it");
            }
            _ => "correct it there, or remove it".into(),
        };
        Self::new(ErrorCode::BadRequest, error.to_string()).hint(hint)
    }
}

/// The environment, as far as it is text. A setting that is not is an error; the data directory and the settings file are
/// paths, which need not be text and are read as flags.
fn environment() -> Result<Vec<(String, String)>, NodeError> {
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => env.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("STORGO_") && !PATHS.contains(&name.as_str()) => {
                return Err(NodeError::new(ErrorCode::BadRequest, format!("{name} is not valid UTF-8")));
            }
            _ => {}
        }
    }
    Ok(env)
}

/// A data directory is made, the folder that it lies in is not: that one is missing when its disk is not there, and a new
/// empty node in its stead would look as if every file were lost.
fn has_place(dir: &std::path::Path) -> Result<(), NodeError> {
    if dir.metadata().is_ok_and(|meta| !meta.is_dir()) {
        let message = format!("{} is a file, and a data directory is a folder", dir.display());
        return Err(NodeError::new(ErrorCode::BadRequest, message)
            .hint("name a folder with --data-dir; one that is not there is made"));
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        Some(parent) => {
            Err(NodeError::new(ErrorCode::BadRequest, format!("there is no folder {}", parent.display()))
                .hint("--data-dir makes the last folder of its path alone: is the disk there?"))
        }
        None => Ok(()),
    }
}

fn default_data_dir() -> Result<PathBuf, NodeError> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map(|dir| dir.join("storgo"))
        .ok_or_else(|| {
            NodeError::new(ErrorCode::BadRequest, "there is no home directory to keep data in")
                .hint("name a data directory with --data-dir")
        })
}
