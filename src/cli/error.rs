//! Errors of the command line: what happened, what to do next, and the exit code.

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, PROFILES, TABLE},
    node::{ErrorCode, NodeError, Reason, report::LeftOut},
};

/// An error as the user sees it. `--json` prints it as `{"error": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CliError {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// The next step for the user.
    pub(super) hint: String,
    /// The cause, if the node names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// Entries of a folder that were not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<LeftOut>,
    /// Of a command with several inputs: the error of each that failed.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) errors: Box<[InputError]>,
    /// The file in whose middle a folder broke off.
    #[serde(skip)]
    pub(super) entry: Option<String>,
}

/// The error of one of several inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct InputError {
    /// The input, as the user gave it.
    pub(super) input: String,
    #[serde(flatten)]
    pub(super) error: CliError,
}

impl CliError {
    /// An error with the general next step of its code.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (message, hint) = (message.into(), next_step(code, None).into());
        Self { code, message, hint, reason: None, left_out: Vec::new(), errors: Box::default(), entry: None }
    }

    /// The result of a command that did its work (`verb`) with `done` of `wanted` inputs; `errors` must not be empty.
    pub(super) fn of_inputs(mut errors: Vec<InputError>, done: usize, wanted: usize, verb: &str) -> Self {
        if wanted == 1 {
            return errors.swap_remove(0).error;
        }
        let code = if done == 0 { errors[errors.len() - 1].error.code } else { ErrorCode::Partial };
        let count = if done == 0 { "none".into() } else { done.to_string() };
        let mut error = Self::new(code, format!("{count} of {wanted} {verb}"))
            .hint("each error names its cause and the next step; the command can be run again for the rest");
        error.errors = errors.into();
        error
    }

    /// The arguments, the settings or the input are wrong.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// An error of the operating system while trying to do `what`.
    pub(super) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let code = ErrorCode::of_io(error);
        let hint = match (code, error.kind()) {
            (ErrorCode::Denied, _) => "check its owner and permissions",
            (ErrorCode::NoSpace, _) => "free some space on that disk",
            (_, io::ErrorKind::NotFound) => "check the path; is it mistyped, or a disk not mounted?",
            (_, io::ErrorKind::IsADirectory) => "name a file; this is a folder",
            (_, io::ErrorKind::NotADirectory) => "a part of the path is a file, not a folder",
            _ => "check the path and the disk",
        };
        Self::new(code, format!("cannot {what}: {error}")).hint(hint)
    }

    /// An error of the operating system with a path that the user named: a missing file is [`ErrorCode::NotFound`].
    pub(super) fn path(verb: &str, path: &Path, error: &io::Error) -> Self {
        let failed = Self::io(format_args!("{verb} {}", path.display()), error);
        if error.kind() == io::ErrorKind::NotFound {
            Self { code: ErrorCode::NotFound, ..failed }
        } else {
            failed
        }
    }

    pub(super) fn panicked(what: &str) -> Self {
        Self::new(ErrorCode::Other, format!("internal error while {what}")).hint("please report this")
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The message and the next step in one line.
    pub(super) fn with_next_step(&self) -> String {
        let Self { message, hint, .. } = self;
        if hint.is_empty() { message.clone() } else { format!("{message}; {hint}") }
    }

    pub(super) const fn exit_code(&self) -> u8 {
        match self.code {
            ErrorCode::Other | ErrorCode::Collision => 1,
            ErrorCode::BadRequest => 2,
            ErrorCode::Partial => 3,
            ErrorCode::NotFound => 4,
            ErrorCode::Unreachable | ErrorCode::ShuttingDown => 5,
            ErrorCode::Denied => 6,
            ErrorCode::Integrity => 7,
            ErrorCode::BelowTarget => 8,
            ErrorCode::Timeout => 9,
            ErrorCode::Locked => 11,
            ErrorCode::NoSpace => 13,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<NodeError> for CliError {
    fn from(NodeError { code, message, reason, .. }: NodeError) -> Self {
        Self { reason, ..Self::new(code, message) }.hint(next_step(code, reason))
    }
}

/// The members of a problem document (RFC 9457) that the command line uses.
#[derive(Deserialize)]
pub(super) struct Problem {
    detail: String,
    code: ErrorCode,
    /// A newer node may send a reason that this version does not know.
    #[serde(default)]
    reason: serde_json::Value,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    entry: Option<String>,
    #[serde(default)]
    left_out: Vec<LeftOut>,
}

impl From<Problem> for CliError {
    fn from(Problem { detail, code, reason, hint, entry, left_out }: Problem) -> Self {
        let reason = Reason::deserialize(reason).ok();
        // Only problems of the API itself have no reason. A hint that names a request does not help a user of commands.
        let is_for_users = reason.is_none() && !hint.contains("/api/");
        let hint = if is_for_users { hint } else { next_step(code, reason).into() };
        Self { reason, left_out, entry, ..Self::new(code, detail) }.hint(hint)
    }
}

/// Returns the next step for the user.
fn next_step(code: ErrorCode, reason: Option<Reason>) -> &'static str {
    match reason {
        Some(Reason::KeyMissing) => "ask for the whole link; the part after # is the read key",
        Some(Reason::KeyWrong) => {
            "check that the link is complete and unchanged; the part after # is the read key"
        }
        Some(Reason::CraftedData) => {
            "the data was crafted to share its SHA-1 with other data; store it without --public"
        }
        Some(Reason::DirectoryInUse) => "stop the other process, or use another --data-dir",
        Some(Reason::DirectoryVersion) => {
            "use the version of storgo-node that wrote it, or another --data-dir"
        }
        Some(Reason::VersionDamaged) => {
            "`storgo-node verify --rebuild-index` writes it again; if another version of storgo-node wrote the data directory, use that"
        }
        Some(Reason::LayoutDiffers | Reason::LayoutMoveInterrupted) => {
            "`storgo-node verify --rebuild-index` moves all blocks to the layout in storage.layout"
        }
        Some(Reason::IndexDamaged | Reason::IndexLost | Reason::IndexBehind) => {
            "stop the node, then run `storgo-node verify --rebuild-index`"
        }
        Some(Reason::BlockDamaged) => "`storgo-node verify` fetches damaged blocks from peers that have them",
        Some(Reason::StorageFull) => {
            "raise the setting storage.capacity, or remove files and run `storgo-node gc --now`"
        }
        Some(Reason::DiskFull) => "free some space on that disk, or run `storgo-node gc --now --cache`",
        Some(Reason::ReadOnly) => "mount it writable, or use another --data-dir",
        Some(Reason::PermissionDenied) => "check its owner and permissions",
        Some(Reason::IdentityDamaged | Reason::IdentityLost) => {
            "restore a backup with `storgo-node key restore FILE`; without one, `storgo-node key new` makes a new identity"
        }
        Some(Reason::NoProvider) => {
            "check that a node with this file runs, and that this node has a peer (`storgo-node peers`)"
        }
        Some(Reason::NoPeers) => {
            "name a node to connect to: --bootstrap MULTIADDR, or `storgo-node peers --add MULTIADDR` if this node runs; `status` on \
             the other node lists its addresses"
        }
        Some(Reason::Offline) => "start the node with `storgo-node run`, then run the command again",
        Some(Reason::NoGoodCopy) => {
            "connect to another node that has the file, or store the original again: `storgo-node provide` restores the block"
        }
        Some(Reason::EntriesLeftOut) => {
            "connect to a node that has the folder and run the command again, with a new -o; what is here is not fetched again"
        }
        Some(Reason::ProvidersSilent | Reason::PeerUnreachable) => {
            "check that the other node runs and that a firewall lets this node through"
        }
        Some(Reason::OwnAddress) => "name another node: `status` there lists its addresses",
        Some(Reason::ForeignPeer) => {
            "run `invite` on a node of the cluster, and `join INVITE` on the other one"
        }
        Some(Reason::OtherPeer) => {
            "leave out /p2p/…, or copy the address again: `status` lists it on the other node"
        }
        Some(Reason::UnknownHost) => "check the spelling of the host name and this machine's DNS",
        Some(Reason::ConnectionRefused) => {
            "start the other node, or correct the port: `status` lists it on the other node"
        }
        Some(Reason::PortInUse) => "another program uses this port; choose another with --listen or --http",
        Some(Reason::PortDenied) => "choose a port from 1024 on with --listen or --http",
        Some(Reason::AddressUnavailable) => {
            "use an address that this machine has; /ip4/0.0.0.0/tcp/3000 listens on all of them"
        }
        Some(Reason::TlsRequired) => {
            "add --tls-self-signed, or --tls-cert and --tls-key; --http-insecure if a reverse proxy does TLS"
        }
        Some(Reason::CertificateInvalid) => {
            "--tls-cert takes a PEM chain, the node's own certificate first, and --tls-key its private key"
        }
        Some(Reason::CertificateKeyEncrypted) => {
            "`openssl pkey -in KEY -out NEW` writes it without a password; let only this user read NEW, and name it with --tls-key"
        }
        Some(Reason::TokenUnknown) => "`storgo-node token ls` lists the tokens",
        Some(Reason::NotAnnounced) => "it was removed; store it again to announce it",
        Some(Reason::NotKept) => "`storgo-node keep LINK` keeps a file that was only read",
        Some(Reason::NameUnknown) => "`storgo-node ls` lists the files here",
        Some(Reason::BlockNotHere | Reason::RootNotHere) => {
            "`storgo-node repair` fetches it from peers that have it"
        }
        Some(Reason::CidInvalid) => "is the CID mistyped or cut off? `storgo-node ls` lists the files here",
        Some(Reason::LinkInvalid) => {
            "a link looks like storgo://<cid>#<key>; quote it if your shell treats # specially"
        }
        Some(Reason::NameAmbiguous) => "name the file by its CID",
        Some(Reason::NameTooLong | Reason::NameHasNul) => "choose another name with --name",
        Some(Reason::InputFailed) => "store it again",
        Some(Reason::NoCluster) => "`storgo-node init --cluster` creates one",
        Some(Reason::ClusterKeyMissing | Reason::ClusterKeyDamaged) => {
            "`storgo-node key restore` with a backup, or `storgo-node join` with an invite of another member, brings the key back; \
             `storgo-node leave` makes this an open node"
        }
        Some(Reason::OtherCluster) => {
            "use another --data-dir, or run `storgo-node leave` first; files stored in the old cluster stay readable by their links"
        }
        Some(Reason::WorkerFailed) => "the log of the node says where it failed; please report this",
        _ => of_code(code),
    }
}

/// Returns the next step after an error without a closer cause.
const fn of_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Other => "--verbose shows more, and `storgo-node doctor` looks for problems",
        ErrorCode::BadRequest => "correct it and run the command again; --help lists what the command takes",
        ErrorCode::Partial => "correct what the messages name, then run the command again",
        ErrorCode::NotFound => "`storgo-node ls` lists the files here; a link reads files of other nodes",
        ErrorCode::Unreachable => {
            "`storgo-node run` starts the node; if its process still runs, stop that first"
        }
        ErrorCode::Denied => "check the owner and permissions, or ask for a link with its read key",
        ErrorCode::Integrity => "`storgo-node verify` shows what is damaged",
        ErrorCode::Collision => "store it without --public",
        ErrorCode::BelowTarget => "`storgo-node health` shows which nodes hold the file",
        ErrorCode::Timeout => "run the command again to continue; --timeout waits longer",
        ErrorCode::Locked => "try again in a moment, or stop the other process",
        ErrorCode::NoSpace => "free some space, or remove files and run `storgo-node gc --now`",
        ErrorCode::ShuttingDown => "start the node again, then run the command again",
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let (mut code, mut hint) = (ErrorCode::BadRequest, "correct the value or remove it".to_owned());
        match &error {
            // `config show` cannot list the settings now: it reads the same file.
            ConfigError::UnknownKey { .. } | ConfigError::UnknownGroup { .. } => {
                let keys: Vec<&str> = TABLE.iter().map(|setting| setting.key).collect();
                hint = format!("correct or remove it; the settings are {}", keys.join(", "));
            }
            ConfigError::UnknownProfile(_) => {
                hint = format!("the profiles are {}", PROFILES.map(|(name, _)| name).join(", "));
            }
            ConfigError::SettingAndGroup { key, .. } => {
                let inside = TABLE.iter().filter(|setting| {
                    setting.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
                });
                let names = inside.map(|setting| format!("{:?}", setting.key)).collect::<Vec<_>>().join(", ");
                hint = format!(
                    "instead of the group, write the whole names in quotes at the top of the file: {names}"
                );
            }
            ConfigError::Syntax { .. } => {
                hint = "correct the file; docs/configuration.md shows an example".into();
            }
            ConfigError::Read { source, origin, path } => {
                hint = match (source.kind(), origin) {
                    (io::ErrorKind::PermissionDenied, _) => "this user must be able to read it".into(),
                    (io::ErrorKind::InvalidData, _) => "it must be text in UTF-8".into(),
                    (io::ErrorKind::IsADirectory, _) => "a folder is in its place; move it away".into(),
                    (_, _) if path.is_symlink() => {
                        "it is a symbolic link that leads nowhere; correct or remove it".into()
                    }
                    (io::ErrorKind::NotFound, None) => {
                        "name a file that exists; without --config, config.toml in the data directory is read"
                            .into()
                    }
                    (io::ErrorKind::NotFound, Some(_)) => "name a file that exists".into(),
                    _ => "check the path and the disk".into(),
                };
                if ErrorCode::of_io(source) == ErrorCode::Denied {
                    code = ErrorCode::Denied;
                }
            }
            _ => {}
        }
        Self::new(code, error.to_string()).hint(hint)
    }
}

