//! Yamux over a connection, set for bulk.
//!
//! libp2p's own adapter sends frames of 16 KiB, each one copied and each one a wake-up, and has no setting for it. This
//! one drives the `yamux` crate directly, with long frames.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future, io, iter,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use libp2p::{
    core::{
        UpgradeInfo,
        muxing::{StreamMuxer, StreamMuxerEvent},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    },
    futures::{AsyncRead, AsyncWrite},
};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

/// Bytes of a frame at most. A block travels in two of them.
const FRAME: usize = 1 << 20;
/// Streams of a connection at most, theirs and ours.
const STREAMS: usize = 256;
/// Bytes that a peer may have on the way to us, over all streams of a connection.
const WINDOW: usize = STREAMS * (256 << 10);
/// Streams that a peer may open before anybody here asks for them.
const WAITING: usize = 64;

/// Upgrades a connection to Yamux.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bulk;

impl Bulk {
    fn mux<C: AsyncRead + AsyncWrite + Send + Unpin + 'static>(socket: C, mode: Mode) -> Mux<C> {
        let mut config = Config::default();
        config.set_max_num_streams(STREAMS);
        config.set_max_connection_receive_window(Some(WINDOW));
        config.set_split_send_size(FRAME);
        Mux { connection: Connection::new(socket, config, mode), waiting: VecDeque::new(), waker: None }
    }
}

impl UpgradeInfo for Bulk {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Bulk {
    type Output = Mux<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::mux(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Bulk {
    type Output = Mux<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::mux(socket, Mode::Client)))
    }
}

/// A connection that carries many streams.
pub(super) struct Mux<C> {
    connection: Connection<C>,
    /// Streams that arrived while nobody asked: all traffic of the connection moves only when the next inbound stream
    /// is looked for.
    waiting: VecDeque<Stream>,
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> Mux<C> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, Closed>> {
        match ready!(self.connection.poll_next_inbound(cx)) {
            Some(stream) => Poll::Ready(stream.map_err(Closed)),
            None => Poll::Ready(Err(Closed(ConnectionError::Closed))),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Mux<C> {
    type Substream = Stream;
    type Error = Closed;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Closed>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        if let Poll::Ready(stream) = self.poll_next(cx) {
            return Poll::Ready(stream);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Closed>> {
        self.connection.poll_new_outbound(cx).map_err(Closed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        self.connection.poll_close(cx).map_err(Closed)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Closed>> {
        let stream = ready!(self.poll_next(cx))?;
        // A peer that opens streams faster than they are taken loses the newest: it sees a reset.
        if self.waiting.len() < WAITING {
            self.waiting.push_back(stream);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Closed(ConnectionError);

impl From<Closed> for io::Error {
    fn from(Closed(error): Closed) -> Self {
        match error {
            ConnectionError::Io(e) => e,
            other => Self::other(other),
        }
    }
}
