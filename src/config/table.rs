//! The settings there are.

use std::{net::SocketAddr, time::Duration};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::values::{ByteSize, DoorAddr, parse_duration};
use crate::wire::MAX_REGION;

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
    /// Whether it takes several values.
    pub list: bool,
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
    Setting { key, default, doc, example, secret: false, list: false, check }
}

/// A setting that takes several values.
const fn list(
    key: &'static str,
    default: &'static str,
    example: &'static str,
    check: fn(&str) -> Result<(), String>,
    doc: &'static str,
) -> Setting {
    Setting { list: true, ..setting(key, default, example, check, doc) }
}

fn parses<T: std::str::FromStr<Err: std::fmt::Display>>(value: &str) -> Result<(), String> {
    value.parse::<T>().map(drop).map_err(|e| e.to_string())
}

/// A number that is not 0.
fn positive<T: std::str::FromStr<Err: std::fmt::Display> + Default + PartialEq>(
    value: &str,
) -> Result<(), String> {
    let number: T = value.parse().map_err(|e: T::Err| e.to_string())?;
    if number == T::default() { Err("it must be more than 0".into()) } else { Ok(()) }
}

/// A word for a place.
fn region(value: &str) -> Result<(), String> {
    let seen = !value.trim().is_empty() && !value.chars().any(char::is_control);
    if seen && value.len() <= MAX_REGION {
        Ok(())
    } else {
        Err(format!("it must be 1 to {MAX_REGION} bytes of text on one line"))
    }
}

fn multiaddr(value: &str) -> Result<Multiaddr, String> {
    value.parse().map_err(|e| match spelt_out(value) {
        Some(addr) => format!("it is no multiaddr: that is written {addr}"),
        None => format!("it is no multiaddr ({e})"),
    })
}

/// The multiaddr of what other programs call an address: `IP:PORT`, `[IP]:PORT` or `HOST:PORT`.
fn spelt_out(value: &str) -> Option<Multiaddr> {
    if let Ok(addr) = value.parse::<SocketAddr>() {
        return Some(Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port())));
    }
    let (host, port) = value.rsplit_once(':')?;
    let is_name = |part: &str| {
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        plain && !part.is_empty()
    };
    // Numbers alone are an IP address that is none.
    let named = host.split('.').all(is_name) && host.bytes().any(|b| b.is_ascii_alphabetic());
    let port = port.parse().ok()?;
    named.then(|| Multiaddr::empty().with(Protocol::Dns(host.into())).with(Protocol::Tcp(port)))
}

/// Where a peer is dialled: a host and a port, or a relay.
pub(crate) fn address(value: &str) -> Result<(), String> {
    let addr = multiaddr(value)?;
    for part in &addr {
        match part {
            Protocol::Tcp(0) | Protocol::Udp(0) => return Err("nobody can be reached at port 0".into()),
            Protocol::Ip4(ip) if ip.is_unspecified() => return Err(nowhere(&ip)),
            Protocol::Ip6(ip) if ip.is_unspecified() => return Err(nowhere(&ip)),
            _ => {}
        }
    }
    spoken(&addr)
}

fn nowhere(ip: &dyn std::fmt::Display) -> String {
    format!("{ip} stands for every address of a machine, and is none that can be reached")
}

/// Where a node listens: an address of this machine and a port, or a relay.
fn own_address(value: &str) -> Result<(), String> {
    let addr = multiaddr(value)?;
    let relayed = addr.iter().any(|part| part == Protocol::P2pCircuit);
    match addr.iter().next() {
        _ if relayed => address(value),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => spoken(&addr),
        _ => Err("a node listens at an IP address: /ip4/0.0.0.0/… stands for all of this machine's".into()),
    }
}

