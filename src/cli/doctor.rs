//! `doctor`: what may be wrong, and what to do about it.

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
    client::{Target, to_get_in},
    door::{CLUSTER_FILE, Door, Need, to_run},
    output,
    show::plural,
};
use crate::{
    http::TOKEN_FILE,
    node::{ErrorCode, NodeError, identity::IDENTITY_FILE, report::Status},
    store::{Store, StoreError, read_lock},
};

/// Below this, a disk counts as nearly full, bytes.
const LITTLE: u64 = 1 << 30;
/// How the file begins that is written to see whether that works.
const PROBE: &str = ".doctor-";
/// When this program was written, seconds since 1970: a clock before that is off.
const EARLIEST: u64 = 1_760_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    says: String,
}

pub(super) async fn run(context: &Context) -> Result<(), NodeError> {
    let mut findings = vec![
        data_dir(context),
        blocks(context),
        secrets(context),
        clock(),
        settings(context),
        space(context),
    ];
    findings.extend(node(context).await);
    let failed = findings.iter().filter(|finding| finding.state == State::Fail).count();
    output::result(context, &findings, |findings| {
        let line = |finding: &Finding| {
            let state = match finding.state {
                State::Ok => "ok",
                State::Warn => "WARN",
                State::Fail => "FAIL",
            };
            format!("{state:<5} {:<10} {}\n", finding.check, finding.says)
        };
        findings.iter().map(line).collect()
    })?;
    match failed {
        0 => Ok(()),
        n => Err(NodeError::new(ErrorCode::Other, format!("{n} of {} checks failed", findings.len()))),
    }
}

fn finding(check: &'static str, state: State, says: impl Into<String>) -> Finding {
    Finding { check, state, says: says.into() }
}

fn data_dir(context: &Context) -> Finding {
    let dir = context.data_dir.display();
    if !context.data_dir.exists() {
        return finding(
            "data",
            State::Warn,
            format!(
                "{dir} is not there: `storgo-node init` or the first start makes it; is --data-dir right?"
            ),
        );
    }
    match tempfile_in(&context.data_dir) {
        Ok(()) => finding("data", State::Ok, format!("{dir} can be written")),
        Err(e) => {
            let what = match e.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "free some space, or remove files and run `storgo-node gc --now`"
                }
                ErrorKind::PermissionDenied => "check its owner",
                ErrorKind::ReadOnlyFilesystem => "its file system can only be read: mount it for writing",
                _ => "check the disk",
            };
            finding("data", State::Fail, format!("{dir} cannot be written: {e}; {what}"))
        }
    }
}

fn tempfile_in(dir: &std::path::Path) -> std::io::Result<()> {
    // What one that was killed in between has left.
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
    // More than fits into what a file system keeps beside the file's name.
    let written = file.write_all(&[0; 16 << 10]).and_then(|()| file.sync_all());
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

/// Whether the blocks can be used at all. Seen from outside: nothing is opened that a node might need this moment.
fn blocks(context: &Context) -> Finding {
    match Store::inspect(&context.data_dir) {
        Ok(()) => finding("store", State::Ok, "no index is missing, and no block half moved"),
        Err(error) => finding("store", State::Fail, error.to_string()),
    }
}

fn secrets(context: &Context) -> Finding {
    // Names and read keys are in the index, and in those that were set aside.
    let here = std::fs::read_dir(&context.data_dir).into_iter().flatten().flatten();
    let indexes = here
        .map(|item| item.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index.redb")));
    let keys = [IDENTITY_FILE, CLUSTER_FILE, TOKEN_FILE].map(|name| context.data_dir.join(name));
    for path in keys.into_iter().chain(indexes) {
        let Ok(meta) = path.metadata() else { continue };
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let says = format!("{} can be read by others (mode {mode:o}): chmod 600 it", path.display());
            return finding("secrets", State::Fail, says);
        }
    }
    finding("secrets", State::Ok, "keys, token and index are for this user alone")
}

fn clock() -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    if now < EARLIEST {
        return finding(
            "clock",
            State::Warn,
            "the clock is years behind: dates in lists will be wrong; set it (NTP)",
        );
    }
    finding("clock", State::Ok, "the clock is plausible")
}

fn settings(context: &Context) -> Finding {
    if let Some(mistake) = &context.mistake {
        return finding("settings", State::Fail, mistake.to_string());
    }
    match to_run(&context.settings, &context.data_dir) {
        Ok(_) => finding("settings", State::Ok, "all settings are right"),
        Err(error) => finding("settings", State::Fail, error.to_string()),
    }
}

fn space(context: &Context) -> Finding {
    let existing = context.data_dir.ancestors().find(|path| path.exists());
    let stats = existing.and_then(|path| rustix::fs::statvfs(path).ok());
    match stats.map(|stats| stats.f_bavail.saturating_mul(stats.f_frsize)) {
        None => finding("space", State::Warn, "the system does not say how much space is left"),
        Some(free) if free < LITTLE => {
            finding("space", State::Warn, format!("only {} are left on the disk", output::bytes(free)))
        }
        Some(free) => finding("space", State::Ok, format!("{} are left on the disk", output::bytes(free))),
    }
}

async fn node(context: &Context) -> Vec<Finding> {
    if read_lock(&context.data_dir).is_none() {
        return vec![finding(
            "node",
            State::Warn,
            "no node runs on this data directory: `storgo-node run` starts one",
        )];
    }
    let status = async {
        let door = Door::open(context, Need::Store).await?;
        let status: Status = door.client.json(Method::GET, &Target::path("/api/v1/status")).await?;
        door.close().await;
        Ok::<_, NodeError>(status)
    };
    let status = match status.await {
        Ok(status) => status,
        Err(error) => {
            return vec![finding("node", State::Fail, format!("the node does not answer: {error}"))];
        }
    };
    let up = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let mut findings =
        vec![finding("node", State::Ok, format!("process {} has been up for {up}", status.pid))];
    findings.push(match (status.peers, &status.outside) {
        (0, Some(addr)) => {
            let says =
                format!("the node at {addr} belongs to another cluster: {}", to_get_in(status.cluster));
            finding("peers", State::Warn, says)
        }
        (0, None) => finding(
            "peers",
            State::Warn,
            "no peer is connected: give a --bootstrap address, or check the firewall",
        ),
        (n, _) => finding("peers", State::Ok, format!("{n} connected")),
    });
    if let Some(addr) = &status.same_identity {
        let says = format!(
            "another machine runs with this node's identity, met at {addr}: the two hide each other from the swarm; stop one, and \
             move its identity.key away"
        );
        findings.push(finding("identity", State::Fail, says));
    }
    if status.index_behind {
        findings.push(finding("index", State::Fail, StoreError::IndexBehind.to_string()));
    }
    if status.missing > 0 {
        let says = format!(
            "{} that files here need were damaged or lost: `storgo-node ls` says which files, and `storgo-node verify` fetches \
             what peers have",
            plural(status.missing, "block")
        );
        findings.push(finding("blocks", State::Warn, says));
    } else if status.quarantined > 0 {
        let says = format!(
            "{} damaged and set aside so far, none is missing now: check the disk",
            plural(status.quarantined, "block")
        );
        findings.push(finding("blocks", State::Warn, says));
    }
    findings
}
