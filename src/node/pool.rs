//! Threads made for sealing and writing: a fixed number, fed by a bounded queue.
//!
//! More threads than cores: while one waits for its `fdatasync`, another one hashes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the threads. They end when the last handle is dropped.
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

    /// Queues a job; blocks while the queue is full. A job that panics takes no thread with it.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) {
        assert!(self.jobs.send(Box::new(job)).is_ok(), "the threads live as long as a handle does");
    }
}

fn run(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a sealing job panicked; its upload fails");
        }
    }
}
