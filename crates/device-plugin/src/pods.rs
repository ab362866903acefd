//! The pods bound to this node that ask for GPUs, in the order in which they were bound, with the GPUs that the operator
//! planned for each.
//!
//! kubelet admits pods in the order in which its watch shows them, and this watch has the same field selector, so the
//! order in which pods appear here is the order in which kubelet will ask for their GPUs. After a fresh list that order
//! is lost; then the time of binding stands in, and the time of creation where several were bound in one second.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_pods};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_api::names::{ANNOTATION_GPUS, GPU_RESOURCE};
use weft_topology::GpuUuid;

use crate::status::{Status, count};

/// kubelet asks for the preferred GPUs and allocates right after. A pod that was answered and holds nothing after this
/// long was refused by kubelet for another reason.
const ANSWER_VALID: Duration = Duration::from_secs(30);

/// A pod that the watch showed this recently holds nothing yet: who holds GPUs under its name is the pod that it replaces,
/// since kubelet's list of holders knows no UIDs.
const JUST_BOUND: Duration = Duration::from_secs(1);

/// A pod on this node that asks for GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuPod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// GPUs that its containers ask for, those without any left out.
    pub requests: Vec<usize>,
    /// The GPUs planned for it.
    pub planned: Vec<GpuUuid>,
}

/// The pods of this node that ask for GPUs.
#[derive(Debug, Default)]
pub struct Pods {
    table: Mutex<Table>,
    /// Told at every change.
    pub changed: Notify,
    /// Cancelled, that is fulfilled, once all pods of the node are known.
    pub listed: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    /// By UID.
    pods: BTreeMap<String, Entry>,
    next: u64,
    /// What a list in progress has shown so far.
    listed: Option<BTreeMap<String, (Order, GpuPod)>>,
}

#[derive(Debug)]
struct Entry {
    order: u64,
    pod: GpuPod,
    answered: Option<Instant>,
    /// When it was bound, if the watch showed that; pods of a list may be old.
    bound: Option<Instant>,
}

/// Order among pods of one list.
type Order = (i64, i64, String);

impl Pods {
    /// The pods that wait for GPUs, the first bound first. `holds` says whether a pod already has its GPUs.
    pub fn waiting(&self, holds: impl Fn(&GpuPod) -> bool) -> Vec<GpuPod> {
        let table = self.lock();
        let holds = |entry: &Entry| entry.bound.is_none_or(|at| at.elapsed() > JUST_BOUND) && holds(&entry.pod);
        let mut waiting: Vec<&Entry> = table
            .pods
            .values()
            .filter(|entry| entry.answered.is_none_or(|at| at.elapsed() > ANSWER_VALID) && !holds(entry))
            .collect();
        waiting.sort_by_key(|entry| entry.order);
        waiting.into_iter().map(|entry| entry.pod.clone()).collect()
    }

    /// Remembers that kubelet was told the GPUs of this pod, since it takes a moment until it shows that it holds them.
    pub fn answered(&self, namespace: &str, name: &str) {
        let mut table = self.lock();
        let entry = table.pods.values_mut().find(|e| e.pod.namespace == namespace && e.pod.name == name);
        if let Some(entry) = entry {
            entry.answered = Some(Instant::now());
        }
    }

    /// Takes in one event of the watch.
    pub fn apply(&self, event: Event<Pod>) {
        let mut table = self.lock();
        match event {
            Event::Apply(pod) => table.insert(&pod),
            Event::Delete(pod) => {
                table.pods.remove(&pod.uid().unwrap_or_default());
            }
            Event::Init => table.listed = Some(BTreeMap::new()),
            Event::InitApply(pod) => {
                if let (Some(listed), Some(gpu_pod)) = (&mut table.listed, gpu_pod(&pod)) {
                    listed.insert(pod.uid().unwrap_or_default(), (order(&pod), gpu_pod));
                }
            }
            Event::InitDone => {
                let mut listed: Vec<_> = table.listed.take().unwrap_or_default().into_iter().collect();
                table.pods.retain(|uid, _| listed.iter().any(|(listed, _)| listed == uid));
                listed.sort_by(|(_, (a, _)), (_, (b, _))| a.cmp(b));
                for (uid, (_, pod)) in listed {
                    table.insert_gpu_pod(uid, pod, None);
                }
            }
        }
        if table.listed.is_none() {
            self.listed.cancel();
        }
        drop(table);
        self.changed.notify_one();
    }

    /// A panic while holding it cannot leave it broken: every change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        match gpu_pod(pod) {
            Some(gpu_pod) => self.insert_gpu_pod(uid, gpu_pod, Some(Instant::now())),
            None => {
                self.pods.remove(&uid);
            }
        }
    }

    fn insert_gpu_pod(&mut self, uid: String, pod: GpuPod, bound: Option<Instant>) {
        let next = self.next;
        let new = || Entry { order: next, pod: pod.clone(), answered: None, bound };
        let entry = self.pods.entry(uid).or_insert_with(new);
        if entry.order == next {
            self.next += 1;
        }
        entry.pod = pod;
    }
}

