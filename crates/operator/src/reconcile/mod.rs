//! What to do for one job: a function of the world, the job and the time, without effects.
//!
//! ```text
//! pods ─▶ slots ─▶ faults ─▶ restart ─▶ delete what is outdated ─▶ place what is missing ─▶ lift the gates ─▶ status
//! ```
//!
//! The status is the plan: it is written before the actions that follow from it. A worker's `attempt` in the status says which
//! of its pods is wanted; a pod with another attempt is on its way out. So an operator that is killed between any two
//! requests leaves a state from which the next one goes on, and counts every restart once.
//!
//! Pods are made only when the whole gang has a place, with node and GPUs written in them, and behind a scheduling gate. The
//! gates are lifted when all pods of the gang exist. A gang that does not fit has no pods at all.

mod changed;
mod faults;
mod placing;
mod report;
mod size;
mod slots;

use crate::facts::PodKey;
use crate::index::{Index, JobKey};
use crate::revision::Revision;
use crate::worker_pod::{self, RuntimeImage};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use slots::Slot;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use weft_api::job::{Phase, Reason, WorkerStatus, condition};
use weft_api::{GpuJob, GpuJobStatus, conditions};
use weft_topology::Claim;

/// How long after its pod failed a worker's GPUs may still turn out to be the cause: agents report within a second.
const BLAME_GRACE: SignedDuration = SignedDuration::from_secs(2);
/// How long a deletion may be overdue before it is forced: a process that hangs in a failed driver never ends.
const OVERDUE: SignedDuration = SignedDuration::from_secs(5);
/// How long the scheduler may disagree with a placement before another is made.
const UNSCHEDULABLE_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How often workers that are kept through an outage are looked at.
const OUTAGE_LOOK: SignedDuration = SignedDuration::from_secs(5);
/// After this a write is sent again if the watch does not show what it did.
const SEND_AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// After this a pod that was asked for and is not seen is asked for again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// How often in a row the kubelets may refuse a worker.
const MAX_REFUSED: u32 = 10;

/// What holds for all jobs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The runtime image for sidecars and programs.
    pub runtime: RuntimeImage,
    /// How long a node may be not ready before its workers are given up.
    pub node_lost_after: SignedDuration,
}

/// What the API server said about a job's templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Its own sentence, with the field.
    Refused(String),
}

/// The API server refused to create pods: why, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub until: Timestamp,
}

/// Why a job has no place, and when that was worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    pub why: String,
    pub at: Timestamp,
    /// For these workers of this generation of the job.
    asked: (Option<i64>, Vec<usize>),
}

/// What is remembered of a job between decisions and need not survive the operator.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    /// The verdict on the templates of this generation.
    pub verdict: Option<(Option<i64>, Verdict)>,
    /// The API server's last refusal of pods, until it takes them: while it lasts an attempt is not told as progress.
    pub refusal: Option<Refusal>,
    /// Why there was no room, as it was told last.
    pub no_room: Option<NoRoom>,
    /// How long that may stand while there is still none. Working it out takes a look at every node, and telling it a write:
    /// the more jobs wait, the less often. Zero for each time anew.
    pub tell_again: SignedDuration,
    /// The latest placement in words, for when its pods are there.
    pub placement: Option<String>,
    /// When a pod (by UID) was first seen failed.
    pub failed_seen: HashMap<String, Timestamp>,
    /// When a pod that is not seen yet was last asked for.
    pub asked: HashMap<PodKey, Timestamp>,
    /// What was sent and is not seen yet: the watch may lag behind the answer, and the same request would be sent as fast as the
    /// API server answers. Kept for [`SEND_AGAIN`].
    pub sent: HashMap<Sent, Timestamp>,
    /// Workers are kept on nodes that are not ready.
    pub keeps: bool,
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the API server about the templates, by a dry run.
    ProbeTemplates,
    /// Create the headless service and the program's ConfigMap where they are missing.
    EnsureSupport,
    CreatePod(Box<Pod>),
    /// Delete the pod with this UID; `grace` in seconds, none for the pod's own.
    DeletePod {
        pod: PodKey,
        uid: String,
        grace: Option<u32>,
    },
    /// Leave only these scheduling gates.
    LiftGate {
        pod: PodKey,
        uid: String,
        rest: Vec<String>,
    },
    DeleteJob,
}

/// A write on something that is there, by which it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sent {
    DeletePod { uid: String, grace: Option<u32> },
    LiftGate { uid: String },
    DeleteJob,
}

impl Sent {
    fn of(action: &Action) -> Option<Self> {
        match action {
            Action::DeletePod { uid, grace, .. } => Some(Self::DeletePod { uid: uid.clone(), grace: *grace }),
            Action::LiftGate { uid, .. } => Some(Self::LiftGate { uid: uid.clone() }),
            Action::DeleteJob => Some(Self::DeleteJob),
            // Asked for again by other rules: the verdict, and `asked`.
            Action::ProbeTemplates | Action::EnsureSupport | Action::CreatePod(_) => None,
        }
    }
}

