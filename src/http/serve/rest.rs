//! The body of a request, the rest of which is read for a while when nobody wants more of it.
//!
//! Whoever is refused still sends. Were the socket closed over what it sent, its next write would fail before it has read
//! why, and its system might throw the answer away. The answer goes out first; the rest is read after it, and thrown away.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long the rest of a known caller's body is read.
const KNOWN: Duration = Duration::from_secs(10);
/// How long that of somebody who is not known is read, and how much of it.
const UNKNOWN: Duration = Duration::from_secs(2);
const UNKNOWN_BYTES: u64 = 16 << 20;
/// How long nothing of it may come.
const IDLE: Duration = Duration::from_secs(2);

/// A body, the rest of which is read when it is dropped.
pub(super) struct Rest<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    body: Option<B>,
    /// Whether it has been found out who sends it.
    known: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Rest<B> {
    /// Reading its rest ends at `stop`.
    pub(super) fn new(body: B, known: Arc<AtomicBool>, stop: CancellationToken) -> Self {
        Self { body: Some(body), known, stop }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Rest<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for Rest<B> {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (body, Handle::try_current()) {
            let known = self.known.load(Ordering::Relaxed);
            let (time, bytes) = if known { (KNOWN, u64::MAX) } else { (UNKNOWN, UNKNOWN_BYTES) };
            let stop = self.stop.clone();
            runtime.spawn(async move { stop.run_until_cancelled(timeout(time, read(body, bytes))).await });
        }
    }
}

/// Reads a body to its end, or until nothing comes any more, or more than so many bytes.
async fn read(mut body: impl Body<Data = Bytes> + Unpin, bytes: u64) {
    let mut got = 0;
    while got <= bytes
        && let Ok(Some(Ok(frame))) = timeout(IDLE, body.frame()).await
    {
        got += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body as Any;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Pieces = mpsc::Sender<Result<Bytes, Infallible>>;

    fn body(known: bool) -> (Pieces, Rest<Any>, CancellationToken) {
        let (pieces, receiver) = mpsc::channel(1);
        let (known, stop) = (Arc::new(AtomicBool::new(known)), CancellationToken::new());
        let body = Any::from_stream(ReceiverStream::new(receiver));
        (pieces, Rest::new(body, known, stop.clone()), stop)
    }

    /// Mebibytes that are taken at most.
    async fn taken(pieces: &Pieces, of: u64) -> u64 {
        let piece = Bytes::from(vec![0; 1 << 20]);
        for taken in 0..of {
            if pieces.send(Ok(piece.clone())).await.is_err() {
                return taken;
            }
        }
        of
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_is_taken_all_the_same() {
        let (pieces, body, _stop) = body(true);
        drop(body);
        assert_eq!(taken(&pieces, 100).await, 100);
        // Not for ever, where nothing comes any more.
        pieces.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn of_who_is_not_known_some_is_taken() {
        let (pieces, body, _stop) = body(false);
        drop(body);
        let taken = taken(&pieces, 100).await;
        assert!((16..20).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_waits_for_nobody() {
        let (pieces, body, stop) = body(true);
        drop(body);
        assert_eq!(taken(&pieces, 2).await, 2);
        let before = tokio::time::Instant::now();
        stop.cancel();
        pieces.closed().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
