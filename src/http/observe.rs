//! What goes on: peers, status, events, and the two chores that a user may start.

use std::convert::Infallible;

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
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

use super::{Door, problem::Problem};
use crate::node::report::{Event, GcReport, PeerReport, Status, VerifyReport};

/// `GET /peers`.
pub(super) async fn peers(State(door): State<Door>) -> Result<Json<Vec<PeerReport>>, Problem> {
    Ok(Json(door.node.peers().await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectBody {
    addr: Multiaddr,
}

/// The peer that answered at an address.
#[derive(Serialize)]
pub(super) struct Connected {
    peer: String,
}

/// `POST /peers`: connects to a multiaddr.
pub(super) async fn connect(
    State(door): State<Door>,
    body: Result<Json<ConnectBody>, JsonRejection>,
) -> Result<Json<Connected>, Problem> {
    let Json(body) = body.map_err(|e| Problem::bad_request(e.body_text()))?;
    Ok(Json(Connected { peer: door.node.connect(body.addr).await? }))
}

/// `GET /status`.
pub(super) async fn status(State(door): State<Door>) -> Result<Json<Status>, Problem> {
    Ok(Json(door.node.status().await?))
}

/// `POST /verify`: checks every block.
pub(super) async fn verify(State(door): State<Door>) -> Result<Json<VerifyReport>, Problem> {
    Ok(Json(door.node.verify(None).await?))
}

/// `POST /gc`: collects now what may be collected.
pub(super) async fn gc(State(door): State<Door>) -> Result<Json<GcReport>, Problem> {
    Ok(Json(door.node.collect().await?))
}

/// `GET /events`: what happens from now on, as server-sent events. Ends when the node stops.
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

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the node is up and not stopping.
pub(super) async fn readyz(State(door): State<Door>) -> (StatusCode, &'static str) {
    if door.node.stopping().is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
