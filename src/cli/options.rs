//! Options of a node and of its HTTP API, made from the settings.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{cluster_key::given_key, error::CliError};
use crate::{
    config::{ByteSize, HttpAddr, Origin, Settings, parse_duration},
    http::{ApiOptions, ServeOptions, SettingInfo, Tls},
    node::{NodeOptions, membership::CLUSTER_FILE},
    store::StoreOptions,
};

pub(super) fn any_ports() -> Vec<Multiaddr> {
    let addrs = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
    addrs.map(|addr| addr.parse().expect("a multiaddr")).into()
}

/// Whether this machine has IPv6. The kernel may lack it, or it may be turned off.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

fn is_ipv6(addr: &Multiaddr) -> bool {
    matches!(addr.iter().next(), Some(Protocol::Ip6(_)))
}

pub(super) fn node_options(settings: &Settings, data_dir: &Path) -> Result<NodeOptions, CliError> {
    let addrs = |key: &str| settings.list(key).iter().filter_map(|addr| addr.parse().ok()).collect();
    let bytes = |key: &str| settings.parsed::<ByteSize>(key).map(|size| size.0);
    let time = |key: &str| settings.get(key).and_then(|text| parse_duration(text).ok());
    let base = NodeOptions::new(data_dir);
    let mut listen: Vec<Multiaddr> = addrs("listen");
    // Without IPv6, leave out the default IPv6 addresses. Addresses that the user sets must all work.
    if *settings.origin("listen") == Origin::BuiltIn && !has_ipv6() {
        listen.retain(|addr| !is_ipv6(addr));
    }
    Ok(NodeOptions {
        listen,
        external: addrs("external"),
        bootstrap: addrs("bootstrap"),
        cluster: given_key(settings, data_dir)?,
        mdns: settings.is_on("mdns"),
        relay_server: settings.is_on("relay.server"),
        region: settings.get("region").map(Into::into),
        max_connections: settings.parsed("max.connections").unwrap_or(base.max_connections),
        store: StoreOptions {
            layout: settings.parsed("storage.layout").unwrap_or_default(),
            capacity: bytes("storage.capacity"),
            cache_size: bytes("cache.size").unwrap_or(base.store.cache_size),
            grace: time("gc.grace").unwrap_or(base.store.grace),
            ..base.store
        },
        scrub_rate: bytes("scrub.rate").unwrap_or(base.scrub_rate),
        upload_limit: bytes("upload.limit"),
        chunker: settings.parsed("chunker").unwrap_or_default(),
        timeout: time("timeout").unwrap_or(base.timeout),
        ..base
    })
}

pub(super) fn api_options(settings: &Settings, data_dir: &Path) -> Result<ApiOptions, CliError> {
    let mut shown = Vec::new();
    for (setting, values, origin) in settings.show() {
        let (value, origin) = match (setting.secret, values.is_empty()) {
            (true, true) if setting.key == "cluster.key" && given_key(settings, data_dir)?.is_some() => {
                ("set".into(), Origin::File(data_dir.join(CLUSTER_FILE)))
            }
            (true, true) => ("not set".into(), origin.clone()),
            (true, false) => ("set".into(), origin.clone()),
            (false, _) => (values.join(", "), origin.clone()),
        };
        shown.push(SettingInfo { key: setting.key.into(), value, origin: origin.to_string() });
    }
    let keep = settings.get("uploads.keep").and_then(|text| parse_duration(text).ok());
    Ok(ApiOptions {
        hosts: settings.list("http.hosts").to_vec(),
        base_path: settings.get("http.base_path").unwrap_or_default().to_owned(),
        settings: shown,
        uploads_keep: keep.unwrap_or(ApiOptions::default().uploads_keep),
    })
}

/// Options for `run`.
///
/// Errors: settings that do not fit together, and addresses that no process can bind on this machine. A port that is in
/// use is no error here: it may be free when the node starts.
pub(super) fn run_options(
    settings: &Settings,
    data_dir: &Path,
) -> Result<(NodeOptions, ServeOptions), CliError> {
    match mistakes(settings, data_dir).into_iter().next() {
        Some(mistake) => Err(mistake),
        None => Ok((node_options(settings, data_dir)?, serve_options(settings)?)),
    }
}

/// All errors of [`run_options`].
pub(super) fn mistakes(settings: &Settings, data_dir: &Path) -> Vec<CliError> {
    let mut mistakes = Vec::new();
    match node_options(settings, data_dir) {
        Err(error) => mistakes.push(error),
        // The default addresses fall back to others.
        Ok(_) if *settings.origin("listen") == Origin::BuiltIn => {}
        Ok(node) => mistakes.extend(node.listen.iter().filter_map(|addr| {
            let reason = cannot_bind(addr)?;
            Some(settings.bad_value("listen", format!("{addr}: {reason}")).into())
        })),
    }
    match serve_options(settings) {
        Err(error) => mistakes.push(error),
        Ok(serve) => {
            let http = Multiaddr::from(serve.addr.ip()).with(Protocol::Tcp(serve.addr.port()));
            mistakes.extend(cannot_bind(&http).map(|reason| settings.bad_value("http", reason).into()));
        }
    }
    mistakes
}

/// Why this user can never bind an address on this machine; `None` if it may be possible.
fn cannot_bind(addr: &Multiaddr) -> Option<&'static str> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    let bound = match parts.next()? {
        Protocol::Tcp(port) => TcpListener::bind((ip, port)).map(drop),
        Protocol::Udp(port) => UdpSocket::bind((ip, port)).map(drop),
        _ => return None,
    };
    let error = bound.err()?;
    if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
        return Some("this machine has no IPv6");
    }
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => Some("this machine has no such address"),
        io::ErrorKind::PermissionDenied => {
            Some("this user may not use that port; ports from 1024 on are free to all")
        }
        _ => None,
    }
}

fn serve_options(settings: &Settings) -> Result<ServeOptions, CliError> {
    let addr = settings
        .parsed::<HttpAddr>("http")
        .map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)), |addr| addr.0);
    let tls = match (settings.get("tls.cert"), settings.get("tls.key")) {
        (Some(cert), Some(key)) => Tls::Files { cert: cert.into(), key: key.into() },
        (None, None) if settings.is_on("tls.self.signed") => Tls::SelfSigned,
        (None, None) => Tls::Off,
        (cert, _) => {
            let (given, missing) =
                if cert.is_some() { ("tls.cert", "tls.key") } else { ("tls.key", "tls.cert") };
            let error = settings.bad_value(given, format!("{missing} is not set"));
            return Err(CliError::from(error).hint("set both, or use tls.self.signed"));
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
    options.check().map_err(|error| {
        let error = CliError::from(error);
        CliError::from(settings.bad_value(key, error.message)).hint(error.hint)
    })?;
    Ok(options)
}
