//! multistream-select 1.0: both sides say which protocol a connection or a stream uses.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADER: &str = "/multistream/1.0.0";

/// Returns a line: its length as a varint, the text and a line feed.
pub fn line(text: &str) -> Vec<u8> {
    let mut bytes = super::protobuf::varint(text.len() as u64 + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

/// Reads one line. Errors: it is longer than 1 KiB or not UTF-8.
pub async fn read_line(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let len = super::protobuf::read_varint(pipe).await?;
    if !(1..=1024).contains(&len) {
        return Err(io::Error::other(format!("a line of {len} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("short")];
    pipe.read_exact(&mut bytes).await?;
    bytes.pop();
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// Offers one protocol and waits until the other side accepts it.
pub async fn offer(pipe: &mut (impl AsyncRead + AsyncWrite + Unpin), protocol: &str) -> io::Result<()> {
    pipe.write_all(&[line(HEADER), line(protocol)].concat()).await?;
    pipe.flush().await?;
    for expected in [HEADER, protocol] {
        let said = read_line(pipe).await?;
        if said != expected {
            return Err(io::Error::other(format!("{said:?} instead of {expected:?}")));
        }
    }
    Ok(())
}

/// Accepts whatever protocol the other side offers first, and returns its name.
pub async fn accept(pipe: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<String> {
    let header = read_line(pipe).await?;
    let protocol = read_line(pipe).await?;
    pipe.write_all(&[line(&header), line(&protocol)].concat()).await?;
    pipe.flush().await?;
    Ok(protocol)
}
