//! Peers, status, settings, and maintenance of the whole node.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};

use super::{
    extract::{JsonBody, QueryParams, boolean},
    problem::Problem,
};
use crate::node::{
    Node,
    error::ErrorCode,
    report::{GcReport, PeerReport, RepairReport, Status, VerifyReport},
};

/// Lists the connected peers.
#[utoipa::path(get, path = "/peers", tag = "node", responses((status = 200, body = Vec<PeerReport>), (status = 502)))]
pub(super) async fn peers(State(node): State<Node>) -> Result<Json<Vec<PeerReport>>, Problem> {
    Ok(Json(node.peers().await?))
}

/// Lists addresses of peers of this network, connected or not, the most recently seen peers first.
#[utoipa::path(get, path = "/peers/known", tag = "node", responses((status = 200, body = Vec<String>)))]
pub(super) async fn known_addrs(State(node): State<Node>) -> Result<Json<Vec<Multiaddr>>, Problem> {
    Ok(Json(node.known_addrs().await?))
}

/// Time limit for a question to the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(1);
const ADDR_HINT: &str = "pass an address such as /ip4/192.0.2.7/tcp/3000";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectBody {
    /// The multiaddr of the peer.
    #[schema(example = "/ip4/192.0.2.7/tcp/3000", pattern = "^/.*/(tcp/|quic-v1|p2p-circuit)")]
    addr: String,
}

/// The peer that was connected.
#[derive(Serialize, ToSchema)]
pub(super) struct Connected {
    /// The peer id.
    peer: String,
}

/// Connects to a peer.
#[utoipa::path(post, path = "/peers", tag = "node", request_body = ConnectBody,
    responses((status = 200, body = Connected), (status = 413), (status = 415), (status = 502)))]
pub(super) async fn connect(
    State(node): State<Node>,
    JsonBody(body): JsonBody<ConnectBody>,
) -> Result<Json<Connected>, Problem> {
    // The parser's message would quote the text, which may be a link or an invite.
    let addr: Multiaddr = body.addr.trim().parse().map_err(|_| {
        Problem::bad_request("invalid value of field `addr`: expected a multiaddr", ADDR_HINT)
    })?;
    let dialable = |part| matches!(part, Protocol::Tcp(_) | Protocol::QuicV1 | Protocol::P2pCircuit);
    if !addr.iter().any(dialable) {
        let detail = "invalid value of field `addr`: the multiaddr names neither a tcp nor a quic-v1 port";
        return Err(Problem::bad_request(detail, ADDR_HINT));
    }
    Ok(Json(Connected { peer: node.connect(addr).await? }))
}

/// Describes this node: version, addresses, peers, files and storage.
#[utoipa::path(get, path = "/status", tag = "node", responses((status = 200, body = Status)))]
pub(super) async fn status(State(node): State<Node>) -> Result<Json<Status>, Problem> {
    Ok(Json(node.status().await?))
}

/// Reads and checks every block of this node. Damaged blocks are fetched from peers.
#[utoipa::path(post, path = "/verify", tag = "node",
    responses((status = 200, body = VerifyReport), (status = 409), (status = 502), (status = 504)))]
pub(super) async fn verify(
    State(node): State<Node>,
    State(lock): State<VerifyLock>,
) -> Result<Json<VerifyReport>, Problem> {
    let guard = lock.0.try_lock_owned().map_err(|_| {
        let hint = "try again when it has ended; it goes on even if its client has disconnected";
        Problem::new(StatusCode::CONFLICT, ErrorCode::Locked, "another verification is running", hint)
    })?;
    // A task of its own finishes even if the client disconnects.
    let verified = tokio::spawn(async move {
        let _guard = guard;
        node.verify(None).await
    });
    Ok(Json(verified.await??))
}

/// Held while all blocks are verified: one verification runs at a time.
#[derive(Clone, Default)]
pub(super) struct VerifyLock(Arc<Mutex<()>>);

/// Fetches the missing blocks of all kept files from peers.
#[utoipa::path(post, path = "/repair", tag = "node",
    responses((status = 200, body = RepairReport), (status = 502), (status = 507)))]
