//! The status: counts, conditions and the one sentence.

use super::placing::Missing;
use super::slots::Slot;
use super::{Action, Work};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;
use weft_api::job::{Phase, Reason, WorkerPhase, condition};
use weft_api::{conditions, names};

impl Work<'_> {
    /// Sets a condition of the job.
    pub(super) fn condition(&mut self, type_: &str, status: bool, reason: Reason, message: &str) {
        let generation = self.job.metadata.generation;
        let list = &mut self.decision.status.conditions;
        conditions::set(list, type_, status, reason.as_str(), message, generation, &Time(self.now));
    }

    /// The status of a job that goes on.
    pub(super) fn report(&mut self, missing: Missing) {
        // What the API server refused before is told as refused until its pods are there: an attempt is no news.
        let refused = self.memo.refusal.clone().filter(|_| self.slots.iter().any(Slot::is_awaited));
        for slot in &mut self.slots {
            if slot.is_missing() || (refused.is_some() && slot.is_awaited()) {
                slot.state.node = None;
                slot.state.planned_gpus.clear();
                slot.state.allocated_gpus.clear();
            }
        }
        let missing = refused.map_or(missing, |refusal| Missing::Refused(refusal.message));
        self.count();
        let has_place = |slot: &&Slot<'_>| slot.state.node.is_some() || slot.succeeded();
        let live = self.slots.iter().filter(has_place).count();
        let all = self.slots.len();
        let on = self.decision.status.placement.clone().map(|place| format!(" on {place}")).unwrap_or_default();
        let workers = |n: usize| format!("{n} worker{}", if n == 1 { "" } else { "s" });
        let up = |slot: &Slot<'_>| {
            matches!(slot.state.phase, WorkerPhase::Running | WorkerPhase::Ready | WorkerPhase::Succeeded)
        };
        let running = self.slots.iter().filter(|slot| up(slot)).count();
        let (phase, reason, message) = match missing {
            Missing::NoRoom(why) => (None, Reason::NoFit, why),
            Missing::NoLevel(why) => (None, Reason::UnknownLevel, why),
            Missing::Refused(why) => {
                (None, Reason::PodsRefused, format!("the API server refuses the job's pods: {why}"))
            }
            Missing::Names(why) => (None, Reason::Replacing, why),
            Missing::Pause(until) => {
                (None, Reason::Restarting, format!("{}next start at {until}", self.latest_trouble()))
            }
            Missing::Nothing if running == all => {
                let kept = self.kept.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                (Some(Phase::Running), Reason::AllReady, format!("{} running{on}{kept}", workers(all)))
            }
            Missing::Nothing => {
                let trouble = self
                    .slots
                    .iter()
                    .find_map(|slot| slot.pod.and_then(|pod| pod.waiting.clone().map(|why| (slot, why))));
                let unscheduled = || {
                    let refused = |slot: &Slot<'_>| {
                        slot.pod?.unschedulable.clone().map(|(_, why)| format!("; pod {}: {why}", slot.member.pod))
                    };
                    self.slots.iter().find_map(refused)
                };
                let why = match trouble {
                    Some((slot, why)) => format!("; pod {}: {why}", slot.member.pod),
                    None => unscheduled().unwrap_or_default(),
                };
                (Some(Phase::Starting), Reason::Starting, format!("starting {}{on}{why}", workers(all - running)))
            }
        };
        let phase = phase.unwrap_or(if live == 0 { Phase::Pending } else { Phase::Starting });
        let there = self.slots.iter().all(|slot| slot.pod.is_some() || slot.succeeded());
        let was_placed = conditions::is_true(&self.decision.status.conditions, condition::PLACED);
        if there {
            let placement = self.memo.placement.take();
            if !was_placed || placement.is_some() {
                let placement = placement.unwrap_or_else(|| format!("{} placed{on}", workers(all)));
                self.note(false, Reason::Placed, placement.clone());
                self.condition(condition::PLACED, true, Reason::Placed, &placement);
            }
            self.decision.status.start_time.get_or_insert(Time(self.now));
        } else if live < all || !was_placed {
            let news = !self
                .decision
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == condition::PLACED && c.reason == reason.as_str());
            self.condition(condition::PLACED, false, reason, &message);
            if news && matches!(reason, Reason::NoFit | Reason::UnknownLevel | Reason::PodsRefused) {
                self.note(true, reason, message.clone());
            }
        }
        let ready =
            phase == Phase::Running && self.decision.status.ready + self.decision.status.succeeded >= count(all);
        self.condition(
            condition::READY,
            ready,
            if ready { Reason::AllReady } else { reason_unless_ready(reason) },
            &message,
        );
        self.set(phase, message);
    }

    /// The status before the API server was asked about the templates.
    pub(super) fn report_waiting_for_verdict(&mut self) {
        if self.decision.status.message.is_empty() {
            self.set(Phase::Pending, "checking the job".to_owned());
            self.decision.status.ready_summary = format!("0/{}", self.job.spec.workers());
        }
    }

    pub(super) fn report_suspended(&mut self) {
        self.count();
        let message = "suspended by spec.suspend; set it to false to start the job again";
        self.condition(condition::SUSPENDED, true, Reason::Suspended, message);
        self.condition(condition::PLACED, false, Reason::Suspended, message);
        self.condition(condition::READY, false, Reason::Suspended, message);
        self.set(Phase::Suspended, message.to_owned());
    }

    pub(super) fn succeed(&mut self) {
        self.count();
        let all = self.slots.len();
        let seconds = self.decision.status.start_time.as_ref().map(|start| self.now.duration_since(start.0).as_secs());
        let after = seconds.map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
        let list = |name: &str| {
            let results = self.slots.iter().filter_map(|slot| slot.state.result.as_ref());
            results.filter_map(|result| result.get(name)?.as_array()).map(Vec::len).sum::<usize>()
        };
        let checks = match list("checks") {
            0 => String::new(),
            1 => ", 1 check passed".to_owned(),
            n => format!(", {n} checks passed"),
        };
        let who = if all == 1 { "the worker".to_owned() } else { format!("all {all} workers") };
        let message = format!("{who} ended well{after}{checks}");
        self.condition(condition::SUCCEEDED, true, Reason::AllSucceeded, &message);
        self.condition(condition::READY, false, Reason::Ended, &message);
        self.note(false, Reason::AllSucceeded, message.clone());
        self.decision.status.completion_time = Some(Time(self.now));
        self.set(Phase::Succeeded, message);
        self.after_the_end();
    }

    /// Ends the job. What still runs is deleted; ended pods stay for their logs.
    pub(super) fn fail(&mut self, reason: Reason, message: String) {
        if self.slots.is_empty() {
            self.decision.status.ready_summary = format!("0/{}", self.job.spec.workers());
        } else {
            self.count();
        }
        self.condition(condition::FAILED, true, reason, &message);
        self.condition(condition::READY, false, reason, &message);
        self.note(true, reason, message.clone());
        self.decision.status.completion_time = Some(Time(self.now));
        self.set(Phase::Failed, message);
        // Whatever was decided before about pods of a job that goes on is void.
        self.decision.actions.retain(|action| matches!(action, Action::DeletePod { .. }));
        self.after_the_end();
    }

    fn set(&mut self, phase: Phase, message: String) {
        self.decision.status.phase = phase;
        self.decision.status.message = message;
    }

    /// Writes the slots back, with what follows from them.
    fn count(&mut self) {
        let phases = |wanted: WorkerPhase| count(self.slots.iter().filter(|slot| slot.state.phase == wanted).count());
        let (ready, succeeded, failed) =
            (phases(WorkerPhase::Ready), phases(WorkerPhase::Succeeded), phases(WorkerPhase::Failed));
        let placement = self.placement();
        let status = &mut self.decision.status;
        status.ready = ready;
        status.succeeded = succeeded;
        status.failed = failed;
        status.ready_summary = format!("{}/{}", ready + succeeded, self.slots.len());
        status.placement = placement;
        status.workers = self.slots.iter().map(|slot| slot.state.clone()).collect();
    }

    /// `rack-a: node-1, node-2`: the nodes by rank, after the narrowest domain that holds them all, if there is more than one.
    fn placement(&self) -> Option<String> {
        const SHOWN: usize = 4;
        let mut nodes: Vec<&str> = Vec::new();
        for node in self.slots.iter().filter_map(|slot| slot.state.node.as_deref()) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        let shown = nodes.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = if nodes.len() > SHOWN { format!(" and {} more", nodes.len() - SHOWN) } else { String::new() };
        match nodes.len() {
            0 => None,
            1 => Some(shown),
            _ => {
                let levels = self.index.levels().levels.iter().rev();
                let domain = |label: &str| {
                    let values: BTreeSet<Option<&str>> =
                        nodes.iter().map(|node| Some(self.index.node(node)?.labels.get(label)?.as_str())).collect();
                    if values.len() == 1 { values.into_iter().next().flatten() } else { None }
                };
                let domain =
                    levels.filter(|level| level.name != names::LEVEL_HOST).find_map(|level| domain(&level.node_label));
                let domain = domain.map(|domain| format!("{domain}: ")).unwrap_or_default();
                Some(format!("{domain}{shown}{more}"))
            }
        }
    }

    /// What went wrong last, as the start of a sentence.
    fn latest_trouble(&self) -> String {
        let trouble = self.slots.iter().filter(|slot| slot.is_missing()).find_map(|slot| slot.state.message.as_deref());
        trouble.map(|trouble| format!("{trouble}; ")).unwrap_or_default()
    }
}

fn reason_unless_ready(reason: Reason) -> Reason {
    if reason == Reason::AllReady { Reason::Starting } else { reason }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
