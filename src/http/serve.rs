//! Serves any [`Router`] over HTTP/1.1: sockets, TLS, timeouts and a limit on connections. Knows no routes.
//!
//! A connection that waits (for a request, or while its client is not authenticated) costs little, and their number is
//! limited: one more ends the connection that has waited longest. Thousands of slow clients thus lock nobody out.

mod connections;
mod drain;
mod reset;
mod tls;

use std::{
    convert::Infallible,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

pub(super) use self::connections::ClientConnection;
pub use self::tls::CertificateWarning;
use self::{
    connections::{Connection, Connections},
    drain::DrainOnDrop,
    reset::Reset,
};
use crate::node::{
    Node,
    error::{ErrorCode, NodeError, Reason},
};

/// Maximum number of headers in a request.
const MAX_HEADERS: usize = 100;
/// Maximum size of a request's headers.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Maximum size of one read from a socket.
const MAX_READ_BYTES: usize = 64 << 10;
/// Time limit for the headers of a request, and for the pause between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for responses in progress when the node stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client may read nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause when the process has run out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The certificate that a server shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tls {
    /// No TLS.
    #[default]
    Off,
    /// A certificate chain and its key, in PEM.
    Files {
        /// The chain, the node's own certificate first.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// A self-signed certificate, made by the node and kept in its data directory.
    SelfSigned,
}

/// Options of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The address to listen on. Port 0 takes a free port.
    pub addr: SocketAddr,
    /// Whether to serve over TLS.
    pub tls: Tls,
    /// Names in a self-signed certificate, besides `localhost` and the address.
    pub tls_names: Vec<String>,
    /// Allow an address that other machines can reach without TLS.
    pub insecure: bool,
    /// Maximum number of connections.
    pub max_connections: usize,
}

impl ServeOptions {
    /// Plain HTTP on `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, tls: Tls::Off, tls_names: Vec::new(), insecure: false, max_connections: 1024 }
    }

    /// Checks these options without opening a socket.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for an address that other machines can reach without TLS (unless `insecure`), and for
    /// certificate files that cannot be used.
    pub fn check(&self) -> Result<(), NodeError> {
        if !self.addr.ip().is_loopback() && self.tls == Tls::Off && !self.insecure {
            let message = format!(
                "{} is reachable from other machines, and the API would be served without TLS",
                self.addr
            );
            return Err(NodeError::new(ErrorCode::BadRequest, message).reason(Reason::TlsRequired));
        }
        match &self.tls {
            Tls::Files { cert, key } => tls::check_files(cert, key),
            Tls::Off | Tls::SelfSigned => Ok(()),
        }
    }

    /// Returns what is wrong with the dates of the certificate. `None`: nothing, or there is no certificate yet.
    pub fn certificate_warning(&self, data_dir: &Path) -> Option<CertificateWarning> {
        tls::warning(self, data_dir)
    }
}

/// A running server.
#[derive(Debug, Clone)]
pub struct Served {
    /// The address it listens on.
    pub addr: SocketAddr,
    /// The SHA-256 of its certificate. `None` without TLS.
    pub fingerprint: Option<String>,
    reload: Arc<Notify>,
}

impl Served {
    /// The URL of this server, for a browser on this machine.
    pub fn url(&self) -> String {
        url(self.addr, self.fingerprint.is_some())
    }

    /// Reads the files of the certificate again at once. They are read now and then anyway.
    pub fn reload_certificate(&self) {
        self.reload.notify_one();
    }
}

/// The URL of a server, for a browser on this machine: an address that means all addresses cannot be opened.
pub fn url(mut addr: SocketAddr, tls: bool) -> String {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("{}://{addr}", if tls { "https" } else { "http" })
}

