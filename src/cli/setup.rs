//! Identity, cluster, backup: what is done once.

use std::{
    fs,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

use axum::http::Method;
use data_encoding::BASE64URL_NOPAD;
use libp2p::identity::Keypair;
use serde::{Deserialize, Serialize};

use super::{
    Context,
    args::KeyAction,
    client::Target,
    door::{CLUSTER_FILE, Door, Need, cluster_key, needs_a_node_here, parse_cluster_key},
    output,
};
use crate::{
    content::secret::{ClusterKey, Key},
    node::{
        ErrorCode, NodeError,
        identity::{IDENTITY_FILE, decode, load_or_create, write_secret},
        invite::Invite,
        report::Status,
    },
    store::{read_lock, replace},
};

fn fail(what: &str, path: &Path, e: &std::io::Error) -> NodeError {
    let error = NodeError::io(format_args!("{what} {}", path.display()), e);
    if e.kind() == std::io::ErrorKind::NotFound {
        NodeError { code: ErrorCode::NotFound, ..error }
    } else {
        error
    }
}

fn make_data_dir(context: &Context) -> Result<(), NodeError> {
    use std::os::unix::fs::DirBuilderExt;

    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&context.data_dir);
    made.map_err(|e| fail("make", &context.data_dir, &e))
}

fn identity(context: &Context) -> Result<Keypair, NodeError> {
    make_data_dir(context)?;
    load_or_create(&context.data_dir)
}

#[derive(Serialize)]
struct Identity {
    peer: String,
    data_dir: PathBuf,
    cluster: bool,
}

fn describe(context: &Context) -> Result<Identity, NodeError> {
    Ok(Identity {
        peer: identity(context)?.public().to_peer_id().to_string(),
        data_dir: context.data_dir.clone(),
        cluster: cluster_key(&context.settings, &context.data_dir)?.is_some(),
    })
}

pub(super) fn id(context: &Context) -> Result<(), NodeError> {
    needs_a_node_here(context)?;
    output::result(context, &describe(context)?, |id| format!("{}\n", id.peer))
}

pub(super) fn init(context: &Context, cluster: bool) -> Result<(), NodeError> {
    make_data_dir(context)?;
    if cluster {
        if cluster_key(&context.settings, &context.data_dir)?.is_some() {
            return Err(NodeError::new(ErrorCode::BadRequest, "this node is in a cluster already")
                .hint("bring others in with `storgo-node invite`"));
        }
        save_cluster_key(context, &ClusterKey::new(Key::new(rand::random())))?;
    }
    let id = describe(context)?;
    output::result(context, &id, |id| format!("{}\n", id.peer))?;
    let dir = context.data_dir.display();
    match read_lock(&context.data_dir) {
        Some(note) if cluster => output::say(
            context,
            &format!(
                "the node that runs here, process {}, is not in the cluster yet: stop it and start it again",
                note.pid
            ),
        ),
        Some(note) => {
            output::say(context, &format!("ready in {dir}; the node runs already, as process {}", note.pid));
        }
        None => output::say(
            context,
            &format!("ready in {dir}; start the node with: storgo-node --data-dir {dir}"),
        ),
    }
    if cluster {
        output::say(
            context,
            "once it runs, `storgo-node invite` prints the line that brings in another machine",
        );
    }
    Ok(())
}

fn save_cluster_key(context: &Context, key: &ClusterKey) -> Result<(), NodeError> {
    let path = context.data_dir.join(CLUSTER_FILE);
    let text = BASE64URL_NOPAD.encode(key.as_bytes()) + "\n";
    write_secret(&path, text.as_bytes()).map_err(|e| fail("write", &path, &e))
}

