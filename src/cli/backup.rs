//! `key`: backs up and restores the identity and the cluster key of a node.

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use axum::http::Method;
use data_encoding::BASE64URL_NOPAD;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    args::KeyAction,
    client::Endpoint,
    cluster_key::{self, cluster_key, parse_cluster_key},
    connection::{Network, call, require_data_dir},
    destination::cannot_write,
    error::CliError,
    output, secret_input,
    settings_file::SettingsFile,
    setup::{create_data_dir, load_identity, print_identity},
};
use crate::{
    node::{
        ErrorCode, Reason,
        data_dir::DataDir,
        identity::{self, IDENTITY_FILE, add_former_addrs, decode, former_addrs, write_secret},
        invite::is_local,
    },
    store::{read, read_lock, replace},
};

/// Maximum number of addresses of other members in a backup, besides those in the settings.
const MAX_MEMBERS: usize = 16;
/// The version of backups that this program writes and reads.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Backup {
    version: u32,
    identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_key: Option<String>,
    /// Addresses of other members: without them, a restored node finds nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bootstrap: Vec<String>,
    /// Addresses of this node. A restored node dials them to find out whether the original still runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addrs: Vec<Multiaddr>,
}

pub(super) async fn key(context: &Context, action: KeyAction) -> Result<(), CliError> {
    match action {
        KeyAction::Backup { file } => backup(context, &file).await,
        KeyAction::Restore { file } => {
            let (name, text) = secret_input::read_text((!is_standard_stream(&file)).then_some(file)).await?;
            restore(context, &name, &text)
        }
        KeyAction::New => renew(context),
    }
}

/// Makes a new identity if the old one is lost or damaged.
fn renew(context: &Context) -> Result<(), CliError> {
    require_data_dir(context)?;
    if let Some(lock) = read_lock(&context.data_dir) {
        return Err(CliError::new(ErrorCode::Locked, format!("the node runs as {}", lock.holder()))
            .hint("stop it, then run the command again"));
    }
    match identity::load(DataDir::Closed(&context.data_dir)) {
        Ok(Some(_)) => {
            let message = format!("the identity in {} is intact", context.data_dir.display());
            return Err(CliError::bad_request(message).hint("nothing to do; `storgo-node id` prints it"));
        }
        Err(error) if !matches!(error.reason, Some(Reason::IdentityDamaged | Reason::IdentityLost)) => {
            return Err(error.into());
        }
        _ => drop(identity::create(&context.data_dir)?),
    }
    print_identity(context)?;
    let message = "a new identity was made; other nodes and invites that name the old peer id do not find this node any more";
    output::message(context, message);
    Ok(())
}

fn is_standard_stream(file: &Path) -> bool {
    file == Path::new("-")
}

async fn backup(context: &Context, path: &Path) -> Result<(), CliError> {
    require_data_dir(context)?;
    let failed = |e: &dyn std::fmt::Display| {
        CliError::new(ErrorCode::Other, format!("cannot encode the identity: {e}"))
    };
    let identity = load_identity(context)?.to_protobuf_encoding().map_err(|e| failed(&e))?;
    let cluster = cluster_key(&context.settings, &context.data_dir)?;
    let mut bootstrap = context.settings.list("bootstrap").to_vec();
    if cluster.is_some() {
        bootstrap.extend(members(context, &bootstrap).await);
        if bootstrap.is_empty() {
            let message = "the backup names no other member, because this node has met none: back up again after one has joined";
            output::message(context, message);
        }
    }
    let backup = Backup {
        version: VERSION,
        identity: BASE64URL_NOPAD.encode(&identity),
        cluster_key: cluster.map(|key| BASE64URL_NOPAD.encode(key.as_bytes())),
        bootstrap,
        addrs: former_addrs(&context.data_dir),
    };
    let text = serde_json::to_string_pretty(&backup).map_err(|e| failed(&e))? + "\n";
    if is_standard_stream(path) {
        // Also with --quiet, because the keys stay on the screen.
        if io::stdout().is_terminal() {
            output::stderr_line("keep this secret: anybody who sees these keys can act as this node");
        }
        return output::print(&text);
    }
    write_secret(path, text.as_bytes()).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => CliError::bad_request(format!("{} already exists", path.display()))
            .hint("it may hold other keys and is not replaced; name another file, or move it away"),
        _ => cannot_write(path, &e),
    })?;
    output::result(context, &serde_json::json!({ "file": path.display().to_string() }), |_| String::new())?;
    let message = format!(
        "keep {} secret: anybody who reads it can act as this node\n\
         it contains keys only: save files, their names and links separately",
        path.display()
    );
    output::message(context, &message);
    Ok(())
}