/// An entry for `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: Reason,
    pub message: String,
}

/// What follows for one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The status to be written before any action.
    pub status: GpuJobStatus,
    pub actions: Vec<Action>,
    /// What the pods to be created claim, and where.
    pub assume: Vec<(PodKey, String, Claim)>,
    /// Pods that were assumed and will not be: their place is gone.
    pub void: Vec<PodKey>,
    pub notes: Vec<Note>,
    /// When to look again though nothing changes.
    pub wake: Option<Timestamp>,
}

/// Decides what to do for a job now. `status` is what was written last.
pub fn reconcile(
    index: &Index,
    settings: &Settings,
    key: &JobKey,
    job: &GpuJob,
    status: &GpuJobStatus,
    memo: &mut Memo,
    now: Timestamp,
) -> Decision {
    let decision = Decision { status: status.clone(), ..Decision::default() };
    let (slots, revision) = (Vec::new(), OnceCell::new());
    let mut work = Work { index, settings, key, job, revision, memo, now, slots, kept: None, decision };
    work.decide();
    let Work { mut decision, memo, kept, .. } = work;
    size::fit(&mut decision.status);
    memo.keeps = kept.is_some();
    if !memo.failed_seen.is_empty() {
        let uids: HashSet<&str> = index.pods_of(key, job_uid(job)).map(|pod| pod.uid.as_str()).collect();
        memo.failed_seen.retain(|uid, _| uids.contains(uid.as_str()));
    }
    memo.sent.retain(|_, at| now < *at + SEND_AGAIN);
    let mut wake = decision.wake;
    decision.actions.retain(|action| {
        let Some(what) = Sent::of(action) else { return true };
        if let Some(at) = memo.sent.get(&what) {
            let again = *at + SEND_AGAIN;
            wake = Some(wake.map_or(again, |wake| wake.min(again)));
            return false;
        }
        memo.sent.insert(what, now);
        true
    });
    decision.wake = wake;
    memo.asked.retain(|pod, _| index.assumed(pod).is_some());
    memo.asked.extend(decision.assume.iter().map(|(pod, ..)| (pod.clone(), now)));
    if !decision.actions.iter().any(|action| matches!(action, Action::CreatePod(_))) {
        decision.actions.retain(|action| *action != Action::EnsureSupport);
    }
    decision
}

fn job_uid(job: &GpuJob) -> &str {
    job.metadata.uid.as_deref().unwrap_or_default()
}

/// One decision in the making.
struct Work<'a> {
    index: &'a Index,
    settings: &'a Settings,
    key: &'a JobKey,
    job: &'a GpuJob,
    /// What its pods are made of now, once it is asked for.
    revision: OnceCell<Revision>,
    memo: &'a mut Memo,
    now: Timestamp,
    slots: Vec<Slot<'a>>,
    /// Why workers are kept on nodes that are not ready.
    kept: Option<String>,
    decision: Decision,
}

