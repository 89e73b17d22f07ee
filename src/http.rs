//! The HTTP door: parse, call [`Node`], answer. DESIGN 6 fixes the contract.
//!
//! ```text
//! socket ─ serve (limits, TLS) ─ request id ─ Host check ─ auth (token or session, scope) ─ handler ─▶ Node
//!                                                                                └ error ─▶ application/problem+json
//! ```
//! The command line is a client of this API and of nothing else: over TCP where a node runs, or by calling the
//! [`Router`] directly where it has started one itself. Every route is declared with its handler's `utoipa::path`, so
//! that the document at `/api/openapi.json` says what is there (`openapi`).

mod access;
mod auth;
mod content;
mod docs_page;
mod extract;
mod feed;
mod files;
mod legacy;
mod metrics;
mod observe;
mod openapi;
mod problem;
mod serve;
mod store;
mod ui;
mod uploads;

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, extract::DefaultBodyLimit, middleware};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use access::SignInLink;
use auth::{Access, host::Hosts};
pub use auth::{Scope, TOKEN_FILE, TokenInfo, load_or_create_token};
use feed::Feed;
use metrics::Counted;
pub use observe::SettingInfo;
use problem::Failures;
pub use serve::{ServeOptions, Served, Tls, serve};
use uploads::Uploads;

use crate::node::{Node, error::NodeError};

/// Name of the header that carries a file's read key (base64url), so that it is never part of a URL.
pub const KEY_HEADER: &str = "storgo-key";
/// Name of the header that says after how many seconds without progress a read gives up.
pub const TIMEOUT_HEADER: &str = "storgo-timeout";
/// Name of the header that says whether content is a `file` or a `dir` (as tar).
pub const KIND_HEADER: &str = "storgo-kind";
/// Name of the header that says when content was modified, in seconds since 1970.
pub const MTIME_HEADER: &str = "storgo-mtime";
/// Name of the header that carries the Unix permission bits of content, in octal digits.
pub const MODE_HEADER: &str = "storgo-mode";
/// Name of the header that carries a request's id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Longest JSON body, in bytes.
const MAX_JSON: usize = 64 << 10;
/// How long a JSON body may take.
const JSON_TIME: Duration = Duration::from_secs(10);
/// How long a caller may take nothing while it should, and how long it may take to send [`PACE`] bytes.
const STALL: Duration = Duration::from_secs(60);
/// Bytes that a caller who stores something sends in [`STALL`] at least.
const PACE: usize = 16 << 10;

/// What the API knows beside its node.
#[derive(Debug, Clone)]
pub struct DoorOptions {
    /// Names that the node is called by, beside `localhost`.
    pub hosts: Vec<String>,
    /// The settings in force, for `GET /settings`.
    pub settings: Vec<SettingInfo>,
    /// How long an upload is kept to which nothing is added.
    pub uploads_keep: Duration,
}

impl Default for DoorOptions {
    fn default() -> Self {
        let week = Duration::from_secs(7 * 24 * 60 * 60);
        Self { hosts: Vec::new(), settings: Vec::new(), uploads_keep: week }
    }
}

/// What every handler can reach.
#[derive(Clone)]
struct Door {
    node: Node,
    access: Arc<Access>,
    hosts: Arc<Hosts>,
    settings: Arc<[SettingInfo]>,
    failures: Arc<Failures>,
    feed: Arc<Feed>,
    uploads: Arc<Uploads>,
    counted: Arc<Counted>,
    /// Held while everything is checked.
    checking: Arc<tokio::sync::Mutex<()>>,
}

/// Whether a request came over TLS.
#[derive(Debug, Clone, Copy)]
struct Secure(bool);

impl Door {
    async fn new(node: Node, options: DoorOptions, any_address: bool) -> Result<Self, NodeError> {
        let names = options.hosts.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self {
            access: Arc::new(Access::load(&node).await?),
            hosts: Arc::new(Hosts { names, any_address }),
            settings: options.settings.into(),
            failures: Arc::default(),
            feed: Feed::start(&node),
            uploads: Uploads::load(&node, options.uploads_keep)?,
            counted: Arc::default(),
            checking: Arc::default(),
            node,
        })
    }

    /// A new one-time sign-in link, made by the node itself or by a caller; none where no page is served.
    fn sign_in_link(&self, maker: Option<&auth::Caller>) -> Option<SignInLink> {
        let door = self.node.http()?;
        let scheme = if door.tls { "https" } else { "http" };
        let port = door.addr.port();
        let host = match self.hosts.names.first() {
            _ if door.addr.ip().is_loopback() => door.addr.to_string(),
            Some(name) => format!("{name}:{port}"),
            None if door.addr.ip().is_unspecified() => format!("127.0.0.1:{port}"),
            None => door.addr.to_string(),
        };
        Some(SignInLink {
            url: format!("{scheme}://{host}/#signin={}", self.access.sessions.new_code(maker)),
        })
    }
}

