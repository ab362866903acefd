//! A job that was suspended, changed and resumed before an operator looked: its workers are those of before the change.

use super::Work;
use crate::facts::PodFacts;
use crate::revision::Revision;
use std::collections::HashMap;
use weft_api::job::Reason;

impl Work<'_> {
    /// What pods are made of now.
    pub(super) fn revision(&self) -> Revision {
        *self.revision.get_or_init(|| Revision::of(self.job))
    }

    /// Whether workers, and not only pods on their way out, were made of other groups than the job has now.
    pub(super) fn has_workers_of_other_groups(&self) -> bool {
        let of_others = |pod: &&PodFacts| {
            let made_of = pod.worker.as_ref().and_then(|worker| worker.revision);
            made_of.is_some_and(|made_of| made_of.may_differ(self.job) && !made_of.is_made_as(self.revision()))
        };
        let mut others = self.index.pods_of(self.key, super::job_uid(self.job)).filter(of_others).peekable();
        if others.peek().is_none() {
            return false;
        }
        let workers = &self.decision.status.workers;
        let attempts: HashMap<&str, u32> = workers.iter().map(|worker| (worker.pod.as_str(), worker.attempt)).collect();
        let members = self.members();
        others.any(|pod| {
            // One that is no worker of the job any more is on its way out, too.
            let is_member = || members.iter().any(|member| member.pod == pod.key.name).then_some(0);
            let wanted = attempts.get(pod.key.name.as_str()).copied().or_else(is_member);
            pod.worker.as_ref().is_some_and(|worker| Some(worker.attempt) == wanted)
        })
    }

    /// The job is as if it had never started: its size is open again, its templates are asked about, its deadline counts anew.
    pub(super) fn forget_start(&mut self) {
        self.decision.status.start_time = None;
        self.decision.status.groups.clear();
    }

    /// From now on another pod is wanted for each worker, as after a suspension that was seen.
    pub(super) fn start_anew(&mut self) {
        for slot in 0..self.slots.len() {
            self.restart(slot, None, None);
        }
        let message = "the job was resumed with other groups than its workers were made of; all start anew";
        self.note(false, Reason::Resumed, message.to_owned());
    }
}
