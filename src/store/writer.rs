//! The only writer of the index, a thread of its own. Changes that arrive together share one transaction and one sync.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use redb::Durability;

use super::{StoreError, disk_reserve::DiskReserve, index::Index, tables::Tables};

/// Maximum number of changes in one transaction.
const BATCH: usize = 256;
/// Longest time that changes nobody waits for stay without a sync.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// A change. It may run more than once: if a batch fails, each of its changes is tried again by itself.
type Change = Box<dyn FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send>;

struct Job {
    change: Change,
    /// It frees space, and may use the disk reserve.
    frees_space: bool,
    done: Option<SyncSender<Result<(), StoreError>>>,
}

impl Job {
    fn finish(self, result: Result<(), StoreError>) {
        match (self.done, result) {
            (Some(done), result) => drop(done.send(result)),
            (None, Err(error)) => tracing::warn!("the index could not be updated: {error}"),
            (None, Ok(())) => {}
        }
    }
}

/// Since when changes that nobody waited for may be lost.
type Lost = Arc<Mutex<Option<SystemTime>>>;

pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    lost: Lost,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(index: Arc<Index>, reserve: DiskReserve) -> Result<Self, StoreError> {
        let (jobs, queue) = sync_channel(BATCH);
        let (lost, generation) = (Lost::default(), index.generation());
        let thread = std::thread::Builder::new().name("index".into()).spawn({
            let lost = Arc::clone(&lost);
            move || Loop { index, reserve, unsynced: None, generation, lost }.run(&queue)
        });
        let thread = thread.map_err(|e| StoreError::io("start the index writer", e))?;
        Ok(Self { jobs: Some(jobs), lost, thread: Some(thread) })
    }

    /// Takes the time since when changes that nobody waited for were lost in an I/O error. `None`: none were.
    pub(super) fn take_lost_since(&self) -> Option<SystemTime> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a change, and returns when it is durable.
    pub(super) fn run(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.wait(Box::new(change), false)
    }

    /// Makes a change that frees space, and returns when it is durable. On a full disk it uses the disk reserve.
    pub(super) fn free_space(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.wait(Box::new(change), true)
    }

    fn wait(&self, change: Change, frees_space: bool) -> Result<(), StoreError> {
        let (done, result) = sync_channel(1);
        self.send(Job { change, frees_space, done: Some(done) });
        result.recv().map_err(|_| StoreError::Index("its writer has ended".into()))?
    }

    /// Makes a change soon, without waiting for it. A failure is logged: only for changes that may be lost.
    pub(super) fn post(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) {
        self.send(Job { change: Box::new(change), frees_space: false, done: None });
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // If the writer has ended, the caller learns it from the dropped `done`.
            drop(jobs.send(job));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The writer's thread.
struct Loop {
    index: Arc<Index>,
    reserve: DiskReserve,
    /// Since when there are changes without a sync: those that nobody waits for are not synced one by one.
    unsynced: Option<Instant>,
    /// How often the file had been opened again when that was last checked.
    generation: u64,
    lost: Lost,
}

impl Loop {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let next = match self.unsynced {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => queue.recv_timeout(SYNC_AFTER.saturating_sub(since.elapsed())),
            };
            let first = match next {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    self.sync();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.sync();
                    return;
                }
            };
            let mut batch = vec![first];
            while batch.len() < BATCH {
                match queue.try_recv() {
                    Ok(job) => batch.push(job),
                    Err(_) => break,
                }
            }
            self.handle(batch);
        }
    }

    fn handle(&mut self, mut batch: Vec<Job>) {
        if !self.reserve.is_enough() {
            // The space that is left is for changes that free more.
            for job in batch.extract_if(.., |job| !job.frees_space) {
                job.finish(Err(StoreError::NoSpace(self.reserve.missing())));
            }
            if batch.is_empty() {
                return;
            }
        }
        let waited_for = batch.iter().any(|job| job.done.is_some());
        let overdue = self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_AFTER);
        let synced = waited_for || overdue;
        let before = self.unsynced;
        let durability = if synced { Durability::Immediate } else { Durability::None };
        self.unsynced = if synced { None } else { self.unsynced.or_else(|| Some(Instant::now())) };
        let together = self.apply(&mut batch, durability);
        let alone = together.is_err() && batch.len() > 1;
        for mut job in batch {
            let result = match &together {
                Err(_) if alone => self.apply(std::slice::from_mut(&mut job), durability),
                Err(error) => Err(error.again()),
                Ok(()) => Ok(()),
            };
            job.finish(result);
        }
        self.note_lost(before.or(self.unsynced));
    }

    /// Makes changes durable that were made without a sync.
    fn sync(&mut self) {
        let before = self.unsynced.take();
        if before.is_some()
            && let Err(error) = self.apply(&mut [], Durability::Immediate)
        {
            tracing::warn!("the index could not be synced: {error}");
        }
        self.note_lost(before);
    }

    /// Notes that changes without a sync are lost if the file was opened again since. `unsynced`: since when there were
    /// some.
    fn note_lost(&mut self, unsynced: Option<Instant>) {
        let generation = self.index.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        if let Some(since) = unsynced {
            let since = SystemTime::now().checked_sub(since.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            *lost = Some(lost.map_or(since, |before| before.min(since)));
        }
    }

    /// Makes changes in one transaction. It is tried once more after an I/O error (the file is opened again then), and on a
    /// full disk after the disk reserve was released, if all the changes free space.
    fn apply(&mut self, jobs: &mut [Job], durability: Durability) -> Result<(), StoreError> {
        let frees_space = !jobs.is_empty() && jobs.iter().all(|job| job.frees_space);
        let mut once = || {
            self.index.write(durability, |tables| jobs.iter_mut().try_for_each(|job| (job.change)(tables)))
        };
        let mut result = once();
        if matches!(result, Err(StoreError::Io { .. })) {
            result = once();
        }
        if matches!(result, Err(StoreError::NoSpace(_))) && frees_space && self.reserve.release() {
            result = once();
        }
        self.reserve.index_grew(result?);
        Ok(())
    }
}