/// A usage error of `clap`: its first paragraph is the message, the rest (usage, tips) becomes the hint.
impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        let help = "`storgo-node --help` lists commands and flags";
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::bad_request("no command given").hint(help);
        }
        let text = error.to_string();
        let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let message = one_line(message.strip_prefix("error: ").unwrap_or(message));
        let rest: Vec<String> = rest
            .lines()
            .map(one_line)
            .filter(|line| !line.is_empty() && !line.starts_with("For more"))
            .collect();
        let hint = if rest.is_empty() { help.into() } else { rest.join("; ") };
        Self::bad_request(message).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::args::{Args, EXIT_CODES},
        *,
    };

    /// The names in backquotes in a cell.
    fn names(cell: &str) -> impl Iterator<Item = &str> {
        cell.split('`').skip(1).step_by(2)
    }

    #[test]
    fn the_documents_and_the_help_list_the_exit_code_of_every_error() {
        use utoipa::PartialSchema;

        let document =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).expect("a document");
        let cells = |line: &str| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        let rows = document.lines().filter(|line| line.starts_with('|')).map(cells);
        let rows: Vec<(u8, Vec<String>)> = rows.filter_map(|row| Some((row[0].parse().ok()?, row))).collect();
        let schema = serde_json::to_value(ErrorCode::schema()).expect("JSON");
        let schema = schema["oneOf"].as_array().map_or(vec![&schema], |all| all.iter().collect());
        let known: Vec<&serde_json::Value> =
            schema.iter().flat_map(|part| part["enum"].as_array().expect("names")).collect();
        assert!(known.len() > 10, "{known:?}");
        let listed: usize = rows.iter().map(|(_, row)| names(&row[1]).count()).sum();
        assert_eq!(listed, known.len(), "each name once");
        for name in known {
            let code = CliError::new(serde_json::from_value(name.clone()).expect("a code"), "").exit_code();
            let (_, row) = rows.iter().find(|(number, _)| *number == code).expect("a row");
            assert!(names(&row[1]).any(|listed| listed == name), "{name}: {row:?}");
        }
        let in_help = |line: &str| -> Vec<(u8, String)> {
            // Two columns, more than one space apart.
            let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
            cells
                .chunks(2)
                .filter_map(|pair| Some((pair[0].parse().ok()?, (*pair.get(1)?).to_owned())))
                .collect()
        };
        let mut help: Vec<_> = EXIT_CODES.lines().flat_map(in_help).collect();
        help.sort_unstable();
        assert_eq!(help, rows.iter().map(|(code, row)| (*code, row[2].clone())).collect::<Vec<_>>());
    }

    #[test]
    fn every_error_has_a_next_step() {
        use utoipa::PartialSchema;

        let schema = serde_json::to_string(&Reason::schema()).expect("JSON")
            + &serde_json::to_string(&ErrorCode::schema()).expect("JSON");
        let words: Vec<&str> = schema.split('"').collect();
        let parse = |word: &&str| serde_json::from_value::<Reason>(serde_json::Value::from(*word)).ok();
        let reasons: Vec<Reason> = words.iter().filter_map(parse).collect();
        assert!(reasons.len() > 40, "{reasons:?}");
        for reason in reasons {
            let hint = next_step(ErrorCode::Other, Some(reason));
            assert!(!hint.is_empty() && !hint.ends_with('.'), "{reason:?}: {hint:?}");
        }
        for profile in ["foo", ""] {
            let error = CliError::from(ConfigError::UnknownProfile(profile.into()));
            assert_eq!(error.hint, "the profiles are dev, staging, prod");
        }
    }

    #[test]
    fn a_problem_document_becomes_an_error_with_a_command_as_its_hint() {
        let parse = |text: &str| CliError::from(serde_json::from_str::<Problem>(text).expect("a problem"));
        let known =
            parse(r#"{"detail":"d","code":"integrity","hint":"GET /api/v1/x","reason":"index_behind"}"#);
        assert_eq!(known.reason, Some(Reason::IndexBehind));
        assert!(known.hint.contains("verify --rebuild-index"), "{}", known.hint);
        let unknown = parse(r#"{"detail":"d","code":"locked","reason":"from_the_future"}"#);
        assert_eq!((unknown.exit_code(), unknown.reason, unknown.message.as_str()), (11, None, "d"));
        let limit = parse(r#"{"detail":"d","code":"no_space","hint":"revoke unused tokens"}"#);
        assert_eq!(limit.hint, "revoke unused tokens");
    }

    #[test]
    fn a_usage_error_becomes_a_message_and_a_hint() {
        let usage_error = |args: &[&str]| {
            let args = ["storgo-node"].iter().chain(args);
            CliError::from(Args::try_parse_from(args).expect_err("a usage error"))
        };
        let unknown = usage_error(&["ls", "--nonsense"]);
        assert_eq!(unknown.message, "unexpected argument '--nonsense' found");
        assert!(unknown.hint.contains("Usage: storgo-node ls"), "{}", unknown.hint);
        assert!(usage_error(&["get"]).message.ends_with("were not provided: <REFERENCE>"));
        assert_eq!(usage_error(&["key"]).message, "no command given");
    }
}
