//! The calls that kubelet makes to a device plugin.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::Stream;
use tokio::sync::{Notify, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response};
use weft_proto::deviceplugin::device_plugin_server::DevicePlugin;
use weft_proto::deviceplugin::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    Device, DevicePluginOptions, Empty, ListAndWatchResponse, NumaNode, PreStartContainerRequest,
    PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse, TopologyInfo,
};
use weft_topology::Health;

use crate::cdi;
use crate::holders::Holders;
use crate::plugin::preferred::{Question, preferred};
use crate::pods::Pods;
use crate::snapshot::Snapshot;
use crate::status::{Status, count};

/// What kubelet is told of this plugin, in Register and again when it asks.
pub fn options() -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true }
}

/// The plugin. Cheap to clone: a new server is started for each registration.
#[derive(Clone)]
pub struct Plugin {
    /// The machine; only GPUs that the CDI specification describes.
    pub machine: watch::Receiver<Arc<Snapshot>>,
    /// Who holds what.
    pub holders: watch::Receiver<Holders>,
    /// Who waits, and what was planned.
    pub pods: Arc<Pods>,
    /// Told after each allocation.
    pub allocated: Arc<Notify>,
    /// Counters.
    pub status: Arc<Status>,
    /// The streams of this registration.
    pub streams: Arc<Streams>,
}

/// The streams of device lists that are open. kubelet has one for as long as it knows the plugin: when it ends, kubelet has
/// marked all devices unhealthy and waits for the plugin to register again.
#[derive(Debug, Default)]
pub struct Streams {
    open: AtomicUsize,
    ended: Notify,
}

/// One open stream.
struct OpenStream(Arc<Streams>);

impl Streams {
    fn begin(self: &Arc<Self>) -> OpenStream {
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenStream(Arc::clone(self))
    }

    /// Waits until a stream has ended and none is left.
    pub async fn lost(&self) {
        loop {
            self.ended.notified().await;
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_one();
    }
}

/// The whole list of devices, as kubelet wants it each time.
pub fn devices(snapshot: &Snapshot) -> Vec<Device> {
    let device = |gpu: &weft_topology::Gpu| Device {
        id: gpu.uuid.to_string(),
        health: if gpu.health.is_healthy() { "Healthy" } else { "Unhealthy" }.to_owned(),
        topology: gpu.numa.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] }),
    };
    snapshot.node.gpus().iter().map(device).collect()
}

