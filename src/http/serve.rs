//! Sockets: where the API listens, over TLS or not, and what a caller may cost.
//!
//! A connection that waits (for its header, between two requests, or with a request of nobody who is known) costs
//! little, and there are at most so many: a new one beyond that ends the one that has waited longest. Thousands of slow
//! callers thus keep nobody else out.

mod connections;
mod refusal;
mod rest;
mod steady;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Extension, Router, body::Body, extract::Request};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

pub(super) use self::connections::Presence;
use self::{
    connections::{Connections, Slot},
    refusal::{Refusing, Turn},
    rest::Rest,
    steady::Steady,
};
use super::{Door, DoorOptions, Secure, routes, uploads::overridden};
use crate::node::{
    HttpDoor, Node,
    error::{ErrorCode, NodeError},
};

/// Headers of a request at most.
const MAX_HEADERS: usize = 100;
/// Bytes of a request's header at most, and bytes read at a time.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// How long a connection may take for a request's header, or wait for the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long answers under way may take when the node stops.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where the system gives no more sockets.
const NO_SOCKETS: Duration = Duration::from_millis(50);

/// Whose certificate is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tls {
    /// No TLS.
    #[default]
    Off,
    /// A certificate chain and its key, in PEM.
    Files {
        /// The chain, the node's own certificate first.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// One that the node makes, and keeps in its data directory.
    SelfSigned,
}

/// How the API is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen. Port 0 takes a free one.
    pub addr: SocketAddr,
    /// Whether over TLS.
    pub tls: Tls,
    /// Serve without TLS beyond this machine.
    pub insecure: bool,
    /// Connections at most.
    pub connections: usize,
    /// What the API knows beside its node.
    pub door: DoorOptions,
}

impl ServeOptions {
    /// Plain HTTP at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, tls: Tls::Off, insecure: false, connections: 1024, door: DoorOptions::default() }
    }

    /// Whether [`serve`] can do with these options, as far as that is known without a socket.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for an address that others can reach without TLS (unless `insecure`) and for
    /// certificate files that cannot be used.
    pub fn check(&self) -> Result<(), NodeError> {
        if !self.addr.ip().is_loopback() && self.tls == Tls::Off && !self.insecure {
            let message =
                format!("{} can be reached by others, and without TLS they can read along", self.addr);
            return Err(NodeError::new(ErrorCode::BadRequest, message).hint(
                "add --tls-self-signed, or --tls-cert and --tls-key; --http-insecure where a proxy in front does TLS",
            ));
        }
        match &self.tls {
            Tls::Files { cert, key } => tls::files(cert, key).map(drop),
            Tls::Off | Tls::SelfSigned => Ok(()),
        }
    }
}

/// A door that is open.
pub struct Served {
    /// Where it listens.
    pub addr: SocketAddr,
    /// SHA-256 of its certificate, where it serves TLS.
    pub fingerprint: Option<String>,
    door: Door,
}

impl Served {
    /// The page's address.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.fingerprint.is_some() { "https" } else { "http" }, self.addr)
    }

    /// A new link that signs a browser in, once.
    pub fn sign_in_link(&self) -> Option<String> {
        self.door.sign_in_link(None).map(|link| link.url)
    }
}

