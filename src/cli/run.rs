//! `run`: a node until a signal stops it.

use std::io::IsTerminal;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    Context,
    error::CliError,
    options::{any_ports, api_options, run_options},
    output,
};
use crate::{
    config::Origin,
    http::{Api, ServeOptions, Served},
    node::{ErrorCode, Node, NodeError, NodeOptions, Reason, invite::is_local},
};

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let settings = &context.settings;
    let level = settings.get("log.level").unwrap_or("info");
    crate::telemetry::start(
        if context.quiet { "error" } else { level },
        settings.get("log.format") == Some("json"),
    );
    // Before the node starts, so that a signal at any moment stops it cleanly.
    let mut stop = receive(&[SignalKind::interrupt(), SignalKind::terminate()])?;
    let mut reload = receive(hangup().as_slice())?;
    let (node_options, serve_options) = run_options(settings, &context.data_dir)?;
    let node = start(context, node_options).await?;
    let served = serve_until(context, &node, serve_options, &mut stop, &mut reload).await;
    node.shutdown().await;
    served
}

async fn serve_until(
    context: &Context,
    node: &Node,
    options: ServeOptions,
    stop: &mut mpsc::Receiver<()>,
    reload: &mut mpsc::Receiver<()>,
) -> Result<(), CliError> {
    let api = Api::new(node.clone(), api_options(&context.settings, &context.data_dir)?).await?;
    let served = serve(context, &api, options).await?;
    print_banner(context, node, &api, &served).await?;
    loop {
        tokio::select! {
            _ = stop.recv() => break,
            Some(()) = reload.recv() => served.reload_certificate(),
        }
    }
    output::message(context, "stopping");
    Ok(())
}

/// Returns a channel that receives SIGINT, SIGTERM and SIGHUP.
pub(super) fn stop_signal() -> Result<mpsc::Receiver<()>, CliError> {
    let always = [SignalKind::interrupt(), SignalKind::terminate()];
    receive(&always.into_iter().chain(hangup()).collect::<Vec<_>>())
}

/// SIGHUP, unless this process ignores it.
fn hangup() -> Option<SignalKind> {
    (!ignores_hangup()).then(SignalKind::hangup)
}

/// Returns a channel that receives these signals.
fn receive(kinds: &[SignalKind]) -> Result<mpsc::Receiver<()>, CliError> {
    let (sender, receiver) = mpsc::channel(1);
    for kind in kinds {
        let mut signals = signal(*kind)
            .map_err(|e| CliError::new(ErrorCode::Other, format!("cannot catch signals: {e}")))?;
        let sender = sender.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(()).await.is_ok() {} });
    }
    Ok(receiver)
}

/// Whether this process ignores SIGHUP, as under `nohup`; a handler would undo that. `true` if it cannot be told.
fn ignores_hangup() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return true };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // SIGHUP is signal 1, bit 0.
    ignored.is_none_or(|mask| mask & 1 != 0)
}

/// Whether another port or address may help.
fn is_unavailable(error: &NodeError) -> bool {
    let reasons = [Reason::PortInUse, Reason::PortDenied, Reason::AddressUnavailable];
    error.reason.is_some_and(|reason| reasons.contains(&reason))
}

/// Starts the node. If the default addresses are not available, it listens on any free port.
async fn start(context: &Context, mut options: NodeOptions) -> Result<Node, CliError> {
    let by_default = *context.settings.origin("listen") == Origin::BuiltIn;
    match Node::start(options.clone()).await {
        Err(error) if by_default && is_unavailable(&error) => {
            let why = match error.reason {
                Some(Reason::PortInUse) => "port 3000 is taken".into(),
                _ => error.to_string(),
            };
            output::message(context, &format!("{why}, listening on any free port (--listen chooses one)"));
            options.listen = any_ports();
            Ok(Node::start(options).await?)
        }
        started => Ok(started?),
    }
}

/// Ports to try after the default one.
const NEXT_PORTS: u16 = 20;

/// Serves the API. If the default port is taken, tries the next ones in order, so that several nodes on one machine
/// usually keep their ports after a restart.
async fn serve(context: &Context, api: &Api, options: ServeOptions) -> Result<Served, CliError> {
    let by_default = *context.settings.origin("http") == Origin::BuiltIn;
    let mut served = api.serve(&options).await;
    if !by_default || !served.as_ref().is_err_and(is_unavailable) {
        return Ok(served?);
    }
    let (ip, port) = (options.addr.ip(), options.addr.port());
    for next in (port + 1..=port + NEXT_PORTS).chain([0]) {
        served = api.serve(&ServeOptions { addr: (ip, next).into(), ..options.clone() }).await;
        if served.is_ok() {
            break;
        }
    }
    let served = served?;
    let addr = served.addr;
    output::message(context, &format!("port {port} is taken, the API is at {addr} (--http chooses one)"));
    Ok(served)
}

async fn print_banner(context: &Context, node: &Node, api: &Api, served: &Served) -> Result<(), CliError> {
    let status = node.status().await?;
    if context.json {
        return output::result(context, &status, |_| String::new());
    }
    let in_cluster = if status.cluster { " (in a cluster)" } else { "" };
    let mut lines = vec![
        format!("storgo {} · peer {}", status.version, status.peer),
        format!("data    {}{in_cluster}", status.data_dir),
    ];
    lines.extend(status.listen.iter().map(|addr| format!("listen  {addr}")));
    lines.push(format!(
        "api     {}/api/docs   (`storgo-node token create` prints a token for it)",
        served.url()
    ));
    lines.extend(
        served.fingerprint.iter().map(|sha256| format!("tls     SHA-256 of the certificate: {sha256}")),
    );
    // The link signs in anybody who opens it, so it does not go into a log.
    let link = std::io::stderr().is_terminal().then(|| api.sign_in_link()).flatten();
    lines.push(match link {
        Some(link) => format!("page    {link}   (signs in once; `storgo-node web` prints another)"),
        None => format!("page    {}/   (`storgo-node web` prints a link that signs in)", served.url()),
    });
    // Prefer an address that other machines can reach.
    let example = status.listen.iter().find(|addr| !is_local(addr)).or(status.listen.first());
    if status.cluster {
        lines.push("bring another machine into the cluster with the line that this prints:".into());
        lines.push(format!("  {} invite", context.start_command()));
    } else if let Some(addr) = example {
        lines.push(format!("connect another node with:\n  storgo-node --bootstrap {addr}"));
    }
    for line in lines {
        output::message(context, &line);
    }
    Ok(())
}
