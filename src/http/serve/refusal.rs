//! What is not HTTP, or has too much of a header, is refused by the server below with a bare status line, before any of
//! our own code sees it. Here that answer becomes a problem document like all the others.
//!
//! It is told from ours by when it is written, never by what it says: nothing is being answered, and everything of
//! earlier answers has gone out.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::super::problem;

/// How long, and for how many bytes, what is still sent is read and thrown away: a socket that is closed over unread
/// bytes takes the answer back.
const LINGER: Duration = Duration::from_secs(2);
const MAX_DRAINED: usize = 1 << 20;

/// Whether a connection has something of ours to send.
#[derive(Default)]
pub(super) struct Turn {
    open: AtomicUsize,
    unsent: AtomicBool,
}

/// An answer that is being made or sent.
pub(super) struct Answering(Arc<Turn>);

impl Turn {
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.unsent.store(true, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// All that was written has gone out.
    fn flushed(&self) {
        if self.open.load(Ordering::Relaxed) == 0 {
            self.unsent.store(false, Ordering::Relaxed);
        }
    }

    fn is_idle(&self) -> bool {
        !self.unsent.load(Ordering::Relaxed)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on which bare refusals are replaced.
pub(super) struct Refusing<S> {
    stream: S,
    turn: Arc<Turn>,
    /// The answer that is sent instead, and how much of it has been.
    refusal: Option<(Vec<u8>, usize)>,
    drained: usize,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Refusing<S> {
    pub(super) fn new(stream: S, turn: Arc<Turn>) -> Self {
        Self { stream, turn, refusal: None, drained: 0, linger: None }
    }

    /// Whether these bytes are a refusal, or the rest of one: then they go nowhere.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_none() && self.turn.is_idle() {
            let status = bytes.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
            let status = status.and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
            self.refusal = status.and_then(problem::unreadable).map(|answer| (answer, 0));
        }
        self.refusal.is_some()
    }

    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((answer, sent)) = &mut self.refusal {
            while *sent < answer.len() {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, &answer[*sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => *sent += written,
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Refusing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        if self.replaces(first) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refuse(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.turn.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refuse(cx))?;
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.refusal.is_none() {
            return Poll::Ready(Ok(()));
        }
        let mut linger = self.linger.take().unwrap_or_else(|| Box::pin(sleep(LINGER)));
        let mut scratch = [0; 8 << 10];
        while self.drained < MAX_DRAINED && linger.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.drained += buf.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => {
                    self.linger = Some(linger);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
