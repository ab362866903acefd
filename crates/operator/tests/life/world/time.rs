//! Time passes: the operator decides, its writes go through, schedulers and kubelets do their part.

use super::{Answer, World};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use std::time::{Duration, Instant};
use weft_api::node::{Health, Holder};
use weft_operator::facts::PodKey;
use weft_operator::reconcile::{Action, Verdict};
use weft_operator::write::{Batch, Outcome, created};

impl World {
    /// Time passes; the operator does what there is to do.
    pub fn step(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        for _ in 0..50 {
            let batches = self.controller.decide(self.now, self.pass_ends());
            if batches.is_empty() {
                return;
            }
            for batch in batches {
                let outcome = self.execute(batch);
                if self.die_after == Some(0) {
                    return;
                }
                self.controller.settle(outcome, self.now);
            }
        }
        panic!("the operator does not come to rest");
    }

    /// One pass of the operator; for how many jobs it wrote.
    pub fn pass(&mut self) -> usize {
        let batches = self.controller.decide(self.now, self.pass_ends());
        let written = batches.len();
        for batch in batches {
            let outcome = self.execute(batch);
            self.controller.settle(outcome, self.now);
        }
        written
    }

    /// One pass of the operator, which does not hear yet what became of its writes.
    pub fn pass_unheard(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        for batch in self.controller.decide(self.now, self.pass_ends()) {
            let outcome = self.execute(batch);
            self.unheard.push_back(outcome);
        }
    }

    /// One pass of the operator whose writes wait for their turn.
    pub fn decide_only(&mut self) -> Vec<Batch> {
        self.controller.decide(self.now, self.pass_ends())
    }

    /// The turn of their creations comes.
    pub fn execute_late(&mut self, batches: Vec<Batch>) {
        for batch in batches {
            self.late = true;
            let outcome = self.execute(batch);
            self.unheard.push_back(outcome);
        }
    }

    /// The operator hears of so many batches, the oldest first.
    pub fn hear(&mut self, batches: usize) {
        for _ in 0..batches {
            let Some(outcome) = self.unheard.pop_front() else { return };
            self.controller.settle(outcome, self.now);
        }
    }

    /// What becomes of the next write.
    fn answer(&mut self) -> Answer {
        self.answers.pop_front().unwrap_or(Answer::Done)
    }

    fn pass_ends(&self) -> Instant {
        let now = Instant::now();
        if self.short_passes { now } else { now + Duration::from_secs(3600) }
    }

    /// Scheduler and kubelets do their part, and the operator after them, until nothing changes.
    pub fn run(&mut self) {
        for _ in 0..10 {
            self.step(1);
            let before = self.pods.clone();
            self.kubelet();
            self.step(0);
            if self.pods == before {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Binds and starts every pod without gates, and ends every pod that is being deleted.
    pub fn kubelet(&mut self) {
        for (key, pod) in self.pods.clone() {
            if pod.metadata.deletion_timestamp.is_some() {
                self.remove_pod(&key);
                continue;
            }
            let spec = pod.spec.as_ref().unwrap();
            if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) || spec.node_name.is_some() {
                continue;
            }
            let node = spec.node_selector.as_ref().unwrap()["kubernetes.io/hostname"].clone();
            let name = key.name.clone();
            self.change_pod(&name, |pod| pod["spec"]["nodeName"] = json!(node));
            if self.refuses_failed_gpus && self.plans_failed_gpu(&pod, &node) {
                let why = json!({"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no healthy devices present"});
                self.change_pod(&name, |pod| pod["status"] = why);
                continue;
            }
            self.hold(&pod, &node);
            self.change_pod(&name, |pod| {
                let running = json!({"running": {}});
                let container = json!({"name": "c", "state": running, "ready": true, "restartCount": 0, "image": "", "imageID": ""});
                pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [container]});
            });
        }
    }

    fn plans_failed_gpu(&self, pod: &Pod, node: &str) -> bool {
        let planned = pod.annotations().get("weft.dev/gpus").cloned().unwrap_or_default();
        let gpus = &self.reports[node].status.as_ref().unwrap().gpus;
        gpus.iter().any(|gpu| gpu.health != Health::Healthy && planned.split(',').any(|uuid| uuid == gpu.uuid))
    }

    fn hold(&mut self, pod: &Pod, node: &str) {
        if self.keep_holders {
            return;
        }
        let planned = pod.annotations().get("weft.dev/gpus").cloned().unwrap_or_default();
        let mut report = self.reports[node].clone();
        for gpu in &mut report.status.as_mut().unwrap().gpus {
            if planned.split(',').any(|uuid| uuid == gpu.uuid) {
                assert!(
                    gpu.holder.is_none(),
                    "{} is given to two pods: {:?} and {}",
                    gpu.uuid,
                    gpu.holder,
                    pod.name_any()
                );
                assert_eq!(gpu.health, Health::Healthy, "{} is given though it failed", gpu.uuid);
                gpu.holder = Some(Holder { namespace: "default".into(), pod: pod.name_any(), container: "app".into() });
            }
        }
        self.set_report(report);
    }

