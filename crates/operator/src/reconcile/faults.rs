//! Workers that failed: what was the cause, and who is started again.

use super::{Action, BLAME_GRACE, MAX_REFUSED, OUTAGE_LOOK, OVERDUE, UNSCHEDULABLE_GRACE, Work};
use crate::facts::{Failure, NodeFacts, PodFacts, PodLife};
use crate::index::gpu_fault;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weft_api::job::{Reason, Replace, Unreachable, WorkerPhase};
use weft_topology::Standing;

/// Reasons of a failed pod that the cluster caused.
const BY_THE_CLUSTER: [&str; 6] = ["Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting"];
/// Longest pause between restarts.
const MAX_BACKOFF_SECONDS: u32 = 300;

/// Why a worker cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// Its process ended with an error: counts against `maxRestarts`.
    Own(String),
    /// Its GPU, node or pod was lost under it.
    Lost(String),
    /// The same before any of its containers ran: nobody else is concerned.
    NotStarted(String),
    /// The kubelet or the scheduler did not take the pod.
    Refused(String),
}

impl Work<'_> {
    /// Finds the workers that cannot go on and marks those to be started again. The reason and sentence of the job's failure
    /// if there is none left to try.
    pub(super) fn handle_faults(&mut self) -> Option<(Reason, String)> {
        let mut own = Vec::new();
        let mut lost = Vec::new();
        for slot in 0..self.slots.len() {
            match self.fault_of(slot) {
                None => {}
                Some(Fault::Own(why)) => own.push((slot, why)),
                Some(Fault::Lost(why)) => lost.push((slot, why)),
                Some(Fault::NotStarted(why)) => {
                    // The first time at once; again and again only with pauses, whatever the cause is.
                    let before = self.slots[slot].state.refused;
                    let not_before = (before > 0).then(|| self.now + pause_after(before));
                    self.decision.status.replacements += 1;
                    self.note(true, Reason::Replacing, why.clone());
                    self.restart(slot, Some(why), not_before);
                    self.slots[slot].state.refused = before + 1;
                }
                Some(Fault::Refused(why)) => {
                    let refused = self.slots[slot].state.refused + 1;
                    if refused > MAX_REFUSED {
                        return Some((Reason::RefusedByNodes, format!("{why}, {refused} times in a row")));
                    }
                    self.note(true, Reason::Replacing, why.clone());
                    self.restart(slot, Some(why), Some(self.now + pause_after(refused)));
                    self.slots[slot].state.refused = refused;
                }
            }
        }
        let policy = self.job.spec.failure_policy();
        if policy.replace == Replace::WholeGang && !lost.is_empty() {
            // Workers that fail while another loses its GPU or node fail because of it: all start again, at no cost.
            own.clear();
        }
        if let Some((_, why)) = own.first() {
            let cost =
                if policy.replace == Replace::WholeGang { 1 } else { u32::try_from(own.len()).unwrap_or(u32::MAX) };
            let restarts = self.decision.status.restarts.saturating_add(cost);
            if restarts > policy.max_restarts {
                let tries = match policy.max_restarts {
                    0 => String::new(),
                    n => format!("; {n} restart{} used up", if n == 1 { " is" } else { "s are" }),
                };
                return Some((Reason::WorkerFailed, format!("{why}{tries}")));
            }
            self.decision.status.restarts = restarts;
            let doubled = policy.backoff_seconds.saturating_mul(1 << (restarts - 1).min(16)).min(MAX_BACKOFF_SECONDS);
            let pause = SignedDuration::from_secs(i64::from(doubled));
            self.note(
                true,
                Reason::Restarting,
                format!("{why}; restart {restarts} of {} in {doubled} s", policy.max_restarts),
            );
            self.restart_after(policy.replace, &own, Some(self.now + pause));
        }
        if let Some((_, why)) = lost.first() {
            self.decision.status.replacements += u32::try_from(lost.len()).unwrap_or(u32::MAX);
            self.note(true, Reason::Replacing, format!("{why}; started elsewhere"));
            self.restart_after(policy.replace, &lost, None);
        }
        None
    }

    fn restart_after(&mut self, replace: Replace, failed: &[(usize, String)], not_before: Option<Timestamp>) {
        for slot in 0..self.slots.len() {
            let why = failed.iter().find(|(at, _)| *at == slot).map(|(_, why)| why.clone());
            if why.is_some() || replace == Replace::WholeGang {
                self.restart(slot, why, not_before);
            }
        }
    }

    /// From now on another pod is wanted for the worker.
    pub(super) fn restart(&mut self, slot: usize, why: Option<String>, not_before: Option<Timestamp>) {
        let slot = &mut self.slots[slot];
        let state = &mut slot.state;
        if slot.pod.is_some() || slot.assumed || state.phase == WorkerPhase::Succeeded {
            state.attempt += 1;
        }
        if let Some(pod) = slot.pod.take() {
            slot.outdated = Some(pod);
        }
        state.phase = WorkerPhase::Pending;
        state.node = None;
        state.planned_gpus.clear();
        state.allocated_gpus.clear();
        state.result = None;
        state.not_before = not_before.map(Time);
        if why.is_some() {
            state.message = why;
        }
    }

    /// When a node that is not ready is given up, for this job.
    fn given_up_at(&self, node: &NodeFacts) -> Option<Timestamp> {
        if self.waits_for(node) { None } else { self.index.given_up_at(node, self.settings.node_lost_after) }
    }

    /// Whether the job's workers are to stay on the node for as long as nobody can say that they have ended.
    fn waits_for(&self, node: &NodeFacts) -> bool {
        let wait = self.job.spec.failure_policy().on_unreachable_node == Unreachable::Wait;
        wait && node.unreachable && !node.out_of_service
    }

    /// A worker stays though its node is not ready. Said once in the job's events, and in the worker's status for as long.
    fn keep(&mut self, slot: usize, why: String) {
        if !self.memo.keeps {
            self.note(true, Reason::NodesNotReady, why.clone());
        }
        self.kept.get_or_insert_with(|| why.clone());
        self.slots[slot].state.message = Some(why);
    }

    fn fault_of(&mut self, slot_index: usize) -> Option<Fault> {
        let index = self.index;
        let slot = &self.slots[slot_index];
        let name = format!("worker {} (pod {})", slot.member.rank, slot.member.pod);
        let Some(pod) = slot.pod else {
            let seen = matches!(
                slot.state.phase,
                WorkerPhase::Starting | WorkerPhase::Running | WorkerPhase::Ready | WorkerPhase::Failed
            );
            return (seen && !slot.assumed).then(|| Fault::Lost(format!("{name} is gone")));
        };
        let started = pod.started;
        let lost = |why: String| Some(if started { Fault::Lost(why) } else { Fault::NotStarted(why) });
        match &pod.life {
            PodLife::Succeeded => None,
            PodLife::Failed(failure) => {
                let pod_uid = pod.uid.clone();
                if let Some(why) = self.external_cause(slot.node(), slot.gpus()) {
                    return lost(format!("{name}: {why}"));
                }
                let words = failure_words(failure);
                let by_cluster = failure.reason.as_deref().is_some_and(|reason| BY_THE_CLUSTER.contains(&reason));
                if failure.disrupted || by_cluster {
                    return lost(format!("{name} was ended by the cluster: {words}"));
                }
                if !started && failure.exit.is_none() {
                    let node = slot.node().unwrap_or("its node").to_owned();
                    return Some(Fault::Refused(format!("{node} refused {name}: {words}")));
                }
                let on = slot.node().map(|node| format!(" on {node}")).unwrap_or_default();
                let said = last_words(slot.state.result.as_ref(), pod.termination.as_deref());
                let uses_gpus = pod.gpus > 0 || !slot.gpus().is_empty();
                let seen = *self.memo.failed_seen.entry(pod_uid).or_insert(self.now);
                if uses_gpus && self.now < seen + BLAME_GRACE {
                    self.wake_at(seen + BLAME_GRACE);
                    return None;
                }
                Some(Fault::Own(format!("{name}{on} failed with {words}{said}")))
            }
            PodLife::Waiting | PodLife::Running { .. } => {
                if pod.deletion_due.is_some() {
                    return lost(format!("{name} was deleted"));
                }
                if let Some(why) = self.external_cause(slot.node(), slot.gpus()) {
                    return lost(format!("{name}: {why}"));
                }
                let node = slot.node().and_then(|node| index.node(node));
                if let Some(node) = node
                    && node.not_ready_since.is_some()
                {
                    let due = self.given_up_at(node);
                    if pod.node.is_none() || due.is_some_and(|due| self.now >= due) {
                        let why = if node.out_of_service { "out of service" } else { "not ready" };
                        return lost(format!("{name}: node {} is {why}", node.name));
                    }
                    if due.is_none() {
                        let name = &node.name;
                        let why = if self.waits_for(node) {
                            format!(
                                "nothing is heard from node {name}: its workers stay until it is heard, deleted or tainted out-of-service"
                            )
                        } else {
                            format!("node {name} is not ready, and so are most: its workers are kept")
                        };
                        self.keep(slot_index, why);
                    }
                    self.wake_at(due.unwrap_or(self.now + OUTAGE_LOOK));
                } else if pod.node.is_none() {
                    if let Some(node) = node
                        && node.standing == Standing::Cordoned
                    {
                        return lost(format!("{name}: node {} was cordoned before the worker got there", node.name));
                    }
                    if let Some((since, why)) = pod.unschedulable.clone() {
                        let due = since + UNSCHEDULABLE_GRACE;
                        if self.now >= due {
                            return Some(Fault::Refused(format!("the scheduler refused {name}: {why}")));
                        }
                        self.wake_at(due);
                    }
                }
                None
            }
        }
    }

    /// A GPU or node that is no more.
    fn external_cause(&self, node: Option<&str>, gpus: &[String]) -> Option<String> {
        let node = node?;
        if self.index.node(node).is_none() {
            return Some(format!("node {node} is gone"));
        }
        gpus.iter().find_map(|uuid| gpu_fault(self.index, node, uuid))
    }

    /// Deletes the pods that are not wanted any more, and forces deletions that do not come to an end.
    ///
    /// Those of earlier jobs of the name are among them. There is one job of a name at a time, and pods are made only by the
    /// leader, for jobs that it has seen: whose pods name another UID is gone. Garbage collection deletes its pods too, but in
    /// the first minute after the definitions were installed it does not know them yet.
    pub(super) fn remove_outdated(&mut self) {
        let uid = self.job.metadata.uid.as_deref().unwrap_or_default();
        let wanted = |pod: &&PodFacts| !self.slots.iter().any(|slot| slot.pod.is_some_and(|p| p.key == pod.key));
        let own = self.index.pods_of(self.key, uid).filter(wanted);
        let unwanted: Vec<&PodFacts> = own.chain(self.index.pods_of_earlier(self.key, uid)).collect();
        for pod in unwanted {
            self.delete(pod);
        }
    }

    /// Deletes a pod, with as much grace as makes sense.
    pub(super) fn delete(&mut self, pod: &PodFacts) {
        let node = pod.node.as_deref();
        let facts = node.and_then(|name| self.index.node(name));
        let held = self.index.held_by(&pod.key);
        let gpus = if held.is_empty() { &pod.planned_gpus } else { held };
        let lost_gpu = node.is_some_and(|node| gpus.iter().any(|uuid| gpu_fault(self.index, node, uuid).is_some()));
        // Nobody is there who could end it in order. A node that is not ready, but heard, ends its pods itself.
        let force = match facts {
            None => true,
            Some(facts) => {
                let given_up = self.given_up_at(facts).is_some_and(|due| self.now >= due);
                (facts.unreachable || facts.out_of_service) && given_up
            }
        };
        if let Some(due) = pod.deletion_due {
            if let Some(facts) = facts.filter(|facts| facts.not_ready_since.is_some()) {
                // A pod that nobody can say has ended is not removed from the API server before its node is given up: not in an
                // outage, in which workers most likely run on, and not where they must never run twice.
                match self.given_up_at(facts) {
                    None if self.waits_for(facts) => return,
                    None => return self.wake_at(self.now + OUTAGE_LOOK),
                    Some(at) if facts.unreachable && self.now < at => return self.wake_at(at),
                    Some(_) => {}
                }
            }
            let limit = due.saturating_add(OVERDUE).unwrap_or(Timestamp::MAX);
            if !force && self.now < limit {
                return self.wake_at(limit);
            }
        }
        let overdue = pod.deletion_due.is_some();
        let grace = if force || overdue {
            Some(0)
        } else if lost_gpu {
            // Whatever the process could still save is not on the GPU.
            Some(1)
        } else {
            None
        };
        self.decision.actions.push(Action::DeletePod { pod: pod.key.clone(), uid: pod.uid.clone(), grace });
    }
}

