//! Yamux with long frames, for bulk data.
//!
//! The adapter of libp2p copies and wakes up for each frame of 16 KiB and has no setting for it. This one drives the
//! `yamux` crate directly.

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

/// Maximum frame length in bytes. A block takes two frames.
const FRAME: usize = 1 << 20;
/// Maximum streams of a connection in both directions.
const STREAMS: usize = 128;
/// Maximum bytes in flight from the peer over all streams of a connection. Each stream may have 256 KiB. The other half goes to
/// the streams that are read as fast as their data arrives, so that a long line is filled.
const WINDOW: usize = 2 * STREAMS * (256 << 10);
/// Maximum incoming streams that wait to be accepted.
const WAITING: usize = 64;

/// Upgrades a connection to Yamux.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BulkYamux;

impl BulkYamux {
    fn mux<C: AsyncRead + AsyncWrite + Send + Unpin + 'static>(socket: C, mode: Mode) -> Mux<C> {
        let mut config = Config::default();
        config.set_max_num_streams(STREAMS);
        config.set_max_connection_receive_window(Some(WINDOW));
        config.set_split_send_size(FRAME);
        Mux { connection: Connection::new(socket, config, mode), waiting: VecDeque::new(), waker: None }
    }
}

impl UpgradeInfo for BulkYamux {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for BulkYamux {
    type Output = Mux<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::mux(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for BulkYamux {
    type Output = Mux<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::mux(socket, Mode::Client)))
    }
}

/// A multiplexed connection.
pub(super) struct Mux<C> {
    connection: Connection<C>,
    /// Streams that arrived while none was to be accepted: polling for the next one drives the whole connection.
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
        // Above the maximum, the newest stream is reset.
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

/// The connection has failed.
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
