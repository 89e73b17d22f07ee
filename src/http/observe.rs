//! What goes on: peers, status, events, and the two chores that a user may start.

use std::convert::Infallible;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{
        Sse,
        sse::{self, KeepAlive},
    },
};
use futures::{Stream, StreamExt};
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{Door, extract::JsonBody, problem::Problem};
use crate::node::report::{Event, GcReport, PeerReport, Status, VerifyReport};
use utoipa::ToSchema;

/// The connected peers.
#[utoipa::path(get, path = "/peers", tag = "node", responses((status = 200, body = Vec<PeerReport>), (status = 502)))]
pub(super) async fn peers(State(door): State<Door>) -> Result<Json<Vec<PeerReport>>, Problem> {
    Ok(Json(door.node.peers().await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectBody {
    /// For example `/ip4/192.0.2.7/tcp/3000`.
    #[schema(value_type = String)]
    addr: Multiaddr,
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
    Ok(Json(Connected { peer: door.node.connect(body.addr).await? }))
}

/// How the node is.
#[utoipa::path(get, path = "/status", tag = "node", responses((status = 200, body = Status)))]
pub(super) async fn status(State(door): State<Door>) -> Result<Json<Status>, Problem> {
    Ok(Json(door.node.status().await?))
}

/// Reads every block again and checks it.
#[utoipa::path(post, path = "/verify", tag = "node", responses((status = 200, body = VerifyReport), (status = 502), (status = 504)))]
pub(super) async fn verify(State(door): State<Door>) -> Result<Json<VerifyReport>, Problem> {
    Ok(Json(door.node.verify(None).await?))
}

/// Collects now what may be collected.
#[utoipa::path(post, path = "/gc", tag = "node", responses((status = 200, body = GcReport)))]
pub(super) async fn gc(State(door): State<Door>) -> Result<Json<GcReport>, Problem> {
    Ok(Json(door.node.collect().await?))
}

/// What happens from now on, as server-sent events. Ends when the node stops.
#[utoipa::path(get, path = "/events", tag = "node",
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn events(
    State(door): State<Door>,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let events = BroadcastStream::new(door.node.subscribe()).map(|event| match event {
        Ok(event) => event,
        Err(BroadcastStreamRecvError::Lagged(count)) => Event::Skipped { count },
    });
    let stop = door.node.stopping();
    let events = events
        .take_until(async move { stop.cancelled().await })
        .map(|event| Ok(sse::Event::default().json_data(&event).unwrap_or_default()));
    Sse::new(events).keep_alive(KeepAlive::default())
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
