//! `run`: a node until it is told to stop.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};

use super::{Context, door, output};
use crate::{
    config::Origin,
    http::{Api, ServeOptions, Served},
    node::{ErrorCode, Node, NodeError, NodeOptions, Reason},
};

pub(super) async fn run(context: &Context) -> Result<(), NodeError> {
    let settings = &context.settings;
    let level = settings.get("log.level").unwrap_or("info");
    crate::telemetry::start(
        if context.quiet { "error" } else { level },
        settings.get("log.format") == Some("json"),
    );
    // Before anything starts: a signal at any moment ends the node in good order.
    let mut stop = stop_signal()?;
    let (options, serving) = door::to_run(settings, &context.data_dir)?;
    let node = start(context, options).await?;
    let opened = async {
        let api = Api::new(node.clone(), door::api_options(&context.settings)).await?;
        let served = serve(context, &api, serving).await?;
        Ok((api, served))
    };
    let (api, http) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            node.shutdown().await;
            return Err(error);
        }
    };
    banner(context, &node, &api, &http).await?;
    stop.recv().await;
    output::say(context, "stopping");
    node.shutdown().await;
    Ok(())
}

/// Ends with the first SIGINT or SIGTERM, or with SIGHUP: whoever closes a terminal ends what runs in it.
pub(super) fn stop_signal() -> Result<tokio::sync::mpsc::Receiver<()>, NodeError> {
    let fail = |e: std::io::Error| NodeError::new(ErrorCode::Other, format!("signals cannot be caught: {e}"));
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(fail)?, signal(SignalKind::terminate()).map_err(fail)?);
    let mut hangup = if heeds_hangup() { Some(signal(SignalKind::hangup()).map_err(fail)?) } else { None };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
        let _ = sender.send(()).await;
    });
    Ok(receiver)
}

/// Whether SIGHUP would end this process. `nohup` has it ignored, and who catches it would undo that.
fn heeds_hangup() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The first signal of all.
    ignored.is_some_and(|mask| mask & 1 == 0)
}

/// Starts the node; a port that nobody asked for by name gives way where it is taken.
async fn start(context: &Context, mut options: NodeOptions) -> Result<Node, NodeError> {
    let by_default = *context.settings.origin("listen") == Origin::BuiltIn;
    match Node::start(options.clone()).await {
        Err(error) if by_default && error.message.contains("cannot listen") => {
            tracing::debug!("{error}");
            output::say(context, "port 3000 is taken: peers find this node at free ports (--listen chooses)");
            options.listen = door::free_ports();
            Node::start(options).await
        }
        started => started,
    }
}

/// Ports that are tried behind the one that is taken.
const NEXT_PORTS: u16 = 20;

async fn serve(context: &Context, api: &Api, options: ServeOptions) -> Result<Served, NodeError> {
    let by_default = *context.settings.origin("http") == Origin::BuiltIn;
    match api.serve(&options).await {
        Err(error) if by_default && error.reason == Some(Reason::PortInUse) => {
            // Several nodes on one machine are nothing unusual: the banner says where the API is.
            tracing::debug!("{error}");
            let (ip, port) = (options.addr.ip(), options.addr.port());
            let at = |port| ServeOptions { addr: (ip, port).into(), ..options.clone() };
            // The next one that is free: it is the same after the next start, and so bookmarks stay good.
            let mut served = Err(error);
            for port in (port + 1..=port + NEXT_PORTS).chain([0]) {
                served = api.serve(&at(port)).await;
                if served.is_ok() {
                    break;
                }
            }
            let served = served?;
            let at = served.addr;
            output::say(context, &format!("port {port} is taken: the API is at {at} (--http chooses)"));
            Ok(served)
        }
        served => served,
    }
}

async fn banner(context: &Context, node: &Node, api: &Api, http: &Served) -> Result<(), NodeError> {
    let status = node.status().await?;
    if context.json {
        return output::result(context, &status, |_| String::new());
    }
    output::say(context, &format!("storgo {} · peer {}", status.version, status.peer));
    output::say(
        context,
        &format!("data    {}{}", status.data_dir, if status.cluster { " (in a cluster)" } else { "" }),
    );
    for addr in &status.listen {
        output::say(context, &format!("listen  {addr}"));
    }
    output::say(context, &format!("api     {}/api/v1/status", http.url()));
    if let Some(fingerprint) = &http.fingerprint {
        output::say(context, &format!("tls     the certificate's SHA-256 is {fingerprint}"));
    }
    // A link that signs in is for the person at the terminal, not for a log.
    if std::io::stderr().is_terminal()
        && let Some(link) = api.sign_in_link()
    {
        output::say(context, &format!("page    {link}   (signs in once; `storgo-node web` prints another)"));
    }
    // An address that another machine can use is the better example.
    let outside = status.listen.iter().find(|addr| !addr.contains("/127.0.0.1/") && !addr.contains("/::1/"));
    if status.cluster {
        let dir = &status.data_dir;
        output::say(
            context,
            &format!(
                "bring another machine into the cluster by what this prints:\n  storgo-node --data-dir {dir} invite"
            ),
        );
    } else if let Some(addr) = outside.or(status.listen.first()) {
        output::say(context, &format!("connect another node with:\n  storgo-node --bootstrap {addr}"));
    }
    Ok(())
}
