//! How fast peers take what they asked for, and whom to let go when there is no memory left.
//!
//! Blocks on their way out are held in memory until the peer has taken them, so a few peers that take them slowly could
//! hold all of it and stop the node from serving. Nobody is hurried while there is room. When somebody waits for
//! memory, the slowest stream that holds some is ended, if it is slower than anybody who is served has to be.

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

/// A stream that takes less than this while it is waited for may be ended when others wait for memory.
const SLOW_BYTES_PER_S: u64 = 64 << 10;
/// How long a stream must have been waited for before its pace is judged.
const GRACE: Duration = Duration::from_secs(5);
/// What was longer ago than twice this counts for less and less.
const MEMORY: Duration = Duration::from_secs(30);
/// How long somebody waits for memory before a slow stream is ended for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The streams that are being served.
#[derive(Default)]
pub(super) struct Paces {
    all: Mutex<HashMap<u64, Arc<Pace>>>,
    next: std::sync::atomic::AtomicU64,
}

/// One stream's pace.
#[derive(Default)]
pub(super) struct Pace {
    watch: Mutex<Watch>,
    held: AtomicUsize,
    /// Cancelled when the stream is to end.
    ended: CancellationToken,
}

/// What has been seen of a stream.
#[derive(Default)]
struct Watch {
    /// Bytes that went out after they had to wait for the peer.
    taken: u64,
    /// How long they waited.
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Watch {
    /// Bytes per second while it was waited for; none as long as that cannot be said.
    fn bytes_per_s(&self, now: Instant) -> Option<u64> {
        let waited = self.waited + self.waiting_since.map_or(Duration::ZERO, |since| now - since);
        let rate = u128::from(self.taken) * 1000 / waited.as_millis().max(1);
        (waited >= GRACE).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    fn moved(&mut self, bytes: usize, now: Instant) {
        let Some(since) = self.waiting_since.take() else { return };
        self.taken += bytes as u64;
        self.waited += now - since;
        if self.waited > 2 * MEMORY {
            self.taken /= 2;
            self.waited /= 2;
        }
    }
}

impl Pace {
    fn look<T>(&self, look: impl FnOnce(&mut Watch) -> T) -> T {
        look(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when the stream is to end because others need its memory.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Counts memory that the stream holds, until the answer is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.held.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(self))
    }
}

/// A block in memory on behalf of a stream.
pub(super) struct Hold(Arc<Pace>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream's place among those that are watched.
pub(super) struct Watched<'a> {
    paces: &'a Paces,
    id: u64,
    pub(super) pace: Arc<Pace>,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.paces.look(|all| all.remove(&self.id));
    }
}

impl Paces {
    fn look<T>(&self, look: impl FnOnce(&mut HashMap<u64, Arc<Pace>>) -> T) -> T {
        look(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Watches one more stream.
    pub(super) fn watch(&self) -> Watched<'_> {
        let (id, pace) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Pace::default()));
        self.look(|all| all.insert(id, Arc::clone(&pace)));
        Watched { paces: self, id, pace }
    }

    /// Waits for memory; ends slow streams that hold some until there is enough.
    pub(super) async fn make_room<T>(&self, memory: impl Future<Output = T>) -> T {
        let mut memory = std::pin::pin!(memory);
        loop {
            tokio::select! {
                biased;
                got = &mut memory => return got,
                () = tokio::time::sleep(PATIENCE) => self.end_slowest(Instant::now()),
            }
        }
    }

    fn end_slowest(&self, now: Instant) {
        let slow = |pace: &Arc<Pace>| {
            let holds = pace.held.load(Ordering::Relaxed) > 0 && !pace.ended.is_cancelled();
            let rate = pace.look(|watch| watch.bytes_per_s(now)).filter(|rate| *rate < SLOW_BYTES_PER_S);
            rate.filter(|_| holds).map(|rate| (rate, Arc::clone(pace)))
        };
        let slowest = self.look(|all| all.values().filter_map(slow).min_by_key(|(rate, _)| *rate));
        if let Some((rate, pace)) = slowest {
            tracing::debug!(rate, "a slow stream is ended: others wait for its memory");
            pace.ended.cancel();
        }
    }
}

/// The writing half of a stream, watched.
pub(super) struct PacedWriter<W> {
    inner: W,
    pace: Arc<Pace>,
}

impl<W> PacedWriter<W> {
    pub(super) fn new(inner: W, pace: Arc<Pace>) -> Self {
        Self { inner, pace }
    }

    fn note<T>(&self, polled: &Poll<io::Result<T>>, bytes: impl Fn(&T) -> usize) {
        match polled {
            Poll::Pending => self.pace.look(|watch| {
                watch.waiting_since.get_or_insert_with(Instant::now);
            }),
            Poll::Ready(Ok(done)) => self.pace.look(|watch| watch.moved(bytes(done), Instant::now())),
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for PacedWriter<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(&polled, |written| *written);
        Poll::Ready(ready!(polled))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(&polled, |()| 0);
        polled
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_slowest_that_holds_memory_goes_first_and_who_is_fast_enough_never() {
        let paces = Paces::default();
        let streams: Vec<Watched<'_>> = (0..4).map(|_| paces.watch()).collect();
        let (idle, dead, slow, fast) =
            (&streams[0].pace, &streams[1].pace, &streams[2].pace, &streams[3].pace);
        let _held = [dead.hold(), slow.hold(), fast.hold()];
        for _ in 0..10 {
            for pace in [idle, dead, slow, fast] {
                pace.look(|watch| watch.waiting_since.get_or_insert_with(Instant::now).elapsed());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            for (pace, bytes) in [(slow, 10 << 10), (fast, 100 << 10)] {
                pace.look(|watch| watch.moved(bytes, Instant::now()));
            }
        }
        let ended = || [idle, dead, slow, fast].map(|pace| pace.ended.is_cancelled());
        for expected in [[false, true, false, false], [false, true, true, false], [false, true, true, false]]
        {
            paces.end_slowest(Instant::now());
            assert_eq!(ended(), expected);
        }
        drop(streams);
        assert_eq!(paces.look(|all| all.len()), 0);
    }
}
