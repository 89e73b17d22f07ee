//! `doctor`: looks for problems and says what to do about them.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::Method;
use serde::Serialize;

use super::{
    Context,
    client::{Endpoint, how_to_join},
    cluster_key::cluster_key,
    connection::{Connection, Network},
    error::CliError,
    options::run_options,
    output::{self, plural},
    shell::complete,
    status::RESTART_PENDING,
};
use crate::{
    http::{CertificateWarning, SettingInfo, TOKEN_FILE, load_or_create_token},
    node::{
        ErrorCode, NodeError,
        data_dir::DataDir,
        identity::{IDENTITY_FILE, load},
        membership::CLUSTER_FILE,
        report::{FileList, Status},
    },
    store::{Store, StoreError, read_lock, write_problem},
};

const LOW_SPACE_BYTES: u64 = 1 << 30;
/// Prefix of the file that is written as a test.
const PROBE: &str = ".doctor-";
/// An earlier clock is wrong: this program was written later. In seconds since 1970.
const EARLIEST: u64 = 1_760_000_000;

#[derive(Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    /// `ok`, `warn`, `fail`, or `skip` for what was not checked.
    state: &'static str,
    #[serde(rename = "says")]
    message: String,
}

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let mut checks = vec![data_dir(context)];
    if context.data_dir.exists() {
        checks.extend([blocks(context), secrets(context)]);
    } else {
        checks.extend(["store", "secrets"].map(|name| Check::skip(name, "there is no data directory")));
    }
    checks.extend([clock(), settings(context), space(context)]);
    checks.extend(node(context).await);
    for check in &mut checks {
        check.message = complete(&check.message).into_owned();
    }
    let failed = checks.iter().filter(|check| check.state == "fail").count();
    output::result(context, &checks, |checks| {
        let line = |check: &Check| {
            let is_fault = matches!(check.state, "warn" | "fail");
            let state = if is_fault { check.state.to_uppercase() } else { check.state.into() };
            format!("{state:<5} {:<10} {}\n", check.name, check.message)
        };
        checks.iter().map(line).collect()
    })?;
    match failed {
        0 => Ok(()),
        n => Err(CliError::new(ErrorCode::Other, format!("{n} of {} checks failed", checks.len()))
            .hint("each line above that says FAIL names the next step")),
    }
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: "ok", message: message.into() }
    }

    fn skip(name: &'static str, why: &str) -> Self {
        Self { name, state: "skip", message: format!("not checked: {why}") }
    }

    fn warn(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: "warn", message: message.into() }
    }

    fn fail(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: "fail", message: message.into() }
    }
}

fn data_dir(context: &Context) -> Check {
    let dir = context.data_dir.display();
    if !context.data_dir.exists() {
        return Check::warn(
            "data",
            format!(
                "{dir} does not exist yet; `storgo-node init` or the first start creates it (is --data-dir right?)"
            ),
        );
    }
    match write_test_file(&context.data_dir) {
        Ok(()) => Check::ok("data", format!("{dir} is writable")),
        Err(e) => {
            let what = match e.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "free some space, or remove files and run `storgo-node gc --now`"
                }
                ErrorKind::PermissionDenied => "check its owner and permissions",
                ErrorKind::ReadOnlyFilesystem => "its file system is mounted read-only",
                _ => "check the disk",
            };
            Check::fail("data", format!("cannot write to {dir}: {e}; {what}"))
        }
    }
}

