//! Data directory, settings and output flags of one command.

use std::path::{Path, PathBuf};

use super::{
    args::{Args, Command},
    error::CliError,
    shell::quote,
};
use crate::config::{Settings, Sources};

pub(super) struct Context {
    pub(super) data_dir: PathBuf,
    pub(super) sources: Sources,
    pub(super) settings: Settings,
    pub(super) json: bool,
    pub(super) quiet: bool,
    /// Why the settings are invalid; `settings` are the defaults then. Only `doctor` runs with invalid settings.
    pub(super) invalid: Option<CliError>,
}

/// Environment variables that are paths, which need not be UTF-8.
const PATH_VARIABLES: [&str; 2] = ["STORGO_DATA_DIR", "STORGO_CONFIG"];

impl Context {
    pub(super) fn new(args: &Args) -> Result<Self, CliError> {
        let common = &args.common;
        let data_dir = match given(common.data_dir.as_ref(), "--data-dir", "STORGO_DATA_DIR")? {
            Some(dir) => {
                check_data_dir(dir)?;
                dir.clone()
            }
            None => default_data_dir()?,
        };
        let sources = Sources {
            profile: args.common.profile.clone().filter(|name| !name.is_empty()),
            file: given(common.config.as_ref(), "--config", "STORGO_CONFIG")?.cloned(),
            default_file: Some(data_dir.join("config.toml")),
            env: environment()?,
            flags: args.common.flags.given.clone(),
        };
        let (settings, invalid) = match Settings::load(&sources) {
            Ok(settings) => (settings, None),
            Err(error) if matches!(args.command, Some(Command::Doctor)) => {
                (Settings::load(&Sources::default())?, Some(error.into()))
            }
            Err(error) => return Err(error.into()),
        };
        let (json, quiet) = (args.common.json, args.common.quiet);
        Ok(Self { data_dir, sources, settings, json, quiet, invalid })
    }

    /// The command that starts the node of this command.
    pub(super) fn start_command(&self) -> String {
        let mut command = format!("storgo-node --data-dir {}", quote(&self.data_dir));
        let file = self.sources.file.as_ref().map(|file| format!(" --config {}", quote(file)));
        let profile = self.sources.profile.as_ref().map(|name| format!(" --profile {}", quote(name)));
        command.extend(file.into_iter().chain(profile));
        command
    }
}

/// Returns the path in a flag or its variable. An empty variable counts as not set.
///
/// Errors: an empty flag, as of a script whose variable is not set.
fn given<'a>(path: Option<&'a PathBuf>, flag: &str, variable: &str) -> Result<Option<&'a PathBuf>, CliError> {
    match path.filter(|path| path.as_os_str().is_empty()) {
        None => Ok(path),
        Some(_) if std::env::var_os(variable).is_some_and(|value| value.is_empty()) => Ok(None),
        Some(_) => {
            Err(CliError::bad_request(format!("{flag} is empty")).hint("name a path, or leave the flag out"))
        }
    }
}

/// Returns the environment variables that are UTF-8.
///
/// Errors: a setting that is not UTF-8. Paths are read as flags, by `clap`.
fn environment() -> Result<Vec<(String, String)>, CliError> {
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => env.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("STORGO_") && !PATH_VARIABLES.contains(&name.as_str()) => {
                return Err(CliError::bad_request(format!("the variable {name} is not valid UTF-8"))
                    .hint("correct it or unset it"));
            }
            _ => {}
        }
    }
    Ok(env)
}

/// Refuses a data directory that is a file or whose parent does not exist.
///
/// A missing parent usually is a disk that is not mounted. A new, empty node there would look as if all files were lost.
fn check_data_dir(dir: &Path) -> Result<(), CliError> {
    if dir.metadata().is_ok_and(|meta| !meta.is_dir()) {
        let message = format!("{} is a file, but a data directory must be a folder", dir.display());
        return Err(CliError::bad_request(message)
            .hint("name a folder with --data-dir; storgo-node creates it if needed"));
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        Some(parent) => {
            let message = format!("folder {} does not exist", parent.display());
            Err(CliError::bad_request(message)
                .hint("--data-dir creates only the last folder of its path; is the disk mounted?"))
        }
        None => Ok(()),
    }
}

fn default_data_dir() -> Result<PathBuf, CliError> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map(|dir| dir.join("storgo"))
        .ok_or_else(|| {
            CliError::bad_request("no data directory: $HOME is not set")
                .hint("name a data directory with --data-dir")
        })
}
