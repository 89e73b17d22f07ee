//! Reads the rest of a request body after an early response.
//!
//! A client that is refused may still be sending. If the socket were closed over unread bytes, the client's next write
//! would fail, and the kernel might discard the response before the client reads it. So the rest is read and dropped.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::connections::ClientConnection;

/// Time limit for the rest of an authenticated client's body.
const AUTHENTICATED: Duration = Duration::from_secs(10);
/// Limits for the rest of another client's body.
const ANONYMOUS: Duration = Duration::from_secs(2);
const ANONYMOUS_BYTES: u64 = 16 << 20;
/// Reading ends after this time without a byte.
const IDLE: Duration = Duration::from_secs(2);

/// A body whose rest is read when it is dropped.
pub(super) struct DrainOnDrop {
    body: Option<Body>,
    client: ClientConnection,
    stop: CancellationToken,
}

impl DrainOnDrop {
    pub(super) fn new(body: Body, client: ClientConnection, stop: CancellationToken) -> Self {
        Self { body: Some(body), client, stop }
    }
}

impl HttpBody for DrainOnDrop {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (body, Handle::try_current()) {
            let known = self.client.is_authenticated();
            let (time, bytes) = if known { (AUTHENTICATED, u64::MAX) } else { (ANONYMOUS, ANONYMOUS_BYTES) };
            let stop = self.stop.clone();
            runtime.spawn(async move { stop.run_until_cancelled(timeout(time, drain(body, bytes))).await });
        }
    }
}

async fn drain(mut body: Body, max_bytes: u64) {
    let mut received = 0;
    while received <= max_bytes
        && let Ok(Some(Ok(frame))) = timeout(IDLE, body.frame()).await
    {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::{super::connections::Connections, *};

    type Pieces = mpsc::Sender<Result<Bytes, std::convert::Infallible>>;

    fn body(authenticated: bool) -> (Pieces, DrainOnDrop, CancellationToken) {
        let (pieces, receiver) = mpsc::channel(1);
        let connection = Arc::new(Connections::new(1, false, true)).open().expect("admitted");
        let (client, stop) = (ClientConnection::new(&connection), CancellationToken::new());
        if authenticated {
            client.set_authenticated(());
        }
        let body = Body::from_stream(ReceiverStream::new(receiver));
        (pieces, DrainOnDrop::new(body, client, stop.clone()), stop)
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
