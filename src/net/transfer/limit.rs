//! A limit in bytes per second, shared by all who send.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lets bytes through at a steady rate, in the order of asking.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_s: u64,
    free_at: Mutex<Instant>,
}

impl Limiter {
    /// A limit in bytes per second; 0 counts as 1.
    pub fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may be sent.
    pub async fn pass(&self, bytes: usize) {
        #[allow(clippy::cast_precision_loss)]
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let wait_until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*free_at).max(Instant::now());
            *free_at = start + cost;
            *free_at
        };
        tokio::time::sleep_until(wait_until).await;
    }
}
