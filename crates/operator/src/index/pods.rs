//! Pods, those that are there and those that are decided on: whose they are, where, and what they claim.

use super::{Assumed, Index, JobKey, Touched};
use crate::facts::{PodFacts, PodKey};
use std::collections::HashMap;
use weft_topology::{Claim, NodeName, Resources};

impl Index {
    /// A pod.
    pub fn pod(&self, key: &PodKey) -> Option<&PodFacts> {
        self.pods.get(key).map(Box::as_ref)
    }

    /// The pods of a job, of this very job and not of an earlier one of the same name.
    pub fn pods_of<'a>(&'a self, key: &JobKey, uid: &'a str) -> impl Iterator<Item = &'a PodFacts> {
        self.named(key).filter(move |pod| pod.worker.as_ref().is_some_and(|worker| worker.job_uid == uid))
    }

    /// The pods of earlier jobs of this name: those jobs are gone, and garbage collection comes for the pods.
    pub fn pods_of_earlier<'a>(&'a self, key: &JobKey, uid: &'a str) -> impl Iterator<Item = &'a PodFacts> {
        self.named(key).filter(move |pod| pod.worker.as_ref().is_some_and(|worker| worker.job_uid != uid))
    }

    /// The workers' pods of all jobs of this name.
    fn named(&self, key: &JobKey) -> impl Iterator<Item = &PodFacts> {
        self.workers.get(key).into_iter().flatten().filter_map(|pod| self.pod(pod))
    }

    /// The GPUs that a pod holds, as its node reports.
    pub fn held_by(&self, pod: &PodKey) -> &[String] {
        self.held.get(pod).map(Vec::as_slice).unwrap_or_default()
    }

    /// Node and claim of a pod that is decided on and not seen yet.
    pub fn assumed(&self, pod: &PodKey) -> Option<(&str, &Claim)> {
        self.assumed.get(pod).map(|assumed| (assumed.node.as_str(), &assumed.claim))
    }

    /// The pods that are decided on for a job and not seen yet.
    pub fn assumed_of(&self, job: &JobKey) -> impl Iterator<Item = &PodKey> {
        self.awaited.get(job).into_iter().flatten()
    }

    /// Notes a pod that is about to be created: its claim counts from now, until the pod itself is seen or [`Self::forget`].
    pub fn assume(&mut self, job: &JobKey, job_uid: &str, pod: PodKey, node: String, claim: Claim) {
        self.forget(&pod);
        let assumed = Assumed { job: job.clone(), job_uid: job_uid.to_owned(), node, claim };
        self.assumed.insert(pod.clone(), assumed);
        self.awaited.entry(job.clone()).or_default().insert(pod.clone());
        self.reclaim(&pod);
    }

    /// Takes an assumption back, because the pod will not be created. False if there was none.
    pub fn forget(&mut self, pod: &PodKey) -> bool {
        let Some(assumed) = self.assumed.remove(pod) else { return false };
        if let Some(pods) = self.awaited.get_mut(&assumed.job) {
            pods.remove(pod);
            if pods.is_empty() {
                self.awaited.remove(&assumed.job);
            }
        }
        self.reclaim(pod);
        true
    }

    /// A pod as it is now.
    pub fn apply_pod(&mut self, pod: PodFacts) -> Touched {
        let key = pod.key.clone();
        // A pod of an earlier job of the name, or a stranger's, says nothing of the one that is awaited.
        let awaited = self.assumed.get(&key).zip(pod.worker.as_ref());
        let is_it = awaited.is_some_and(|(assumed, worker)| assumed.job_uid == worker.job_uid);
        let was_assumed = is_it && self.forget(&key);
        if self.pod(&key) == Some(&pod) && !was_assumed {
            return Touched::NOTHING;
        }
        let before = self.pods.remove(&key);
        let mut touched_too = None;
        let frees = before.as_ref().is_some_and(|before| !before.is_over() && pod.is_over());
        let job =
            pod.worker.as_ref().map(|worker| JobKey { namespace: key.namespace.clone(), name: worker.job.clone() });
        if let Some(node) = before.as_ref().and_then(|before| self.node_of(before)) {
            self.unlink(&node, &key);
        }
        if let Some(node) = self.node_of(&pod) {
            self.by_node.entry(node).or_default().insert(key.clone());
        }
        // Under one name there may be another job's worker now, if the deletion of the first was never seen.
        let worker = before.as_ref().and_then(|before| before.worker.as_ref());
        if let Some(earlier) =
            worker.map(|worker| JobKey { namespace: key.namespace.clone(), name: worker.job.clone() })
            && job.as_ref() != Some(&earlier)
        {
            self.unlink_worker(&earlier, &key);
            touched_too = Some(earlier);
        }
        if let Some(job) = &job {
            self.workers.entry(job.clone()).or_default().insert(key.clone());
        }
        let is_new = before.is_none_or(|before| before.uid != pod.uid);
        if is_new {
            self.held.remove(&key);
        }
        if !self.held.contains_key(&key)
            && let Some(gpus) = pod.node.as_deref().and_then(|node| self.holders(node).remove(&key))
        {
            // The report came before this pod's event: it means this pod if it runs already when it is first seen (after a
            // restart of the operator), or if it has what was planned for it.
            let as_planned =
                gpus.len() == pod.planned_gpus.len() && gpus.iter().all(|uuid| pod.planned_gpus.contains(uuid));
            if as_planned || (is_new && pod.started) {
                self.held.insert(key.clone(), gpus);
            }
        }
        self.pods.insert(key.clone(), Box::new(pod));
        self.reclaim(&key);
        Touched { jobs: job.into_iter().chain(touched_too).collect(), room: frees }
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, key: &PodKey) -> Touched {
        let Some(pod) = self.pods.remove(key) else { return Touched::NOTHING };
        self.held.remove(key);
        if let Some(node) = self.node_of(&pod) {
            self.unlink(&node, key);
        }
        let job = pod.worker.map(|worker| JobKey { namespace: key.namespace.clone(), name: worker.job });
        if let Some(job) = &job {
            self.unlink_worker(job, key);
        }
        self.reclaim(key);
        Touched { jobs: job.into_iter().collect(), room: true }
    }

