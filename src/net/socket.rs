//! Reading from sockets, many bytes at a time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use libp2p::futures::{AsyncRead, AsyncWrite};

/// Bytes that are read at a time at first, and at most. Noise asks for 8 KiB, which would be a system call each.
const AT_ONCE: (usize, usize) = (1 << 10, 32 << 10);

/// A socket whose buffer grows with what comes: callers who have said nothing yet take no room.
pub(super) struct Buffered<S> {
    socket: S,
    buffer: Vec<u8>,
    /// What is in the buffer and was not read yet.
    start: usize,
    end: usize,
}

impl<S> Buffered<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, buffer: Vec::new(), start: 0, end: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.start == this.end {
            let len = this.buffer.len();
            if into.len() >= len.max(AT_ONCE.0) {
                return Pin::new(&mut this.socket).poll_read(cx, into);
            }
            if len == 0 {
                this.buffer = vec![0; AT_ONCE.0];
            }
            let read = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.buffer))?;
            (this.start, this.end) = (0, read);
        }
        let len = into.len().min(this.end - this.start);
        into[..len].copy_from_slice(&this.buffer[this.start..this.start + len]);
        this.start += len;
        // More was there than it could hold.
        if this.start == this.end && this.end == this.buffer.len() && this.end < AT_ONCE.1 {
            this.buffer = vec![0; (2 * this.end).clamp(AT_ONCE.0, AT_ONCE.1)];
            (this.start, this.end) = (0, 0);
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::futures::{AsyncReadExt, io::Cursor};

    use super::*;

    #[tokio::test]
    async fn what_was_sent_is_read_in_any_portions_and_the_buffer_grows_with_it() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for portion in [1, 7, 900, 5000, 40_000] {
            let mut socket = Buffered::new(Cursor::new(bytes.clone()));
            assert_eq!(socket.buffer.capacity(), 0, "nothing was read yet");
            let (mut read, mut piece) = (Vec::new(), vec![0; portion]);
            loop {
                let len = socket.read(&mut piece).await.expect("read");
                if len == 0 {
                    break;
                }
                read.extend_from_slice(&piece[..len]);
                assert!(
                    socket.buffer.len() <= AT_ONCE.1 && socket.buffer.len() <= 2 * (read.len() + AT_ONCE.0)
                );
            }
            assert!(read == bytes, "{portion}");
        }
    }
}
