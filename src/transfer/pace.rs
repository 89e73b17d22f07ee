//! Measures how fast peers receive their blocks, and ends slow streams when memory runs out.
//!
//! A block stays in memory until the peer has received it, so a few slow peers could hold all memory and stop the node
//! from serving. While memory is free, any pace is accepted. When a request waits for memory, the slowest stream that holds
//! some is ended, if it is slower than the minimum rate.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::AsyncWrite;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::net::Group;

/// Minimum rate of a stream that is ready to send while requests wait for memory.
const MIN_BYTES_PER_S: u64 = 64 << 10;
/// Time that a stream must have been blocked by its peer before its rate is known.
const GRACE: Duration = Duration::from_secs(5);
/// Half of the blocked time after which older bytes count less.
const WINDOW: Duration = Duration::from_secs(30);
/// Time that a request waits for memory before a slow stream is ended.
const WAIT: Duration = Duration::from_secs(1);

/// The rates of all streams that are being served.
#[derive(Default)]
pub(super) struct PaceMonitor {
    streams: Mutex<HashMap<u64, Arc<StreamPace>>>,
    next: std::sync::atomic::AtomicU64,
}

/// The rate of one stream.
pub(super) struct StreamPace {
    group: Group,
    progress: Mutex<Progress>,
    /// Blocks in memory.
    held: AtomicUsize,
    /// Cancelled when the stream is to end.
    ended: CancellationToken,
}

#[derive(Default)]
struct Progress {
    /// Bytes sent after the peer had blocked the stream.
    sent: u64,
    /// Time for which the peer blocked the stream.
    blocked: Duration,
    blocked_since: Option<Instant>,
}

impl Progress {
    /// Returns the bytes per second while the peer blocked the stream. `None` means that it was not blocked for long.
    fn bytes_per_s(&self, now: Instant) -> Option<u64> {
        let blocked = self.blocked + self.blocked_since.map_or(Duration::ZERO, |since| now - since);
        let rate = u128::from(self.sent) * 1000 / blocked.as_millis().max(1);
        (blocked >= GRACE).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    fn add(&mut self, bytes: usize, now: Instant) {
        let Some(since) = self.blocked_since.take() else { return };
        self.sent += bytes as u64;
        self.blocked += now - since;
        if self.blocked > 2 * WINDOW {
            self.sent /= 2;
            self.blocked /= 2;
        }
    }
}

impl StreamPace {
    fn update<T>(&self, update: impl FnOnce(&mut Progress) -> T) -> T {
        update(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the stream is to end, because other requests need its memory.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Counts a block that the stream holds in memory, until the returned value is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> HeldBlock {
        self.held.fetch_add(1, Ordering::Relaxed);
        HeldBlock(Arc::clone(self))
    }
}

/// A block in memory on behalf of a stream.
pub(super) struct HeldBlock(Arc<StreamPace>);

impl Drop for HeldBlock {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose rate is measured, until it is dropped.
pub(super) struct MonitoredStream<'a> {
    monitor: &'a PaceMonitor,
    id: u64,
    pub(super) pace: Arc<StreamPace>,
}

impl Drop for MonitoredStream<'_> {
    fn drop(&mut self) {
        self.monitor.update(|streams| streams.remove(&self.id));
    }
}

impl PaceMonitor {
    fn update<T>(&self, update: impl FnOnce(&mut HashMap<u64, Arc<StreamPace>>) -> T) -> T {
        update(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Measures one more stream of a peer in this group.
    pub(super) fn add(&self, group: Group) -> MonitoredStream<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let pace = Arc::new(StreamPace {
            group,
            progress: Mutex::default(),
            held: AtomicUsize::new(0),
            ended: CancellationToken::new(),
        });
        self.update(|streams| streams.insert(id, Arc::clone(&pace)));
        MonitoredStream { monitor: self, id, pace }
    }

    /// Waits for memory, and ends slow streams that hold some until there is enough: those of one group, or of all.
    pub(super) async fn wait_for<T>(&self, memory: impl Future<Output = T>, group: Option<Group>) -> T {
        let mut memory = std::pin::pin!(memory);
        loop {
            tokio::select! {
                biased;
                got = &mut memory => return got,
                () = tokio::time::sleep(WAIT) => self.end_slowest(group, Instant::now()),
            }
        }
    }

    fn end_slowest(&self, group: Option<Group>, now: Instant) {
        let slow = |pace: &Arc<StreamPace>| {
            let in_group = group.is_none_or(|group| pace.group == group);
            let holds = in_group && pace.held.load(Ordering::Relaxed) > 0 && !pace.ended.is_cancelled();
            let rate =
                pace.update(|progress| progress.bytes_per_s(now)).filter(|rate| *rate < MIN_BYTES_PER_S);
            rate.filter(|_| holds).map(|rate| (rate, Arc::clone(pace)))
        };
        let slowest = self.update(|streams| streams.values().filter_map(slow).min_by_key(|(rate, _)| *rate));
        if let Some((rate, pace)) = slowest {
            tracing::debug!(rate, "ending a slow stream, other requests wait for its memory");
            pace.ended.cancel();
        }
    }
}

/// The writing half of a stream, whose rate is measured.
pub(super) struct PacedWriter<W> {
    inner: W,
    pace: Arc<StreamPace>,
}

impl<W> PacedWriter<W> {
    pub(super) fn new(inner: W, pace: Arc<StreamPace>) -> Self {
        Self { inner, pace }
    }

    fn record<T>(&self, polled: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        match polled {
            Poll::Pending => self.pace.update(|progress| {
                progress.blocked_since.get_or_insert_with(Instant::now);
            }),
            Poll::Ready(Ok(done)) => self.pace.update(|progress| progress.add(bytes(done), Instant::now())),
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for PacedWriter<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.record(&polled, |written| *written);
        Poll::Ready(ready!(polled))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.record(&polled, |()| 0);
        polled
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_slowest_stream_that_holds_memory_is_ended_first_and_a_fast_one_never() {
        let monitor = PaceMonitor::default();
        let [group, other] = std::array::from_fn(|_| Group::Peer(PeerId::random()));
        let streams: Vec<MonitoredStream<'_>> = (0..4).map(|_| monitor.add(group)).collect();
        let (idle, dead, slow, fast) =
            (&streams[0].pace, &streams[1].pace, &streams[2].pace, &streams[3].pace);
        let _held = [dead.hold(), slow.hold(), fast.hold()];
        for _ in 0..10 {
            for pace in [idle, dead, slow, fast] {
                pace.update(|progress| progress.blocked_since.get_or_insert_with(Instant::now).elapsed());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            for (pace, bytes) in [(slow, 10 << 10), (fast, 100 << 10)] {
                pace.update(|progress| progress.add(bytes, Instant::now()));
            }
        }
        let ended = || [idle, dead, slow, fast].map(|pace| pace.ended.is_cancelled());
        monitor.end_slowest(Some(other), Instant::now());
        assert_eq!(ended(), [false; 4], "others have a limit of their own");
        for expected in [[false, true, false, false], [false, true, true, false], [false, true, true, false]]
        {
            monitor.end_slowest(Some(group), Instant::now());
            assert_eq!(ended(), expected);
        }
        drop(streams);
        assert_eq!(monitor.update(|streams| streams.len()), 0);
    }
}
