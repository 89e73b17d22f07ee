//! The way to a node: the one that runs on the data directory, or one started for this command alone.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{
    Context,
    client::{Client, Transport},
    output,
};
use crate::{
    config::{ByteSize, DoorAddr, Origin, Settings, parse_duration},
    content::secret::{ClusterKey, Key},
    http::{self, Api, ApiOptions, ServeOptions, SettingInfo, Tls},
    node::{ErrorCode, Node, NodeError, NodeOptions, identity::IDENTITY_FILE},
    store::read_lock,
};

/// Name of the file in the data directory that holds the cluster key.
pub(super) const CLUSTER_FILE: &str = "cluster.key";

/// What a data directory has in it once there is a node.
const OF_A_NODE: [&str; 4] = [IDENTITY_FILE, "version", "index.redb", "blocks"];

/// For what only looks: it makes no node where there is none, which a mistyped `--data-dir` would else do.
pub(super) fn needs_a_node_here(context: &Context) -> Result<(), NodeError> {
    let dir = &context.data_dir;
    // What may not be looked at is there; who opens it says more.
    if OF_A_NODE.iter().any(|name| dir.join(name).try_exists().unwrap_or(true)) || read_lock(dir).is_some() {
        return Ok(());
    }
    let message = format!("there is no node in {}", dir.display());
    Err(NodeError::new(ErrorCode::Unreachable, message).hint(format!(
        "is that the right --data-dir? `storgo-node --data-dir {0} init` makes a node there, `storgo-node --data-dir {0} run` starts one",
        dir.display()
    )))
}

/// How long a command waits for whoever holds the data directory and does not serve yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// A client, and the node behind it where that is in this process.
pub(super) struct Door {
    pub(super) client: Client,
    pub(super) node: Option<Node>,
}

/// What a command needs, where no node runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Only what is in the data directory.
    Store,
    /// The network too.
    Network,
}

impl Door {
    /// Opens the way to a node. Where one is about to serve, or another command is about to end, it waits a little.
    pub(super) async fn open(context: &Context, need: Need) -> Result<Self, NodeError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_open(context, need).await {
                Err(error) if error.code == ErrorCode::Locked && Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                opened => return opened,
            }
        }
    }

    async fn try_open(context: &Context, need: Need) -> Result<Self, NodeError> {
        if let Some(note) = read_lock(&context.data_dir) {
            let addr = note.http.as_deref().and_then(|http| http.parse::<SocketAddr>().ok());
            let Some(addr) = addr else {
                let dir = context.data_dir.display();
                let message = format!("{dir} is in use by process {}, which takes no commands", note.pid);
                return Err(
                    NodeError::new(ErrorCode::Locked, message).hint("wait until it has ended, or stop it")
                );
            };
            let token = http::load_or_create_token(&context.data_dir)?;
            let idle = idle_flags(context);
            if !idle.is_empty() {
                let message = format!("{}: without effect, because a node runs already", idle.join(", "));
                output::say(context, &message);
            }
            return Ok(Self { client: Client::new(Transport::Tcp(addr), token), node: None });
        }
        let mut options = node_options(&context.settings, &context.data_dir)?;
        options.offline = need == Need::Store;
        if *context.settings.origin("listen") == Origin::BuiltIn {
            // A node for one command needs no known port, and must not take one from a node that stays.
            options.listen = free_ports();
        }
        let node = Node::start(options).await?;
        let token = http::load_or_create_token(&context.data_dir)?;
        let router = Api::new(node.clone(), api_options(&context.settings)).await?.router();
        Ok(Self { client: Client::new(Transport::InProcess(router), token), node: Some(node) })
    }

    /// Ends the node, where it was started here.
    pub(super) async fn close(self) {
        drop(self.client);
        if let Some(node) = self.node {
            node.shutdown().await;
        }
    }
}

/// Flags that were given, and that only a node that starts can heed.
fn idle_flags(context: &Context) -> Vec<&str> {
    let given = context.sources.flags.iter();
    given.filter(|(key, ..)| !matches!(*key, "timeout" | "chunker")).map(|(.., flag)| flag.as_str()).collect()
}

/// Addresses with a free port each.
pub(super) fn free_ports() -> Vec<Multiaddr> {
    let parse = |text: &str| text.parse().expect("a fixed multiaddr");
    vec![parse("/ip4/0.0.0.0/tcp/0"), parse("/ip4/0.0.0.0/udp/0/quic-v1")]
}

/// What a node is started with, by the settings.
pub(super) fn node_options(settings: &Settings, data_dir: &Path) -> Result<NodeOptions, NodeError> {
    let addrs = |key: &str| settings.list(key).iter().filter_map(|addr| addr.parse().ok()).collect();
    let bytes = |key: &str| settings.parsed::<ByteSize>(key).map(|size| size.0);
    let time = |key: &str| settings.get(key).and_then(|text| parse_duration(text).ok());
    let base = NodeOptions::new(data_dir);
    Ok(NodeOptions {
        listen: addrs("listen"),
        external: addrs("external"),
        bootstrap: addrs("bootstrap"),
        cluster: cluster_key(settings, data_dir)?,
        mdns: settings.is_on("mdns"),
        relay_server: settings.is_on("relay.server"),
        region: settings.get("region").map(Into::into),
        max_connections: settings.parsed("max.connections").unwrap_or(base.max_connections),
        layout: settings.parsed("storage.layout").unwrap_or_default(),
        capacity: bytes("storage.capacity"),
        cache_size: bytes("cache.size").unwrap_or(base.cache_size),
        grace: time("gc.grace").unwrap_or(base.grace),
        scrub_rate: bytes("scrub.rate").unwrap_or(base.scrub_rate),
        upload_limit: bytes("upload.limit"),
        chunker: settings.parsed("chunker").unwrap_or_default(),
        timeout: time("timeout").unwrap_or(base.timeout),
        ..base
    })
}

