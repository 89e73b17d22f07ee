//! The HTTP door: parse, call [`Node`], answer. DESIGN 6 fixes the contract.
//!
//! ```text
//! request ─ request id ─ Host check ─ bearer token ─ handler ─▶ Node
//!                                                      └ error ─▶ application/problem+json
//! ```
//! The command line is a client of this API and of nothing else: over TCP where a node runs, or by calling the
//! [`Router`] directly where it has started one itself.

mod auth;
mod content;
mod files;
mod observe;
mod problem;
mod ui;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router, middleware,
    routing::{get, post},
    serve::ListenerExt,
};
use tokio::net::TcpListener;

pub use auth::{TOKEN_FILE, load_or_create_token};
use problem::Failures;

use crate::node::{
    Node,
    error::{ErrorCode, NodeError},
};

/// Name of the header that carries a file's read key (base64url), so that it is never part of a URL.
pub const KEY_HEADER: &str = "storgo-key";
/// Name of the header that says after how many seconds without progress a read gives up.
pub const TIMEOUT_HEADER: &str = "storgo-timeout";
/// Name of the header that says whether content is a `file` or a `dir` (as tar).
pub const KIND_HEADER: &str = "storgo-kind";
/// Name of the header that carries a request's id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// What every handler can reach.
#[derive(Clone)]
struct Door {
    node: Node,
    token: Arc<str>,
    failures: Arc<Failures>,
}

/// The API of `node`, as a service that can be called without any socket. `token` is what callers must show.
pub fn router(node: Node, token: &str) -> Router {
    let door = Door { node, token: token.into(), failures: Arc::default() };
    let api = Router::new()
        .route("/files", post(files::put).get(files::list))
        .route("/files/{reference}", get(files::info).delete(files::remove))
        .route("/files/{reference}/content", get(content::read))
        .route("/files/{reference}/placement", get(files::placement))
        .route("/files/{reference}/verify", post(files::verify))
        .route("/links/open", post(files::open_link))
        .route("/blocks/{cid}", get(content::block))
        .route("/verify", post(observe::verify))
        .route("/gc", post(observe::gc))
        .route("/peers", get(observe::peers).post(observe::connect))
        .route("/status", get(observe::status))
        .route("/events", get(observe::events))
        .route("/errors/{id}", get(problem::recall))
        .method_not_allowed_fallback(problem::wrong_method)
        .fallback(problem::no_such_path)
        .layer(middleware::from_fn_with_state(door.clone(), auth::require_token));
    Router::new()
        .nest("/api/v1", api)
        .merge(ui::routes())
        .route("/livez", get(observe::livez))
        .route("/readyz", get(observe::readyz))
        .method_not_allowed_fallback(problem::wrong_method)
        .fallback(problem::no_such_path)
        .layer(middleware::from_fn(auth::check_host))
        .layer(middleware::from_fn(problem::tag))
        .with_state(door)
}

/// Serves the API of `node` on `addr` until the node shuts down, and notes the address where the command line
/// looks for it. Port 0 takes a free one; the answer is the address that was bound.
///
/// # Errors
/// [`ErrorCode::BadRequest`] for an address that is not loopback (that comes with TLS), [`ErrorCode::Other`] where
/// the port is taken or the token file cannot be read.
pub async fn serve(node: &Node, addr: SocketAddr) -> Result<SocketAddr, NodeError> {
    if !addr.ip().is_loopback() {
        return Err(NodeError::new(ErrorCode::BadRequest, format!("{addr} is not a loopback address"))
            .hint("the API speaks plain HTTP: bind it to 127.0.0.1 and put a TLS proxy in front"));
    }
    let token = load_or_create_token(node.data_dir())?;
    let listener = TcpListener::bind(addr).await.map_err(|e| {
        NodeError::new(ErrorCode::Other, format!("cannot serve HTTP on {addr}: {e}"))
            .hint("choose another address with `--http HOST:PORT`")
    })?;
    let bound = listener
        .local_addr()
        .map_err(|e| NodeError::new(ErrorCode::Other, format!("cannot read the bound address: {e}")))?;
    let app = router(node.clone(), &token);
    node.set_http(bound)?;
    // Head and body of an answer are two writes: held back for the head's acknowledgement, the body comes 40 ms late.
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let stop = node.stopping();
    node.spawn(async move {
        let serving =
            axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(e) = serving.await {
            tracing::error!("the HTTP server ended: {e}");
        }
    });
    Ok(bound)
}