pub(super) async fn invite(context: &Context) -> Result<(), NodeError> {
    let Some(key) = cluster_key(&context.settings, &context.data_dir)? else {
        return Err(NodeError::new(ErrorCode::BadRequest, "this node is in no cluster")
            .hint("make one with `storgo-node init --cluster`, then start the node again"));
    };
    let mut addrs: Vec<String> = context.settings.list("external").to_vec();
    if read_lock(&context.data_dir).is_some() {
        let door = Door::open(context, Need::Store).await?;
        let status: Status = door.client.json(Method::GET, &Target::path("/api/v1/status")).await?;
        door.close().await;
        if !status.cluster {
            return Err(NodeError::new(
                ErrorCode::BadRequest,
                "the running node does not know of the cluster yet",
            )
            .hint("start it again, then invite"));
        }
        addrs.extend(status.listen);
    }
    if addrs.is_empty() {
        output::say(
            context,
            "the invite names no address, because the node does not run: give one with --bootstrap later",
        );
    }
    let line = Invite::new(&key, addrs).line();
    output::result(context, &serde_json::json!({ "invite": line }), |_| format!("{line}\n"))?;
    output::say(
        context,
        "on the other machine: storgo-node join INVITE   (whoever has this line can read everything: hand it on in private)",
    );
    Ok(())
}

pub(super) fn join(context: &Context, text: &str) -> Result<(), NodeError> {
    let bad = || {
        NodeError::new(ErrorCode::BadRequest, "this is no invite, or not all of it")
            .hint("`storgo-node invite` on a member prints one line that begins with storgo-invite:")
    };
    let invite = Invite::parse(text).ok_or_else(bad)?;
    let key = parse_cluster_key(&invite.key)?;
    for addr in &invite.addrs {
        addr.parse::<libp2p::Multiaddr>().map_err(|_| bad())?;
    }
    if let Some(note) = read_lock(&context.data_dir) {
        return Err(NodeError::new(ErrorCode::Locked, format!("the node runs, as process {}", note.pid))
            .hint("stop it, join, and start it again"));
    }
    let file = context.sources.file.clone().unwrap_or_else(|| context.data_dir.join("config.toml"));
    let text = with_bootstrap(&file, &invite.addrs)?;
    make_data_dir(context)?;
    match cluster_key(&context.settings, &context.data_dir)? {
        Some(known) if known == key => {}
        Some(_) => {
            return Err(NodeError::new(ErrorCode::BadRequest, "this node is in another cluster")
                .hint("use another --data-dir: files of the old cluster could not be read in the new one"));
        }
        None => save_cluster_key(context, &key)?,
    }
    write_settings(&file, &text).map_err(|e| fail("write", &file, &e))?;
    let id = describe(context)?;
    output::result(context, &id, |id| format!("{}\n", id.peer))?;
    let config = context.sources.file.as_ref().map(|file| format!(" --config {}", file.display()));
    let config = config.unwrap_or_default();
    output::say(
        context,
        &format!(
            "joined; start the node with: storgo-node --data-dir {}{config}",
            context.data_dir.display()
        ),
    );
    Ok(())
}

/// A settings file with these addresses added to `bootstrap`; the rest of it is left as it is.
fn with_bootstrap(path: &Path, addrs: &[String]) -> Result<String, NodeError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(fail("read", path, &e)),
    };
    let mut file: toml_edit::DocumentMut = text.parse().map_err(|e| {
        NodeError::new(ErrorCode::BadRequest, format!("{} is no TOML: {e}", path.display()))
            .hint(format!("add these to its bootstrap addresses yourself: {}", addrs.join(", ")))
    })?;
    let list = file.entry("bootstrap").or_insert_with(|| toml_edit::value(toml_edit::Array::new()));
    if let Some(one) = list.as_str().map(String::from) {
        *list = toml_edit::value(toml_edit::Array::from_iter([one]));
    }
    let Some(list) = list.as_array_mut() else {
        return Err(NodeError::new(
            ErrorCode::BadRequest,
            format!("{}: bootstrap is no list", path.display()),
        ));
    };
    let known: Vec<String> = list.iter().filter_map(|item| item.as_str().map(String::from)).collect();
    for addr in addrs.iter().filter(|addr| !known.contains(addr)) {
        list.push(addr.as_str());
    }
    Ok(file.to_string())
}

fn write_settings(path: &Path, text: &str) -> std::io::Result<()> {
    // Where it is a link, it stays one.
    let path = &path.canonicalize().unwrap_or_else(|_| path.into());
    let mode = fs::metadata(path).ok().map(|meta| meta.permissions());
    replace(path, text.as_bytes())?;
    // Who could read the settings before still can.
    mode.map_or(Ok(()), |mode| fs::set_permissions(path, mode))
}

/// Longest backup that is read, bytes.
const MAX_BACKUP: u64 = 64 << 10;