/// What matters of a pod; `None` if it asks for no GPU or is over.
fn gpu_pod(pod: &Pod) -> Option<GpuPod> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let requests: Vec<usize> = containers.map(gpus).filter(|count| *count > 0).collect();
    if requests.is_empty() {
        return None;
    }
    let planned = pod.annotations().get(ANNOTATION_GPUS).map_or("", String::as_str);
    let planned = planned.split(',').map(str::trim).filter(|uuid| !uuid.is_empty()).map(GpuUuid::from).collect();
    Some(GpuPod { namespace: pod.namespace().unwrap_or_default(), name: pod.name_any(), requests, planned })
}

fn gpus(container: &Container) -> usize {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    limits.and_then(|limits| limits.get(GPU_RESOURCE)).and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0)
}

fn order(pod: &Pod) -> Order {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let bound = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "True")
        .find_map(|condition| condition.last_transition_time.as_ref())
        .map_or(i64::MAX, |time| time.0.as_second());
    let created = pod.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    (bound, created, pod.name_any())
}

/// Watches the pods of this node until `shutdown`.
pub async fn follow(
    client: Client,
    node_name: &str,
    pods: Arc<Pods>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    let api: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    // Only a few fields are kept; what a pod's manager wrote when is often most of its size.
    let stream = watch_pods(api, config).default_backoff().modify(|pod| pod.managed_fields_mut().clear());
    let mut stream = pin!(stream);
    let mut failing = false;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = stream.try_next() => next,
        };
        match next {
            Ok(Some(event)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("watching this node's pods again");
                }
                pods.apply(event);
            }
            Ok(None) => return,
            Err(error) => {
                count(&status.counters.watch_errors);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot watch this node's pods; planned GPUs of new pods are not known until it works");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, gpus: u32, planned: &str, bound: i64) -> Pod {
        let time = k8s_openapi::jiff::Timestamp::from_second(bound).unwrap().to_string();
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name, "annotations": {ANNOTATION_GPUS: planned}},
            "spec": {"containers": [
                {"name": "plain"},
                {"name": "main", "resources": {"limits": {GPU_RESOURCE: gpus.to_string()}}}
            ]},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": time}
            ]}
        }))
        .unwrap()
    }

    fn names(pods: &Pods) -> Vec<String> {
        pods.waiting(|_| false).into_iter().map(|pod| pod.name).collect()
    }

    #[test]
    fn pods_wait_in_the_order_in_which_they_were_bound() {
        let pods = Pods::default();
        pods.apply(Event::Init);
        pods.apply(Event::InitApply(pod("late", 1, "", 20)));
        pods.apply(Event::InitApply(pod("early", 1, "", 10)));
        pods.apply(Event::InitDone);
        pods.apply(Event::Apply(pod("a-new-one", 1, "", 5)));
        pods.apply(Event::Apply(pod("early", 1, "", 10)));
        assert_eq!(names(&pods), ["early", "late", "a-new-one"]);
    }

    #[test]
    fn a_fresh_list_drops_who_is_gone_and_keeps_the_order_of_who_stays() {
        let pods = Pods::default();
        for name in ["b", "a", "c"] {
            pods.apply(Event::Apply(pod(name, 1, "", 10)));
        }
        pods.apply(Event::Init);
        pods.apply(Event::InitApply(pod("a", 1, "", 10)));
        pods.apply(Event::InitApply(pod("b", 1, "", 10)));
        pods.apply(Event::InitDone);
        assert_eq!(names(&pods), ["b", "a"]);
    }

    #[test]
    fn a_pod_without_gpus_or_that_is_over_does_not_wait() {
        let pods = Pods::default();
        pods.apply(Event::Apply(pod("none", 0, "", 1)));
        let mut over = pod("over", 2, "", 1);
        over.status.as_mut().unwrap().phase = Some("Succeeded".into());
        pods.apply(Event::Apply(over));
        assert!(names(&pods).is_empty());
    }

    #[test]
    fn a_pod_that_was_just_bound_is_not_taken_for_the_one_that_it_replaces() {
        let pods = Pods::default();
        pods.apply(Event::Init);
        pods.apply(Event::InitApply(pod("of-the-list", 1, "", 10)));
        pods.apply(Event::InitDone);
        pods.apply(Event::Apply(pod("worker-0", 1, "GPU-1", 20)));
        let waiting: Vec<String> = pods.waiting(|_| true).into_iter().map(|pod| pod.name).collect();
        assert_eq!(waiting, ["worker-0"]);
    }

    #[test]
    fn an_answered_pod_waits_no_longer() {
        let pods = Pods::default();
        pods.apply(Event::Apply(pod("a", 2, "GPU-1, GPU-2", 1)));
        assert_eq!(pods.waiting(|_| false)[0].planned, ["GPU-1".into(), "GPU-2".into()]);
        pods.answered("ns", "a");
        assert!(names(&pods).is_empty());
    }
}