    /// Every pod key: after a new list, those that were not in it are gone.
    pub fn pod_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.keys()
    }

    /// Forgets that a pod is a job's.
    fn unlink_worker(&mut self, job: &JobKey, pod: &PodKey) {
        if let Some(pods) = self.workers.get_mut(job) {
            pods.remove(pod);
            if pods.is_empty() {
                self.workers.remove(job);
            }
        }
    }

    fn unlink(&mut self, node: &str, pod: &PodKey) {
        if let Some(pods) = self.by_node.get_mut(node) {
            pods.remove(pod);
            if pods.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// The node that a pod is bound to, or that it waits for.
    fn node_of(&self, pod: &PodFacts) -> Option<String> {
        let planned = || pod.planned_host.as_deref().map(|host| self.node_of_host(host).to_owned());
        pod.node.clone().or_else(planned)
    }

    /// Reads again who holds the GPUs of a node.
    ///
    /// A report names pods, not their UIDs, and may be a second old: it is believed of a pod that was bound to the node when
    /// the report came, not of one that came later under the same name.
    pub(super) fn renew_held(&mut self, node: &str) {
        let holders = self.holders(node);
        for pod in self.by_node.get(node).cloned().unwrap_or_default() {
            let bound = self.pods.get(&pod).is_some_and(|pod| pod.node.as_deref() == Some(node));
            let now = holders.get(&pod).filter(|_| bound);
            if self.held.get(&pod) != now {
                match now {
                    Some(gpus) => self.held.insert(pod.clone(), gpus.clone()),
                    None => self.held.remove(&pod),
                };
                self.reclaim(&pod);
            }
        }
    }

    /// The GPUs of a node by the pod that holds them, as last reported.
    pub(super) fn holders(&self, node: &str) -> HashMap<PodKey, Vec<String>> {
        let status = self.reports.get(node).and_then(|report| report.status.as_ref());
        let mut holders: HashMap<PodKey, Vec<String>> = HashMap::new();
        for gpu in status.into_iter().flat_map(|status| &status.gpus) {
            if let Some(holder) = &gpu.holder {
                holders.entry(PodKey::new(&holder.namespace, &holder.pod)).or_default().push(gpu.uuid.clone());
            }
        }
        holders
    }

    /// Notes in the model what a pod claims now, in place of what it claimed before.
    pub(super) fn reclaim(&mut self, key: &PodKey) {
        // What has ended holds nothing: the kubelet gives its devices to the next pod that asks.
        let pod = self.pod(key).filter(|pod| !pod.is_over());
        let held = pod.and_then(|pod| Some((self.node_of(pod)?, self.claim_of(pod))));
        let awaited = self.assumed.get(key).map(|assumed| (assumed.node.clone(), assumed.claim.clone()));
        for (owner, claim) in [(key.owner(), held), (key.awaited_owner(), awaited)] {
            match claim {
                Some((node, claim)) => self.cluster.claim(&NodeName::from(node), owner, claim),
                None => {
                    self.cluster.release(&owner);
                }
            }
        }
    }

    /// GPUs by what the node reports, else by the plan, else by number only.
    fn claim_of(&self, pod: &PodFacts) -> Claim {
        let held = self.held.get(&pod.key);
        let gpus = held.unwrap_or(&pod.planned_gpus);
        let identified = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
        Claim {
            gpus: gpus.iter().map(|uuid| uuid.as_str().into()).collect(),
            unidentified_gpus: pod.gpus.saturating_sub(identified),
            resources: pod.requests.clone(),
            planned: held.is_none() && !pod.started,
        }
    }
}

/// What an assumed worker claims.
pub fn planned_claim(gpus: &[String], requests: &Resources) -> Claim {
    Claim {
        gpus: gpus.iter().map(|uuid| uuid.as_str().into()).collect(),
        unidentified_gpus: 0,
        resources: requests.clone(),
        planned: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_whose_name_went_to_another_jobs_worker_is_not_kept_for_the_first() {
        let worker = |job: &str, uid: &str| {
            let owner = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "name": job, "uid": job, "controller": true});
            let metadata = json!({"name": "a-b-c-0", "namespace": "n", "uid": uid, "labels": {"weft.dev/rank": "0"}, "ownerReferences": [owner]});
            PodFacts::of(serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).unwrap())
        };
        let mut index = Index::default();
        index.apply_pod(worker("a", "1"));
        let touched = index.apply_pod(worker("a-b", "2"));
        assert_eq!(touched.jobs.len(), 2, "both look again");
        index.delete_pod(&PodKey::new("n", "a-b-c-0"));
        assert!(index.workers.is_empty());
    }
}
