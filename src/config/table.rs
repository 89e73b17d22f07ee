//! The settings there are.

use std::net::SocketAddr;

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::values::{ByteSize, parse_duration};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in files: `storage.capacity`.
    pub key: &'static str,
    /// Its value where nobody sets it; a comma parts several.
    pub default: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
    /// A value that works.
    pub example: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
    check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// The environment variable that sets it.
    pub fn env(&self) -> String {
        format!("STORGO_{}", self.key.to_uppercase().replace('.', "_"))
    }

    /// Whether it can take a value.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        // Empty means unset, for every setting whose default is unset.
        if value.is_empty() && self.default.is_empty() { Ok(()) } else { (self.check)(value) }
    }
}

const fn setting(
    key: &'static str,
    default: &'static str,
    example: &'static str,
    check: fn(&str) -> Result<(), String>,
    doc: &'static str,
) -> Setting {
    Setting { key, default, doc, example, secret: false, check }
}

fn parses<T: std::str::FromStr<Err: std::fmt::Display>>(value: &str) -> Result<(), String> {
    value.parse::<T>().map(drop).map_err(|e| e.to_string())
}

/// An address that a swarm can use: one with a port, or by a relay.
pub(crate) fn address(value: &str) -> Result<(), String> {
    let addr: Multiaddr = value.parse().map_err(|e| format!("it is no multiaddr ({e})"))?;
    let mut parts = addr.iter();
    let used = |part| matches!(part, Protocol::Tcp(_) | Protocol::QuicV1 | Protocol::P2pCircuit);
    if parts.any(used) { Ok(()) } else { Err("it names neither a tcp nor a quic-v1 port".into()) }
}

fn duration(value: &str) -> Result<(), String> {
    parse_duration(value).map(drop)
}

