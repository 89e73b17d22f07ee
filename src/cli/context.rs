//! Data directory, settings and output flags of one command.

use std::path::{Path, PathBuf};

use super::{
    args::{Args, Command, ConfigAction},
    error::CliError,
    sanitize::sanitize,
    shell::quote,
};
use crate::{
    config::{Settings, Sources},
    node::{
        identity::IDENTITY_FILE,
        membership::{CLUSTER_FILE, CLUSTER_ID_FILE},
    },
};

#[derive(Clone)]
pub(super) struct Context {
    pub(super) data_dir: PathBuf,
    pub(super) sources: Sources,
    pub(super) settings: Settings,
    pub(super) json: bool,
    pub(super) quiet: bool,
    /// The mistakes in the settings; `settings` are the others then. Only `doctor` and `config check` run with mistakes.
    pub(super) mistakes: Vec<CliError>,
}

/// Files of which a data directory has at least one, and that nothing else has.
const OWN_FILES: [&str; 6] =
    [IDENTITY_FILE, CLUSTER_FILE, CLUSTER_ID_FILE, "index.redb", "journal", "blocks"];
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
        let (settings, mistakes) = Settings::load(&sources);
        let mistakes: Vec<CliError> = mistakes.into_iter().map(CliError::from).collect();
        let reports_all =
            matches!(args.command, Some(Command::Doctor | Command::Config { action: ConfigAction::Check }));
        if let Some(first) = mistakes.first()
            && !reports_all
        {
            let hint = match mistakes.len() - 1 {
                0 => first.hint.clone(),
                more => format!("{}; `storgo-node config check` lists this and {more} more", first.hint),
            };
            return Err(first.clone().hint(hint));
        }
        let (json, quiet) = (args.common.json, args.common.quiet);
        Ok(Self { data_dir, sources, settings, json, quiet, mistakes })
    }

    /// The settings file that is read if it exists.
    pub(super) fn settings_file(&self) -> Option<&Path> {
        self.sources.file.as_deref().or(self.sources.default_file.as_deref())
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
    if let Some(name) = foreign_file(dir) {
        let message = format!("{} is no data directory: it contains {}", dir.display(), sanitize(&name));
        return Err(CliError::bad_request(message).hint(format!(
            "name a new or empty folder with --data-dir, for example {}",
            quote(dir.join("storgo"))
        )));
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

/// Returns the name of a file in a folder that is neither empty nor a data directory; there is one of [`OWN_FILES`] in each of
/// those, and before the first start a settings file.
fn foreign_file(dir: &Path) -> Option<String> {
    if OWN_FILES.iter().any(|name| dir.join(name).exists()) {
        return None;
    }
    let names =
        std::fs::read_dir(dir).ok()?.flatten().map(|item| item.file_name().to_string_lossy().into_owned());
    // Hidden files and `lost+found` are those of file systems and desktops.
    names
        .into_iter()
        .find(|name| !name.starts_with('.') && name != "lost+found" && !name.starts_with("config."))
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
