//! Request bodies that are too long for memory: a minimum rate, bodies that break off, and encodings that are refused.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt};
use tokio::time::Instant;

use super::problem::Problem;
use crate::node::error::{ErrorCode, NodeError};

/// A client that uploads must send [`MIN_BYTES`] in this time.
const MIN_RATE_PERIOD: Duration = Duration::from_secs(60);
const MIN_BYTES: usize = 16 << 10;

/// Streams a body. Fails with [`io::ErrorKind::TimedOut`] when the client sends too slowly; time that this node needs for
/// the bytes does not count.
pub(super) fn with_min_rate(body: Body) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let begin = Some((body.into_data_stream(), MIN_RATE_PERIOD, 0));
    let stream = futures::stream::unfold(begin, |state| async {
        let (mut body, mut left, mut received) = state?;
        let asked = Instant::now();
        match tokio::time::timeout(left, body.next()).await {
            Ok(Some(Ok(bytes))) => {
                received += bytes.len();
                left = left.saturating_sub(asked.elapsed());
                if received >= MIN_BYTES {
                    (left, received) = (MIN_RATE_PERIOD, 0);
                }
                Some((Ok(bytes), Some((body, left, received))))
            }
            Ok(Some(Err(e))) => Some((Err(io::Error::other(e)), None)),
            Ok(None) => None,
            Err(_) => {
                let message = format!(
                    "the body arrived too slowly: fewer than {MIN_BYTES} bytes in {} s",
                    MIN_RATE_PERIOD.as_secs()
                );
                Some((Err(io::Error::new(io::ErrorKind::TimedOut, message)), None))
            }
        }
    });
    Box::pin(stream)
}

/// Remembers whether reading a body failed, so that the client gets a 400 and not a server error.
#[derive(Default)]
pub(super) struct BodyErrors(Arc<AtomicBool>);

impl BodyErrors {
    pub(super) fn watch<S: Stream<Item = io::Result<Bytes>>>(
        &self,
        bytes: S,
    ) -> impl Stream<Item = io::Result<Bytes>> + use<S> {
        let failed = Arc::clone(&self.0);
        futures::TryStreamExt::inspect_err(bytes, move |_| failed.store(true, Ordering::Relaxed))
    }

    /// The problem to answer with when storing the watched bytes failed with `error`.
    pub(super) fn problem(&self, error: NodeError) -> Problem {
        if self.0.load(Ordering::Relaxed) {
            Problem::bad_request(error.message, "send the complete body again, as long as its headers say")
        } else {
            error.into()
        }
    }
}

/// Middleware that refuses encoded bodies: they would be stored as they are and read back as something else.
pub(super) async fn refuse_encoding(request: Request, next: Next) -> Response {
    if !is_encoded(request.headers()) {
        return next.run(request).await;
    }
    let detail = "the header Content-Encoding names an encoding that this node does not decode";
    let hint = "send the body without Content-Encoding";
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let mut response = Problem::new(status, ErrorCode::BadRequest, detail, hint).into_response();
    // Says which encodings are supported (RFC 9110, 12.5.3).
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

/// Whether `Content-Encoding` names anything but `identity`.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let encodings = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    encodings
        .map(<[u8]>::trim_ascii)
        .any(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity"))
}

/// Refuses a request of HTTP/1.0 whose body has no length: it looks like an empty body, and its bytes would be lost.
pub(super) fn require_length(request: &Request) -> Result<(), Problem> {
    let unknown = request.body().size_hint().exact().is_none_or(|len| len == 0)
        && !request.headers().contains_key(header::CONTENT_LENGTH);
    if request.version() == Version::HTTP_10 && unknown {
        let detail = "the length of the body is missing";
        let hint = "send Content-Length, or use HTTP/1.1 with Transfer-Encoding: chunked";
        return Err(Problem::new(StatusCode::LENGTH_REQUIRED, ErrorCode::BadRequest, detail, hint));
    }
    Ok(())
}
