//! One slot for each worker of the job: what its status says, and which pod stands for it.

use super::Work;
use crate::facts::{PodFacts, PodKey, PodLife};
use crate::index;
use crate::worker_pod::Member;
use std::collections::HashSet;
use weft_api::job::{WorkerPhase, WorkerStatus};

/// A worker.
pub(super) struct Slot<'a> {
    pub(super) member: Member,
    pub(super) key: PodKey,
    /// What is going to be its status.
    pub(super) state: WorkerStatus,
    /// Its pod, of the wanted attempt.
    pub(super) pod: Option<&'a PodFacts>,
    /// Another pod of the job, or of an earlier job of its name, under the pod's name and on its way out.
    pub(super) outdated: Option<&'a PodFacts>,
    /// Its name is taken by a pod that is not the job's.
    pub(super) name_taken: bool,
    /// Its pod is decided on and not seen yet.
    pub(super) assumed: bool,
}

impl Slot<'_> {
    /// Whether it ended well. Once seen, this stays so: the pod may be collected.
    pub(super) fn succeeded(&self) -> bool {
        self.state.phase == WorkerPhase::Succeeded
    }

    /// Whether it has a pod, or is about to.
    pub(super) fn is_live(&self) -> bool {
        self.pod.is_some() || self.assumed
    }

    /// Whether its pod is decided on and not there yet.
    pub(super) fn is_awaited(&self) -> bool {
        self.assumed && self.pod.is_none()
    }

    /// Whether it needs a place.
    pub(super) fn is_missing(&self) -> bool {
        !self.is_live() && !self.succeeded()
    }

    /// The node that its pod is bound to, or is to be bound to.
    pub(super) fn node(&self) -> Option<&str> {
        self.pod.and_then(|pod| pod.node.as_deref()).or(self.state.node.as_deref())
    }

    /// The GPUs that it really has, or else those planned.
    pub(super) fn gpus(&self) -> &[String] {
        if self.state.allocated_gpus.is_empty() { &self.state.planned_gpus } else { &self.state.allocated_gpus }
    }
}

impl<'a> Work<'a> {
    /// Lays the pods that there are beside the workers that there should be.
    pub(super) fn take_stock(&mut self) {
        let uid = self.job.metadata.uid.as_deref().unwrap_or_default();
        let mut known = std::mem::take(&mut self.decision.status.workers);
        for member in self.members() {
            let group = &self.job.spec.groups[member.group].name;
            let mut state = match known.iter().position(|worker| worker.pod == member.pod) {
                Some(at) => known.swap_remove(at),
                None => WorkerStatus { group: group.clone(), pod: member.pod.clone(), ..WorkerStatus::default() },
            };
            state.rank = member.rank;
            let key = index::worker_key(self.key, group, member.index);
            let found = self.index.pod(&key);
            let ours = found.filter(|pod| pod.worker.as_ref().is_some_and(|worker| worker.job_uid == uid));
            // Another job's worker may have the name, too: of "a" and "b-c" as of "a-b" and "c".
            let earlier = || found.filter(|pod| pod.worker.as_ref().is_some_and(|worker| worker.job == self.key.name));
            let attempt = |pod: &PodFacts| pod.worker.as_ref().map_or(0, |worker| worker.attempt);
            let (pod, outdated) = match ours {
                Some(pod) if attempt(pod) == state.attempt => (Some(pod), None),
                Some(pod) => (None, Some(pod)),
                None => (None, earlier()),
            };
            let assumed = self.index.assumed(&key);
            if let Some((node, claim)) = assumed
                && pod.is_none()
            {
                // Not taken from the status, which leaves them out where it would be too large or the API server refuses.
                state.node = Some(node.to_owned());
                state.planned_gpus = claim.gpus.iter().map(ToString::to_string).collect();
            }
            let assumed = assumed.is_some();
            let name_taken = found.is_some() && pod.is_none() && outdated.is_none();
            let mut slot = Slot { member, key, state, pod, outdated, name_taken, assumed };
            self.observe(&mut slot);
            self.slots.push(slot);
        }
        // Of groups that the job had before a change.
        let mut awaited = self.index.assumed_of(self.key).peekable();
        if awaited.peek().is_some() {
            let slots: HashSet<&PodKey> = self.slots.iter().map(|slot| &slot.key).collect();
            self.decision.void.extend(awaited.filter(|pod| !slots.contains(pod)).cloned());
        }
    }

    /// Takes over what the pod shows.
    fn observe(&self, slot: &mut Slot<'_>) {
        let Some(pod) = slot.pod else { return };
        let state = &mut slot.state;
        state.phase = match &pod.life {
            PodLife::Waiting => WorkerPhase::Starting,
            PodLife::Running { ready: false } => WorkerPhase::Running,
            PodLife::Running { ready: true } => WorkerPhase::Ready,
            PodLife::Succeeded => WorkerPhase::Succeeded,
            PodLife::Failed(_) => WorkerPhase::Failed,
        };
        if pod.started {
            state.refused = 0;
            state.not_before = None;
        }
        let planned = || pod.planned_host.as_deref().map(|host| self.index.node_of_host(host).to_owned());
        state.node = pod.node.clone().or_else(planned);
        state.planned_gpus.clone_from(&pod.planned_gpus);
        let held = self.index.held_by(&pod.key);
        if !held.is_empty() {
            state.allocated_gpus = held.to_vec();
        }
        if state.phase != WorkerPhase::Starting && !matches!(pod.life, PodLife::Failed(_)) {
            state.message = None;
        }
        if pod.is_over()
            && let Some(text) = &pod.termination
            && let Ok(serde_json::Value::Object(result)) = serde_json::from_str(text)
        {
            state.result = Some(result);
        }
    }
}
