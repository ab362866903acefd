//! The operator's own metrics, `weft_operator_*`. No label holds a job's name: their number stays bounded.

use crate::watch::Kind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use weft_api::job::Phase;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByPhase {
    phase: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByResource {
    resource: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByWrite {
    write: &'static str,
    result: &'static str,
}

/// All metrics; a clone counts into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    leader: Gauge,
    reconciles: Family<ByResult, Counter>,
    reconcile_seconds: Histogram,
    placements: Family<ByResult, Counter>,
    placement_seconds: Histogram,
    jobs: Family<ByPhase, Gauge>,
    pending_gangs: Gauge,
    writes: Family<ByWrite, Counter>,
    watch_errors: Family<ByResource, Counter>,
    unreadable: Family<ByResource, Counter>,
    nodes_not_ready: Gauge,
    outage: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        // 16 µs to 1 s: one job on one snapshot.
        let times = || Histogram::new(exponential_buckets(16e-6, 4.0, 9));
        let mut registry = Registry::with_prefix("weft_operator");
        let leader = Gauge::default();
        let reconciles = Family::<ByResult, Counter>::default();
        let reconcile_seconds = times();
        let placements = Family::<ByResult, Counter>::default();
        let placement_seconds = times();
        let jobs = Family::<ByPhase, Gauge>::default();
        let pending_gangs = Gauge::default();
        let writes = Family::<ByWrite, Counter>::default();
        let watch_errors = Family::<ByResource, Counter>::default();
        let unreadable = Family::<ByResource, Counter>::default();
        let nodes_not_ready = Gauge::default();
        let outage = Gauge::default();
        registry.register("leader", "1 while this operator is the leader", leader.clone());
        registry.register("reconciles", "Decisions made, by whether their writes went through", reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time of one decision",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        registry.register("placements", "Gangs that were tried to be placed, by result", placements.clone());
        registry.register_with_unit(
            "placement_duration",
            "Time of one decision that placed a gang or found no room",
            Unit::Seconds,
            placement_seconds.clone(),
        );
        registry.register("jobs", "GpuJobs by phase", jobs.clone());
        registry.register("pending_gangs", "GpuJobs with workers that have no place", pending_gangs.clone());
        registry.register("writes", "Requests that change something, by result", writes.clone());
        registry.register("watch_errors", "Watches that broke and were taken up again", watch_errors.clone());
        registry.register(
            "unreadable",
            "Reports and levels that arrived and could not be read: another version of Weft wrote them",
            unreadable.clone(),
        );
        registry.register("nodes_not_ready", "Nodes that are not ready", nodes_not_ready.clone());
        registry.register("outage", "1 while so many nodes are not ready that none is given up", outage.clone());
        Self {
            registry: Arc::new(registry),
            leader,
            reconciles,
            reconcile_seconds,
            placements,
            placement_seconds,
            jobs,
            pending_gangs,
            writes,
            watch_errors,
            unreadable,
            nodes_not_ready,
            outage,
        }
    }
}

impl Metrics {
    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    ///
    /// # Errors
    /// When the text cannot be written, which writing to a string does not cause.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn set_leader(&self, leader: bool) {
        self.leader.set(i64::from(leader));
    }

    /// One decision took so long; `placed` says whether it placed a gang, found no room for one, or had none to place.
    pub fn decided(&self, seconds: f64, placed: Option<bool>) {
        self.reconcile_seconds.observe(seconds);
        if let Some(placed) = placed {
            self.placement_seconds.observe(seconds);
            self.placements.get_or_create(&ByResult { result: if placed { "placed" } else { "no_room" } }).inc();
        }
    }

    pub fn reconciled(&self, ok: bool) {
        self.reconciles.get_or_create(&ByResult { result: word(ok) }).inc();
    }

    pub fn wrote(&self, write: &'static str, ok: bool) {
        self.writes.get_or_create(&ByWrite { write, result: word(ok) }).inc();
    }

    pub fn watch_failed(&self, kind: Kind) {
        self.watch_errors.get_or_create(&ByResource { resource: kind.resource() }).inc();
    }

    pub fn unreadable(&self, kind: Kind) {
        self.unreadable.get_or_create(&ByResource { resource: kind.resource() }).inc();
    }

    /// How many nodes are not ready, and whether they are so many that none is given up.
    pub fn set_outage(&self, not_ready: usize, outage: bool) {
        self.nodes_not_ready.set(i64::try_from(not_ready).unwrap_or(i64::MAX));
        self.outage.set(i64::from(outage));
    }

    /// How many jobs there are in each phase, and how many have workers without a place.
    pub fn set_jobs(&self, count: impl Fn(Phase) -> usize, pending: usize) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for phase in Phase::ALL {
            self.jobs.get_or_create(&ByPhase { phase: phase.to_string() }).set(gauge(count(phase)));
        }
        self.pending_gangs.set(gauge(pending));
    }
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_documentation_promises() {
        let metrics = Metrics::default();
        metrics.set_jobs(|phase| usize::from(phase == Phase::Running), 3);
        metrics.decided(0.001, Some(false));
        metrics.wrote("status", true);
        metrics.set_outage(7, true);
        let text = metrics.encode().unwrap();
        for line in [
            "weft_operator_jobs{phase=\"Running\"} 1",
            "weft_operator_pending_gangs 3",
            "weft_operator_placements_total{result=\"no_room\"} 1",
            "weft_operator_placement_duration_seconds_count 1",
            "weft_operator_writes_total{write=\"status\",result=\"ok\"} 1",
            "weft_operator_leader 0",
            "weft_operator_nodes_not_ready 7",
            "weft_operator_outage 1",
        ] {
            assert!(text.contains(line), "no line {line} in\n{text}");
        }
    }
}
