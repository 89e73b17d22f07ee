//! The one writer of the index. Changes that arrive together share one transaction and one sync.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use redb::{Database, Durability, WriteTransaction};

use super::{StoreError, Usage, tables::Tables};

/// Changes that share a transaction, at most.
const BATCH: usize = 256;
/// Changes that nobody waits for are synced after this long.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// A change. It may run twice: where a batch fails, each change is tried again by itself.
type Change = Box<dyn FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send>;

struct Job {
    change: Change,
    done: Option<SyncSender<Result<(), StoreError>>>,
}

pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    usage: Arc<Mutex<Usage>>,
}

impl Writer {
    pub(super) fn start(db: Arc<Database>) -> Result<Self, StoreError> {
        let usage = Arc::new(Mutex::new(create_tables(&db)?));
        let (jobs, queue) = sync_channel(BATCH);
        let shared = Arc::clone(&usage);
        let thread = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || run(&db, &queue, &shared))
            .map_err(|e| StoreError::io("start the index writer", e))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), usage })
    }

    /// Makes a change; returns when it is durable.
    pub(super) fn run(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (done, result) = sync_channel(1);
        self.send(Job { change: Box::new(change), done: Some(done) });
        result.recv().map_err(|_| StoreError::Index("its writer has ended".into()))?
    }

    /// Makes a change some time soon. Where it fails, that is logged: for changes that may be lost.
    pub(super) fn post(
        &self,
        change: impl FnMut(&mut Tables<'_>) -> Result<(), StoreError> + Send + 'static,
    ) {
        self.send(Job { change: Box::new(change), done: None });
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A dead writer is told to the caller by its dropped answer.
            drop(jobs.send(job));
        }
    }

    pub(super) fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
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

fn create_tables(db: &Database) -> Result<Usage, StoreError> {
    let write = begin(db, Durability::Immediate)?;
    let stats = Tables::open(&write)?.stats;
    write.commit().map_err(StoreError::index)?;
    Ok(stats.usage())
}

fn begin(db: &Database, durability: Durability) -> Result<WriteTransaction, StoreError> {
    let mut write = db.begin_write().map_err(StoreError::index)?;
    // Opening after a crash then takes no walk through the whole index.
    write.set_quick_repair(matches!(durability, Durability::Immediate));
    write.set_durability(durability).map_err(|e| StoreError::Index(e.to_string()))?;
    Ok(write)
}

fn run(db: &Database, queue: &Receiver<Job>, usage: &Mutex<Usage>) {
    // Changes that nobody waits for are not synced one by one: since when there are some.
    let mut unsynced: Option<Instant> = None;
    loop {
        let next = match unsynced {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(since) => queue.recv_timeout(SYNC_AFTER.saturating_sub(since.elapsed())),
        };
        let first = match next {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                sync(db, usage, &mut unsynced);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                sync(db, usage, &mut unsynced);
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
        let waited_for = batch.iter().any(|job| job.done.is_some());
        let overdue = unsynced.is_some_and(|since| since.elapsed() >= SYNC_AFTER);
        let synced = waited_for || overdue;
        let durability = if synced { Durability::Immediate } else { Durability::None };
        unsynced = if synced { None } else { unsynced.or_else(|| Some(Instant::now())) };
        let together = apply(db, &mut batch, usage, durability);
        let alone = together.is_err() && batch.len() > 1;
        for mut job in batch {
            let result = match &together {
                Err(_) if alone => apply(db, std::slice::from_mut(&mut job), usage, durability),
                Err(error) => Err(error.again()),
                Ok(()) => Ok(()),
            };
            match (job.done, result) {
                (Some(done), result) => drop(done.send(result)),
                (None, Err(error)) => tracing::warn!("the index could not be updated: {error}"),
                (None, Ok(())) => {}
            }
        }
    }
}

/// Makes durable what was changed without a sync.
fn sync(db: &Database, usage: &Mutex<Usage>, unsynced: &mut Option<Instant>) {
    if unsynced.take().is_some()
        && let Err(error) = apply(db, &mut [], usage, Durability::Immediate)
    {
        tracing::warn!("the index could not be synced: {error}");
    }
}

fn apply(
    db: &Database,
    jobs: &mut [Job],
    usage: &Mutex<Usage>,
    durability: Durability,
) -> Result<(), StoreError> {
    let write = begin(db, durability)?;
    let stats = {
        let mut tables = Tables::open(&write)?;
        for job in jobs {
            (job.change)(&mut tables)?;
        }
        tables.finish()?
    };
    write.commit().map_err(StoreError::index)?;
    *usage.lock().unwrap_or_else(PoisonError::into_inner) = stats.usage();
    Ok(())
}