/// Returns addresses of other members that this node has met, without those in `given`.
async fn members(context: &Context, given: &[String]) -> Vec<String> {
    if read_lock(&context.data_dir).is_none() && !context.data_dir.join("index.redb").exists() {
        return Vec::new();
    }
    // Its own messages would say that a running node ignores --bootstrap, which goes into the backup.
    let quiet = Context { quiet: true, ..context.clone() };
    let endpoint = Endpoint::path("/api/v1/peers/known");
    let known: Vec<String> = match call(&quiet, Network::Offline, Method::GET, &endpoint).await {
        Ok(known) => known,
        Err(error) => {
            let message = format!("the backup may lack addresses of other members: {error}");
            output::message(context, &message);
            return Vec::new();
        }
    };
    let (local, mut others): (Vec<_>, Vec<_>) =
        known.into_iter().filter(|addr| !given.contains(addr)).partition(|addr| is_local(addr));
    others.extend(local);
    others.truncate(MAX_MEMBERS);
    others
}

/// Writes what the data directory lacks. Keys that are there and differ are never replaced; damaged ones are.
fn restore(context: &Context, name: &str, text: &str) -> Result<(), CliError> {
    let invalid = || {
        CliError::bad_request(format!("{name} is not a storgo backup, or incomplete"))
            .hint("name a file that `key backup` wrote on the node whose keys you need")
    };
    let backup: Backup = serde_json::from_str(text).map_err(|_| invalid())?;
    if backup.version != VERSION {
        let message = format!("{name} is a backup of the unknown version {}", backup.version);
        return Err(CliError::bad_request(message).hint("restore it with the storgo-node that wrote it"));
    }
    let identity = BASE64URL_NOPAD.decode(backup.identity.as_bytes()).map_err(|_| invalid())?;
    decode(&identity).ok_or_else(invalid)?;
    let cluster = match &backup.cluster_key {
        Some(key) => Some(parse_cluster_key(key).ok_or_else(invalid)?),
        None => None,
    };
    let settings = SettingsFile::prepare(context, &backup.bootstrap)?;
    let path = context.data_dir.join(IDENTITY_FILE);
    let here = match read(&path) {
        Ok(bytes) => bytes,
        // A folder, for one. It is replaced as a damaged file is.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Some(Vec::new()),
        Err(e) => return Err(CliError::path("read", &path, &e)),
    };
    if here.as_deref().and_then(decode).is_some() && here.as_deref() != Some(&identity) {
        return Err(CliError::bad_request(format!(
            "{} contains other keys already",
            context.data_dir.display()
        ))
        .hint("restore into an empty data directory, or move the old keys away"));
    }
    let lost_key = match cluster {
        Some(key) => cluster_key::lacks(context, &key)?.then_some(key),
        None => None,
    };
    let is_new = here.as_deref() != Some(&identity);
    let has_changed = is_new || lost_key.is_some();
    create_data_dir(context)?;
    if is_new {
        let write = if here.is_some() { replace } else { write_secret };
        write(&path, &identity).map_err(|e| CliError::path("write", &path, &e))?;
    }
    if let Some(key) = lost_key {
        cluster_key::save(context, &key)?;
    }
    if !backup.bootstrap.is_empty() || settings.has_flags() {
        settings.write(context)?;
    }
    add_former_addrs(&context.data_dir, backup.addrs)
        .map_err(|e| CliError::io("save the addresses of the original", &e))?;
    print_identity(context)?;
    let next = match read_lock(&context.data_dir) {
        _ if !has_changed => "these keys are here already; no key was changed".into(),
        Some(lock) => {
            format!("restored; {} still runs without these keys: stop it and start it again", lock.holder())
        }
        None => format!("restored; start the node with: {}", context.start_command()),
    };
    output::message(context, &next);
    if has_changed {
        let message = "a backup contains keys only; files, their names and links were not restored\n\
                       start the node only if the original has stopped for good: two nodes with one identity hide each \
                       other's files";
        output::message(context, message);
    }
    Ok(())
}
