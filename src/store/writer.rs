//! The one writer of the index. Changes that arrive together share one transaction and one sync.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use redb::Durability;

use super::{StoreError, index::Index, spare::Spare, tables::Tables};

/// Changes that share a transaction, at most.
const BATCH: usize = 256;
/// Changes that nobody waits for are synced after this long.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// A change. It may run more than once: where a batch fails, each change is tried again by itself.
type Change = Box<dyn FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send>;

struct Job {
    change: Change,
    /// It makes room, and may use the room that is set aside for that.
    lets_go: bool,
    done: Option<SyncSender<Result<(), StoreError>>>,
}

impl Job {
    fn answer(self, result: Result<(), StoreError>) {
        match (self.done, result) {
            (Some(done), result) => drop(done.send(result)),
            (None, Err(error)) => tracing::warn!("the index could not be updated: {error}"),
            (None, Ok(())) => {}
        }
    }
}

/// Since when changes may be lost that nobody waited for.
type Lost = Arc<Mutex<Option<SystemTime>>>;

pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    lost: Lost,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(index: Arc<Index>, spare: Spare) -> Result<Self, StoreError> {
        let (jobs, queue) = sync_channel(BATCH);
        let (lost, generation) = (Lost::default(), index.generation());
        let thread = std::thread::Builder::new().name("index".into()).spawn({
            let lost = Arc::clone(&lost);
            move || Loop { index, spare, unsynced: None, generation, lost }.run(&queue)
        });
        let thread = thread.map_err(|e| StoreError::io("start the index writer", e))?;
        Ok(Self { jobs: Some(jobs), lost, thread: Some(thread) })
    }

    /// Since when changes were lost that nobody waited for, where some were: an error has cost them. Told once.
    pub(super) fn lost_since(&self) -> Option<SystemTime> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a change; returns when it is durable.
    pub(super) fn run(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.wait(Box::new(change), false)
    }

    /// Makes a change that makes room, on a full disk too; returns when it is durable.
    pub(super) fn let_go(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.wait(Box::new(change), true)
    }

    fn wait(&self, change: Change, lets_go: bool) -> Result<(), StoreError> {
        let (done, result) = sync_channel(1);
        self.send(Job { change, lets_go, done: Some(done) });
        result.recv().map_err(|_| StoreError::Index("its writer has ended".into()))?
    }

    /// Makes a change some time soon. Where it fails, that is logged: for changes that may be lost.
    pub(super) fn post(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) {
        self.send(Job { change: Box::new(change), lets_go: false, done: None });
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A dead writer is told to the caller by its dropped answer.
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
    spare: Spare,
    /// Changes that nobody waits for are not synced one by one: since when there are some.
    unsynced: Option<Instant>,
    /// Of the file, when that was looked at last.
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
        if !self.spare.is_enough() {
            // What room there is left is for making room.
            for job in batch.extract_if(.., |job| !job.lets_go) {
                job.answer(Err(StoreError::NoSpace("the disk is full".into())));
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
            job.answer(result);
        }
        self.note_lost(before.or(self.unsynced));
    }

    /// Makes durable what was changed without a sync.
    fn sync(&mut self) {
        let before = self.unsynced.take();
        if before.is_some()
            && let Err(error) = self.apply(&mut [], Durability::Immediate)
        {
            tracing::warn!("the index could not be synced: {error}");
        }
        self.note_lost(before);
    }

    /// Notes that changes without a sync are gone, where the file was opened again since. `unsynced`: since when there
    /// were some.
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

    /// Makes changes in one transaction. What stood in the way is tried to be got out of it, once: an I/O error by
    /// opening the file again, a full disk by giving the spare room to changes that make more.
    fn apply(&mut self, jobs: &mut [Job], durability: Durability) -> Result<(), StoreError> {
        let lets_go = !jobs.is_empty() && jobs.iter().all(|job| job.lets_go);
        let mut once = || {
            self.index.write(durability, |tables| jobs.iter_mut().try_for_each(|job| (job.change)(tables)))
        };
        let mut result = once();
        if matches!(result, Err(StoreError::Io { .. })) {
            result = once();
        }
        if matches!(result, Err(StoreError::NoSpace(_))) && lets_go && self.spare.release() {
            result = once();
        }
        self.spare.note(result?);
        Ok(())
    }
}
