//! Request bodies that are too long for memory: a minimum rate, multipart forms, and bodies that break off.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
};
use futures::{Stream, StreamExt};
use tokio::time::Instant;

use super::problem::Problem;
use crate::node::error::NodeError;

/// A client that uploads must send [`MIN_BYTES`] in this time.
const MIN_RATE_PERIOD: Duration = Duration::from_secs(60);
const MIN_BYTES: usize = 16 << 10;
/// Maximum number of bytes between two parts of a form: the multipart parser holds them in memory.
const MAX_BETWEEN_PARTS: usize = 256 << 10;

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

/// The parts of a `multipart/form-data` body, streamed.
pub(super) struct Form {
    parts: Multipart,
    /// How many more bytes may arrive before the next part begins.
    allowed: Arc<AtomicUsize>,
}

impl Form {
    pub(super) async fn from_request(request: Request) -> Result<Self, Problem> {
        let allowed = Arc::new(AtomicUsize::new(usize::MAX));
        let left = Arc::clone(&allowed);
        let request = request.map(|body| {
            Body::from_stream(with_min_rate(body).map(move |piece| {
                let piece = piece?;
                let fits = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
                    usize::MAX => Some(left),
                    left => left.checked_sub(piece.len()),
                });
                fits.map_err(|_| {
                    io::Error::other(format!("more than {MAX_BETWEEN_PARTS} bytes between two parts"))
                })?;
                Ok::<_, io::Error>(piece)
            }))
        });
        let parts = Multipart::from_request(request, &()).await.map_err(|_| {
            let hint =
                "send `Content-Type: multipart/form-data; boundary=…` with the boundary between the parts";
            Problem::bad_request("the multipart boundary is missing from Content-Type", hint)
        })?;
        Ok(Self { parts, allowed })
    }

    /// Returns the next part. The previous part must have been read to its end.
    pub(super) async fn next_part(&mut self) -> Result<Option<Field<'_>>, Problem> {
        self.allowed.store(MAX_BETWEEN_PARTS, Ordering::Relaxed);
        let next = self.parts.next_field().await.map_err(|e| invalid_form(&e))?;
        self.allowed.store(usize::MAX, Ordering::Relaxed);
        Ok(next)
    }
}

/// Reads a part to its end and drops its bytes.
pub(super) async fn skip(mut part: Field<'_>) -> Result<(), Problem> {
    while part.chunk().await.map_err(|e| invalid_form(&e))?.is_some() {}
    Ok(())
}

pub(super) fn invalid_form(e: &MultipartError) -> Problem {
    let hint = "send a complete multipart/form-data body (RFC 7578) in which each part has a name";
    Problem::bad_request(format!("invalid form: {}", e.body_text()), hint)
}

/// Returns the last component of a path: some browsers send a path as the file name.
pub(super) fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}