/// What one container gets, or why it does not.
fn allocate(snapshot: &Snapshot, ids: &[String]) -> Result<ContainerAllocateResponse, tonic::Status> {
    for id in ids {
        let gpu = snapshot.node.position(id).and_then(|position| snapshot.node.gpus().get(position));
        match gpu.map(|gpu| (gpu.index, &gpu.health)) {
            Some((_, Health::Healthy)) => {}
            Some((index, Health::Unhealthy { reason })) => {
                return Err(tonic::Status::failed_precondition(format!("GPU {index} ({id}) {reason}")));
            }
            None => {
                return Err(tonic::Status::invalid_argument(format!(
                    "GPU {id} is not on node {}: kubelet remembers another machine; restart it",
                    snapshot.node.name()
                )));
            }
        }
    }
    Ok(ContainerAllocateResponse {
        envs: HashMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), ids.join(","))]),
        cdi_devices: ids.iter().map(|id| CdiDevice { name: cdi::device_name(id) }).collect(),
        ..Default::default()
    })
}

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, tonic::Status> {
        Ok(Response::new(options()))
    }

    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, tonic::Status>> + Send>>;

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, tonic::Status> {
        let mut sent: Option<Vec<Device>> = None;
        let open = self.streams.begin();
        let lists = WatchStream::new(self.machine.clone()).filter_map(move |snapshot| {
            // Ends with the stream, however that ends.
            let _open = &open;
            let devices = devices(&snapshot);
            // Most changes of the machine do not concern kubelet.
            (sent.as_ref() != Some(&devices)).then(|| {
                sent = Some(devices.clone());
                Ok(ListAndWatchResponse { devices })
            })
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, tonic::Status> {
        let snapshot = Arc::clone(&self.machine.borrow());
        let holders = self.holders.borrow().clone();
        let answer = |request: &weft_proto::deviceplugin::ContainerPreferredAllocationRequest| {
            let waiting = self.pods.waiting(|pod| holders.has(pod));
            let question = Question {
                available: &request.available_device_i_ds,
                must_include: &request.must_include_device_i_ds,
                size: usize::try_from(request.allocation_size).unwrap_or(0),
            };
            let answer = preferred(&snapshot.node, &waiting, question);
            let counters = &self.status.counters;
            count(if answer.planned { &counters.preferred_planned } else { &counters.preferred_solved });
            if let Some((namespace, name)) = &answer.pod {
                self.pods.answered(namespace, name);
            }
            tracing::info!(size = question.size, planned = answer.planned, "recommended {}", answer.because);
            let device_i_ds = answer.gpus.iter().map(ToString::to_string).collect();
            ContainerPreferredAllocationResponse { device_i_ds }
        };
        let container_responses = request.get_ref().container_requests.iter().map(answer).collect();
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, tonic::Status> {
        let snapshot = Arc::clone(&self.machine.borrow());
        let mut container_responses = Vec::new();
        for container in &request.get_ref().container_requests {
            match allocate(&snapshot, &container.devices_ids) {
                Ok(response) => {
                    count(&self.status.counters.allocations);
                    tracing::info!(gpus = container.devices_ids.join(","), "allocated");
                    container_responses.push(response);
                }
                Err(refusal) => {
                    count(&self.status.counters.allocations_refused);
                    tracing::warn!(error = refusal.message(), "refused an allocation");
                    return Err(refusal);
                }
            }
        }
        self.allocated.notify_one();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, tonic::Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher::Event;
    use weft_proto::deviceplugin::ContainerPreferredAllocationRequest;
    use weft_topology::{Gpu, Node, NodeFacts};

    use super::*;

    /// A plugin on a node with four GPUs.
    fn plugin() -> (Plugin, watch::Sender<Arc<Snapshot>>, watch::Sender<Holders>) {
        let gpu = |index: u32| Gpu {
            uuid: format!("GPU-{index}").into(),
            index,
            product: "GPU".into(),
            memory_bytes: 1,
            pci_bus_id: format!("{index}").into(),
            numa: None,
            health: Health::Healthy,
            mig_profile: None,
        };
        let facts = NodeFacts { name: "node".into(), gpus: (0..4).map(gpu).collect(), ..NodeFacts::default() };
        let mut snapshot = Snapshot::empty("node", None).unwrap();
        snapshot.node = Node::new(facts).unwrap();
        let (machine_tx, machine) = watch::channel(Arc::new(snapshot));
        let (holders_tx, holders) = watch::channel(Holders::default());
        let plugin = Plugin {
            machine,
            holders,
            pods: Arc::default(),
            allocated: Arc::default(),
            status: Arc::default(),
            streams: Arc::default(),
        };
        (plugin, machine_tx, holders_tx)
    }

    fn bound(name: &str, planned: &str) -> Event<Pod> {
        let pod = serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name, "annotations": {"weft.dev/gpus": planned}},
            "spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}
        });
        Event::Apply(serde_json::from_value(pod).unwrap())
    }

    async fn ask(plugin: &Plugin, available: &[&str]) -> Vec<String> {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: available.iter().map(|id| (*id).to_owned()).collect(),
            must_include_device_i_ds: Vec::new(),
            allocation_size: 2,
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = plugin.get_preferred_allocation(Request::new(request)).await.unwrap().into_inner();
        answer.container_responses[0].device_i_ds.clone()
    }

    #[tokio::test]
    async fn each_pod_gets_the_gpus_that_were_planned_for_it() {
        let (plugin, _machine, _holders) = plugin();
        plugin.pods.apply(bound("first", "GPU-3,GPU-1"));
        plugin.pods.apply(bound("second", "GPU-0,GPU-2"));
        assert_eq!(ask(&plugin, &["GPU-0", "GPU-1", "GPU-2", "GPU-3"]).await, ["GPU-1", "GPU-3"]);
        assert_eq!(ask(&plugin, &["GPU-0", "GPU-2"]).await, ["GPU-0", "GPU-2"]);
        assert_eq!(plugin.status.counters.preferred_planned.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_change_that_does_not_concern_kubelet_sends_no_list() {
        let (plugin, machine, _holders) = plugin();
        let mut lists = plugin.list_and_watch(Request::new(Empty {})).await.unwrap().into_inner();
        assert_eq!(lists.next().await.unwrap().unwrap().devices.len(), 4);
        machine.send_modify(|snapshot| Arc::make_mut(snapshot).unreadable.push("GPU 9".into()));
        let sick = |snapshot: &mut Arc<Snapshot>| {
            let node = snapshot.node.clone().with_health("GPU-2", Health::unhealthy("XID 79")).unwrap();
            Arc::make_mut(snapshot).node = node;
        };
        machine.send_modify(sick);
        let list = lists.next().await.unwrap().unwrap();
        let unhealthy: Vec<_> = list.devices.iter().filter(|device| device.health == "Unhealthy").collect();
        assert_eq!(unhealthy.len(), 1);
        drop(machine);
        assert!(lists.next().await.is_none(), "nothing else was sent");
    }

    #[tokio::test]
    async fn kubelet_is_lost_with_its_last_stream_and_not_before() {
        let (plugin, _machine, _holders) = plugin();
        let kubelets = plugin.list_and_watch(Request::new(Empty {})).await.unwrap();
        drop(plugin.list_and_watch(Request::new(Empty {})).await.unwrap());
        let mut lost = std::pin::pin!(plugin.streams.lost());
        assert!(futures::poll!(&mut lost).is_pending(), "someone else looked, kubelet's own is open");
        drop(kubelets);
        lost.await;
    }
}