/// A backup, as it stands in its file.
#[derive(Serialize, Deserialize)]
struct Backup {
    version: u32,
    identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_key: Option<String>,
}

pub(super) async fn key(context: &Context, action: KeyAction) -> Result<(), NodeError> {
    match action {
        KeyAction::Backup { file } => backup(context, &file),
        KeyAction::Restore { file } => {
            // A thread of its own: reading stdin may take for ever, and Ctrl-C ends it.
            let read = tokio::task::spawn_blocking(move || (read_backup(&file), file)).await;
            let (text, file) = read.map_err(|e| NodeError::new(ErrorCode::Other, e.to_string()))?;
            let name = if is_pipe(&file) { "stdin".into() } else { file.display().to_string() };
            restore(context, &name, &text.map_err(|e| fail("read", Path::new(&name), &e))?)
        }
    }
}

fn is_pipe(file: &Path) -> bool {
    file == Path::new("-")
}

fn read_backup(file: &Path) -> std::io::Result<String> {
    let input: Box<dyn Read> =
        if is_pipe(file) { Box::new(std::io::stdin().lock()) } else { Box::new(fs::File::open(file)?) };
    let mut text = Vec::new();
    input.take(MAX_BACKUP).read_to_end(&mut text)?;
    // What is no text is no backup either, and is told as that.
    Ok(String::from_utf8(text).unwrap_or_default())
}

fn backup(context: &Context, path: &Path) -> Result<(), NodeError> {
    needs_a_node_here(context)?;
    let other = |e: &dyn std::fmt::Display| NodeError::new(ErrorCode::Other, e.to_string());
    let identity = identity(context)?.to_protobuf_encoding().map_err(|e| other(&e))?;
    let cluster = cluster_key(&context.settings, &context.data_dir)?;
    let backup = Backup {
        version: 1,
        identity: BASE64URL_NOPAD.encode(&identity),
        cluster_key: cluster.map(|key| BASE64URL_NOPAD.encode(key.as_bytes())),
    };
    let text = serde_json::to_string_pretty(&backup).map_err(|e| other(&e))? + "\n";
    if is_pipe(path) {
        // Not to be silenced where the keys stay on a screen.
        if std::io::stdout().is_terminal() {
            output::note(
                "what follows is this node's identity and keys: whoever sees it can act as this node",
            );
        }
        return output::print(&text);
    }
    write_secret(path, text.as_bytes()).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => NodeError::new(
            ErrorCode::BadRequest,
            format!("{} is there already", path.display()),
        )
        .hint("a backup never replaces a file, which may hold other keys: name another one, or move it away"),
        _ => fail("write", path, &e),
    })?;
    output::result(context, &serde_json::json!({ "file": path }), |_| String::new())?;
    output::say(
        context,
        &format!(
            "{} holds this node's identity and keys: keep it where nobody else reads it",
            path.display()
        ),
    );
    Ok(())
}

fn restore(context: &Context, name: &str, text: &str) -> Result<(), NodeError> {
    let damaged = || {
        NodeError::new(ErrorCode::BadRequest, format!("{name} is no backup of storgo"))
            .hint("`storgo-node key backup FILE` makes one; all of it is needed")
    };
    let backup: Backup = serde_json::from_str(text).map_err(|_| damaged())?;
    let identity = BASE64URL_NOPAD.decode(backup.identity.as_bytes()).map_err(|_| damaged())?;
    decode(&identity).ok_or_else(damaged)?;
    let cluster = backup.cluster_key.as_deref().map(parse_cluster_key).transpose()?;
    make_data_dir(context)?;
    for name in [IDENTITY_FILE, CLUSTER_FILE] {
        if context.data_dir.join(name).exists() {
            let message = format!("{} has keys already", context.data_dir.display());
            return Err(NodeError::new(ErrorCode::BadRequest, message)
                .hint("restore into an empty data directory, or move the old keys away first"));
        }
    }
    let target = context.data_dir.join(IDENTITY_FILE);
    write_secret(&target, &identity).map_err(|e| fail("write", &target, &e))?;
    if let Some(key) = cluster {
        save_cluster_key(context, &key)?;
    }
    output::result(context, &describe(context)?, |id| format!("{}\n", id.peer))
}
