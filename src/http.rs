//! The HTTP API: parses requests, calls [`Node`], and responds. `docs/api.md` describes it.
//!
//! ```text
//! socket ─ serve (limits, TLS) ─ base path ─ request id ─ Host ─ auth (token or session, scope) ─ handler ─▶ Node
//!                                                                                           └ error ─▶ application/problem+json
//! ```
//! The command line is a client of this API: over TCP if a node runs, else by calling the [`Router`] directly.
//!
//! From top to bottom:
//! - this file: routes, and the state of the handlers (`ApiState`); a handler takes only the parts that it needs;
//! - handlers by path: `files`, `content`, `put`, `uploads`, `access`, `operations`, `event_log`, `metrics`, `diststore`;
//!   `openapi`, `docs_page` and `ui` describe the API and serve the page;
//! - `auth` and `serve` know no routes: [`serve()`] gives the router of another door the same limits and TLS;
//! - `extract`, `body`, `form`, `etag`, `request_id`, `problem`: requests in, errors out.
//!
//! Every route is declared with the `utoipa::path` of its handler, so `/api/openapi.json` lists all of them.

mod access;
mod auth;
mod base_path;
mod body;
mod clock;
mod content;
mod diststore;
mod docs_page;
mod etag;
mod event_log;
mod extract;
mod files;
mod form;
mod headers;
mod metrics;
mod openapi;
mod operations;
mod problem;
mod put;
mod request_id;
mod serve;
mod ui;
mod uploads;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
};
use tower::{Layer, util::MapRequestLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    access::SignInLink,
    auth::{Scope, TOKEN_FILE, TokenInfo, load_or_create_token},
    headers::*,
    operations::SettingInfo,
    serve::{CertificateWarning, ServeOptions, Served, Tls, serve, url},
};
use self::{
    auth::{Authenticator, host::HostNames},
    base_path::BasePath,
    content::ContentResponses,
    event_log::EventLog,
    metrics::ResponseCounts,
    operations::VerifyLock,
    request_id::BrokenResponses,
    uploads::UploadRegistry,
};
use crate::node::{HttpEndpoint, Node, error::NodeError};

/// Maximum size of a JSON body.
const MAX_JSON_BYTES: usize = 64 << 10;

/// Options of the API.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Names of this node besides `localhost`: other values of `Host` are refused.
    pub hosts: Vec<String>,
    /// The path under which a reverse proxy serves this API, such as `/storgo`; empty for the top.
    pub base_path: String,
    /// The settings that `GET /settings` returns.
    pub settings: Vec<SettingInfo>,
    /// How long an upload is kept without new bytes.
    pub uploads_keep: Duration,
}

impl Default for ApiOptions {
    fn default() -> Self {
        let week = Duration::from_secs(7 * 24 * 60 * 60);
        Self { hosts: Vec::new(), base_path: String::new(), settings: Vec::new(), uploads_keep: week }
    }
}

/// The state of the handlers, which take parts of it.
#[derive(Clone, FromRef)]
struct ApiState {
    node: Node,
    auth: Arc<Authenticator>,
    host_names: Arc<HostNames>,
    base_path: BasePath,
    settings: Arc<[SettingInfo]>,
    broken_responses: Arc<BrokenResponses>,
    events: Arc<EventLog>,
    uploads: Arc<UploadRegistry>,
    response_counts: Arc<ResponseCounts>,
    verify_lock: VerifyLock,
}

impl FromRef<ApiState> for ContentResponses {
    fn from_ref(state: &ApiState) -> Self {
        Self { events: state.events.clone(), broken: state.broken_responses.clone() }
    }
}

/// The API of one node.
#[derive(Clone)]
pub struct Api(ApiState);

