//! `id`, `init`, `invite`, `join` and `leave`: the identity of a node and its cluster.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use libp2p::identity::Keypair;

use super::{
    Context,
    cluster_key::{self, CLUSTER_FILE, cluster_key, parse_cluster_key},
    connection::{Network, ask, require_data_dir},
    error::CliError,
    output,
};
use crate::{
    content::secret::{ClusterKey, Key},
    node::{ErrorCode, identity::load_or_create, invite::Invite, membership::CLUSTER_ID_FILE},
    store::{read_lock, replace},
};

pub(super) fn id(context: &Context) -> Result<(), CliError> {
    require_data_dir(context)?;
    print_identity(context)
}

pub(super) fn print_identity(context: &Context) -> Result<(), CliError> {
    let peer = load_identity(context)?.public().to_peer_id().to_string();
    let cluster = cluster_key(&context.settings, &context.data_dir)?.is_some();
    let data_dir = context.data_dir.display().to_string();
    let identity = serde_json::json!({ "peer": peer, "data_dir": data_dir, "cluster": cluster });
    output::result(context, &identity, |_| format!("{peer}\n"))
}

pub(super) fn load_identity(context: &Context) -> Result<Keypair, CliError> {
    create_data_dir(context)?;
    Ok(load_or_create(&context.data_dir)?)
}

pub(super) fn create_data_dir(context: &Context) -> Result<(), CliError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&context.data_dir);
    created.map_err(|e| CliError::path("create", &context.data_dir, &e))
}

pub(super) fn init(context: &Context, cluster: bool) -> Result<(), CliError> {
    create_data_dir(context)?;
    if cluster {
        if cluster_key(&context.settings, &context.data_dir)?.is_some() {
            return Err(CliError::bad_request("this node is in a cluster already")
                .hint("`storgo-node invite` brings in other machines"));
        }
        cluster_key::save(context, &ClusterKey::new(Key::new(rand::random())))?;
    }
    print_identity(context)?;
    let dir = context.data_dir.display();
    let message = match read_lock(&context.data_dir).map(|lock| lock.holder()) {
        Some(holder) if cluster => {
            format!("{holder} is not in the cluster yet; stop and start it again")
        }
        Some(holder) => format!("ready in {dir}; the node runs already, as {holder}"),
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
        return Err(CliError::new(ErrorCode::Locked, format!("the node runs as {}", lock.holder()))
            .hint("stop it, join, then start it again"));
    }
    let settings = Bootstrap::new(context, &invite.addrs)?;
    let lacks_key = cluster_key::lacks(context, &key)?;
    create_data_dir(context)?;
    if lacks_key {
        cluster_key::save(context, &key)?;
    }
    settings.write()?;
    print_identity(context)?;
    output::message(context, &format!("joined; start the node with: {}", start_command(context)));
    Ok(())
}

/// Returns the command that starts the node of this data directory.
pub(super) fn start_command(context: &Context) -> String {
    let config = context.sources.file.as_ref().map(|file| format!(" --config {}", file.display()));
    format!("storgo-node --data-dir {}{}", context.data_dir.display(), config.unwrap_or_default())
}

pub(super) fn leave(context: &Context) -> Result<(), CliError> {
    require_data_dir(context)?;
    if let Some(lock) = read_lock(&context.data_dir) {
        return Err(CliError::new(ErrorCode::Locked, format!("the node runs as {}", lock.holder()))
            .hint("stop it, leave, then start it again"));
    }
    if context.settings.get("cluster.key").is_some() {
        let origin = context.settings.origin("cluster.key");
        return Err(CliError::bad_request(format!("the cluster key is a setting, from {origin}"))
            .hint("remove this setting, then leave"));
    }
    // The key first: if this is interrupted, the node refuses to start, and `leave` works again.
    let mut was_member = false;
    for name in [CLUSTER_FILE, CLUSTER_ID_FILE] {
        let path = context.data_dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => was_member = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(CliError::path("remove", &path, &e)),
        }
    }
    if !was_member {
        return Err(CliError::bad_request("this node is in no cluster"));
    }
    print_identity(context)?;
    let message = "left the cluster; anybody may connect to this node now. `storgo-node join` with an invite of a member comes back";
    output::message(context, message);
    if !context.settings.list("bootstrap").is_empty() {
        output::message(context, "the setting `bootstrap` still names peers; remove those of the cluster");
    }
    Ok(())
}

/// A settings file with addresses added to `bootstrap`, not written yet.
pub(super) struct Bootstrap {
    file: PathBuf,
    text: String,
}

impl Bootstrap {
    /// Errors: a settings file that cannot be read or changed. It is not written then, and nothing else should be.
    pub(super) fn new(context: &Context, addrs: &[String]) -> Result<Self, CliError> {
        let file = context.sources.file.clone().unwrap_or_else(|| context.data_dir.join("config.toml"));
        Ok(Self { text: add_bootstrap(&file, addrs)?, file })
    }

    pub(super) fn write(&self) -> Result<(), CliError> {
        write_settings(&self.file, &self.text).map_err(|e| CliError::path("write", &self.file, &e))
    }
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
