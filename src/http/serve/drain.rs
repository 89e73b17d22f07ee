//! Reads the rest of a request body after an early response.
//!
//! A client that is refused may still be sending. If the socket were closed over unread bytes, the client's next write
//! would fail, and the kernel might discard the response before the client reads it. So the rest is read and dropped.

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

/// Time limit for the rest of an authenticated client's body.
const AUTHENTICATED: Duration = Duration::from_secs(10);
/// Limits for the rest of another client's body.
const ANONYMOUS: Duration = Duration::from_secs(2);
const ANONYMOUS_BYTES: u64 = 16 << 20;
/// Reading ends after this time without a byte.
const IDLE: Duration = Duration::from_secs(2);

/// A body whose rest is read when it is dropped.
pub(super) struct DrainOnDrop<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    body: Option<B>,
    authenticated: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> DrainOnDrop<B> {
    pub(super) fn new(body: B, authenticated: Arc<AtomicBool>, stop: CancellationToken) -> Self {
        Self { body: Some(body), authenticated, stop }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for DrainOnDrop<B> {
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

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for DrainOnDrop<B> {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (body, Handle::try_current()) {
            let authenticated = self.authenticated.load(Ordering::Relaxed);
            let (time, bytes) =
                if authenticated { (AUTHENTICATED, u64::MAX) } else { (ANONYMOUS, ANONYMOUS_BYTES) };
            let stop = self.stop.clone();
            runtime.spawn(async move { stop.run_until_cancelled(timeout(time, drain(body, bytes))).await });
        }
    }
}

async fn drain(mut body: impl Body<Data = Bytes> + Unpin, max_bytes: u64) {
    let mut received = 0;
    while received <= max_bytes
        && let Ok(Some(Ok(frame))) = timeout(IDLE, body.frame()).await
    {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as AnyBody;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Pieces = mpsc::Sender<Result<Bytes, std::convert::Infallible>>;

    fn body(authenticated: bool) -> (Pieces, DrainOnDrop<AnyBody>, CancellationToken) {
        let (pieces, receiver) = mpsc::channel(1);
        let (authenticated, stop) = (Arc::new(AtomicBool::new(authenticated)), CancellationToken::new());
        let body = AnyBody::from_stream(ReceiverStream::new(receiver));
        (pieces, DrainOnDrop::new(body, authenticated, stop.clone()), stop)
    }

    /// Sends pieces of 1 MiB. Returns how many of them were accepted.
    async fn send(pieces: &Pieces, count: u64) -> u64 {
        let piece = Bytes::from(vec![0; 1 << 20]);
        for sent in 0..count {
            if pieces.send(Ok(piece.clone())).await.is_err() {
                return sent;
            }
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_dropped_body_is_read_until_the_client_pauses() {
        let (pieces, body, _stop) = body(true);
        drop(body);
        assert_eq!(send(&pieces, 100).await, 100);
        pieces.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_anonymous_client_may_send_16_mib_more() {
        let (pieces, body, _stop) = body(false);
        drop(body);
        // 17 pieces are read; one more fits into the channel.
        let sent = send(&pieces, 100).await;
        assert!((17..=18).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn draining_ends_when_the_node_stops() {
        let (pieces, body, stop) = body(true);
        drop(body);
        assert_eq!(send(&pieces, 2).await, 2);
        let before = tokio::time::Instant::now();
        stop.cancel();
        pieces.closed().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
