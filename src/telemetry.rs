//! Logs: to stderr, as text for people or as JSON for machines. No key, link or name is ever logged.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Begins to log. `level` is a level or a list of targets; `json` chooses the form. A second call changes nothing.
pub fn start(level: &str, json: bool) {
    let mut filter: Targets =
        level.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    // What libraries say is of use only where it is asked for by name: a node that knows nobody yet is warned of by Kademlia
    // every five minutes, and mDNS tells of each stranger that it meets.
    let usual = matches!(filter.default_level(), Some(LevelFilter::INFO | LevelFilter::WARN));
    for (library, most) in [
        ("libp2p_kad", tracing::Level::ERROR),
        ("libp2p_mdns", tracing::Level::WARN),
        ("libp2p_swarm", tracing::Level::WARN),
    ] {
        if usual && !level.contains(library) {
            filter = filter.with_target(library, most);
        }
    }
    let colour =
        std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry
            .with(fmt::layer().with_ansi(colour).with_target(false).with_writer(std::io::stderr))
            .try_init()
    };
    drop(started);
}
