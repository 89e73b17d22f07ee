//! The way to a node: the one that runs on the data directory, or one started for this command alone.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use libp2p::Multiaddr;

use super::{
    Context,
    client::{Client, Transport},
    output,
};
use crate::{
    config::{ByteSize, Origin, Settings, parse_duration},
    content::secret::{ClusterKey, Key},
    http::{self, DoorOptions, ServeOptions, SettingInfo, Tls},
    node::{ErrorCode, Node, NodeError, NodeOptions},
    store::read_lock,
};

/// Name of the file in the data directory that holds the cluster key.
pub(super) const CLUSTER_FILE: &str = "cluster.key";

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
        if origin(&context.settings, "listen") == Some(Origin::BuiltIn) {
            // A node for one command needs no known port, and must not take one from a node that stays.
            options.listen = free_ports();
        }
        let node = Node::start(options).await?;
        let token = http::load_or_create_token(&context.data_dir)?;
        let router = http::router(node.clone(), door_options(&context.settings)).await?;
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

/// Where a setting's value came from.
pub(super) fn origin(settings: &Settings, key: &str) -> Option<Origin> {
    settings.show().find(|(setting, ..)| setting.key == key).map(|(_, _, origin)| origin.clone())
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
pub(super) fn door_options(settings: &Settings) -> DoorOptions {
    let shown = settings.show().map(|(setting, values, origin)| {
        let value = match (setting.secret, values.is_empty()) {
            (true, true) => "not set".into(),
            (true, false) => "set".into(),
            (false, _) => values.join(", "),
        };
        SettingInfo { key: setting.key.into(), value, origin: origin.to_string() }
    });
    let base = DoorOptions::default();
    let keep = settings.get("uploads.keep").and_then(|text| parse_duration(text).ok());
    DoorOptions {
        hosts: settings.list("http.hosts").to_vec(),
        settings: shown.collect(),
        uploads_keep: keep.unwrap_or(base.uploads_keep),
    }
}

/// How the API is served, by the settings.
pub(super) fn serve_options(settings: &Settings) -> Result<ServeOptions, NodeError> {
    let addr = settings.parsed("http").unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    let tls = match (settings.get("tls.cert"), settings.get("tls.key")) {
        (Some(cert), Some(key)) => Tls::Files { cert: cert.into(), key: key.into() },
        (None, None) if settings.is_on("tls.self.signed") => Tls::SelfSigned,
        (None, None) => Tls::Off,
        _ => {
            return Err(NodeError::new(ErrorCode::BadRequest, "tls.cert and tls.key belong together")
                .hint("give both, or tls.self.signed"));
        }
    };
    let base = ServeOptions::new(addr);
    Ok(ServeOptions {
        tls,
        insecure: settings.is_on("http.insecure"),
        connections: settings.parsed("http.connections").unwrap_or(base.connections),
        door: door_options(settings),
        ..base
    })
}

/// The cluster key: from the settings, else from its file in the data directory.
pub(super) fn cluster_key(settings: &Settings, data_dir: &Path) -> Result<Option<ClusterKey>, NodeError> {
    if let Some(text) = settings.get("cluster.key") {
        return parse_cluster_key(text).map(Some);
    }
    let path = data_dir.join(CLUSTER_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_cluster_key(text.trim()).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(NodeError::new(ErrorCode::Other, format!("cannot read {}: {e}", path.display()))),
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
