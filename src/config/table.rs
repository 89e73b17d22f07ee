//! All settings.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::values::{ByteSize, HttpAddr, parse_duration};
use crate::wire::MAX_REGION;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name, as in `storage.capacity`.
    pub key: &'static str,
    /// The default; commas separate several values.
    pub default: &'static str,
    /// Its effect, in one line.
    pub doc: &'static str,
    /// A valid value.
    pub example: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Whether it takes several values.
    pub list: bool,
    check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// Returns the name of its environment variable.
    pub fn env(&self) -> String {
        format!("STORGO_{}", self.key.to_uppercase().replace('.', "_"))
    }

    /// Makes it take several values.
    const fn list(self) -> Self {
        Self { list: true, ..self }
    }

    /// Checks a value.
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

fn parses<T: std::str::FromStr<Err: std::fmt::Display>>(value: &str) -> Result<(), String> {
    value.parse::<T>().map(drop).map_err(|e| e.to_string())
}

fn switch(value: &str) -> Result<(), String> {
    if matches!(value, "true" | "false") { Ok(()) } else { Err("expected true or false".into()) }
}

fn positive(value: &str) -> Result<(), String> {
    match value.parse::<u32>() {
        Ok(0) => Err("it must be more than 0".into()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("expected a whole number, at most {}", u32::MAX)),
    }
}

fn region(value: &str) -> Result<(), String> {
    let seen = !value.trim().is_empty() && !value.chars().any(char::is_control);
    if seen && value.len() <= MAX_REGION {
        Ok(())
    } else {
        Err(format!("it must be 1 to {MAX_REGION} bytes of text on one line"))
    }
}

fn multiaddr(value: &str) -> Result<Multiaddr, String> {
    value.parse().map_err(|_| match to_multiaddr(value) {
        Some(addr) => format!("not a multiaddr; write {addr}"),
        None if !value.starts_with('/') => "not a multiaddr, which begins with /".into(),
        None => format!("not a multiaddr: {} is wrong or incomplete", unreadable_part(value)),
    })
}

/// Returns the first part of an invalid multiaddr that cannot be read: the name of a protocol and its value.
fn unreadable_part(value: &str) -> &str {
    let mut slashes = value.match_indices('/').map(|(at, _)| at).chain([value.len()]);
    let read = slashes.rfind(|end| value[..*end].parse::<Multiaddr>().is_ok()).unwrap_or(0);
    let rest = &value[read..];
    rest.match_indices('/').nth(2).map_or(rest, |(end, _)| &rest[..end])
}

/// Converts `IP:PORT`, `[IP]:PORT` or `HOST:PORT` to a multiaddr.
fn to_multiaddr(value: &str) -> Option<Multiaddr> {
    if let Ok(addr) = value.parse::<SocketAddr>() {
        return Some(Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port())));
    }
    let (host, port) = value.rsplit_once(':')?;
    let is_name = |part: &str| {
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        plain && !part.is_empty()
    };
    // Without a letter, it is an invalid IP address.
    let named = host.split('.').all(is_name) && host.bytes().any(|b| b.is_ascii_alphabetic());
    let port = port.parse().ok()?;
    named.then(|| Multiaddr::empty().with(Protocol::Dns(host.into())).with(Protocol::Tcp(port)))
}

/// Checks an address to dial: a host and a port, or a relay.
pub(crate) fn check_peer_address(value: &str) -> Result<(), String> {
    let addr = multiaddr(value)?;
    for part in &addr {
        let ip = match part {
            Protocol::Tcp(0) | Protocol::Udp(0) => return Err("port 0 cannot be dialled".into()),
            Protocol::Ip4(ip) => IpAddr::from(ip),
            Protocol::Ip6(ip) => ip.into(),
            _ => continue,
        };
        if ip.is_unspecified() {
            return Err(format!("{ip} means every address of a machine and cannot be dialled"));
        }
    }
    transport(&addr)
}

/// Checks an address to listen on: an IP address and a port, or a relay.
fn listen_address(value: &str) -> Result<(), String> {
    let addr = multiaddr(value)?;
    let relayed = addr.iter().any(|part| part == Protocol::P2pCircuit);
    match addr.iter().next() {
        _ if relayed => check_peer_address(value),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => transport(&addr),
        _ => Err("a node listens on IP addresses; /ip4/0.0.0.0/… means all of this machine".into()),
    }
}

/// Checks that an address uses TCP or QUIC, directly or through a relay.
fn transport(addr: &Multiaddr) -> Result<(), String> {
    use Protocol::{Dns, Dns4, Dns6, Dnsaddr, Ip4, Ip6};

    let parts: Vec<Protocol<'_>> = addr.iter().collect();
    let host = matches!(parts.first(), Some(Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_) | Dnsaddr(_)));
    let rest = match (host, parts.get(1), parts.get(2)) {
        (true, Some(Protocol::Tcp(_)), _) => 2,
        (true, Some(Protocol::Udp(_)), Some(Protocol::QuicV1)) => 3,
        // `dnsaddr` names complete addresses; a relay may be named by its peer id alone.
        (true, None | Some(Protocol::P2p(_)), _) if matches!(parts[0], Dnsaddr(_)) => 1,
        (false, Some(Protocol::P2pCircuit), _) if matches!(parts[0], Protocol::P2p(_)) => 1,
        _ => return Err("it has no tcp or quic-v1 port of a host".into()),
    };
    match parts[rest..].iter().find(|part| !matches!(part, Protocol::P2p(_) | Protocol::P2pCircuit)) {
        Some(part) => Err(format!("{} is not supported, only tcp and quic-v1 are", &part.to_string()[1..])),
        None => Ok(()),
    }
}

