//! How long a GPU's owner thread has been at its present job, and the watch over that.
//!
//! The thread writes two numbers for each job; everything else is the watcher's, so that a request costs nothing more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Health;

/// What the thread is at.
#[derive(Default)]
pub(super) struct Work {
    /// Microseconds from [`START`] to the beginning of the present job, and 1; 0 while there is none.
    began: AtomicU64,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Work {
    pub(super) fn begin(&self) {
        self.began.store(START.elapsed().as_micros() as u64 + 1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    /// How long it has been at it.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        let began = self.began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(START.elapsed().saturating_sub(Duration::from_micros(began)))
    }
}

/// Says in `health` when a job takes longer than `limit`. Ends with that, or when nobody is interested any more.
pub(super) async fn watch(work: Arc<Work>, limit: Duration, health: Arc<watch::Sender<Health>>) {
    let mut look = tokio::time::interval((limit / 10).clamp(Duration::from_millis(10), Duration::from_secs(1)));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = health.closed() => return,
        }
        if work.busy_for().is_some_and(|busy| busy >= limit) {
            health.send_if_modified(|health| {
                let first = *health == Health::Serving;
                if first {
                    *health = Health::Stuck(limit);
                }
                first
            });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_outlives_its_limit_is_told_and_a_thread_without_one_is_not_busy() {
        let work = Arc::new(Work::default());
        let (sender, mut health) = watch::channel(Health::Serving);
        let limit = Duration::from_millis(1);
        let watching = tokio::spawn(watch(work.clone(), limit, Arc::new(sender)));
        assert_eq!(work.busy_for(), None);
        work.begin();
        health.changed().await.unwrap();
        assert_eq!(*health.borrow(), Health::Stuck(limit));
        assert!(work.busy_for().unwrap() >= limit);
        work.end();
        assert_eq!(work.busy_for(), None);
        watching.await.unwrap();
    }

    #[tokio::test]
    async fn what_put_the_gpu_out_of_service_first_stays_the_reason() {
        let work = Arc::new(Work::default());
        work.begin();
        let (sender, health) = watch::channel(Health::OutOfService("broken".into()));
        watch(work, Duration::ZERO, Arc::new(sender)).await;
        assert_eq!(*health.borrow(), Health::OutOfService("broken".into()));
    }
}