/// Whether a swarm speaks this: TCP or QUIC, straight or by a relay.
fn spoken(addr: &Multiaddr) -> Result<(), String> {
    let parts: Vec<Protocol<'_>> = addr.iter().collect();
    let host = matches!(
        parts.first(),
        Some(
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
                | Protocol::Dnsaddr(_)
        )
    );
    let rest = match (host, parts.get(1), parts.get(2)) {
        (true, Some(Protocol::Tcp(_)), _) => 2,
        (true, Some(Protocol::Udp(_)), Some(Protocol::QuicV1)) => 3,
        // A name that stands for whole addresses; a relay that is known by its id.
        (true, None | Some(Protocol::P2p(_)), _) if matches!(parts[0], Protocol::Dnsaddr(_)) => 1,
        (false, Some(Protocol::P2pCircuit), _) if matches!(parts[0], Protocol::P2p(_)) => 1,
        _ => return Err("it names neither a tcp nor a quic-v1 port of a host".into()),
    };
    match parts[rest..].iter().find(|part| !matches!(part, Protocol::P2p(_) | Protocol::P2pCircuit)) {
        Some(part) => Err(format!(
            "{} is not spoken here, only tcp and quic-v1 are",
            part.to_string().trim_start_matches('/')
        )),
        None => Ok(()),
    }
}

/// Longer than anybody means, and short enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn duration(value: &str) -> Result<(), String> {
    if parse_duration(value)? > LONGEST { Err("it is more than 100 years".into()) } else { Ok(()) }
}

/// A length of time in which something can happen.
fn lasting(value: &str) -> Result<(), String> {
    duration(value)?;
    if parse_duration(value)? < Duration::from_millis(1) {
        return Err("it must be a millisecond at least".into());
    }
    Ok(())
}

fn bytes_from(least: u64, value: &str) -> Result<(), String> {
    if super::parse_bytes(value)? < least {
        return Err(format!("it must be {} at least", ByteSize(least)));
    }
    Ok(())
}

/// Room for a file.
fn room(value: &str) -> Result<(), String> {
    bytes_from(1 << 20, value)
}

/// A rate at which a block gets through before its reader gives up.
fn rate(value: &str) -> Result<(), String> {
    bytes_from(1 << 10, value)
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
    let level = |text: &str| text.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    for part in value.split(',') {
        let fits = match part.split_once('=') {
            Some((target, of_it)) => !target.trim().is_empty() && level(of_it),
            None => level(part),
        };
        if !fits {
            return Err(format!(
                "{part:?} is neither a level nor target=level; levels are error, warn, info, debug, trace"
            ));
        }
    }
    parses::<tracing_subscriber::filter::Targets>(value)
}

/// All settings.
pub static TABLE: &[Setting] = &[
    list(
        "listen",
        "/ip4/0.0.0.0/tcp/3000, /ip4/0.0.0.0/udp/3000/quic-v1, /ip6/::/tcp/3000, /ip6/::/udp/3000/quic-v1",
        "/ip4/0.0.0.0/tcp/3000",
        own_address,
        "addresses to listen on for peers; port 0 takes a free one",
    ),
    list(
        "external",
        "",
        "/dns4/box.example.org/tcp/3000",
        address,
        "addresses at which others reach this node, where it cannot know them",
    ),
    list(
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
        parses::<DoorAddr>,
        "address of the HTTP API; beyond loopback it takes TLS, or http.insecure",
    ),
    list(
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
        positive::<u32>,
        "HTTP connections held at most; a new one ends the one that waits longest",
    ),
    setting(
        "uploads.keep",
        "7d",
        "1d",
        lasting,
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
    setting(
        "region",
        "",
        "attic",
        region,
        "where this machine is, in a word: machines of one region may fail together; peers see it",
    ),
    setting("max.connections", "512", "512", positive::<u32>, "connections held at most"),
    Setting {
        key: "cluster.key",
        default: "",
        doc: "key of the cluster, 32 bytes in base64url; the file cluster.key in the data directory does the same",
        example: "(made by `storgo-node init --cluster`)",
        secret: true,
        list: false,
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
        room,
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
    setting("upload.limit", "", "10 MiB", rate, "bytes per second to peers, all together; empty: no limit"),
    setting(
        "chunker",
        "fastcdc",
        "fixed:1MiB",
        parses::<crate::content::chunk::Chunker>,
        "how files are cut",
    ),
    setting("timeout", "60s", "30s", lasting, "how long a read waits while nothing arrives"),
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