/// Short enough to be added to any clock.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn duration(value: &str) -> Result<(), String> {
    if parse_duration(value)? > MAX_DURATION { Err("it is more than 100 years".into()) } else { Ok(()) }
}

fn nonzero_duration(value: &str) -> Result<(), String> {
    duration(value)?;
    if parse_duration(value)? < Duration::from_millis(1) {
        return Err("it must be at least 1 ms".into());
    }
    Ok(())
}

fn bytes_at_least<const MINIMUM: u64>(value: &str) -> Result<(), String> {
    if value.parse::<ByteSize>()?.0 < MINIMUM {
        return Err(format!("it must be at least {}", ByteSize(MINIMUM)));
    }
    Ok(())
}

fn key(value: &str) -> Result<(), String> {
    match data_encoding::BASE64URL_NOPAD.decode(value.as_bytes()) {
        Ok(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err("expected 32 bytes in base64url".into()),
    }
}

fn host_name(value: &str) -> Result<(), String> {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() < 64
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if value.split('.').all(part) { Ok(()) } else { Err("not a host name".into()) }
}

fn base_path(value: &str) -> Result<(), String> {
    let Some(path) = value.strip_prefix('/') else { return Err("it does not begin with a slash".into()) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if path.split('/').any(|part| part.trim_matches('.').is_empty() || !part.chars().all(plain)) {
        return Err("not a path of letters, digits, `-`, `.`, `_` and `~` without a slash at its end".into());
    }
    let first = path.split('/').next().unwrap_or_default();
    if ["api", "ui", "metrics", "livez", "readyz"].contains(&first) {
        return Err(format!("/{first} is a path of the API itself"));
    }
    Ok(())
}

fn log_format(value: &str) -> Result<(), String> {
    if matches!(value, "text" | "json") { Ok(()) } else { Err("use text or json".into()) }
}

fn log_level(value: &str) -> Result<(), String> {
    let level = |text: &str| text.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    for part in value.split(',') {
        let valid = match part.split_once('=') {
            Some((target, text)) => !target.trim().is_empty() && level(text),
            None => level(part),
        };
        if !valid {
            return Err(format!(
                "{part:?} is neither a level nor target=level; the levels are error, warn, info, debug, trace"
            ));
        }
    }
    let parsed = value.parse::<tracing_subscriber::filter::Targets>();
    parsed.map(drop).map_err(|_| "expected a level, or target=level separated by commas".into())
}

/// All settings.
pub static TABLE: &[Setting] = &[
    setting(
        "listen",
        "/ip4/0.0.0.0/tcp/3000, /ip4/0.0.0.0/udp/3000/quic-v1, /ip6/::/tcp/3000, /ip6/::/udp/3000/quic-v1",
        "/ip4/0.0.0.0/tcp/3000",
        listen_address,
        "Addresses on which the node listens for peers; port 0 takes a free port",
    )
    .list(),
    setting(
        "external",
        "",
        "/dns4/box.example.org/tcp/3000",
        check_peer_address,
        "Addresses at which peers reach this node, if it cannot find them itself, as behind a port forward",
    )
    .list(),
    setting(
        "bootstrap",
        "",
        "/dns4/box.example.org/tcp/3000",
        check_peer_address,
        "Peers to connect to at start, with or without `/p2p/PEER_ID`",
    )
    .list(),
    setting(
        "http",
        "127.0.0.1:8080",
        "127.0.0.1:8080",
        parses::<HttpAddr>,
        "Address of the HTTP API; other than loopback requires TLS or http.insecure",
    ),
    setting("http.hosts", "", "box.example.org", host_name, "Host names of the HTTP API, besides localhost")
        .list(),
    setting(
        "http.base_path",
        "",
        "/storgo",
        base_path,
        "Path under which a reverse proxy serves the HTTP API and the page",
    ),
    setting(
        "http.insecure",
        "false",
        "true",
        switch,
        "Serve the HTTP API to other machines without TLS, for a reverse proxy that does TLS",
    ),
    setting(
        "http.connections",
        "1024",
        "1024",
        positive,
        "Maximum number of HTTP connections; one more closes the one that has been idle longest",
    ),
    setting(
        "uploads.keep",
        "7d",
        "1d",
        nonzero_duration,
        "How long an unfinished upload is kept after its last byte",
    ),
    setting(
        "tls.cert",
        "",
        "/etc/storgo/chain.pem",
        parses::<std::path::PathBuf>,
        "PEM file with the certificate chain of the HTTP API; requires tls.key",
    ),
    setting(
        "tls.key",
        "",
        "/etc/storgo/key.pem",
        parses::<std::path::PathBuf>,
        "PEM file with the private key of tls.cert",
    ),
    setting(
        "tls.self.signed",
        "false",
        "true",
        switch,
        "Serve the HTTP API over TLS with a certificate that the node creates",
    ),
    setting("mdns", "true", "false", switch, "Find peers on the local network"),
    setting("relay.server", "false", "true", switch, "Relay connections of peers that cannot be dialled"),
    setting(
        "region",
        "",
        "attic",
        region,
        "Place of this machine, visible to peers; machines of one region may fail together",
    ),
    setting("max.connections", "512", "512", positive, "Maximum number of connections to peers"),
    Setting {
        secret: true,
        ..setting(
            "cluster.key",
            "",
            "(created by `storgo-node init --cluster`)",
            key,
            "Cluster key, 32 bytes in base64url [default: the file cluster.key in the data directory]",
        )
    },
    setting(
        "storage.layout",
        "sharded",
        "flat",
        parses::<crate::store::Layout>,
        "Layout of block files on disk: sharded, segments or flat",
    ),
    setting(
        "storage.capacity",
        "",
        "500 GiB",
        bytes_at_least::<{ 1 << 20 }>,
        "Maximum size of all blocks on disk; empty means no limit",
    ),
    setting(
        "cache.size",
        "10 GiB",
        "10 GiB",
        parses::<ByteSize>,
        "Maximum size of the cache for blocks read from peers",
    ),
    setting(
        "gc.grace",
        "1h",
        "10m",
        duration,
        "How long a block is kept after the last file that used it was removed",
    ),
    setting(
        "scrub.rate",
        "4 MiB",
        "4 MiB",
        parses::<ByteSize>,
        "Bytes per second that the background check reads; 0 turns it off",
    ),
    setting(
        "upload.limit",
        "",
        "10 MiB",
        // Below 1 KiB/s, readers would time out before a block has arrived.
        bytes_at_least::<{ 1 << 10 }>,
        "Bytes per second sent to all peers together; empty means no limit",
    ),
    setting(
        "chunker",
        "fastcdc",
        "fixed:1MiB",
        parses::<crate::content::chunk::Chunker>,
        "How files are cut into blocks: fastcdc or fixed:SIZE",
    ),
    setting("timeout", "60s", "30s", nonzero_duration, "How long a read waits for more data"),
    setting(
        "log.level",
        "info",
        "debug",
        log_level,
        "Log level of `run`: error, warn, info, debug, trace, or target=level, separated by commas",
    ),
    setting("log.format", "text", "json", log_format, "Format of the log: text or json"),
];

/// The flags that set settings: setting, flag, and the name of its value; `None` for a switch.
pub static FLAGS: [(&str, &str, Option<&str>); 21] = [
    ("bootstrap", "bootstrap", Some("MULTIADDR")),
    ("listen", "listen", Some("MULTIADDR")),
    ("external", "external", Some("MULTIADDR")),
    ("http", "http", Some("IP:PORT")),
    ("http.hosts", "http-host", Some("NAME")),
    ("http.base_path", "http-base-path", Some("PATH")),
    ("http.insecure", "http-insecure", None),
    ("tls.cert", "tls-cert", Some("FILE")),
    ("tls.key", "tls-key", Some("FILE")),
    ("tls.self.signed", "tls-self-signed", None),
    ("mdns", "mdns", Some("BOOL")),
    ("relay.server", "relay-server", Some("BOOL")),
    ("region", "region", Some("NAME")),
    ("max.connections", "max-connections", Some("N")),
    ("storage.capacity", "capacity", Some("SIZE")),
    ("cache.size", "cache-size", Some("SIZE")),
    ("upload.limit", "upload-limit", Some("SIZE")),
    ("timeout", "timeout", Some("TIME")),
    ("chunker", "chunker", Some("CHUNKER")),
    ("log.level", "log-level", Some("LEVEL")),
    ("log.format", "log-format", Some("FORMAT")),
];

/// The profiles: name, and the settings with their values.
pub static PROFILES: [(&str, &[(&str, &str)]); 3] = [
    // For a laptop: reachable from this machine only, small cache.
    (
        "dev",
        &[
            ("listen", "/ip4/127.0.0.1/tcp/0, /ip4/127.0.0.1/udp/0/quic-v1"),
            ("http", "127.0.0.1:0"),
            ("cache.size", "1 GiB"),
            ("gc.grace", "1m"),
            ("log.level", "debug"),
        ],
    ),
    ("staging", &[("log.level", "info,storgo=debug"), ("log.format", "json")]),
    // For servers: logs for machines, no multicast, longer grace period.
    ("prod", &[("log.format", "json"), ("mdns", "false"), ("gc.grace", "24h"), ("cache.size", "50 GiB")]),
];

/// Returns the setting whose name is most like `key`; `None` if none is similar.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    // Users may write `cache_size`, `cache-size`, or leave out the group: `capacity`.
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
