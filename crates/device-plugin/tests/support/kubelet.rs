//! kubelet's side of the device plugin API: a real Registration server, and a client of the plugin that registers.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use weft_device_plugin::socket;
use weft_proto::deviceplugin::device_plugin_client::DevicePluginClient;
use weft_proto::deviceplugin::registration_server::{Registration, RegistrationServer};
use weft_proto::deviceplugin::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerPreferredAllocationRequest, Empty,
    ListAndWatchResponse, PreferredAllocationRequest, RegisterRequest,
};
use weft_proto::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use weft_proto::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};

use super::{Node, PATIENCE};

/// A kubelet as a device plugin sees it.
pub struct Kubelet {
    dir: PathBuf,
    server: JoinHandle<()>,
    registered: mpsc::UnboundedReceiver<RegisterRequest>,
    sender: mpsc::UnboundedSender<RegisterRequest>,
}

struct Registrar(mpsc::UnboundedSender<RegisterRequest>);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(Empty {}))
    }
}

impl Kubelet {
    /// Starts like kubelet does: clears the folder, then listens.
    pub fn start(node: &Node) -> Self {
        let (sender, registered) = mpsc::unbounded_channel();
        let dir = node.device_plugins();
        let server = Self::listen(&dir, &sender);
        Kubelet { dir, server, registered, sender }
    }

    fn listen(dir: &PathBuf, sender: &mpsc::UnboundedSender<RegisterRequest>) -> JoinHandle<()> {
        for entry in std::fs::read_dir(dir).unwrap() {
            // A plugin that ends may be faster.
            let _ = std::fs::remove_file(entry.unwrap().path());
        }
        let listener = UnixListener::bind(dir.join("kubelet.sock")).unwrap();
        let service = RegistrationServer::new(Registrar(sender.clone()));
        tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        })
    }

    /// Dies and starts again.
    pub fn restart(&mut self) {
        self.server.abort();
        self.server = Self::listen(&self.dir, &self.sender);
    }

    /// Waits for a plugin to register, and dials it.
    pub async fn plugin(&mut self) -> Plugin {
        let request = timeout(PATIENCE, self.registered.recv()).await.expect("the plugin never registered").unwrap();
        let channel = socket::connect(&self.dir.join(&request.endpoint)).await.unwrap();
        Plugin { request, client: DevicePluginClient::new(channel) }
    }

    /// Whether a plugin has registered that was not waited for.
    pub fn has_registration(&mut self) -> bool {
        self.registered.try_recv().is_ok()
    }
}

/// A registered plugin.
pub struct Plugin {
    pub request: RegisterRequest,
    pub client: DevicePluginClient<tonic::transport::Channel>,
}

impl Plugin {
    pub async fn watch(&mut self) -> Devices {
        Devices(self.client.list_and_watch(Empty {}).await.unwrap().into_inner())
    }

    pub async fn preferred(&mut self, available: &[String], must: &[String], size: i32) -> Vec<String> {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: available.to_vec(),
            must_include_device_i_ds: must.to_vec(),
            allocation_size: size,
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = self.client.get_preferred_allocation(request).await.unwrap().into_inner();
        answer.container_responses[0].device_i_ds.clone()
    }

    pub async fn allocate(&mut self, ids: &[String]) -> Result<AllocateResponse, Status> {
        let container = ContainerAllocateRequest { devices_ids: ids.to_vec() };
        let request = AllocateRequest { container_requests: vec![container] };
        self.client.allocate(request).await.map(Response::into_inner)
    }
}

/// The stream of device lists.
pub struct Devices(Streaming<ListAndWatchResponse>);

impl Devices {
    /// The next list: id and whether it is healthy, in the plugin's order.
    pub async fn next(&mut self) -> ListAndWatchResponse {
        timeout(PATIENCE, self.0.message()).await.expect("no list came").unwrap().expect("the stream ended")
    }

    /// Lists until the unhealthy ones are exactly these.
    pub async fn until_unhealthy(&mut self, ids: &[String]) {
        loop {
            let list = self.next().await;
            let unhealthy: Vec<String> =
                list.devices.into_iter().filter(|device| device.health != "Healthy").map(|device| device.id).collect();
            if unhealthy == ids {
                return;
            }
        }
    }
}

/// kubelet's pod resources socket, with whatever the test says that pods hold.
#[derive(Clone, Default)]
pub struct Holdings(Arc<Mutex<Vec<PodResources>>>);

impl Holdings {
    pub fn serve(node: &Node) -> Self {
        let holdings = Holdings::default();
        let listener = UnixListener::bind(node.path("kubelet/pod-resources/kubelet.sock")).unwrap();
        let service = PodResourcesListerServer::new(holdings.clone());
        tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        holdings
    }

    pub fn give(&self, namespace: &str, pod: &str, container: &str, ids: &[String]) {
        let devices = ContainerDevices { resource_name: "nvidia.com/gpu".into(), device_ids: ids.to_vec() };
        let container = ContainerResources { name: container.into(), devices: vec![devices] };
        let pod = PodResources { name: pod.into(), namespace: namespace.into(), containers: vec![container] };
        self.0.lock().unwrap().push(pod);
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Holdings {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        Ok(Response::new(ListPodResourcesResponse { pod_resources: self.0.lock().unwrap().clone() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Ok(Response::new(AllocatableResourcesResponse::default()))
    }
}
