//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// What scripts go by; DESIGN 6 fixes it, and [`crate::node::ErrorCode::exit_code`] gives it.
const EXIT_CODES: &str = "\
Exit codes:
    0  done                          7  integrity: no good copy of a block
    1  another error                 8  stored, below the redundancy asked for
    2  wrong usage or settings       9  timed out; what has arrived is kept
    3  partly done                  11  data directory in use by another process
    4  not found                    13  out of space or quota
    5  no node or peer reachable   130  interrupted
    6  denied, or no key";

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

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Where identity, blocks and index live [default: ~/.local/share/storgo].
    #[arg(long, global = true, value_name = "DIR", env = "STORGO_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Settings file, TOML or YAML [default: config.toml in the data directory].
    #[arg(long, global = true, value_name = "FILE", env = "STORGO_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// A set of defaults: dev, staging or prod.
    #[arg(long, global = true, value_name = "NAME", env = "STORGO_PROFILE")]
    pub(super) profile: Option<String>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// No words and no progress on stderr; errors only.
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    /// Say more on stderr.
    #[arg(long, short, global = true)]
    pub(super) verbose: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// Flags that set settings.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct Flags {
    /// A peer to find the swarm by, with or without `/p2p/<id>`; may be repeated.
    #[arg(long, global = true, value_name = "MULTIADDR")]
    bootstrap: Vec<String>,
    /// An address to listen on for peers; may be repeated.
    #[arg(long, global = true, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// An address at which others reach this node; may be repeated.
    #[arg(long, global = true, value_name = "MULTIADDR")]
    external: Vec<String>,
    /// Address of the HTTP API.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    http: Option<String>,
    /// A name under which the HTTP API is called, beside localhost; may be repeated.
    #[arg(long, global = true, value_name = "NAME")]
    http_host: Vec<String>,
    /// Serve the HTTP API without TLS beyond this machine.
    #[arg(long, global = true)]
    http_insecure: bool,
    /// Certificate chain for the HTTP API, in PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// Private key of that certificate, in PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
    /// Serve the HTTP API over TLS, with a certificate that the node makes.
    #[arg(long, global = true, conflicts_with = "tls_cert")]
    tls_self_signed: bool,
    /// Look for peers on the local network: true or false.
    #[arg(long, global = true, value_name = "BOOL")]
    mdns: Option<String>,
    /// Relay connections for peers that cannot be dialled: true or false.
    #[arg(long, global = true, value_name = "BOOL")]
    relay_server: Option<String>,
    /// Where this machine is, in a word; peers see it.
    #[arg(long, global = true, value_name = "NAME")]
    region: Option<String>,
    /// Connections held at most.
    #[arg(long, global = true, value_name = "N")]
    max_connections: Option<String>,
    /// Hard limit for blocks on disk, for example "500 GiB".
    #[arg(long, global = true, value_name = "SIZE")]
    capacity: Option<String>,
    /// Evictable cache for blocks read from peers.
    #[arg(long, global = true, value_name = "SIZE")]
    cache_size: Option<String>,
    /// Bytes per second to peers, all together.
    #[arg(long, global = true, value_name = "SIZE")]
    upload_limit: Option<String>,
    /// How long a read waits while nothing arrives, for example 30s.
    #[arg(long, global = true, value_name = "TIME")]
    timeout: Option<String>,
    /// How files are cut: fastcdc or fixed:SIZE.
    #[arg(long, global = true, value_name = "CHUNKER")]
    chunker: Option<String>,
    /// What `run` logs: error, warn, info, debug or trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How it logs: text or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Flags {
    /// Those that were given: setting, values, flag.
    pub(super) fn given(&self) -> Vec<(&'static str, Vec<String>, String)> {
        let mut given = Vec::new();
        let lists = [
            ("bootstrap", "--bootstrap", &self.bootstrap),
            ("listen", "--listen", &self.listen),
            ("external", "--external", &self.external),
            ("http.hosts", "--http-host", &self.http_host),
        ];
        for (key, flag, values) in lists {
            if !values.is_empty() {
                given.push((key, values.clone(), flag.into()));
            }
        }
        let singles = [
            ("http", "--http", &self.http),
            ("tls.cert", "--tls-cert", &self.tls_cert),
            ("tls.key", "--tls-key", &self.tls_key),
            ("mdns", "--mdns", &self.mdns),
            ("relay.server", "--relay-server", &self.relay_server),
            ("region", "--region", &self.region),
            ("max.connections", "--max-connections", &self.max_connections),
            ("storage.capacity", "--capacity", &self.capacity),
            ("cache.size", "--cache-size", &self.cache_size),
            ("upload.limit", "--upload-limit", &self.upload_limit),
            ("timeout", "--timeout", &self.timeout),
            ("chunker", "--chunker", &self.chunker),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        let switches = [
            ("http.insecure", "--http-insecure", self.http_insecure),
            ("tls.self.signed", "--tls-self-signed", self.tls_self_signed),
        ];
        for (key, flag, _) in switches.into_iter().filter(|(.., on)| *on) {
            given.push((key, vec!["true".into()], flag.into()));
        }
        for (key, flag, value) in singles {
            if let Some(value) = value {
                given.push((key, vec![value.clone()], flag.into()));
            }
        }
        given
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node until Ctrl-C.
    Run,
    /// Store files, folders or stdin, and print a link for each.
    #[command(visible_aliases = ["add", "put"])]
    Provide {
        /// Files or folders; - is stdin.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        options: ProvideOptions,
    },
    /// Read a file or folder by its link, CID or name; of several files of one name, the newest.
    Get {
        /// A link (quote it: the shell cuts at #), a CID or a name.
        reference: String,
        #[command(flatten)]
        options: GetOptions,
    },
    /// List the files that this node keeps.
    Ls {
        /// Only names that contain this.
        query: Option<String>,
    },
    /// Show what is known of a file.
    Info {
        /// A link, CID or name.
        reference: String,
    },
    /// Remove files from this node.
    Rm {
        /// Links, CIDs or names; a name that several files have is refused.
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Read stored blocks again and check them; bad ones are fetched from peers.
    Verify {
        /// A link, CID or name; without it, everything.
        reference: Option<String>,
        /// Make a new index from the blocks, and move them to the layout in the settings (the node must not run).
        #[arg(long, conflicts_with = "reference")]
        rebuild_index: bool,
    },
    /// Show which blocks of a file are here, who has the others, and how many nodes may be lost.
    Health {
        /// A link, CID or name; without it, the files that lack blocks here.
        reference: Option<String>,
    },
    /// Fetch blocks that are missing here from peers.
    Repair {
        /// A link, CID or name; without it, every file that is kept.
        reference: Option<String>,
    },
    /// Free the blocks that no file needs any more.
    Gc {
        /// Also what is still in its grace period, and what interrupted uploads have left
        #[arg(long)]
        now: bool,
    },
    /// List connected peers.
    Peers {
        /// Connect to this multiaddr first.
        #[arg(long, value_name = "MULTIADDR")]
        add: Option<String>,
    },
    /// Show how the node is.
    Status,
    /// Show this node's peer id.
    Id,
    /// Look for what may be wrong, and say what to do.
    Doctor,
    /// Show what happens on the node, until Ctrl-C.
    Events,
    /// Make a data directory, and with --cluster the key of a new cluster.
    Init {
        /// Make a cluster key: only nodes that have it can speak to this one.
        #[arg(long)]
        cluster: bool,
    },
    /// Print one line that brings another machine into this node's cluster.
    Invite,
    /// Enter a cluster by an invite.
    Join {
        /// What `invite` printed.
        invite: String,
    },
    /// Back up or restore the identity and the cluster key.
    Key {
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Print a link that signs a browser in to this node's page, once.
    Web,
    /// Make, list and revoke tokens for the HTTP API.
    Token {
        #[command(subcommand)]
        action: TokenAction,
    },
    /// Show or check the settings in force.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Try it: three nodes on this machine, a file goes in and comes out.
    Demo {
        /// End when it is done instead of staying up.
        #[arg(long)]
        once: bool,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print a manual page, or write them all.
    Man {
        /// The command that it is about, for example `key backup` [default: the program].
        command: Vec<String>,
        /// Write the pages of all commands into this folder, one file each.
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ProvideOptions {
    /// The name to store it under, where it is one [default: the file's own].
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Do not encrypt: anybody who has the CID can read it.
    #[arg(long)]
    pub(super) public: bool,
    /// Share no block with other files: nobody can tell that two files are equal.
    #[arg(long)]
    pub(super) no_dedup: bool,
    /// Where no node runs: store and end, instead of serving until Ctrl-C.
    #[arg(long)]
    pub(super) no_serve: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetOptions {
    /// Where to write; FOLDER/ is made for it, - is stdout, to which a folder goes as a tar stream [default: the file's
    /// name, here].
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Only these bytes, both ends included: 0-99, 100-, -50.
    #[arg(long, value_name = "A-B", allow_hyphen_values = true)]
    pub(super) range: Option<String>,
    /// Replace a file that is there; a folder is never replaced.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyAction {
    /// Write identity and cluster key into a file; keep it safe: it is this node.
    Backup {
        /// The file to make; - is stdout.
        file: PathBuf,
    },
    /// Put a backup into an empty data directory.
    Restore {
        /// A file that `backup` made; - is stdin.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenAction {
    /// Make a token and print it; it is shown this once.
    Create {
        /// What it opens: read, write or admin.
        #[arg(long, default_value = "read", value_parser = ["read", "write", "admin"])]
        scope: String,
        /// After what time it ends, for example 30d [default: when it is revoked].
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// What to call it [default: its scope].
        #[arg(long)]
        name: Option<String>,
    },
    /// List the tokens.
    Ls,
    /// End a token.
    Revoke {
        /// Its id, as `token ls` shows it.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigAction {
    /// Show every setting: those that the node on this data directory uses, where one runs.
    Show {
        /// And where its value came from.
        #[arg(long)]
        origin: bool,
        /// What the next start would use, also where a node runs.
        #[arg(long)]
        next: bool,
    },
    /// Check all settings as a start would; prints nothing where they are right.
    Check,
    /// Show which file is read.
    Path,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_part_of_it_is_explained() {
        let command = Args::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", sub.get_name(), arg.get_id());
            }
        }
    }
}
