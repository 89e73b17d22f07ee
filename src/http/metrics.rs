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
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, labels: &[(&str, u64)]| {
        let mut write = || {
            writeln!(text, "# HELP storgo_{name} {help}\n# TYPE storgo_{name} {kind}")?;
            labels.iter().try_for_each(|(labels, value)| writeln!(text, "storgo_{name}{labels} {value}"))
        };
        write().expect("writing to a string does not fail");
    };
    let version = format!("{{version=\"{}\"}}", status.version);
    metric("info", "gauge", "Version of this node.", &[(&version, 1)]);
    metric("uptime_seconds", "gauge", "Seconds since start.", &[("", status.uptime_s)]);
    metric("peers", "gauge", "Connected peers.", &[("", u64::from(status.peers))]);
    metric("files", "gauge", "Files known to this node.", &[("", status.files)]);
    metric("blocks", "gauge", "Blocks on this node, kept and cached.", &[("", status.blocks)]);
    metric("stored_bytes", "gauge", "Bytes of all blocks.", &[("", status.stored_bytes)]);
    metric(
        "cached_bytes",
        "gauge",
        "Bytes of cached blocks, which may be evicted.",
        &[("", status.cached_bytes)],
    );
    if let Some(capacity) = status.capacity {
        metric("capacity_bytes", "gauge", "Limit for the bytes of all blocks.", &[("", capacity)]);
    }
    if let Some(free) = status.disk_free {
        metric("disk_free_bytes", "gauge", "Free bytes on the disk of the data directory.", &[("", free)]);
    }
    metric("quarantined_blocks", "gauge", "Damaged blocks that were set aside.", &[("", status.quarantined)]);
    metric("announced_total", "counter", "Files announced since start.", &[("", status.announced)]);
    metric("announce_queue", "gauge", "Files that wait to be announced.", &[("", status.announce_queue)]);
    metric("sent_bytes_total", "counter", "Bytes of blocks sent to peers.", &[("", status.sent_bytes)]);
    metric(
        "received_bytes_total",
        "counter",
        "Bytes of blocks received from peers.",
        &[("", status.received_bytes)],
    );
    let responses: Vec<_> = ["2xx", "3xx", "4xx", "5xx"].iter().zip(2..).collect();
    let responses: Vec<_> = responses
        .into_iter()
        .map(|(class, at)| (format!("{{status=\"{class}\"}}"), counts.0[at].load(Ordering::Relaxed)))
        .collect();
    let responses: Vec<_> = responses.iter().map(|(labels, value)| (labels.as_str(), *value)).collect();
    metric("http_answers_total", "counter", "HTTP responses, by class of their status.", &responses);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