impl Work<'_> {
    fn decide(&mut self) {
        let unread = |c: &Condition| c.type_ == condition::VALID && c.reason == Reason::Unreadable.as_str();
        if self.decision.status.conditions.iter().any(unread) {
            // By an operator of another version; of a job that has ended nothing else would take that back.
            self.condition(condition::VALID, true, Reason::Accepted, "the job is well formed");
        }
        if self.decision.status.phase.is_terminal() {
            if !self.is_second_try() {
                return self.after_the_end();
            }
            // Whatever ran or ended before counts no more.
            let mut workers = std::mem::take(&mut self.decision.status.workers);
            for worker in &mut workers {
                let WorkerStatus { rank, group, pod, attempt, .. } = std::mem::take(worker);
                *worker = WorkerStatus { rank, group, pod, attempt: attempt + 1, ..WorkerStatus::default() };
            }
            self.decision.status = GpuJobStatus { workers, ..GpuJobStatus::default() };
        }
        self.decision.status.observed_generation = self.job.metadata.generation;
        self.decision.status.gpus = self.job.spec.gpus();
        if let Some((reason, message)) = self.wrong() {
            self.condition(condition::VALID, false, reason, &message);
            return self.fail(reason, message);
        }
        let changed = self.has_workers_of_other_groups();
        if changed {
            self.forget_start();
        }
        // To stop takes no verdict.
        if self.has_unknown_verdict() && !(self.job.spec.suspend && changed) {
            self.report_waiting_for_verdict();
            return self.decision.actions.push(Action::ProbeTemplates);
        }
        self.condition(condition::VALID, true, Reason::Accepted, "the job is well formed");
        self.take_stock();
        if self.job.spec.suspend {
            return self.suspend();
        }
        self.resume();
        if changed {
            self.start_anew();
        }
        if let Some(limit) = self.job.spec.active_deadline_seconds
            && let Some(start) = self.decision.status.start_time.clone()
        {
            let deadline = start.0.saturating_add(SignedDuration::from_secs(limit)).unwrap_or(Timestamp::MAX);
            if self.now >= deadline {
                let message = format!("the job was active for more than spec.activeDeadlineSeconds: {limit} s");
                return self.fail(Reason::DeadlineExceeded, message);
            }
            self.wake_at(deadline);
        }
        if let Some((reason, message)) = self.handle_faults() {
            return self.fail(reason, message);
        }
        if self.slots.iter().all(Slot::succeeded) {
            return self.succeed();
        }
        self.remove_outdated();
        let missing = self.place_missing();
        self.lift_gates();
        self.report(missing);
    }

    /// A job that was refused as invalid is looked at again when its specification changes: nothing was made of it.
    fn is_second_try(&self) -> bool {
        let invalid = [Reason::Invalid, Reason::InvalidTemplate, Reason::UnknownLevel].map(Reason::as_str);
        let refused =
            |c: &Condition| c.type_ == condition::FAILED && c.status == "True" && invalid.contains(&c.reason.as_str());
        let status = &self.decision.status;
        status.conditions.iter().any(refused) && status.observed_generation != self.job.metadata.generation
    }

    /// What is wrong with the job itself.
    fn wrong(&self) -> Option<(Reason, String)> {
        if let Some(message) = crate::validate::job(self.job, &self.settings.runtime) {
            return Some((Reason::Invalid, message));
        }
        match &self.memo.verdict {
            Some((generation, Verdict::Refused(message))) if *generation == self.job.metadata.generation => {
                Some((Reason::InvalidTemplate, message.clone()))
            }
            _ => None,
        }
    }

    /// Whether the API server must be asked about the templates first. A job that has started was asked then.
    fn has_unknown_verdict(&self) -> bool {
        let asked =
            self.memo.verdict.as_ref().is_some_and(|(generation, _)| *generation == self.job.metadata.generation);
        self.job.spec.program.is_none() && !asked && self.decision.status.start_time.is_none()
    }

    fn suspend(&mut self) {
        let first = self.decision.status.phase != Phase::Suspended;
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_live() {
                self.restart(slot, None, None);
                self.slots[slot].assumed = false;
            }
            self.slots[slot].state.phase = Default::default();
        }
        self.await_nobody();
        self.remove_outdated();
        self.forget_start();
        if first {
            self.note(false, Reason::Suspended, "the job is suspended; its workers are deleted".to_owned());
        }
        self.report_suspended();
    }

    fn resume(&mut self) {
        if conditions::is_true(&self.decision.status.conditions, condition::SUSPENDED) {
            self.condition(condition::SUSPENDED, false, Reason::Resumed, "the job is not suspended any more");
            self.note(false, Reason::Resumed, "the job is not suspended any more".to_owned());
        }
    }

    /// What was asked for and is not there holds nothing more. If it comes after all, it is deleted when it is seen.
    fn await_nobody(&mut self) {
        self.decision.assume.clear();
        self.decision.void.extend(self.index.assumed_of(self.key).cloned());
    }

    /// A job that has ended keeps its ended pods, for their logs, until it is deleted itself.
    fn after_the_end(&mut self) {
        self.await_nobody();
        let uid = self.job.metadata.uid.as_deref().unwrap_or_default();
        for pod in self.index.pods_of(self.key, uid).filter(|pod| !pod.is_over()) {
            self.delete(pod);
        }
        let ended = self.decision.status.completion_time.clone();
        if let Some((ttl, ended)) = self.job.spec.ttl_seconds_after_finished.zip(ended) {
            let due = ended.0.saturating_add(SignedDuration::from_secs(ttl)).unwrap_or(Timestamp::MAX);
            if self.now >= due {
                self.decision.actions.push(Action::DeleteJob);
            } else {
                self.wake_at(due);
            }
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.decision.wake = Some(self.decision.wake.map_or(at, |wake| wake.min(at)));
    }

    fn note(&mut self, warning: bool, reason: Reason, message: String) {
        self.decision.notes.push(Note { warning, reason, message });
    }

    /// All workers that the job has now: as many as were placed, or as many as are asked for.
    fn sizes(&self) -> Vec<u32> {
        let groups = &self.job.spec.groups;
        let placed = &self.decision.status.groups;
        let size = |name: &str| placed.iter().find(|group| group.name == name).map(|group| group.replicas);
        groups.iter().map(|group| size(&group.name).unwrap_or(group.replicas)).collect()
    }

    fn members(&self) -> Vec<worker_pod::Member> {
        worker_pod::members(self.job, &self.sizes())
    }
}
