//! The arguments of the command line.

use std::path::PathBuf;

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
    parser::ValueSource,
};

use crate::config::{FLAGS, TABLE};

/// Part of the contract with scripts; [`super::error::CliError::exit_code`] implements it.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
    0  done                          7  a block or the index is damaged
    1  another error                 8  stored with too few copies
    2  wrong usage or settings       9  timed out; what has arrived is kept
    3  partly done                  11  data directory in use
    4  not found                    13  out of space or quota
    5  no node or peer reachable   130  interrupted
    6  denied, key absent or wrong";

/// Encrypted, content-addressed, peer-to-peer file store.
///
/// Without a command, runs a node (as `run` does).
#[derive(Debug, Parser)]
#[command(name = "storgo-node", version, max_term_width = 100, propagate_version = true)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Folder with identity, blocks and index [default: ~/.local/share/storgo].
    #[arg(long, global = true, value_name = "DIR", env = "STORGO_DATA_DIR", value_parser = path())]
    pub(super) data_dir: Option<PathBuf>,
    /// Settings file, TOML or YAML [default: config.toml in the data directory].
    #[arg(long, global = true, value_name = "FILE", env = "STORGO_CONFIG", value_parser = path())]
    pub(super) config: Option<PathBuf>,
    /// Set of defaults: dev, staging or prod.
    #[arg(long, global = true, value_name = "NAME", env = "STORGO_PROFILE")]
    pub(super) profile: Option<String>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print nothing but errors on stderr.
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    /// Print debug logs on stderr.
    #[arg(long, short, global = true)]
    pub(super) verbose: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// A path; an empty one is allowed, because an empty variable counts as not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The flags that set settings, made from [`FLAGS`].