/// Serves the API of `node` until the node shuts down, and notes the address where the command line looks for it.
///
/// The command line calls without TLS, on loopback: beside a door that is not plain loopback, a second one is opened
/// for it.
///
/// # Errors
/// [`ErrorCode::BadRequest`] for an address that others can reach without TLS (unless `insecure`) and for a certificate
/// that cannot be used, [`ErrorCode::Other`] where the port is taken or the token file cannot be read.
pub async fn serve(node: &Node, options: ServeOptions) -> Result<Served, NodeError> {
    let loopback = options.addr.ip().is_loopback();
    options.check()?;
    let tls = tls::load(&options, node.data_dir())?;
    let listener = bind(options.addr).await?;
    let addr = local_addr(&listener)?;
    let door = Door::new(node.clone(), options.door, !loopback).await?;
    door.uploads.start();
    let app = routes(door.clone());
    let limit = options.connections.min(share_of_descriptors());
    if limit < options.connections {
        tracing::warn!(
            "http.connections is {limit} here: the system gives this process no more files (ulimit -n)"
        );
    }
    let connections = Arc::new(Connections::new(limit));
    let (acceptor, fingerprint) = tls.map_or((None, None), |tls| (Some(tls.acceptor), Some(tls.fingerprint)));
    let commands = if loopback && acceptor.is_none() {
        addr
    } else {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let addr = local_addr(&listener)?;
        let own = Arc::new(Connections::new(limit));
        let app = app.clone().layer(Extension(Secure(false)));
        node.spawn(accept(node.clone(), listener, app, None, own));
        addr
    };
    node.set_http(HttpDoor { addr, tls: acceptor.is_some() }, commands)?;
    let app = app.layer(Extension(Secure(acceptor.is_some())));
    node.spawn(accept(node.clone(), listener, app, acceptor, connections));
    Ok(Served { addr, fingerprint, door })
}

/// A quarter of the files that this process may have open: the store and the peers need the others.
fn share_of_descriptors() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    files.map_or(usize::MAX, |files| (files / 4).max(1))
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(addr).await.map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: 0.0.0.0 stands for all it has"
            }
            std::io::ErrorKind::PermissionDenied => {
                "this user may not serve at that port: choose one from 1024 on"
            }
            _ => "choose another address with `--http HOST:PORT`",
        };
        NodeError::new(ErrorCode::of_io(&e), format!("cannot serve HTTP on {addr}: {e}")).hint(hint)
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, NodeError> {
    let fail = |e| NodeError::new(ErrorCode::Other, format!("cannot read the bound address: {e}"));
    listener.local_addr().map_err(fail)
}

/// Takes connections until the node stops.
async fn accept(
    node: Node,
    listener: TcpListener,
    app: Router,
    tls: Option<TlsAcceptor>,
    connections: Arc<Connections>,
) {
    let stop = node.stopping();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((socket, _)) = accepted else {
            // The process has no descriptor left: one that waits gives its own, then the next one is taken.
            connections.end_one();
            tokio::time::sleep(NO_SOCKETS).await;
            continue;
        };
        if let Some(slot) = connections.enter() {
            node.spawn(serve_one(node.clone(), socket, app.clone(), tls.clone(), slot));
        }
    }
}

async fn serve_one(node: Node, socket: TcpStream, app: Router, tls: Option<TlsAcceptor>, slot: Arc<Slot>) {
    // Head and body of an answer are two writes: held back for the head's acknowledgement, the body comes 40 ms late.
    drop(socket.set_nodelay(true));
    let ended = slot.ended();
    let serving = async {
        match tls {
            None => talk(&node, Steady::new(socket), app, slot).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)).await {
                    talk(&node, Steady::new(stream), app, slot).await;
                }
            }
        }
    };
    ended.run_until_cancelled(serving).await;
}

/// Answers the requests of one connection.
async fn talk(
    node: &Node,
    stream: Steady<impl AsyncRead + AsyncWrite + Unpin>,
    app: Router,
    slot: Arc<Slot>,
) {
    let turn = Arc::<Turn>::default();
    let stream = Refusing::new(stream, Arc::clone(&turn));
    let stop = node.stopping();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (app, presence) = (app.clone(), (Presence::of(&slot), turn.begin()));
        let stop = stop.clone();
        async move {
            let rest = |body| Body::new(Rest::new(body, presence.0.known(), stop));
            let mut request = overridden(request.map(rest));
            request.extensions_mut().insert(presence.0.clone());
            let response = app.oneshot(request).await?;
            // The connection is busy until the last of its answer has gone out.
            Ok::<_, std::convert::Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _ = &presence;
                    frame
                })
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let stop = node.stopping();
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Somebody who reads nothing does not keep the node.
            match tokio::time::timeout(LAST_WORDS, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!("an HTTP connection ended: {e}");
    }
}
