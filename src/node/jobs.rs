//! Periodic work. This file decides when a job runs; what it does is in the service that does it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{clock::unix_s, services::Services};
use crate::store::Store;

/// How often unreferenced blocks are collected.
const COLLECT_EVERY: Duration = Duration::from_secs(600);
/// How often block files that the index does not know are removed, and the store key of the last time.
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
const META_SWEPT: &str = "swept";
/// How often changed peers and provider records are saved.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// How often they are saved although nothing has changed: records lose lifetime.
const SAVE_UNCHANGED_EVERY: Duration = Duration::from_secs(3600);
/// Pause between two rounds of scrubbing, and the store key of the end of the last one.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);
const META_SCRUBBED: &str = "scrubbed";
/// Daily jobs wait about this long after the start, and between two runs.
const DAILY_DELAY: Duration = Duration::from_secs(600);

/// Starts the jobs of a node that has a network.
pub(super) fn start(services: &Arc<Services>) {
    every(services, SAVE_EVERY, |node| async move { node.save_network(false).await });
    every(services, SAVE_UNCHANGED_EVERY, |node| async move { node.save_network(true).await });
    once(services, |node| async move { node.announcements.announce_all().await });
    once(services, |node| async move { node.withdrawals.keep_retrying().await });
    once(services, |node| async move { node.forward_network_events().await });
    every(services, COLLECT_EVERY, |node| async move {
        if let Err(error) = node.collector.collect(Store::collect).await {
            tracing::warn!("cannot collect unreferenced blocks: {error}");
        }
    });
    daily(services, META_SWEPT, SWEEP_EVERY, |node| async move { node.collector.sweep().await });
    if services.scrub.is_enabled() {
        daily(services, META_SCRUBBED, SCRUB_EVERY, |node| async move { node.scrub.run().await });
    }
}

/// Runs a task until it ends or the node stops.
fn once<F: Future<Output = ()> + Send + 'static>(
    services: &Arc<Services>,
    task: impl FnOnce(Arc<Services>) -> F,
) {
    services.tasks.spawn_until_stop(task(Arc::clone(services)));
}

/// Runs `work` once per period.
fn every<F: Future<Output = ()> + Send + 'static>(
    services: &Arc<Services>,
    period: Duration,
    work: impl Fn(Arc<Services>) -> F + Send + 'static,
) {
    once(services, |services| async move {
        // A random first delay, so that the nodes of a swarm do not all work at the same time.
        let first = period.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let mut next = tokio::time::interval_at(Instant::now() + first, period);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            next.tick().await;
            work(Arc::clone(&services)).await;
        }
    });
}

/// As [`every`], for periods of a day. The time of the last run is stored under `mark`, so that a node that runs a few hours
/// a day gets there too.
fn daily<F: Future<Output = ()> + Send + 'static>(
    services: &Arc<Services>,
    mark: &'static str,
    period: Duration,
    work: impl Fn(Arc<Services>) -> F + Send + 'static,
) {
    once(services, move |services| async move {
        loop {
            let last = services.store.meta(mark).await.ok().flatten();
            let last = last.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
            // Also bounds how often the job runs if the time of the last run cannot be stored.
            let delay = DAILY_DELAY.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::time::sleep(due_in(last, unix_s(), period).max(delay)).await;
            work(Arc::clone(&services)).await;
            if let Err(error) = services.store.set_meta(mark, unix_s().to_le_bytes().into()).await {
                tracing::warn!("cannot store when the job {mark:?} ran last: {error}");
            }
        }
    });
}

/// Returns the time until a job is due that ran last at `last` (seconds since 1970), at most one period: a clock that was
/// set back delays nothing for longer.
fn due_in(last: Option<u64>, now: u64, period: Duration) -> Duration {
    let due = last.map_or(0, |last| last.saturating_add(period.as_secs()));
    Duration::from_secs(due.saturating_sub(now)).min(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_job_is_due_by_the_clock_and_never_later_than_a_period_from_now() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let (now, day) = (1_000_000, DAY.as_secs());
        for (last, due) in [
            (None, 0),
            (Some(now), day),
            (Some(now - day / 3), day - day / 3),
            (Some(now - 3 * day), 0),
            (Some(now + 100 * day), day),
            (Some(u64::MAX), day),
        ] {
            assert_eq!(due_in(last, now, DAY), Duration::from_secs(due), "{last:?}");
        }
    }
}
