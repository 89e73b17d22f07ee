//! Metrics in the text format of Prometheus.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::Problem;
use crate::node::Node;

/// Numbers of responses, by the first digit of their status.
#[derive(Default)]
pub(super) struct ResponseCounts([AtomicU64; 6]);

/// Middleware that counts responses.
pub(super) async fn count(
    State(counts): State<Arc<ResponseCounts>>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100).min(5);
    counts.0[class].fetch_add(1, Ordering::Relaxed);
    response
}

/// Returns metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "node", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(
    State(node): State<Node>,
    State(counts): State<Arc<ResponseCounts>>,
) -> Result<Response, Problem> {
    let status = node.status().await?;
    let single = [
        ("uptime_seconds", "gauge", "Seconds since start.", Some(status.uptime_s)),
        ("peers", "gauge", "Connected peers.", Some(u64::from(status.peers))),
        ("files", "gauge", "Files known to this node.", Some(status.files)),
        ("blocks", "gauge", "Blocks on this node, kept and cached.", Some(status.blocks)),
        ("stored_bytes", "gauge", "Bytes of all blocks.", Some(status.stored_bytes)),
        ("cached_bytes", "gauge", "Bytes of cached blocks, which may be evicted.", Some(status.cached_bytes)),
        ("capacity_bytes", "gauge", "Limit for the bytes of all blocks.", status.capacity),
        ("disk_free_bytes", "gauge", "Free bytes on the disk of the data directory.", status.disk_free),
        ("quarantined_blocks", "gauge", "Damaged blocks that were set aside.", Some(status.quarantined)),
        ("announced_total", "counter", "Files announced since start.", Some(status.announced)),
        ("announce_queue", "gauge", "Files that wait to be announced.", Some(status.announce_queue)),
        ("sent_bytes_total", "counter", "Bytes of blocks sent to peers.", Some(status.sent_bytes)),
        (
            "received_bytes_total",
            "counter",
            "Bytes of blocks received from peers.",
            Some(status.received_bytes),
        ),
    ];
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        let mut write = || {
            writeln!(text, "# HELP storgo_{name} {help}\n# TYPE storgo_{name} {kind}")?;
            samples.iter().try_for_each(|(labels, value)| writeln!(text, "storgo_{name}{labels} {value}"))
        };
        write().expect("writing to a string does not fail");
    };
    for (name, kind, help, value) in single {
        if let Some(value) = value {
            metric(name, kind, help, &[(String::new(), value)]);
        }
    }
    let version = format!("{{version=\"{}\"}}", status.version);
    metric("info", "gauge", "Version of this node.", &[(version, 1)]);
    let responses = [2, 3, 4, 5]
        .map(|class: usize| (format!("{{status=\"{class}xx\"}}"), counts.0[class].load(Ordering::Relaxed)));
    metric("http_answers_total", "counter", "HTTP responses, by class of their status.", &responses);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