pub(super) async fn repair(State(node): State<Node>) -> Result<Json<RepairReport>, Problem> {
    Ok(Json(node.repair(None).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct GcQuery {
    /// Also delete blocks within their grace period, and what interrupted uploads have left.
    #[serde(default, deserialize_with = "boolean")]
    #[param(required = false)]
    now: bool,
    /// Also delete the cache: blocks that were only read.
    #[serde(default, deserialize_with = "boolean")]
    #[param(required = false)]
    cache: bool,
}

/// Deletes blocks that no file needs.
#[utoipa::path(post, path = "/gc", tag = "node", params(GcQuery), responses((status = 200, body = GcReport), (status = 422)))]
pub(super) async fn gc(
    State(node): State<Node>,
    QueryParams(query): QueryParams<GcQuery>,
) -> Result<Json<GcReport>, Problem> {
    let mut report = if query.now { node.purge().await? } else { node.collect().await? };
    if query.cache {
        let dropped = node.drop_cache().await?;
        report.blocks += dropped.blocks;
        report.bytes += dropped.bytes;
    }
    Ok(Json(report))
}

/// An invite into the cluster. It contains the cluster key and does not expire: anybody who has it can join. A member reads only
/// files whose link it has.
#[derive(Serialize, ToSchema)]
pub(super) struct InviteLine {
    /// The invite, for `storgo-node join`.
    invite: String,
    /// Whether it contains an address that another machine may be able to use. `false`: this node listens on addresses of this
    /// machine only.
    usable_elsewhere: bool,
}

/// Makes an invite into this node's cluster.
#[utoipa::path(post, path = "/invite", tag = "node", responses((status = 200, body = InviteLine)))]
pub(super) async fn invite(State(node): State<Node>) -> Result<Response, Problem> {
    let invite = node.invite().await?;
    let line = InviteLine { invite: invite.line(), usable_elsewhere: invite.is_usable_elsewhere() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(line)).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QrBody {
    /// The text of the QR code: at most 2000 bytes.
    #[schema(max_length = 2000)]
    text: String,
}

/// Draws a QR code. The text is in the body because URLs must not carry links.
#[utoipa::path(post, path = "/qr", tag = "node", request_body = QrBody,
    responses((status = 200, content_type = "image/svg+xml", body = String), (status = 413), (status = 415)))]
pub(super) async fn qr(JsonBody(body): JsonBody<QrBody>) -> Result<Response, Problem> {
    let code = qrcode::QrCode::with_error_correction_level(body.text.as_bytes(), qrcode::EcLevel::M)
        .map_err(|_| Problem::bad_request("the text is too long for a QR code", "pass at most 2000 bytes"))?;
    let svg = code.render::<qrcode::render::svg::Color<'_>>().min_dimensions(240, 240).build();
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, svg).into_response())
}

/// Reports that the process responds.
#[utoipa::path(get, path = "/livez", tag = "node", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Reports whether the node is ready: running, and not stopping. A node that cannot store at this moment is ready, because it
/// can still be read from; a second line says what is wrong.
#[utoipa::path(get, path = "/readyz", tag = "node", security(()),
    responses((status = 200, content_type = "text/plain", body = String),
        (status = 503, content_type = "text/plain", body = String)))]
pub(super) async fn readyz(State(node): State<Node>) -> (StatusCode, String) {
    if node.stopping().is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
    }
    // On a thread of its own: a disk that does not answer must not stop the probe.
    let asked = tokio::task::spawn_blocking(move || node.write_problem());
    let problem = match tokio::time::timeout(DISK_TIMEOUT, asked).await {
        Ok(asked) => asked.ok().flatten(),
        Err(_) => Some("the disk does not answer"),
    };
    let warning = problem.map_or_else(String::new, |problem| format!("warning: {problem}\n"));
    (StatusCode::OK, format!("ready\n{warning}"))
}

/// A setting.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SettingInfo {
    /// The name.
    pub key: String,
    /// The value. Lists are separated by commas; a secret is `set` or `not set`.
    pub value: String,
    /// The source of the value.
    pub origin: String,
}

/// Lists the settings, and where the value of each comes from.
#[utoipa::path(get, path = "/settings", tag = "node", responses((status = 200, body = Vec<SettingInfo>)))]
pub(super) async fn settings(State(settings): State<Arc<[SettingInfo]>>) -> Json<Vec<SettingInfo>> {
    Json(settings.to_vec())
}
