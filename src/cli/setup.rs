//! `id`, `init`, `invite`, `join` and `key`: the identity of a node and its cluster.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use data_encoding::BASE64URL_NOPAD;
use libp2p::identity::Keypair;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    args::KeyAction,
    connection::{Network, ask, require_data_dir},
    error::CliError,
    options::{CLUSTER_FILE, cluster_key, parse_cluster_key},
    output,
};
use crate::{
    content::secret::{ClusterKey, Key},
    node::{
        ErrorCode,
        identity::{IDENTITY_FILE, decode, load_or_create, write_secret},
        invite::Invite,
    },
    store::{read_lock, replace},
};

pub(super) fn id(context: &Context) -> Result<(), CliError> {
    require_data_dir(context)?;
    print_identity(context)
}

fn print_identity(context: &Context) -> Result<(), CliError> {
    let peer = load_identity(context)?.public().to_peer_id().to_string();
    let cluster = cluster_key(&context.settings, &context.data_dir)?.is_some();
    let data_dir = context.data_dir.display().to_string();
    let identity = serde_json::json!({ "peer": peer, "data_dir": data_dir, "cluster": cluster });
    output::result(context, &identity, |_| format!("{peer}\n"))
}

fn load_identity(context: &Context) -> Result<Keypair, CliError> {
    create_data_dir(context)?;
    Ok(load_or_create(&context.data_dir)?)
}

fn create_data_dir(context: &Context) -> Result<(), CliError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&context.data_dir);
    created.map_err(|e| CliError::path("create", &context.data_dir, &e))
}

fn save_cluster_key(context: &Context, key: &ClusterKey) -> Result<(), CliError> {
    let path = context.data_dir.join(CLUSTER_FILE);
    let text = BASE64URL_NOPAD.encode(key.as_bytes()) + "\n";
    write_secret(&path, text.as_bytes()).map_err(|e| CliError::path("write", &path, &e))
}

pub(super) fn init(context: &Context, cluster: bool) -> Result<(), CliError> {
    create_data_dir(context)?;
    if cluster {
        if cluster_key(&context.settings, &context.data_dir)?.is_some() {
            return Err(CliError::bad_request("this node is in a cluster already")
                .hint("`storgo-node invite` brings in other machines"));
        }
        save_cluster_key(context, &ClusterKey::new(Key::new(rand::random())))?;
    }
    print_identity(context)?;
    let dir = context.data_dir.display();
    let message = match read_lock(&context.data_dir).map(|lock| lock.pid) {
        Some(pid) if cluster => {
            format!("process {pid} is not in the cluster yet; stop and start it again")
        }
        Some(pid) => format!("ready in {dir}; the node runs already, as process {pid}"),
        None => format!("ready in {dir}; start the node with: storgo-node --data-dir {dir}"),
    };
    output::message(context, &message);
    if cluster {
        output::message(
            context,
            "once the node runs, `storgo-node invite` prints a line that brings in another machine",
        );
    }
    Ok(())
}

pub(super) async fn invite(context: &Context) -> Result<(), CliError> {
    let Some(key) = cluster_key(&context.settings, &context.data_dir)? else {
        return Err(CliError::bad_request("this node is in no cluster")
            .hint("create one with `storgo-node init --cluster`, then start the node again"));
    };
    let mut addrs: Vec<String> = context.settings.list("external").to_vec();
    if read_lock(&context.data_dir).is_some() {
        let status = ask(context, Network::Offline, async |client| client.status().await).await?;
        if !status.cluster {
            return Err(CliError::bad_request("the running node is not in the cluster yet")
                .hint("stop it and start it again, then invite"));
        }
        addrs.extend(status.listen);
    }
    if addrs.is_empty() {
        let message =
            "the node does not run, so the invite contains no address: the other machine needs --bootstrap";
        output::message(context, message);
    }
    let line = Invite::new(&key, addrs).line();
    output::result(context, &serde_json::json!({ "invite": line }), |_| format!("{line}\n"))?;
    let message = "on the other machine: storgo-node join INVITE\n\
                   keep the invite secret: anybody who has it can read everything in the cluster";
    output::message(context, message);
    Ok(())
}