fn key(value: &str) -> Result<(), String> {
    match data_encoding::BASE64URL_NOPAD.decode(value.as_bytes()) {
        Ok(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err("it is not 32 bytes in base64url".into()),
    }
}

fn host_name(value: &str) -> Result<(), String> {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() < 64
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if value.split('.').all(part) { Ok(()) } else { Err("it is no host name".into()) }
}

fn log_format(value: &str) -> Result<(), String> {
    if matches!(value, "text" | "json") { Ok(()) } else { Err("use text or json".into()) }
}

fn log_level(value: &str) -> Result<(), String> {
    parses::<tracing_subscriber::filter::Targets>(value)
}

/// All settings.
pub static TABLE: &[Setting] = &[
    setting(
        "listen",
        "/ip4/0.0.0.0/tcp/3000, /ip4/0.0.0.0/udp/3000/quic-v1, /ip6/::/tcp/3000, /ip6/::/udp/3000/quic-v1",
        "/ip4/0.0.0.0/tcp/3000",
        address,
        "addresses to listen on for peers; port 0 takes a free one",
    ),
    setting(
        "external",
        "",
        "/dns4/box.example.org/tcp/3000",
        address,
        "addresses at which others reach this node, where it cannot know them",
    ),
    setting(
        "bootstrap",
        "",
        "/dns4/box.example.org/tcp/3000",
        address,
        "peers to find the swarm by, with or without /p2p/<id>",
    ),
    setting(
        "http",
        "127.0.0.1:8080",
        "127.0.0.1:8080",
        parses::<SocketAddr>,
        "address of the HTTP API; beyond loopback it takes TLS, or http.insecure",
    ),
    setting(
        "http.hosts",
        "",
        "box.example.org",
        host_name,
        "names under which the HTTP API is called, beside localhost",
    ),
    setting(
        "http.insecure",
        "false",
        "true",
        parses::<bool>,
        "serve HTTP without TLS beyond this machine, for a proxy in front that does TLS",
    ),
    setting(
        "http.connections",
        "1024",
        "1024",
        parses::<std::num::NonZeroU32>,
        "HTTP connections held at most; a new one ends the one that waits longest",
    ),
    setting(
        "uploads.keep",
        "7d",
        "1d",
        duration,
        "how long a resumable upload is kept to which nothing is added",
    ),
    setting(
        "tls.cert",
        "",
        "/etc/storgo/chain.pem",
        parses::<std::path::PathBuf>,
        "certificate chain of the HTTP API, in PEM; with tls.key",
    ),
    setting(
        "tls.key",
        "",
        "/etc/storgo/key.pem",
        parses::<std::path::PathBuf>,
        "file with the private key of tls.cert, in PEM",
    ),
    setting(
        "tls.self.signed",
        "false",
        "true",
        parses::<bool>,
        "serve the HTTP API over TLS with a certificate that the node makes",
    ),
    setting("mdns", "true", "false", parses::<bool>, "find peers on the local network"),
    setting(
        "relay.server",
        "false",
        "true",
        parses::<bool>,
        "relay connections for peers that cannot be dialled",
    ),
    setting("max.connections", "512", "512", parses::<u32>, "connections held at most"),
    Setting {
        key: "cluster.key",
        default: "",
        doc: "key of the cluster, 32 bytes in base64url; the file cluster.key in the data directory does the same",
        example: "(made by `storgo-node init --cluster`)",
        secret: true,
        check: key,
    },
    setting(
        "storage.layout",
        "sharded",
        "flat",
        parses::<crate::store::Layout>,
        "folders for block files: sharded, segments or flat",
    ),
    setting(
        "storage.capacity",
        "",
        "500 GiB",
        parses::<ByteSize>,
        "hard limit for blocks on disk; empty: the disk is the limit",
    ),
    setting(
        "cache.size",
        "10 GiB",
        "10 GiB",
        parses::<ByteSize>,
        "evictable cache for blocks that were read from peers",
    ),
    setting("gc.grace", "1h", "10m", duration, "how long a block without a file is kept"),
    setting(
        "scrub.rate",
        "4 MiB",
        "4 MiB",
        parses::<ByteSize>,
        "bytes per second that the background check of blocks may read; 0: none",
    ),
    setting(
        "upload.limit",
        "",
        "10 MiB",
        parses::<ByteSize>,
        "bytes per second to peers, all together; empty: no limit",
    ),
    setting(
        "chunker",
        "fastcdc",
        "fixed:1MiB",
        parses::<crate::content::chunk::Chunker>,
        "how files are cut",
    ),
    setting("timeout", "60s", "30s", duration, "how long a read waits while nothing arrives"),
    setting(
        "log.level",
        "info",
        "debug",
        log_level,
        "what is logged to stderr by `run`: error, warn, info, debug, trace, or targets",
    ),
    setting("log.format", "text", "json", log_format, "text or json"),
];

/// What a profile sets.
pub(super) fn profile(name: &str) -> Option<&'static [(&'static str, &'static str)]> {
    Some(match name {
        // A laptop: nothing listens beyond it, little is kept.
        "dev" => &[
            ("listen", "/ip4/127.0.0.1/tcp/0, /ip4/127.0.0.1/udp/0/quic-v1"),
            ("http", "127.0.0.1:0"),
            ("cache.size", "1 GiB"),
            ("gc.grace", "1m"),
            ("log.level", "debug"),
        ],
        "staging" => &[("log.level", "info,storgo=debug"), ("log.format", "json")],
        // Servers: logs for machines, no multicast, longer grace.
        "prod" => &[("log.format", "json"), ("mdns", "false"), ("gc.grace", "24h"), ("cache.size", "50 GiB")],
        _ => return None,
    })
}

/// The setting whose name is most like this one.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    // As people write it: `cache_size`, `cache-size`, or without its group: `capacity`.
    let key = key.to_lowercase().replace(['_', '-'], ".");
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let alike = |setting: &&Setting| {
        let (whole, end) =
            (strsim::jaro_winkler(setting.key, &key), strsim::jaro_winkler(&last(setting.key), &last(&key)));
        whole.max(end * 0.9)
    };
    let best = TABLE.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) > 0.7).then_some(best.key)
}
