//! Logs to stderr, as text or JSON. Keys, links and names are never logged.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Starts logging. `level` is a level or a list of targets. A second call changes nothing.
pub fn start(level: &str, json: bool) {
    let mut filter: Targets =
        level.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    // Limit noisy libraries unless the user names them: without peers, Kademlia warns every five minutes, and mDNS logs each
    // stranger that it finds.
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
