//! A bounded pipe from an async stream to a blocking reader.
//!
//! The end of the input is sent explicitly. If the sender is dropped before, because its connection broke, the reader gets an
//! error: half a file is never stored as a whole one.

use std::{
    io::{self, Read},
    pin::pin,
};

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

/// Maximum number of pieces in the pipe.
const DEPTH: usize = 8;

/// Bytes or the error that ended the input; `None` is its end.
type Piece = Option<io::Result<Bytes>>;

/// The sending end.
pub(super) struct Pipe(mpsc::Sender<Piece>);

/// The receiving end.
pub(super) struct PipeReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

pub(super) fn pipe() -> (Pipe, PipeReader) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    (Pipe(sender), PipeReader { pieces, current: Bytes::new(), ended: false })
}

impl Pipe {
    /// Sends all of `input`, then its end or error. Stops early if the reader is gone.
    pub(super) async fn fill(self, input: impl Stream<Item = io::Result<Bytes>>) {
        let mut input = pin!(input);
        loop {
            let piece = input.next().await;
            let more = matches!(piece, Some(Ok(_)));
            if self.0.send(piece).await.is_err() || !more {
                return;
            }
        }
    }
}

impl Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(bytes)) => self.current = bytes?,
                Some(None) => self.ended = true,
                None => {
                    let error = "the sender closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
                }
            }
        }
        let len = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(pieces: Vec<io::Result<Bytes>>, to_the_end: bool) -> io::Result<Vec<u8>> {
        let (pipe, mut reader) = pipe();
        let reading = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            reader.read_to_end(&mut out).map(|_| out)
        });
        let input = futures::stream::iter(pieces);
        if to_the_end {
            pipe.fill(input).await;
        } else {
            let never_ends = pipe.fill(input.chain(futures::stream::pending()));
            drop(tokio::time::timeout(std::time::Duration::ZERO, never_ends).await);
        }
        reading.await.expect("no panic")
    }

    #[tokio::test]
    async fn all_bytes_and_the_end_arrive() {
        let pieces = vec![Ok(Bytes::from_static(b"ab")), Ok(Bytes::new()), Ok(Bytes::from_static(b"c"))];
        assert_eq!(read_all(pieces, true).await.expect("whole"), b"abc");
    }

    #[tokio::test]
    async fn an_input_that_breaks_off_is_an_error() {
        let broken = vec![Ok(Bytes::from_static(b"ab")), Err(io::Error::other("cut"))];
        assert_eq!(read_all(broken, true).await.expect_err("broken").to_string(), "cut");
        let gone = vec![Ok(Bytes::from_static(b"ab"))];
        assert_eq!(read_all(gone, false).await.expect_err("gone").kind(), io::ErrorKind::UnexpectedEof);
    }
}