/// Serves `router` until `node` stops. Handlers find a `ClientConnection` in the extensions of each request.
///
/// # Errors
/// Those of [`ServeOptions::check`]; others if the address cannot be bound or the certificate cannot be made.
pub async fn serve(node: &Node, router: Router, options: &ServeOptions) -> Result<Served, NodeError> {
    options.check()?;
    let tls = tls::load(options, node.data_dir())?;
    let listener = bind(options.addr).await?;
    let addr = listener.local_addr().map_err(|e| NodeError::io("read the bound address", &e))?;
    let limit = options.max_connections.min(share_of_descriptors());
    if limit < options.max_connections {
        tracing::warn!(
            "http.connections is limited to {limit}: this process may open too few files (see `ulimit -n`)"
        );
    }
    let connections = Connections::new(limit, tls.is_some(), options.addr.ip().is_loopback());
    let (acceptor, fingerprint, reload) = match tls {
        Some(loaded) => {
            tls::warn(options, node.data_dir());
            let (acceptor, fingerprint) = (loaded.acceptor.clone(), loaded.fingerprint.clone());
            let (reload, stop) = (Arc::<Notify>::default(), node.stopping());
            let watch = loaded.watch(options.clone(), Arc::clone(&reload));
            node.spawn(async move {
                stop.run_until_cancelled(watch).await;
            });
            (Some(acceptor), Some(fingerprint), reload)
        }
        None => (None, None, Arc::default()),
    };
    node.spawn(accept(node.clone(), listener, router, acceptor, Arc::new(connections)));
    Ok(Served { addr, fingerprint, reload })
}

/// A quarter of the files that this process may open: the store and the swarm need the rest.
fn share_of_descriptors() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    files.map_or(usize::MAX, |files| (files / 4).max(1))
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(addr).await.map_err(|e| {
        let reason = match e.kind() {
            ErrorKind::AddrInUse => Reason::PortInUse,
            ErrorKind::PermissionDenied => Reason::PortDenied,
            _ => Reason::AddressUnavailable,
        };
        let message = format!("cannot serve HTTP on {addr}: {e}");
        NodeError::new(ErrorCode::of_io(&e), message).reason(reason)
    })
}

/// Accepts connections until the node stops.
async fn accept(
    node: Node,
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    connections: Arc<Connections>,
) {
    let stop = node.stopping();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((socket, _)) = accepted else {
            // The process has no file descriptor left.
            connections.end_longest_waiting();
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if let Some(connection) = connections.open() {
            node.spawn(serve_connection(node.clone(), socket, router.clone(), tls.clone(), connection));
        }
    }
}

async fn serve_connection(
    node: Node,
    socket: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    connection: Arc<Connection>,
) {
    // Head and body of a response are two writes: with Nagle's algorithm the body would wait 40 ms for an acknowledgement.
    drop(socket.set_nodelay(true));
    let ended = connection.ended();
    let serving = async {
        match tls {
            None => serve_requests(&node, limited(socket, WRITE_TIMEOUT), router, connection).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)).await {
                    serve_requests(&node, limited(stream, WRITE_TIMEOUT), router, connection).await;
                }
            }
        }
    };
    ended.run_until_cancelled(serving).await;
}

/// Makes writes fail when the other side reads nothing for some time.
fn limited<S: AsyncRead + AsyncWrite>(stream: S, timeout: Duration) -> Pin<Box<TimeoutWriter<S>>> {
    let mut limited = TimeoutWriter::new(stream);
    limited.set_timeout(Some(timeout));
    Box::pin(limited)
}

async fn serve_requests(
    node: &Node,
    stream: Pin<Box<TimeoutWriter<impl AsyncRead + AsyncWrite + Reset>>>,
    router: Router,
    connection: Arc<Connection>,
) {
    let stop = node.stopping();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (router, client, stop) = (router.clone(), ClientConnection::new(&connection), stop.clone());
        async move {
            let mut request =
                request.map(|body| Body::new(DrainOnDrop::new(Body::new(body), client.clone(), stop)));
            request.extensions_mut().insert(client.clone());
            let response = router.oneshot(request).await?;
            // Keeps `client`, and so the connection, until the last frame has been sent.
            Ok::<_, Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _ = &client;
                    frame
                })
            }))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_READ_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let stop = node.stopping();
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = stop.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut connection).await.ok()
        }
    };
    if let Some(Err(e)) = &ended {
        tracing::debug!("HTTP connection ended: {e}");
    }
    // If the length of a response is unknown, closing the connection would mark its end. After these errors no response had
    // begun, or it was sent.
    let broke_off = match &ended {
        None => true,
        Some(Ok(())) => false,
        Some(Err(e)) => !(e.is_parse() || e.is_timeout() || e.is_incomplete_message()),
    };
    if broke_off {
        connection.into_parts().io.into_inner().get_ref().reset();
    }
}