fn write_test_file(dir: &std::path::Path) -> std::io::Result<()> {
    // Remove the files of earlier checks that were killed.
    for item in std::fs::read_dir(dir)?.flatten() {
        let name = item.file_name();
        let is_probe = |name: &str| {
            name.strip_prefix(PROBE)
                .is_some_and(|id| id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        if name.to_str().is_some_and(is_probe) {
            drop(std::fs::remove_file(item.path()));
        }
    }
    let path = dir.join(format!("{PROBE}{:08x}", rand::random::<u32>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    // Too long for a file system to store inline, so it has to allocate space.
    let written = file.write_all(&[0; 16 << 10]).and_then(|()| file.sync_all());
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

/// Whether the store can be opened. Opens nothing itself, because a running node may need it.
fn blocks(context: &Context) -> Check {
    match Store::inspect(&context.data_dir) {
        Ok(None) => Check::ok("store", "the index is present and all blocks have one layout"),
        Ok(Some(damage)) => Check::warn(
            "store",
            format!("the journal is damaged ({damage}); the next start makes it again from the index"),
        ),
        Err(error) => failed("store", &NodeError::from(error).into()),
    }
}

/// A failed check, with the next step.
fn failed(name: &'static str, error: &CliError) -> Check {
    Check::fail(name, error.with_next_step())
}

fn secrets(context: &Context) -> Check {
    let identity = load(DataDir::Closed(&context.data_dir)).err();
    // The running node may just have made the index.
    let identity = identity.filter(|error| error.code != ErrorCode::Locked);
    // It makes a new token only if there is none.
    let has_token = context.data_dir.join(TOKEN_FILE).symlink_metadata().is_ok();
    let token = has_token.then(|| load_or_create_token(&context.data_dir).err()).flatten();
    let damage = identity.or(token).map(CliError::from);
    // Invalid settings may have the key.
    let is_valid = context.mistakes.is_empty();
    let cluster = || is_valid.then(|| cluster_key(&context.settings, &context.data_dir).err()).flatten();
    if let Some(error) = damage.or_else(cluster) {
        return failed("secrets", &error);
    }
    // The index contains names and read keys, and so do old copies of it.
    let here = std::fs::read_dir(&context.data_dir).into_iter().flatten().flatten();
    let indexes = here
        .map(|item| item.path())
        .filter(|path| path.is_file())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index.redb")));
    let keys = [IDENTITY_FILE, CLUSTER_FILE, TOKEN_FILE].map(|name| context.data_dir.join(name));
    let mut checked = 0;
    for path in keys.into_iter().chain(indexes) {
        let Ok(meta) = path.metadata() else { continue };
        checked += 1;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let message =
                format!("other users can read {} (mode {mode:o}); run chmod 600 on it", path.display());
            return Check::fail("secrets", message);
        }
    }
    match checked {
        0 => Check::skip("secrets", "there are no keys yet"),
        n => Check::ok(
            "secrets",
            format!("only this user can read the {} with keys and names", plural(n, "file")),
        ),
    }
}

fn clock() -> Check {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    if now < EARLIEST {
        return Check::warn(
            "clock",
            "the clock is years behind, so dates in lists will be wrong; set it (NTP)",
        );
    }
    Check::ok("clock", "the clock is plausible")
}

fn settings(context: &Context) -> Check {
    if !context.mistakes.is_empty() {
        let all: Vec<String> = context.mistakes.iter().map(CliError::with_next_step).collect();
        return Check::fail("settings", all.join("; "));
    }
    let options = run_options(&context.settings, &context.data_dir);
    match options {
        Ok((_, serve)) => match serve.certificate_warning(&context.data_dir) {
            None => Check::ok("settings", "all settings are valid"),
            Some(CertificateWarning { message, is_valid: true }) => Check::warn("settings", message),
            Some(CertificateWarning { message, is_valid: false }) => Check::fail("settings", message),
        },
        Err(error) => Check::fail("settings", error.with_next_step()),
    }
}

fn space(context: &Context) -> Check {
    let existing = context.data_dir.ancestors().find(|path| path.exists());
    if let Some(problem) = existing.and_then(write_problem) {
        return Check::warn("space", problem);
    }
    let stats = existing.and_then(|path| rustix::fs::statvfs(path).ok());
    match stats.map(|stats| stats.f_bavail.saturating_mul(stats.f_frsize)) {
        None => Check::warn("space", "cannot tell how much space is left"),
        Some(free) if free < LOW_SPACE_BYTES => {
            Check::warn("space", format!("only {} left on the disk", output::bytes(free)))
        }
        Some(free) => Check::ok("space", format!("{} left on the disk", output::bytes(free))),
    }
}

async fn node(context: &Context) -> Vec<Check> {
    if read_lock(&context.data_dir).is_none() {
        let message = "no node runs on this data directory; `storgo-node run` starts one";
        return vec![
            Check::warn("node", message),
            Check::skip("peers", "no node runs"),
            Check::skip(
                "blocks",
                "no node runs; `storgo-node health` looks for missing ones, `storgo-node verify` reads all",
            ),
        ];
    }
    let asked = async {
        let connection = Connection::open(context, Network::Offline).await?;
        let settings = connection.client.json(Method::GET, &Endpoint::path("/api/v1/settings")).await?;
        let damaged = Endpoint::path("/api/v1/files?health=damaged&limit=1");
        let damaged = connection.client.json(Method::GET, &damaged).await?;
        // After the question for the damaged files: the status repeats what the node found then.
        let status = connection.client.status().await?;
        connection.close().await;
        Ok::<(Status, Vec<SettingInfo>, FileList), CliError>((status, settings, damaged))
    };
    let (status, settings, damaged) = match asked.await {
        Ok(answers) => answers,
        Err(error) => {
            let message = format!(
                "the node does not answer: {error}; stop its process and start it again; its log says more"
            );
            return vec![Check::fail("node", message)];
        }
    };
    let up = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let running = format!("running as process {} for {up}", status.pid);
    let mut checks = vec![if status.restart_pending {
        Check::warn("node", format!("{running}; {RESTART_PENDING}"))
    } else {
        Check::ok("node", running)
    }];
    checks.push(match (status.peers, &status.outside) {
        (0, Some(addr)) => {
            let message =
                format!("the node at {addr} belongs to another cluster: {}", how_to_join(status.cluster));
            Check::warn("peers", message)
        }
        (0, None) => Check::warn("peers", no_peer(&settings)),
        (n, _) => Check::ok("peers", format!("{n} connected")),
    });
    if let Some(addr) = &status.same_identity {
        let message = format!(
            "another machine uses this node's identity, met at {addr}; peers reach only one of the two: stop one, move its \
             identity.key away and run `storgo-node key new` there"
        );
        checks.push(Check::fail("identity", message));
    }
    if status.index_behind {
        checks.push(failed("index", &NodeError::from(StoreError::IndexBehind).into()));
    }
    if damaged.total > 0 {
        let message = format!(
            "{} of {} kept here missing or damaged; `storgo-node health` lists the files, `storgo-node repair` fetches what peers \
             have",
            plural(status.missing, "block"),
            plural(damaged.total, "file"),
        );
        checks.push(Check::warn("blocks", message));
    } else if status.quarantined > 0 {
        let message = format!(
            "{} damaged and set aside so far, none is missing now; check the disk",
            plural(status.quarantined, "block")
        );
        checks.push(Check::warn("blocks", message));
    } else {
        let message = match damaged.kept.unwrap_or_default() {
            0 => "this node keeps no files".into(),
            n => format!(
                "all blocks of {} kept here have their length; `storgo-node verify` reads them",
                plural(n, "file")
            ),
        };
        checks.push(Check::ok("blocks", message));
    }
    checks
}

/// Why no peer is connected, as far as the settings of the running node say.
fn no_peer(settings: &[SettingInfo]) -> String {
    let value =
        |key: &str| settings.iter().find(|setting| setting.key == key).map_or("", |setting| &setting.value);
    let next = match (value("bootstrap"), value("mdns")) {
        ("", "true") => {
            "none was found on the local network; name one with the setting `bootstrap` or `storgo-node peers --add MULTIADDR`: \
             `status` on another node lists its addresses"
        }
        ("", _) => {
            "neither `bootstrap` nor `mdns` is set, so the node looks for none; name one with the setting `bootstrap` or \
             `storgo-node peers --add MULTIADDR`: `status` on another node lists its addresses"
        }
        (peers, _) => {
            return format!(
                "no peer is connected: {peers} (`bootstrap`) does not answer; check that it runs and that a firewall lets this node \
                 through"
            );
        }
    };
    format!("no peer is connected: {next}")
}