/// The API of `node`, as a service that can be called without any socket.
///
/// # Errors
/// Those of the store, which keeps the tokens.
pub async fn router(node: Node, options: DoorOptions) -> Result<Router, NodeError> {
    let door = Door::new(node, options, false).await?;
    Ok(routes(door).layer(Extension(Secure(false))))
}

/// Every route, and what stands before it.
fn routes(door: Door) -> Router {
    let read = OpenApiRouter::new()
        .routes(routes!(files::list))
        .routes(routes!(files::info))
        .routes(routes!(content::read))
        .routes(routes!(files::blocks))
        .routes(routes!(files::entries))
        .routes(routes!(files::health))
        .routes(routes!(files::placement))
        .routes(routes!(observe::qr))
        .routes(routes!(content::block))
        .routes(routes!(observe::peers))
        .routes(routes!(observe::status))
        .routes(routes!(feed::events))
        .routes(routes!(uploads::discover, uploads::list))
        .routes(routes!(uploads::one))
        .routes(routes!(problem::recall));
    let unlimited = OpenApiRouter::new().routes(routes!(store::put)).layer(DefaultBodyLimit::disable());
    let write = OpenApiRouter::new()
        .routes(routes!(uploads::create))
        .routes(routes!(uploads::offset, uploads::patch, uploads::terminate))
        .layer(middleware::from_fn(uploads::speak))
        .merge(unlimited)
        .routes(routes!(files::remove))
        .routes(routes!(files::verify))
        .routes(routes!(files::repair))
        .routes(routes!(files::open_link))
        .routes(routes!(observe::verify))
        .routes(routes!(observe::repair))
        .routes(routes!(observe::gc))
        .route_layer(middleware::from_fn(auth::need_write));
    let admin = OpenApiRouter::new()
        .routes(routes!(observe::connect))
        .routes(routes!(observe::settings))
        .routes(routes!(observe::invite))
        .routes(routes!(access::new_link))
        .routes(routes!(access::tokens, access::create_token))
        .routes(routes!(access::revoke_token))
        .route_layer(middleware::from_fn(auth::need_admin));
    let api = read
        .merge(write)
        .merge(admin)
        .fallback(problem::no_such_path)
        .layer(middleware::from_fn_with_state(door.clone(), auth::authenticate));
    let looking = OpenApiRouter::new()
        .routes(routes!(legacy::get))
        .routes(routes!(legacy::list))
        .routes(routes!(metrics::metrics));
    let legacy = OpenApiRouter::new()
        .routes(routes!(legacy::store))
        .layer(DefaultBodyLimit::disable())
        .routes(routes!(legacy::delete))
        .route_layer(middleware::from_fn(auth::need_write))
        .merge(looking)
        .layer(middleware::from_fn_with_state(door.clone(), auth::authenticate));
    let session = OpenApiRouter::new().routes(routes!(access::sign_in, access::session, access::sign_out));
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::Api::openapi())
        .nest("/api/v1", api.merge(session))
        .merge(legacy)
        .routes(routes!(observe::livez))
        .routes(routes!(observe::readyz))
        .routes(routes!(openapi::document))
        .routes(routes!(docs_page::page))
        .routes(routes!(docs_page::script))
        .routes(routes!(docs_page::style))
        .split_for_parts();
    openapi::finish(&mut document, &door.access.sessions.cookie(false));
    let document = openapi::Document(document.to_json().unwrap_or_default().into());
    router
        .merge(ui::routes())
        .method_not_allowed_fallback(problem::wrong_method)
        .fallback(problem::no_such_path)
        .layer(Extension(document))
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(middleware::from_fn_with_state(door.clone(), auth::host::check))
        .layer(middleware::from_fn(problem::tag))
        .layer(middleware::from_fn_with_state(door.clone(), metrics::count))
        .with_state(door)
}
