//! A fixed number of threads for sealing and writing, fed by a bounded queue.
//!
//! There are more threads than cores: while one waits for `fdatasync`, another one hashes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the threads, which end when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Pool {
    jobs: SyncSender<Job>,
}

impl Pool {
    /// Starts `threads` threads.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("seal-{n}")).spawn(move || run(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Queues a job; blocks while the queue is full. A thread survives a job that panics.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) {
        assert!(self.jobs.send(Box::new(job)).is_ok(), "the threads outlive every handle");
    }
}

fn run(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a sealing job panicked, and its upload fails");
        }
    }
}
