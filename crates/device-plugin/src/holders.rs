//! Which container holds which GPU, as kubelet says on its pod resources socket.
//!
//! kubelet is the only one that knows: a device plugin is told GPUs, never pods. The question is a local call of well
//! under a millisecond; it is asked after each allocation, when a pod of this node changed, and every few seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_api::names::GPU_RESOURCE;
use weft_proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use weft_proto::podresources::{ListPodResourcesRequest, ListPodResourcesResponse};

use crate::pods::{GpuPod, Pods};
use crate::socket;
use crate::status::{Status, count};

/// How often to ask when nothing happens: bounds how long a GPU shows a pod that ended.
const PERIOD: Duration = Duration::from_secs(5);
/// When to ask after an allocation. kubelet lists a pod's devices from the moment it admits it, and admits it
/// after all its containers' devices are allocated.
const AFTER_ALLOCATE: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(450), Duration::from_secs(2)];
/// A kubelet that takes longer is restarting.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Namespace of its pod.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
}

/// Who holds what. The default is that nobody knows, which is not the same as that nobody holds anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders(Option<BTreeMap<String, Holder>>);

impl Holders {
    /// Whether kubelet has answered.
    pub fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// Who holds this GPU.
    pub fn of(&self, uuid: &str) -> Option<&Holder> {
        self.0.as_ref()?.get(uuid)
    }

    /// Whether this pod holds any GPU.
    pub fn has(&self, pod: &GpuPod) -> bool {
        self.0
            .iter()
            .flat_map(BTreeMap::values)
            .any(|holder| holder.namespace == pod.namespace && holder.pod == pod.name)
    }
}

impl From<ListPodResourcesResponse> for Holders {
    fn from(answer: ListPodResourcesResponse) -> Self {
        let mut holders = BTreeMap::new();
        for pod in answer.pod_resources {
            for container in pod.containers {
                for devices in container.devices.into_iter().filter(|devices| devices.resource_name == GPU_RESOURCE) {
                    for uuid in devices.device_ids {
                        let holder = Holder {
                            namespace: pod.namespace.clone(),
                            pod: pod.name.clone(),
                            container: container.name.clone(),
                        };
                        holders.insert(uuid, holder);
                    }
                }
            }
        }
        Holders(Some(holders))
    }
}

/// Asks kubelet once.
pub async fn ask(socket: &Path) -> anyhow::Result<Holders> {
    let question = async {
        let channel = socket::connect(socket).await?;
        let answer = PodResourcesListerClient::new(channel)
            // A node full of pods is a few hundred kilobytes; the default limit of 4 MB is dcgm-exporter's old trouble.
            .max_decoding_message_size(16 << 20)
            .list(ListPodResourcesRequest {})
            .await?;
        anyhow::Ok(Holders::from(answer.into_inner()))
    };
    tokio::time::timeout(TIMEOUT, question).await?
}

/// Keeps `holders` up to date until `shutdown`.
pub async fn follow(
    path: PathBuf,
    holders: watch::Sender<Holders>,
    allocated: Arc<Notify>,
    pods: Arc<Pods>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    let mut failing = false;
    let mut soon: Vec<Duration> = Vec::new();
    loop {
        match ask(&path).await {
            Ok(now) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("kubelet says again which pod holds which GPU");
                }
                holders.send_if_modified(|current| {
                    let changed = *current != now;
                    *current = now;
                    changed
                });
            }
            Err(error) => {
                count(&status.counters.pod_resources_errors);
                if !std::mem::replace(&mut failing, true) {
                    let error = socket::cause(error.as_ref());
                    tracing::warn!(socket = %path.display(), error, "kubelet does not say which pod holds which GPU; is its folder mounted?");
                }
            }
        }
        let wait = soon.pop().unwrap_or(PERIOD);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = allocated.notified() => {
                soon = AFTER_ALLOCATE.into_iter().rev().collect();
                if let Some(first) = soon.pop() {
                    tokio::time::sleep(first).await;
                }
            }
            () = pods.changed.notified() => tokio::time::sleep(AFTER_ALLOCATE[0]).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::podresources::{ContainerDevices, ContainerResources, PodResources};

    use super::*;

    #[test]
    fn only_gpus_are_taken_from_what_kubelet_lists() {
        let devices = |resource: &str, ids: &[&str]| ContainerDevices {
            resource_name: resource.into(),
            device_ids: ids.iter().map(|id| (*id).into()).collect(),
        };
        let container = ContainerResources {
            name: "main".into(),
            devices: vec![devices(GPU_RESOURCE, &["GPU-a", "GPU-b"]), devices("example.com/nic", &["GPU-c"])],
        };
        let pod = PodResources { name: "p".into(), namespace: "ns".into(), containers: vec![container] };
        let holders = Holders::from(ListPodResourcesResponse { pod_resources: vec![pod] });
        assert_eq!(holders.of("GPU-b").unwrap().container, "main");
        assert_eq!(holders.of("GPU-c"), None);
        let pod = GpuPod { namespace: "ns".into(), name: "p".into(), requests: vec![2], planned: vec![] };
        assert!(holders.has(&pod));
    }
}