impl Api {
    /// Loads what the API keeps besides its node: tokens and unfinished uploads.
    ///
    /// # Errors
    /// Those of the store and of the data directory.
    pub async fn new(node: Node, options: ApiOptions) -> Result<Self, NodeError> {
        let names = options.hosts.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self(ApiState {
            auth: Arc::new(Authenticator::load(&node).await?),
            host_names: Arc::new(HostNames(names)),
            base_path: BasePath(options.base_path.into()),
            settings: options.settings.into(),
            broken_responses: Arc::default(),
            events: EventLog::start(&node),
            uploads: UploadRegistry::load(&node, options.uploads_keep)?,
            response_counts: Arc::default(),
            verify_lock: VerifyLock::default(),
            node,
        }))
    }

    /// The API as a service that needs no socket.
    pub fn router(&self) -> Router {
        let routes = MapRequestLayer::new(uploads::override_method).layer(routes(&self.0));
        let strip = middleware::from_fn_with_state(self.0.base_path.clone(), base_path::strip);
        Router::new().fallback_service(strip.layer(routes))
    }

    /// Serves the API until the node stops, and records the address for the command line. The command line calls without
    /// TLS on loopback: if `options` differ from that, a second server is started for it.
    ///
    /// # Errors
    /// Those of [`serve()`].
    pub async fn serve(&self, options: &ServeOptions) -> Result<Served, NodeError> {
        let node = &self.0.node;
        let served = serve(node, self.router(), options).await?;
        let tls = served.fingerprint.is_some();
        let commands = if options.addr.ip().is_loopback() && !tls {
            served.addr
        } else {
            let loopback =
                ServeOptions { max_connections: options.max_connections, ..ServeOptions::new(LOOPBACK) };
            serve(node, self.router(), &loopback).await?.addr
        };
        node.set_http(HttpEndpoint { addr: served.addr, tls }, commands)?;
        self.0.uploads.start();
        Ok(served)
    }

    /// Makes a link that signs a browser in once. `None` if the API is not served.
    pub fn sign_in_link(&self) -> Option<String> {
        access::sign_in_link(&self.0.node, &self.0.host_names, &self.0.auth, None)
    }
}

/// A free port that only this machine can reach.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// All routes, with the middleware before them.
fn routes(state: &ApiState) -> Router {
    let authenticate = || middleware::from_fn_with_state(state.clone(), auth::authenticate);
    let require = |scope: Scope| middleware::from_fn_with_state(scope, auth::require);
    let read = OpenApiRouter::new()
        .routes(routes!(files::list))
        .routes(routes!(files::info))
        .routes(routes!(content::read))
        .routes(routes!(files::blocks))
        .routes(routes!(files::entries))
        .routes(routes!(files::health))
        .routes(routes!(files::placement))
        .routes(routes!(operations::qr))
        .routes(routes!(content::block))
        .routes(routes!(operations::peers))
        .routes(routes!(operations::status))
        .routes(routes!(event_log::events))
        .routes(routes!(uploads::discover, uploads::list))
        .routes(routes!(uploads::one))
        .routes(routes!(request_id::error));
    let unlimited = OpenApiRouter::new().routes(routes!(put::put)).layer(DefaultBodyLimit::disable());
    let write = OpenApiRouter::new()
        .routes(routes!(uploads::create))
        .routes(routes!(uploads::offset, uploads::patch, uploads::terminate))
        .layer(middleware::from_fn(uploads::check_version))
        .merge(unlimited)
        .routes(routes!(files::remove))
        .routes(routes!(files::verify))
        .routes(routes!(files::keep))
        .routes(routes!(files::repair))
        .routes(routes!(files::open_link))
        .routes(routes!(operations::verify))
        .routes(routes!(operations::repair))
        .routes(routes!(operations::gc))
        .route_layer(require(Scope::Write));
    let admin = OpenApiRouter::new()
        .routes(routes!(operations::connect))
        .routes(routes!(operations::known_addrs))
        .routes(routes!(operations::settings))
        .routes(routes!(operations::invite))
        .routes(routes!(access::create_link))
        .routes(routes!(access::tokens, access::create_token))
        .routes(routes!(access::revoke_token))
        .route_layer(require(Scope::Admin));
    let api = read.merge(write).merge(admin).fallback(problem::no_such_path).layer(authenticate());
    let session = OpenApiRouter::new().routes(routes!(access::sign_in, access::session, access::sign_out));
    let compatible_read = OpenApiRouter::new()
        .routes(routes!(diststore::get))
        .routes(routes!(diststore::list))
        .routes(routes!(metrics::metrics));
    let compatible = OpenApiRouter::new()
        .routes(routes!(diststore::store))
        .layer(DefaultBodyLimit::disable())
        .routes(routes!(diststore::delete))
        .route_layer(require(Scope::Write))
        .merge(compatible_read)
        .layer(authenticate());
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::Api::openapi())
        .nest("/api/v1", api.merge(session))
        .merge(compatible)
        .routes(routes!(operations::livez))
        .routes(routes!(operations::readyz))
        .routes(routes!(openapi::document))
        .routes(routes!(docs_page::page))
        .routes(routes!(docs_page::script))
        .routes(routes!(docs_page::style))
        .split_for_parts();
    openapi::finish(&mut document, &state.auth.sessions.cookie_name(false), &state.base_path);
    let document = openapi::Document(document.to_json().unwrap_or_default().into());
    router
        .merge(ui::routes())
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::no_such_path)
        .layer(axum::Extension(document))
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(middleware::from_fn(body::refuse_encoding))
        .layer(middleware::from_fn_with_state(state.clone(), auth::host::check))
        .layer(middleware::from_fn(request_id::add))
        .layer(middleware::from_fn_with_state(state.clone(), metrics::count))
        .with_state(state.clone())
}