/// What the API is told of the settings.
pub(super) fn api_options(settings: &Settings) -> ApiOptions {
    let shown = settings.show().map(|(setting, values, origin)| {
        let value = match (setting.secret, values.is_empty()) {
            (true, true) => "not set".into(),
            (true, false) => "set".into(),
            (false, _) => values.join(", "),
        };
        SettingInfo { key: setting.key.into(), value, origin: origin.to_string() }
    });
    let base = ApiOptions::default();
    let keep = settings.get("uploads.keep").and_then(|text| parse_duration(text).ok());
    ApiOptions {
        hosts: settings.list("http.hosts").to_vec(),
        settings: shown.collect(),
        uploads_keep: keep.unwrap_or(base.uploads_keep),
    }
}

/// What `run` starts, by the settings; refused here is what it would refuse, as far as that is known before.
pub(super) fn to_run(settings: &Settings, data_dir: &Path) -> Result<(NodeOptions, ServeOptions), NodeError> {
    let (node, serve) = (node_options(settings, data_dir)?, serve_options(settings)?);
    // What is built in gives way where it cannot be had.
    if *settings.origin("listen") != Origin::BuiltIn {
        for addr in &node.listen {
            if let Some(reason) = cannot_bind(addr) {
                return Err(settings.refuse("listen", format!("{addr}: {reason}")).into());
            }
        }
    }
    let http = match serve.addr.ip() {
        IpAddr::V4(ip) => Multiaddr::from(ip),
        IpAddr::V6(ip) => Multiaddr::from(ip),
    };
    match cannot_bind(&http.with(Protocol::Tcp(serve.addr.port()))) {
        Some(reason) => Err(settings.refuse("http", reason).into()),
        None => Ok((node, serve)),
    }
}

/// Why nobody can listen there, now or later: it is no address of this machine, or not for this user.
fn cannot_bind(addr: &Multiaddr) -> Option<&'static str> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    let bound = match parts.next()? {
        Protocol::Tcp(port) => std::net::TcpListener::bind((ip, port)).map(drop),
        Protocol::Udp(port) => std::net::UdpSocket::bind((ip, port)).map(drop),
        _ => return None,
    };
    match bound.err()?.kind() {
        std::io::ErrorKind::AddrNotAvailable => Some("this machine has no such address"),
        std::io::ErrorKind::PermissionDenied => {
            Some("this user may not use that port; those from 1024 on are free to all")
        }
        _ => None,
    }
}

/// How the API is served, by the settings.
fn serve_options(settings: &Settings) -> Result<ServeOptions, NodeError> {
    let addr = settings
        .parsed::<DoorAddr>("http")
        .map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)), |addr| addr.0);
    let tls = match (settings.get("tls.cert"), settings.get("tls.key")) {
        (Some(cert), Some(key)) => Tls::Files { cert: cert.into(), key: key.into() },
        (None, None) if settings.is_on("tls.self.signed") => Tls::SelfSigned,
        (None, None) => Tls::Off,
        (given, _) => {
            let (there, lacks) =
                if given.is_some() { ("tls.cert", "tls.key") } else { ("tls.key", "tls.cert") };
            return Err(NodeError::from(
                settings.refuse(there, format!("{lacks} belongs to it and is not set")),
            )
            .hint("give both, or tls.self.signed"));
        }
    };
    let base = ServeOptions::new(addr);
    let options = ServeOptions {
        tls,
        insecure: settings.is_on("http.insecure"),
        max_connections: settings.parsed("http.connections").unwrap_or(base.max_connections),
        tls_names: settings.list("http.hosts").to_vec(),
        ..base
    };
    let key = if matches!(options.tls, Tls::Files { .. }) { "tls.cert" } else { "http" };
    options.check().map_err(|error| NodeError::from(settings.refuse(key, error.message)).hint(error.hint))?;
    Ok(options)
}

/// The cluster key: from the settings, else from its file in the data directory.
pub(super) fn cluster_key(settings: &Settings, data_dir: &Path) -> Result<Option<ClusterKey>, NodeError> {
    if let Some(text) = settings.get("cluster.key") {
        return parse_cluster_key(text).map(Some);
    }
    let path = data_dir.join(CLUSTER_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_cluster_key(text.trim()).map(Some).map_err(|error| {
            let message = format!("{} is damaged: not 32 bytes in base64url", path.display());
            NodeError { message, ..error }.hint(
                "bring it back from a backup (`storgo-node key restore`) or from another member's invite",
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(NodeError::io(format_args!("read {}", path.display()), &e)),
    }
}

pub(super) fn parse_cluster_key(text: &str) -> Result<ClusterKey, NodeError> {
    data_encoding::BASE64URL_NOPAD
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .map(|bytes| ClusterKey::new(Key::new(bytes)))
        .ok_or_else(|| {
            NodeError::new(ErrorCode::BadRequest, "the cluster key is damaged: not 32 bytes in base64url")
        })
}
