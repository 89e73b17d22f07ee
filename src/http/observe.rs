//! What goes on: peers, status, events, and the two chores that a user may start.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

use super::{
    Door,
    extract::{JsonBody, Params, flag},
    problem::Problem,
};
use crate::node::{
    error::{ErrorCode, NodeError},
    report::{GcReport, PeerReport, RepairReport, Status, VerifyReport},
};
use utoipa::{IntoParams, ToSchema};

/// The connected peers.
#[utoipa::path(get, path = "/peers", tag = "node", responses((status = 200, body = Vec<PeerReport>), (status = 502)))]
pub(super) async fn peers(State(door): State<Door>) -> Result<Json<Vec<PeerReport>>, Problem> {
    Ok(Json(door.node.peers().await?))
}

const ADDR_HINT: &str = "one looks like /ip4/192.0.2.7/tcp/3000";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectBody {
    /// For example `/ip4/192.0.2.7/tcp/3000`.
    #[schema(example = "/ip4/192.0.2.7/tcp/3000", pattern = "^/.*/(tcp/|quic-v1|p2p-circuit)")]
    addr: String,
}

/// The peer that answered at an address.
#[derive(Serialize, ToSchema)]
pub(super) struct Connected {
    /// Its peer id.
    peer: String,
}

/// Connects to a peer.
#[utoipa::path(post, path = "/peers", tag = "node", request_body = ConnectBody,
    responses((status = 200, body = Connected), (status = 413), (status = 415), (status = 502)))]
pub(super) async fn connect(
    State(door): State<Door>,
    JsonBody(body): JsonBody<ConnectBody>,
) -> Result<Json<Connected>, Problem> {
    // What it is instead may be a link or an invite: neither it nor the parser's words about it are said again.
    let addr: Multiaddr =
        body.addr.trim().parse().map_err(|_| Problem::bad_request("addr is no multiaddr", ADDR_HINT))?;
    let used = |part| matches!(part, Protocol::Tcp(_) | Protocol::QuicV1 | Protocol::P2pCircuit);
    if !addr.iter().any(used) {
        let message = "this multiaddr names neither a tcp nor a quic-v1 port";
        return Err(Problem::bad_request(message, ADDR_HINT));
    }
    Ok(Json(Connected { peer: door.node.connect(addr).await? }))
}

/// How the node is.
#[utoipa::path(get, path = "/status", tag = "node", responses((status = 200, body = Status)))]
pub(super) async fn status(State(door): State<Door>) -> Result<Json<Status>, Problem> {
    Ok(Json(door.node.status().await?))
}

/// Reads every block again and checks it.
#[utoipa::path(post, path = "/verify", tag = "node",
    responses((status = 200, body = VerifyReport), (status = 409), (status = 502), (status = 504)))]
pub(super) async fn verify(State(door): State<Door>) -> Result<Json<VerifyReport>, Problem> {
    let alone = Arc::clone(&door.checking).try_lock_owned().map_err(|_| {
        NodeError::new(ErrorCode::Locked, "everything is being checked already")
            .hint("wait until that has ended; it goes on though whoever asked for it has gone away")
    })?;
    let checked = tokio::spawn(async move {
        let _alone = alone;
        door.node.verify(None).await
    });
    let report =
        checked.await.map_err(|_| NodeError::new(ErrorCode::Other, "a worker of this node failed"))?;
    Ok(Json(report?))
}

/// Fetches what is missing here of any kept file from peers.
#[utoipa::path(post, path = "/repair", tag = "node",
    responses((status = 200, body = RepairReport), (status = 502), (status = 507)))]
pub(super) async fn repair(State(door): State<Door>) -> Result<Json<RepairReport>, Problem> {
    Ok(Json(door.node.repair(None).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct GcQuery {
    /// Whether also what is in its grace period goes, and what interrupted uploads have left.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    now: bool,
}

/// Collects now what may be collected.
#[utoipa::path(post, path = "/gc", tag = "node", params(GcQuery), responses((status = 200, body = GcReport), (status = 422)))]
pub(super) async fn gc(
    State(door): State<Door>,
    Params(query): Params<GcQuery>,
) -> Result<Json<GcReport>, Problem> {
    Ok(Json(if query.now { door.node.purge().await? } else { door.node.collect().await? }))
}

/// The line that brings another machine into the cluster. Whoever has it can read everything.
#[derive(Serialize, ToSchema)]
pub(super) struct InviteLine {
    /// For `storgo-node join`.
    invite: String,
}

/// Makes an invite into this node's cluster.
#[utoipa::path(post, path = "/invite", tag = "node", responses((status = 200, body = InviteLine)))]
pub(super) async fn invite(State(door): State<Door>) -> Result<Response, Problem> {
    let invite = door.node.invite().await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(InviteLine { invite })).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QrBody {
    /// What the code says, at most 2000 bytes.
    #[schema(max_length = 2000)]
    text: String,
}

/// A text as a QR code. It comes in the body: links do not belong into addresses.
#[utoipa::path(post, path = "/qr", tag = "node", request_body = QrBody,
    responses((status = 200, content_type = "image/svg+xml", body = String), (status = 413), (status = 415)))]
pub(super) async fn qr(JsonBody(body): JsonBody<QrBody>) -> Result<Response, Problem> {
    let code = qrcode::QrCode::with_error_correction_level(body.text.as_bytes(), qrcode::EcLevel::M)
        .map_err(|_| Problem::bad_request("this text makes no QR code", "it takes 2000 bytes at most"))?;
    let svg = code.render::<qrcode::render::svg::Color<'_>>().min_dimensions(240, 240).build();
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, svg).into_response())
}

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "node", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The node is up and not stopping.
#[utoipa::path(get, path = "/readyz", tag = "node", security(()),
    responses((status = 200, content_type = "text/plain", body = String),
        (status = 503, content_type = "text/plain", body = String)))]
pub(super) async fn readyz(State(door): State<Door>) -> (StatusCode, &'static str) {
    if door.node.stopping().is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// A setting in force.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SettingInfo {
    /// Its name.
    pub key: String,
    /// Its value, several parted by a comma; `set` or `not set` for a secret.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
}

/// The settings in force, and where each came from.
#[utoipa::path(get, path = "/settings", tag = "node", responses((status = 200, body = Vec<SettingInfo>)))]
pub(super) async fn settings(State(door): State<Door>) -> Json<Vec<SettingInfo>> {
    Json(door.settings.to_vec())
}
