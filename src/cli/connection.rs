//! Connects a command to a node: the one that runs on the data directory, or one started for this command alone.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::http::Method;
use serde::de::DeserializeOwned;

use super::{
    Context,
    client::{Client, Endpoint, Transport},
    error::CliError,
    options::{any_ports, api_options, node_options},
    output,
};
use crate::{
    config::Origin,
    http::{self, Api},
    node::{ErrorCode, Node, identity::IDENTITY_FILE},
    store::read_lock,
};

/// How long a command waits for a process that holds the data directory and does not serve the API yet.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(25);

/// A client, and the node behind it if that runs in this process.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) node: Option<Node>,
}

/// Whether a node that is started for one command connects to peers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Offline,
    Online,
}

impl Connection {
    /// Connects to the running node, or starts one. Waits if another process is starting or about to end.
    pub(super) async fn open(context: &Context, network: Network) -> Result<Self, CliError> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match Self::try_open(context, network).await {
                Err(error) if error.code == ErrorCode::Locked && Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                opened => return opened,
            }
        }
    }

    async fn try_open(context: &Context, network: Network) -> Result<Self, CliError> {
        if let Some(lock) = read_lock(&context.data_dir) {
            let addr = lock.http.as_deref().and_then(|http| http.parse::<SocketAddr>().ok());
            let Some(addr) = addr else {
                let dir = context.data_dir.display();
                let message = format!("{dir} is in use by {}, which serves no API", lock.holder());
                return Err(CliError::new(ErrorCode::Locked, message).hint("wait until it ends, or stop it"));
            };
            let token = http::load_or_create_token(&context.data_dir)?;
            let ignored = ignored_flags(context);
            if !ignored.is_empty() {
                let message =
                    format!("ignored {}: a node already runs, with its own settings", ignored.join(", "));
                output::message(context, &message);
            }
            return Ok(Self { client: Client::new(Transport::Tcp(addr), token), node: None });
        }
        let mut options = node_options(&context.settings, &context.data_dir)?;
        options.offline = network == Network::Offline;
        if *context.settings.origin("listen") == Origin::BuiltIn {
            // Leave the default port to a node that stays.
            options.listen = any_ports();
        }
        let node = Node::start(options).await?;
        output::warnings(context, &node);
        let token = http::load_or_create_token(&context.data_dir)?;
        let router =
            Api::new(node.clone(), api_options(&context.settings, &context.data_dir)?).await?.router();
        Ok(Self { client: Client::new(Transport::InProcess(router), token), node: Some(node) })
    }

    /// Stops the node, if it was started here.
    pub(super) async fn close(self) {
        drop(self.client);
        if let Some(node) = self.node {
            node.shutdown().await;
        }
    }
}

/// Flags that only a starting node applies. The others go along with each request.
fn ignored_flags(context: &Context) -> Vec<&str> {
    let given = context.sources.flags.iter();
    given.filter(|(key, ..)| !matches!(*key, "timeout" | "chunker")).map(|(.., flag)| flag.as_str()).collect()
}

/// Connects, sends requests, and closes the connection whatever the result.
pub(super) async fn ask<T>(
    context: &Context,
    network: Network,
    request: impl AsyncFnOnce(&Client) -> Result<T, CliError>,
) -> Result<T, CliError> {
    require_data_dir(context)?;
    let connection = Connection::open(context, network).await?;
    let answer = request(&connection.client).await;
    connection.close().await;
    answer
}

pub(super) async fn call<T: DeserializeOwned>(
    context: &Context,
    network: Network,
    method: Method,
    endpoint: &Endpoint,
) -> Result<T, CliError> {
    ask(context, network, async |client| client.json(method, endpoint).await).await
}

/// Files of which each data directory has at least one.
const DATA_DIR_FILES: [&str; 4] = [IDENTITY_FILE, "version", "index.redb", "blocks"];

/// Fails if the data directory has no node. Commands that only read must not create one after a mistyped `--data-dir`.
pub(super) fn require_data_dir(context: &Context) -> Result<(), CliError> {
    let dir = &context.data_dir;
    // A file that this user may not access exists; opening it reports a better error.
    if DATA_DIR_FILES.iter().any(|name| dir.join(name).try_exists().unwrap_or(true))
        || read_lock(dir).is_some()
    {
        return Ok(());
    }
    let hint = "check --data-dir; `storgo-node init` creates a node there, `storgo-node run` starts it";
    Err(CliError::new(ErrorCode::Unreachable, format!("no node in {}", dir.display())).hint(hint))
}

/// Fails if a node runs; `hint` is the next step.
pub(super) fn require_stopped(context: &Context, hint: &str) -> Result<(), CliError> {
    match read_lock(&context.data_dir) {
        None => Ok(()),
        Some(lock) => {
            let message = format!("the node runs as {}", lock.holder());
            Err(CliError::new(ErrorCode::Locked, message).hint(hint))
        }
    }
}

/// Fails if no node runs: for commands whose answer a node started for them could not know.
pub(super) fn require_running_node(context: &Context) -> Result<(), CliError> {
    require_data_dir(context)?;
    if read_lock(&context.data_dir).is_some() {
        return Ok(());
    }
    let dir = context.data_dir.display();
    Err(CliError::new(ErrorCode::Unreachable, format!("no node runs on {dir}"))
        .hint("start it with `storgo-node run`"))
}