/// A quarter of a second, doubled for each start in a row that came to nothing, at most half a minute.
fn pause_after(refused: u32) -> SignedDuration {
    SignedDuration::from_millis(250 << refused.min(7))
}

fn failure_words(failure: &Failure) -> String {
    let kubelet = match (&failure.reason, &failure.message) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (None, None) => None,
    };
    match (&failure.exit, kubelet) {
        (Some(exit), _) => {
            let reason = exit.reason.as_deref().filter(|reason| *reason != "Error");
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("exit code {} of container {}{reason}", exit.code, exit.container)
        }
        (None, Some(kubelet)) => kubelet,
        (None, None) => "no reason given".to_owned(),
    }
}

/// What the worker said at its end: the error of its result, else the last line of its message.
fn last_words(result: Option<&serde_json::Map<String, serde_json::Value>>, text: Option<&str>) -> String {
    const LONGEST: usize = 1000;
    let error = result.and_then(|result| result.get("error")).and_then(|error| error.as_str());
    let line =
        || text.filter(|_| result.is_none()).and_then(|text| text.lines().rev().find(|line| !line.trim().is_empty()));
    match error.or_else(line) {
        Some(words) => format!(": {}", words.trim().chars().take(LONGEST).collect::<String>()),
        None => String::new(),
    }
}
