//! `key`: backups of what makes a node the one that it is.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
};

use data_encoding::BASE64URL_NOPAD;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    args::KeyAction,
    cluster_key::{self, cluster_key, parse_cluster_key},
    connection::require_data_dir,
    error::CliError,
    output,
    settings_file::SettingsFile,
    setup::{create_data_dir, load_identity, print_identity},
};
use crate::{
    node::{
        ErrorCode,
        identity::{IDENTITY_FILE, add_former_addrs, decode, former_addrs, write_secret},
    },
    store::{read_lock, replace},
};

/// Maximum length of a backup, in bytes.
const MAX_BACKUP: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Backup {
    version: u32,
    identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_key: Option<String>,
    /// Addresses of other members: without them, a restored node finds nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bootstrap: Vec<String>,
    /// Addresses of the node, at which a restored one would meet it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addrs: Vec<Multiaddr>,
}

pub(super) async fn key(context: &Context, action: KeyAction) -> Result<(), CliError> {
    match action {
        KeyAction::Backup { file } => backup(context, &file),
        KeyAction::Restore { file } => {
            let name = if is_standard_stream(&file) { "stdin".into() } else { file.display().to_string() };
            // On a blocking thread, so that Ctrl-C ends a read of stdin.
            let read = tokio::task::spawn_blocking(move || read_backup(&file)).await;
            let read = read.map_err(|_| CliError::panicked("reading the backup"))?;
            restore(context, &name, &read.map_err(|e| CliError::path("read", Path::new(&name), &e))?)
        }
    }
}

fn is_standard_stream(file: &Path) -> bool {
    file == Path::new("-")
}

fn read_backup(file: &Path) -> io::Result<String> {
    let input: Box<dyn Read> =
        if is_standard_stream(file) { Box::new(io::stdin().lock()) } else { Box::new(fs::File::open(file)?) };
    let mut text = Vec::new();
    input.take(MAX_BACKUP).read_to_end(&mut text)?;
    // Bytes that are not UTF-8 are no backup, and neither is an empty text.
    Ok(String::from_utf8(text).unwrap_or_default())
}

fn backup(context: &Context, path: &Path) -> Result<(), CliError> {
    require_data_dir(context)?;
    let failed = |e: &dyn std::fmt::Display| {
        CliError::new(ErrorCode::Other, format!("cannot encode the identity: {e}"))
    };
    let identity = load_identity(context)?.to_protobuf_encoding().map_err(|e| failed(&e))?;
    let cluster = cluster_key(&context.settings, &context.data_dir)?;
    let backup = Backup {
        version: 1,
        identity: BASE64URL_NOPAD.encode(&identity),
        cluster_key: cluster.map(|key| BASE64URL_NOPAD.encode(key.as_bytes())),
        bootstrap: context.settings.list("bootstrap").to_vec(),
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
        _ => CliError::path("write", path, &e),
    })?;
    output::result(context, &serde_json::json!({ "file": path.display().to_string() }), |_| String::new())?;
    let message = format!("keep {} secret: anybody who reads it can act as this node", path.display());
    output::message(context, &message);
    Ok(())
}

/// Writes what the data directory lacks. Keys that are there and differ are never replaced; damaged ones are.
fn restore(context: &Context, name: &str, text: &str) -> Result<(), CliError> {
    let invalid = || {
        CliError::bad_request(format!("{name} is not a storgo backup, or incomplete"))
            .hint("name a file that `key backup` wrote on the node whose keys you need")
    };
    let backup: Backup = serde_json::from_str(text).map_err(|_| invalid())?;
    let identity = BASE64URL_NOPAD.decode(backup.identity.as_bytes()).map_err(|_| invalid())?;
    decode(&identity).ok_or_else(invalid)?;
    let cluster = match &backup.cluster_key {
        Some(key) => Some(parse_cluster_key(key).ok_or_else(invalid)?),
        None => None,
    };
    let settings = SettingsFile::prepare(context, &backup.bootstrap)?;
    let path = context.data_dir.join(IDENTITY_FILE);
    let here = match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
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
    create_data_dir(context)?;
    if here.as_deref() != Some(&identity) {
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
        Some(lock) => {
            format!("restored; {} still uses the old keys: stop it and start it again", lock.holder())
        }
        None => format!("restored; start the node with: {}", context.start_command()),
    };
    output::message(context, &next);
    output::message(
        context,
        "start it only if the original has stopped for good: two nodes with one identity hide each other's files",
    );
    Ok(())
}