#[derive(Debug)]
pub(super) struct Flags {
    /// Those that were given: setting, values, flag.
    pub(super) given: Vec<(&'static str, Vec<String>, String)>,
}

impl clap::Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let arg = |(key, flag, value): &(&'static str, &'static str, Option<&'static str>)| {
            let setting = TABLE.iter().find(|setting| setting.key == *key).expect("a flag of a setting");
            let more = if setting.list { "; may be repeated" } else { "" };
            let arg = Arg::new(*key).long(*flag).global(true).help(format!("{}{more}", setting.doc));
            let arg = arg.help_heading("Settings");
            match value {
                Some(name) if setting.list => arg.value_name(*name).action(ArgAction::Append),
                Some(name) => arg.value_name(*name),
                None => arg.action(ArgAction::SetTrue),
            }
        };
        command
            .args(FLAGS.iter().map(arg))
            .mut_arg("tls.cert", |arg| arg.requires("tls.key"))
            .mut_arg("tls.key", |arg| arg.requires("tls.cert"))
            .mut_arg("tls.self.signed", |arg| arg.conflicts_with("tls.cert"))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |key| matches.value_source(key) == Some(ValueSource::CommandLine);
        let values = |key, value: Option<_>| match value {
            Some(_) => matches.get_many(key).into_iter().flatten().cloned().collect(),
            None => vec!["true".into()],
        };
        let given = FLAGS.iter().filter(|(key, ..)| is_given(key));
        Ok(Self {
            given: given.map(|(key, flag, value)| (*key, values(key, *value), format!("--{flag}"))).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The command line. The help of a command points to the global flags and does not repeat them.
pub(super) fn command() -> clap::Command {
    let top = Args::command();
    let globals: Vec<Arg> =
        top.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.clone().hide(true)).collect();
    top.mut_subcommands(|command| point_to_globals(command, &globals))
}

fn point_to_globals(command: clap::Command, globals: &[Arg]) -> clap::Command {
    command
        .args(globals)
        .after_help("Global flags, such as --data-dir, --json and those of settings: `storgo-node --help`")
        .mut_subcommands(|command| point_to_globals(command, globals))
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node until Ctrl-C.
    Run,
    /// Store files, folders or stdin, and print a link for each; for several, with its path, or with --json one object a line.
    #[command(visible_aliases = ["add", "put"])]
    Provide {
        /// Files or folders; - is stdin.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        options: ProvideOptions,
    },
    /// Read a file or folder.
    Get {
        /// A link (quote it if your shell treats # specially), a CID, or a name; the newest file of that name is read; - is stdin.
        #[arg(required_unless_present = "file")]
        reference: Option<String>,
        /// Read the link from this file, so that no other user sees it among the arguments of processes.
        #[arg(long, value_name = "FILE", conflicts_with = "reference")]
        file: Option<PathBuf>,
        #[command(flatten)]
        options: GetOptions,
    },
    /// List the files that this node keeps.
    Ls {
        /// List only names that contain this text.
        query: Option<String>,
    },
    /// Show the details of a file.
    Info {
        /// A link, CID or name; - is stdin.
        reference: String,
    },
    /// Remove files from this node.
    Rm {
        /// Links, CIDs or names; a name must not belong to several files; - is stdin.
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Check stored blocks, and fetch damaged ones from peers.
    Verify {
        /// A link, CID or name; - is stdin [default: all blocks].
        reference: Option<String>,
        /// Rebuild the index from the blocks, and move them to storage.layout; the node must be stopped.
        #[arg(long, conflicts_with = "reference")]
        rebuild_index: bool,
    },
    /// Show which nodes hold the blocks of a file, and how many of these nodes may be lost.
    Health {
        /// A link, CID or name; - is stdin [default: list files with missing blocks].
        reference: Option<String>,
    },
    /// Keep a file that was only read: fetch what is missing, and announce it.
    Keep {
        /// A link, CID or name; - is stdin.
        reference: String,
    },
    /// Fetch missing blocks of files that are kept here from peers.
    Repair {
        /// A link, CID or name; - is stdin [default: all files kept here].
        reference: Option<String>,
    },
    /// Delete blocks that no file uses any more.
    Gc {
        /// Also delete blocks in their grace period and those of interrupted uploads.
        #[arg(long)]
        now: bool,
        /// Also delete the cache: blocks that were only read.
        #[arg(long)]
        cache: bool,
    },
    /// List connected peers.
    Peers {
        /// Connect to this address first.
        #[arg(long, value_name = "MULTIADDR")]
        add: Option<String>,
    },
    /// Show the state of the running node.
    Status,
    /// Show the peer id of this node.
    Id,
    /// Look for problems and suggest solutions.
    Doctor,
    /// Print the events of the running node until Ctrl-C.
    Events,
    /// Create a data directory.
    Init {
        /// Create the key of a new cluster: only nodes that have it can connect to this one.
        #[arg(long)]
        cluster: bool,
    },
    /// Print an invite to the cluster of this node.
    Invite,
    /// Join a cluster.
    Join {
        /// The line that `invite` printed; - is stdin.
        #[arg(required_unless_present = "file")]
        invite: Option<String>,
        /// Read the invite from this file, so that no other user sees it among the arguments of processes.
        #[arg(long, value_name = "FILE", conflicts_with = "invite")]
        file: Option<PathBuf>,
    },
    /// Leave the cluster: the node becomes an open one. Its files stay.
    Leave,
    /// Back up or restore the identity and the cluster key.
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Print a link that signs a browser in to the page of this node, once.
    Web,
    /// Create, list and revoke tokens of the HTTP API.
    Token {
        #[command(subcommand)]
        action: TokenAction,
    },
    /// Show or check the settings.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Run three nodes on this machine; one stores a file, another fetches it.
    Demo {
        /// Stop afterwards instead of serving until Ctrl-C.
        #[arg(long)]
        once: bool,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page as roff; `storgo-node man provide | man -l -` shows one.
    Man {
        /// A command, for example `key backup` [default: the program itself].
        command: Vec<String>,
        /// Write the pages of all commands into this folder instead.
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct ProvideOptions {
    /// Name to store the file under [default: its own name].
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Do not encrypt: anybody who knows the CID can read the file.
    #[arg(long)]
    pub(super) public: bool,
    /// Use a random key, so that nobody can tell whether two files are equal; shares no blocks with other files.
    #[arg(long)]
    pub(super) no_dedup: bool,
    /// Store what symbolic links in a folder lead to, also outside the folder.
    #[arg(long)]
    pub(super) follow: bool,
    /// If no node runs, exit after storing instead of serving until Ctrl-C.
    #[arg(long)]
    pub(super) no_serve: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetOptions {
    /// Destination: a file name, an existing folder, a new folder with a / at its end, or - for stdout, which gets a folder as a tar stream
    /// [default: the name of the file].
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Read only these bytes: 0-99 (both included), 100- or -50 (the last 50).
    #[arg(long, value_name = "A-B", allow_hyphen_values = true)]
    pub(super) range: Option<String>,
    /// Replace an existing file; folders are never replaced.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyAction {
    /// Write identity, cluster key and addresses to a file, but no files, names or links; anybody who has it can act as this node.
    Backup {
        /// The file to create; - is stdout.
        file: PathBuf,
    },
    /// Restore what a data directory lacks from a backup. The original must not run any more.
    Restore {
        /// A file that `key backup` created; - is stdin.
        file: PathBuf,
    },
    /// Make a new identity in place of one that is lost or damaged and has no backup.
    New,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenAction {
    /// Create a token and print it; it is not shown again.
    Create {
        /// Access that it gives: read, write or admin.
        #[arg(long, default_value = "read", value_parser = ["read", "write", "admin"])]
        scope: String,
        /// How long it is valid, with a unit: 12h or 30d [default: until it is revoked].
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// Its name [default: its scope].
        #[arg(long)]
        name: Option<String>,
    },
    /// List the tokens.
    Ls,
    /// Revoke a token.
    Revoke {
        /// The id or the name that `token ls` shows.
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigAction {
    /// Show all settings: those of the running node if there is one, or else those of the next start.
    Show {
        /// Show the source of each value instead of its description.
        #[arg(long)]
        origin: bool,
        /// Show the settings of the next start even if a node runs.
        #[arg(long)]
        next: bool,
    },
    /// Check all settings without starting a node.
    Check,
    /// Print the path of the settings file.
    Path,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_has_a_help_text() {
        let command = command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", sub.get_name(), arg.get_id());
            }
        }
    }
}
