//! What probes and the agent's own counters tell about the agent itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The agent's own state. All of it is atomic: it is touched from every task.
#[derive(Debug)]
pub struct Status {
    started: Instant,
    /// Milliseconds after `started` until which the inventory counts as alive.
    alive_until: AtomicU64,
    /// Whether kubelet knows this plugin now.
    pub registered: AtomicBool,
    /// Whether another device plugin serves this node's GPUs, and this one waits.
    pub standing_by: AtomicBool,
    /// Counters for `/metrics`.
    pub counters: Counters,
}

/// Counts since the agent started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Containers that got GPUs.
    pub allocations: AtomicU64,
    /// Containers refused in Allocate.
    pub allocations_refused: AtomicU64,
    /// Preferred allocations answered with the GPUs planned for a pod.
    pub preferred_planned: AtomicU64,
    /// Preferred allocations answered by solving.
    pub preferred_solved: AtomicU64,
    /// Registrations with kubelet.
    pub registrations: AtomicU64,
    /// Registrations that failed.
    pub registration_errors: AtomicU64,
    /// Failed questions to kubelet's pod resources socket.
    pub pod_resources_errors: AtomicU64,
    /// Writes of the GpuNode.
    pub publications: AtomicU64,
    /// Failed writes of the GpuNode.
    pub publication_errors: AtomicU64,
    /// Failed writes of the CDI specification.
    pub cdi_errors: AtomicU64,
    /// Interruptions of the watch on this node's pods.
    pub watch_errors: AtomicU64,
}

impl Status {
    /// A state that is alive for a minute.
    pub fn new() -> Self {
        let status = Status {
            started: Instant::now(),
            alive_until: AtomicU64::new(0),
            registered: AtomicBool::new(false),
            standing_by: AtomicBool::new(false),
            counters: Counters::default(),
        };
        status.alive_for(Duration::from_secs(60));
        status
    }

    /// Says that the inventory makes progress, and by when it will say so again.
    pub fn alive_for(&self, time: Duration) {
        let until = (self.started.elapsed() + time).as_millis() as u64;
        self.alive_until.store(until, Ordering::Relaxed);
    }

    /// Whether the inventory made progress in time.
    pub fn is_alive(&self) -> bool {
        (self.started.elapsed().as_millis() as u64) < self.alive_until.load(Ordering::Relaxed)
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
