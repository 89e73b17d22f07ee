//! Yamux as the dialler: frames of 12 bytes and data, and a window for each stream.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{Mutex as AsyncMutex, Semaphore, mpsc, watch},
};

use super::multistream;

pub const DATA: u8 = 0;
pub const WINDOW_UPDATE: u8 = 1;
pub const PING: u8 = 2;
pub const SYN: u16 = 1;
pub const ACK: u16 = 2;
pub const FIN: u16 = 4;
pub const RST: u16 = 8;

/// First window of a stream in bytes.
const WINDOW: usize = 256 << 10;
/// Maximum frames of a stream that wait to be read, and maximum streams that wait to be accepted.
const FRAMES: usize = 1024;
/// Bytes between a test and a stream.
const PIPE: usize = 16 << 10;

/// One stream. Dropping it closes its sending side.
pub type Stream = DuplexStream;

type Writer = Arc<AsyncMutex<WriteHalf<DuplexStream>>>;

/// The state of a stream that the reading task needs.
struct Open {
    received: mpsc::Sender<Vec<u8>>,
    /// Bytes that may still be sent.
    credit: Arc<Semaphore>,
}

/// A multiplexed connection. It closes when dropped with all of its streams.
pub struct Connection {
    writer: Writer,
    streams: Arc<Mutex<HashMap<u32, Open>>>,
    incoming: AsyncMutex<mpsc::Receiver<Stream>>,
    next: AtomicU32,
    closed: watch::Receiver<bool>,
}

impl Connection {
    pub(super) fn new(pipe: DuplexStream) -> Self {
        let (reader, writer) = split(pipe);
        let writer: Writer = Arc::new(AsyncMutex::new(writer));
        let streams = Arc::<Mutex<HashMap<u32, Open>>>::default();
        let (accepted, incoming) = mpsc::channel(FRAMES);
        let (ended, closed) = watch::channel(false);
        let reading = read(reader, Arc::downgrade(&writer), Arc::clone(&streams), accepted);
        tokio::spawn(async move {
            drop(reading.await);
            let _ = ended.send(true);
        });
        let next = AtomicU32::new(1);
        Self { writer, streams, incoming: AsyncMutex::new(incoming), next, closed }
    }

    /// Opens a stream of a protocol.
    pub async fn open(&self, protocol: &str) -> io::Result<Stream> {
        let mut stream = self.open_raw().await?;
        multistream::offer(&mut stream, protocol).await?;
        Ok(stream)
    }

    /// Opens a stream and offers no protocol.
    pub async fn open_raw(&self) -> io::Result<Stream> {
        let id = self.next.fetch_add(2, Ordering::Relaxed);
        let stream = start(id, &self.writer, &self.streams);
        self.frame(WINDOW_UPDATE, SYN, id, 0, &[]).await?;
        Ok(stream)
    }

    /// Waits for the next stream that the node opens, accepts its protocol and returns both.
    pub async fn accept(&self) -> io::Result<(String, Stream)> {
        let mut stream = self.incoming.lock().await.recv().await.ok_or(io::ErrorKind::ConnectionAborted)?;
        Ok((multistream::accept(&mut stream).await?, stream))
    }

    /// Sends one frame, whatever it means. `argument` is the length of the data or the window.
    pub async fn frame(&self, kind: u8, flags: u16, id: u32, argument: u32, data: &[u8]) -> io::Result<()> {
        send(&self.writer, kind, flags, id, argument, data).await
    }

    /// Waits until the node has closed the connection.
    pub async fn closed(&self) {
        drop(self.closed.clone().wait_for(|closed| *closed).await);
    }

    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }
}

async fn send(writer: &Writer, kind: u8, flags: u16, id: u32, argument: u32, data: &[u8]) -> io::Result<()> {
    let mut frame = vec![0, kind];
    frame.extend_from_slice(&flags.to_be_bytes());
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&argument.to_be_bytes());
    frame.extend_from_slice(data);
    writer.lock().await.write_all(&frame).await
}

async fn send_data(writer: &Writer, flags: u16, id: u32, data: &[u8]) -> io::Result<()> {
    send(writer, DATA, flags, id, u32::try_from(data.len()).expect("short"), data).await
}

/// Adds a stream, with tasks that move its bytes.
fn start(id: u32, writer: &Writer, streams: &Mutex<HashMap<u32, Open>>) -> Stream {
    let (outer, inner) = duplex(PIPE);
    let (mut from_peer, mut to_peer) = split(inner);
    let (received, mut data) = mpsc::channel::<Vec<u8>>(FRAMES);
    let credit = Arc::new(Semaphore::new(WINDOW));
    streams.lock().expect("no panic").insert(id, Open { received, credit: Arc::clone(&credit) });
    let (sender, granter) = (Arc::clone(writer), Arc::clone(writer));
    tokio::spawn(async move {
        let mut bytes = vec![0; PIPE];
        loop {
            let len = from_peer.read(&mut bytes).await?;
            if len == 0 {
                return send_data(&sender, FIN, id, &[]).await;
            }
            let Ok(permits) = credit.acquire_many(u32::try_from(len).expect("short")).await else {
                return Ok(());
            };
            permits.forget();
            send_data(&sender, 0, id, &bytes[..len]).await?;
        }
    });
    tokio::spawn(async move {
        while let Some(bytes) = data.recv().await {
            to_peer.write_all(&bytes).await?;
            let len = u32::try_from(bytes.len()).expect("short");
            send(&granter, WINDOW_UPDATE, 0, id, len, &[]).await?;
        }
        to_peer.shutdown().await
    });
    outer
}

/// Reads frames until the connection ends.
async fn read(
    mut pipe: ReadHalf<DuplexStream>,
    writer: std::sync::Weak<AsyncMutex<WriteHalf<DuplexStream>>>,
    streams: Arc<Mutex<HashMap<u32, Open>>>,
    accepted: mpsc::Sender<Stream>,
) -> io::Result<()> {
    let ended = async {
        loop {
            let mut header = [0; 12];
            pipe.read_exact(&mut header).await?;
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let (kind, flags, id, argument) =
                (header[1], u16::from_be_bytes([header[2], header[3]]), word(4), word(8));
            let Some(writer) = writer.upgrade() else { return Ok(()) };
            if kind == PING && flags & SYN != 0 {
                send(&writer, PING, ACK, 0, argument, &[]).await?;
            }
            if kind > WINDOW_UPDATE {
                continue;
            }
            if flags & SYN != 0 {
                let stream = start(id, &writer, &streams);
                send(&writer, WINDOW_UPDATE, ACK, id, 0, &[]).await?;
                accepted.try_send(stream).map_err(io::Error::other)?;
            }
            let data = if kind == DATA { argument as usize } else { 0 };
            let mut bytes = vec![0; data];
            pipe.read_exact(&mut bytes).await?;
            let mut streams = streams.lock().expect("no panic");
            let Some(open) = streams.get(&id) else { continue };
            if kind == DATA && data > 0 {
                // A stream that nobody reads gets no more than its window.
                drop(open.received.try_send(bytes));
            } else if kind == WINDOW_UPDATE {
                open.credit.add_permits(argument as usize);
            }
            if flags & RST != 0 {
                open.credit.close();
            }
            if flags & (FIN | RST) != 0 {
                // Its sending side goes on until it is dropped.
                streams.remove(&id);
            }
        }
    };
    let ended: io::Result<()> = ended.await;
    for (_, open) in streams.lock().expect("no panic").drain() {
        open.credit.close();
    }
    ended
}