pub(super) fn join(context: &Context, text: &str) -> Result<(), CliError> {
    let invalid = || {
        CliError::bad_request("the invite is invalid or incomplete")
            .hint("run `storgo-node invite` on a member; it prints one line that begins with storgo-invite:")
    };
    let invite = Invite::parse(text).ok_or_else(invalid)?;
    let key = parse_cluster_key(&invite.key).ok_or_else(invalid)?;
    for addr in &invite.addrs {
        addr.parse::<libp2p::Multiaddr>().map_err(|_| invalid())?;
    }
    if let Some(lock) = read_lock(&context.data_dir) {
        return Err(CliError::new(ErrorCode::Locked, format!("the node runs as process {}", lock.pid))
            .hint("stop it, join, then start it again"));
    }
    let file = context.sources.file.clone().unwrap_or_else(|| context.data_dir.join("config.toml"));
    let text = add_bootstrap(&file, &invite.addrs)?;
    create_data_dir(context)?;
    match cluster_key(&context.settings, &context.data_dir)? {
        Some(known) if known == key => {}
        Some(_) => {
            return Err(CliError::bad_request("this node is in another cluster")
                .hint("use another --data-dir: the new cluster could not read the files of the old one"));
        }
        None => save_cluster_key(context, &key)?,
    }
    write_settings(&file, &text).map_err(|e| CliError::path("write", &file, &e))?;
    print_identity(context)?;
    let config = context.sources.file.as_ref().map(|file| format!(" --config {}", file.display()));
    let (dir, config) = (context.data_dir.display(), config.unwrap_or_default());
    output::message(context, &format!("joined; start the node with: storgo-node --data-dir {dir}{config}"));
    Ok(())
}

/// Returns the text of a settings file with addresses added to `bootstrap`. The rest of the file stays as it is.
fn add_bootstrap(path: &Path, addrs: &[String]) -> Result<String, CliError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(CliError::path("read", path, &e)),
    };
    let by_hand = |message: String| {
        let hint = format!("add these addresses to `bootstrap` yourself: {}", addrs.join(", "));
        CliError::bad_request(message).hint(hint)
    };
    let mut file: toml_edit::DocumentMut =
        text.parse().map_err(|e| by_hand(format!("{} is not valid TOML: {e}", path.display())))?;
    let list = file.entry("bootstrap").or_insert_with(|| toml_edit::value(toml_edit::Array::new()));
    if let Some(single) = list.as_str().map(String::from) {
        *list = toml_edit::value(toml_edit::Array::from_iter([single]));
    }
    let Some(list) = list.as_array_mut() else {
        return Err(by_hand(format!("{}: bootstrap is not a list", path.display())));
    };
    let known: Vec<String> = list.iter().filter_map(|item| item.as_str().map(String::from)).collect();
    for addr in addrs.iter().filter(|addr| !known.contains(addr)) {
        list.push(addr.as_str());
    }
    Ok(file.to_string())
}

/// Replaces a settings file. Symbolic links and permissions stay.
fn write_settings(path: &Path, text: &str) -> io::Result<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.into());
    let permissions = fs::metadata(path).ok().map(|meta| meta.permissions());
    replace(path, text.as_bytes())?;
    permissions.map_or(Ok(()), |permissions| fs::set_permissions(path, permissions))
}

/// Maximum length of a backup, in bytes.
const MAX_BACKUP: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Backup {
    version: u32,
    identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_key: Option<String>,
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

fn restore(context: &Context, name: &str, text: &str) -> Result<(), CliError> {
    let invalid = || {
        CliError::bad_request(format!("{name} is not a storgo backup, or incomplete"))
            .hint("`storgo-node key backup FILE` creates one")
    };
    let backup: Backup = serde_json::from_str(text).map_err(|_| invalid())?;
    let identity = BASE64URL_NOPAD.decode(backup.identity.as_bytes()).map_err(|_| invalid())?;
    decode(&identity).ok_or_else(invalid)?;
    let cluster = match &backup.cluster_key {
        Some(key) => Some(parse_cluster_key(key).ok_or_else(invalid)?),
        None => None,
    };
    create_data_dir(context)?;
    for file in [IDENTITY_FILE, CLUSTER_FILE] {
        if context.data_dir.join(file).exists() {
            let message = format!("{} contains keys already", context.data_dir.display());
            return Err(CliError::bad_request(message)
                .hint("restore into an empty data directory, or move the old keys away"));
        }
    }
    let target = context.data_dir.join(IDENTITY_FILE);
    write_secret(&target, &identity).map_err(|e| CliError::path("write", &target, &e))?;
    if let Some(key) = cluster {
        save_cluster_key(context, &key)?;
    }
    print_identity(context)
}
