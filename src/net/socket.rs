//! Buffered reads from sockets.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use libp2p::futures::{AsyncRead, AsyncWrite};

/// First and largest buffer size in bytes. Unbuffered, each read of Noise (8 KiB) would be a system call.
const BUFFER: (usize, usize) = (1 << 10, 32 << 10);

/// A socket with a read buffer that grows when it was filled. Before the first byte it takes no memory.
pub(super) struct Buffered<S> {
    socket: S,
    buffer: Vec<u8>,
    /// Range of unread bytes in the buffer.
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
            if into.len() >= len.max(BUFFER.0) {
                return Pin::new(&mut this.socket).poll_read(cx, into);
            }
            if len == 0 {
                this.buffer = vec![0; BUFFER.0];
            }
            let read = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.buffer))?;
            (this.start, this.end) = (0, read);
        }
        let len = into.len().min(this.end - this.start);
        into[..len].copy_from_slice(&this.buffer[this.start..this.start + len]);
        this.start += len;
        // The buffer was filled.
        if this.start == this.end && this.end == this.buffer.len() && this.end < BUFFER.1 {
            this.buffer = vec![0; (2 * this.end).clamp(BUFFER.0, BUFFER.1)];
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
    async fn bytes_are_read_in_any_portions_and_the_buffer_grows_with_them() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for portion in [1, 7, 900, 5000, 40_000] {
            let mut socket = Buffered::new(Cursor::new(bytes.clone()));
            assert_eq!(socket.buffer.capacity(), 0, "no memory before the first read");
            let (mut read, mut part) = (Vec::new(), vec![0; portion]);
            loop {
                let len = socket.read(&mut part).await.expect("read");
                if len == 0 {
                    break;
                }
                read.extend_from_slice(&part[..len]);
                assert!(
                    socket.buffer.len() <= BUFFER.1 && socket.buffer.len() <= 2 * (read.len() + BUFFER.0)
                );
            }
            assert!(read == bytes, "in portions of {portion}");
        }
    }
}
