//! Numbers for Prometheus, in its text format.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Door, problem::Problem};

/// What the door itself counts.
#[derive(Default)]
pub(super) struct Counted {
    /// Answers, by the first digit of their status.
    answers: [AtomicU64; 6],
}

/// Counts an answer.
pub(super) async fn count(State(door): State<Door>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100).min(5);
    door.counted.answers[class].fetch_add(1, Ordering::Relaxed);
    response
}

/// Numbers for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "node", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(door): State<Door>) -> Result<Response, Problem> {
    let status = door.node.status().await?;
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, labels: &[(&str, u64)]| {
        let mut write = || {
            writeln!(text, "# HELP storgo_{name} {help}\n# TYPE storgo_{name} {kind}")?;
            labels.iter().try_for_each(|(labels, value)| writeln!(text, "storgo_{name}{labels} {value}"))
        };
        write().expect("writing to a string does not fail");
    };
    let version = format!("{{version=\"{}\"}}", status.version);
    metric("info", "gauge", "What runs.", &[(&version, 1)]);
    metric("uptime_seconds", "gauge", "Seconds since start.", &[("", status.uptime_s)]);
    metric("peers", "gauge", "Connected peers.", &[("", u64::from(status.peers))]);
    metric("files", "gauge", "Files listed.", &[("", status.files)]);
    metric("blocks", "gauge", "Blocks here, kept and cached.", &[("", status.blocks)]);
    metric("stored_bytes", "gauge", "Bytes of these blocks.", &[("", status.stored_bytes)]);
    metric("cached_bytes", "gauge", "Bytes of these that may be evicted.", &[("", status.cached_bytes)]);
    if let Some(capacity) = status.capacity {
        metric("capacity_bytes", "gauge", "Hard limit for blocks.", &[("", capacity)]);
    }
    if let Some(free) = status.disk_free {
        metric("disk_free_bytes", "gauge", "Bytes free on the disk of the data directory.", &[("", free)]);
    }
    metric("quarantined_blocks", "gauge", "Blocks that were found damaged.", &[("", status.quarantined)]);
    metric("announced_total", "counter", "Roots announced since start.", &[("", status.announced)]);
    metric("announce_queue", "gauge", "Roots that wait to be announced.", &[("", status.announce_queue)]);
    metric("sent_bytes_total", "counter", "Bytes of blocks sent to peers.", &[("", status.sent_bytes)]);
    metric(
        "received_bytes_total",
        "counter",
        "Bytes of blocks received from peers.",
        &[("", status.received_bytes)],
    );
    let answers: Vec<_> = ["2xx", "3xx", "4xx", "5xx"].iter().zip(2..).collect();
    let answers: Vec<_> = answers
        .into_iter()
        .map(|(class, at)| {
            (format!("{{status=\"{class}\"}}"), door.counted.answers[at].load(Ordering::Relaxed))
        })
        .collect();
    let answers: Vec<_> = answers.iter().map(|(labels, value)| (labels.as_str(), *value)).collect();
    metric("http_answers_total", "counter", "HTTP answers.", &answers);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