    pub(super) fn release(&mut self, pod: &Pod) {
        if self.keep_holders {
            return;
        }
        for mut report in self.reports.values().cloned().collect::<Vec<_>>() {
            let gpus = report.status.iter_mut().flat_map(|status| &mut status.gpus);
            let mut changed = false;
            for gpu in gpus.filter(|gpu| gpu.holder.as_ref().is_some_and(|holder| holder.pod == pod.name_any())) {
                gpu.holder = None;
                changed = true;
            }
            if changed {
                self.set_report(report);
            }
        }
    }

    fn execute(&mut self, batch: Batch) -> Outcome {
        let mut outcome = Outcome::of(&batch);
        let late = std::mem::take(&mut self.late);
        if !late && self.jobs.get(&batch.key).is_none_or(|job| job.uid().as_deref() != Some(&batch.uid)) {
            // As write.rs does: 404.
            if batch.status.is_some() && !self.jobs.contains_key(&batch.key) {
                outcome.gone = true;
                outcome.not_sent = created(&batch.actions);
            }
            return outcome;
        }
        if late {
            for action in batch.actions {
                if let Action::CreatePod(pod) = action {
                    self.create(*pod, &mut outcome)
                }
            }
            return outcome;
        }
        if let Some(unreadable) = batch.unreadable {
            let mut job = self.jobs[&batch.key].clone();
            assert_eq!(unreadable.resource_version, job.resource_version());
            let status = job.status.get_or_insert_default();
            if unreadable.is_first {
                status.message = unreadable.message;
            }
            status.conditions = unreadable.conditions;
            self.said_unreadable += 1;
            self.set_job(job);
            return outcome;
        }
        if let Some(status) = batch.status {
            let answer = self.answer();
            outcome.status_unknown = answer != Answer::Done;
            if answer == Answer::NotDone {
                outcome.not_sent = created(&batch.actions);
                outcome.trouble = Some("cannot write the status".into());
                return outcome;
            }
            let mut job = self.jobs[&batch.key].clone();
            self.statuses.push((batch.key.name.clone(), status.clone()));
            job.status = Some(status.clone());
            self.set_job(job);
            if answer == Answer::Lost {
                outcome.not_sent = created(&batch.actions);
                outcome.trouble = Some("cannot write the status".into());
                return outcome;
            }
            outcome.status = Some(status);
        }
        for action in batch.actions {
            if let Some(left) = &mut self.die_after {
                if *left == 0 {
                    return outcome;
                }
                *left -= 1;
            }
            self.sent.push(action.clone());
            let concerned = match &action {
                Action::CreatePod(pod) => Some(PodKey::new("default", &pod.name_any())),
                Action::DeletePod { pod, .. } | Action::LiftGate { pod, .. } => Some(pod.clone()),
                _ => None,
            };
            if self.creations_vanish
                && let Action::CreatePod(pod) = &action
            {
                outcome.unknown.push(PodKey::new("default", &pod.name_any()));
                outcome.trouble = Some("the API server does not answer in time".into());
                continue;
            }
            if let Some(pod) = concerned {
                match self.answer() {
                    Answer::Done => {}
                    lost => {
                        outcome.unknown.push(pod);
                        outcome.trouble = Some("the API server does not answer in time".into());
                        if lost == Answer::NotDone {
                            continue;
                        }
                    }
                }
            }
            match action {
                Action::ProbeTemplates if self.probe_fails => {
                    outcome.trouble = Some("cannot check the pod template".into())
                }
                Action::ProbeTemplates => {
                    outcome.verdict = Some(self.refuse_templates.clone().map_or(Verdict::Fine, Verdict::Refused));
                    if std::mem::take(&mut self.is_corrected_while_asked) {
                        self.refuse_templates = None;
                        self.change_job(&batch.key.name, |_| {});
                    }
                }
                Action::EnsureSupport => {}
                Action::CreatePod(pod) => self.create(*pod, &mut outcome),
                Action::DeletePod { pod, uid, grace } => self.delete(&pod, &uid, grace),
                Action::LiftGate { pod, rest, uid } => {
                    assert!(rest.is_empty());
                    if self.pods.get(&pod).is_none_or(|there| there.uid().as_deref() != Some(&*uid)) {
                        continue;
                    }
                    self.change_pod(&pod.name, |pod| {
                        pod["spec"].as_object_mut().unwrap().remove("schedulingGates");
                    });
                }
                Action::DeleteJob => self.delete_job(&batch.key.name),
            }
        }
        outcome
    }

    fn create(&mut self, mut pod: Pod, outcome: &mut Outcome) {
        let key = PodKey::new("default", &pod.name_any());
        if self.pods.contains_key(&key) {
            return outcome.exist.push(key);
        }
        if let Some(why) = &self.refuse_pods {
            if self.refuses_as_invalid {
                outcome.verdict = Some(Verdict::Refused(why.clone()));
            } else {
                outcome.refused = Some(why.clone());
            }
            return outcome.not_created.push(key);
        }
        self.next_uid += 1;
        pod.metadata.uid = Some(format!("pod-{}", self.next_uid));
        self.set_pod(pod);
    }

    fn delete(&mut self, key: &PodKey, uid: &str, grace: Option<u32>) {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.uid().as_deref() == Some(uid)) else { return };
        if grace == Some(0) || pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
            return self.remove_pod(key);
        }
        let mut pod = pod.clone();
        pod.metadata.deletion_timestamp =
            Some(Time(self.now + SignedDuration::from_secs(i64::from(grace.unwrap_or(30)))));
        self.set_pod(pod);
    }
}
