//! `id`, `init`, `invite`, `join` and `leave`: the identity of a node and its cluster.

use std::{fs, io, os::unix::fs::DirBuilderExt};

use libp2p::identity::Keypair;

use super::{
    Context,
    cluster_key::{self, cluster_key, parse_cluster_key},
    connection::{Network, ask, require_data_dir, require_stopped},
    error::CliError,
    output,
    settings_file::SettingsFile,
};
use crate::{
    content::secret::{ClusterKey, Key},
    node::{
        data_dir::DataDir,
        identity::load_or_create,
        invite::Invite,
        membership::{self, CLUSTER_FILE},
    },
    store::{read, read_lock, set_aside},
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
    Ok(load_or_create(DataDir::Closed(&context.data_dir))?)
}

pub(super) fn create_data_dir(context: &Context) -> Result<(), CliError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&context.data_dir);
    created.map_err(|e| CliError::path("create", &context.data_dir, &e))
}

pub(super) fn init(context: &Context, cluster: bool) -> Result<(), CliError> {
    // Before any key is made: a settings file that cannot be changed ends the command.
    let file = SettingsFile::prepare(context, &[])?;
    create_data_dir(context)?;
    if cluster {
        if cluster_key(&context.settings, &context.data_dir)?.is_some() {
            return Err(CliError::bad_request("this node is in a cluster already")
                .hint("`storgo-node invite` brings in other machines"));
        }
        cluster_key::save(context, &ClusterKey::new(Key::new(rand::random())))?;
    }
    print_identity(context)?;
    if file.has_flags() {
        file.write(context)?;
    }
    let dir = context.data_dir.display();
    let message = match read_lock(&context.data_dir).map(|lock| lock.holder()) {
        Some(holder) if cluster => {
            format!("{holder} is not in the cluster yet; stop and start it again")
        }
        Some(holder) => format!("ready in {dir}; the node runs already, as {holder}"),
        None => format!("ready in {dir}; start the node with: {}", context.start_command()),
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
    let invite = Invite::new(&key, addrs);
    let (line, usable) = (invite.line(), invite.is_usable_elsewhere());
    let json = serde_json::json!({ "invite": line, "usable_elsewhere": usable });
    output::result(context, &json, |_| format!("{line}\n"))?;
    if invite.addrs.is_empty() {
        let message = "the invite contains no address, because the node does not run: start it and invite again, or give the \
                       other machine an address with --bootstrap";
        output::message(context, message);
    } else if !usable {
        let message = format!(
            "other machines cannot use this invite: it contains only addresses of this machine itself ({}); listen on other \
             ones (--listen), or name the address at which others reach this machine (--external), and invite again",
            invite.addrs.join(", ")
        );
        output::message(context, &message);
    }
    let message = "on the other machine: storgo-node join - (paste the invite, then press Enter and Ctrl-D)\n\
                   keep the invite secret: anybody who has it can join the cluster, and it does not expire; \
                   a member still needs the link of a file to read it";
    output::message(context, message);
    Ok(())
}

pub(super) fn join(context: &Context, text: &str) -> Result<(), CliError> {
    let invalid = || {
        CliError::bad_request("the invite is invalid or incomplete")
            .hint("run `invite` on a member; it prints one line that begins with storgo-invite:")
    };
    let invite = Invite::parse(text).ok_or_else(invalid)?;
    let key = parse_cluster_key(&invite.key).ok_or_else(invalid)?;
    for addr in &invite.addrs {
        addr.parse::<libp2p::Multiaddr>().map_err(|_| invalid())?;
    }
    require_stopped(context, "stop it, join, then start it again")?;
    let file = SettingsFile::prepare(context, &invite.addrs)?;
    let lacks_key = cluster_key::lacks(context, &key)?;
    create_data_dir(context)?;
    if lacks_key {
        cluster_key::save(context, &key)?;
    }
    file.write(context)?;
    print_identity(context)?;
    output::message(context, &format!("joined; start the node with: {}", context.start_command()));
    Ok(())
}

pub(super) fn leave(context: &Context) -> Result<(), CliError> {
    require_data_dir(context)?;
    require_stopped(context, "stop it, leave, then start it again")?;
    if context.settings.get("cluster.key").is_some() {
        let origin = context.settings.origin("cluster.key");
        return Err(CliError::bad_request(format!("the cluster key is a setting, from {origin}"))
            .hint("remove this setting, then leave"));
    }
    // The key first: if this is interrupted, the node refuses to start, and `leave` works again.
    let path = context.data_dir.join(CLUSTER_FILE);
    let removed = match read(&path) {
        Ok(None) => Ok(false),
        // Something that is no file.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => set_aside(&path).map(|()| true),
        _ => fs::remove_file(&path).map(|()| true),
    };
    let had_key = removed.map_err(|e| CliError::path("remove", &path, &e))?;
    if !membership::leave(DataDir::Closed(&context.data_dir), had_key)? {
        return Err(CliError::bad_request("this node is in no cluster").hint(
            "nothing to do; `storgo-node join` with an invite joins a cluster, `storgo-node init --cluster` creates one",
        ));
    }
    print_identity(context)?;
    let message = "left the cluster; anybody may connect to this node now. to come back, run `storgo-node join -` with an invite of a member";
    output::message(context, message);
    if !context.settings.list("bootstrap").is_empty() {
        let origin = context.settings.origin("bootstrap");
        let message = format!(
            "the setting `bootstrap` ({origin}) still names peers; remove those of the cluster there"
        );
        output::message(context, &message);
    }
    Ok(())
}
