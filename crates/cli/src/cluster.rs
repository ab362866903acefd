//! What the API server knows, as one snapshot per question.

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use weft_api::job::WorkerPhase;
use weft_api::{GpuJob, GpuNode, GpuTopology, GpuTopologySpec, names};
use weft_operator::facts::{NodeFacts, PodFacts};

use crate::why;
use crate::world::World;
use crate::{Connection, list};

/// Workers whose own events are asked for: the first few that do not run say what the others would.
const PODS_WITH_EVENTS: usize = 4;

/// What somebody without the right is told.
const DENIED: &str = "; ask for the roles that docs/operator.md names under \"Rights\"";

/// A connection to the API server.
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// A job and what is said of it.
pub struct JobView {
    pub job: GpuJob,
    /// Events of the job, and of the first workers that do not run, oldest first.
    pub events: Vec<Event>,
    /// Why a job that waits does not fit, by the function that the operator decides with.
    pub why: Option<String>,
    /// The nodes that its workers stand on.
    pub gpu_nodes: Vec<GpuNode>,
}

/// All nodes, with their levels.
pub struct NodesView {
    pub gpu_nodes: Vec<GpuNode>,
    pub nodes: Vec<NodeFacts>,
    pub topology: GpuTopologySpec,
}

impl Cluster {
    pub async fn connect(connection: &Connection) -> Result<Self> {
        let options = KubeConfigOptions { context: connection.context.clone(), ..Default::default() };
        let config = match &connection.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .with_context(|| format!("kubeconfig {}", path.display()))?
            }
            None if options.context.is_some() => {
                Config::from_kubeconfig(&options).await.context("kubeconfig (KUBECONFIG or ~/.kube/config)")?
            }
            // Its own sentence says all that its sources say.
            None => Config::infer().await.map_err(|error| {
                anyhow!("no kubeconfig and not in a pod: give --kubeconfig or set KUBECONFIG: {error}")
            })?,
        };
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("cannot make a client from the kubeconfig")?;
        Ok(Self { client, namespace })
    }

    /// The job with its events and the nodes of its workers.
    pub async fn job(&self, name: &str) -> Result<JobView> {
        let jobs: Api<GpuJob> = Api::namespaced(self.client.clone(), &self.namespace);
        let job = match jobs.get_opt(name).await {
            Ok(Some(job)) => job,
            Ok(None) => {
                // An API server without the CRD may answer like one without the job; the list tells the two apart.
                jobs.list(&ListParams::default().limit(1)).await.map_err(|error| told("cannot list GpuJobs", error))?;
                bail!(
                    "there is no GpuJob {name} in namespace {}: `kubectl get gpujobs --all-namespaces` lists them",
                    self.namespace
                );
            }
            Err(error) => return Err(told(&format!("cannot read GpuJob {name}"), error)),
        };
        let workers = job.status.iter().flat_map(|status| &status.workers);
        let waiting = workers
            .clone()
            .filter(|w| !matches!(w.phase, WorkerPhase::Ready | WorkerPhase::Running | WorkerPhase::Succeeded));
        let mut events = self.events("GpuJob", name).await?;
        for worker in waiting.take(PODS_WITH_EVENTS) {
            events.extend(self.events("Pod", &worker.pod).await?);
        }
        // Not those of an earlier job of the name.
        let made = job.creation_timestamp().map(|made| made.0);
        events.retain(|event| crate::explain::last_seen(event) >= made);
        events.sort_by_key(crate::explain::last_seen);
        let on: Vec<_> = workers.filter_map(|worker| worker.node.as_deref()).collect();
        let gpu_nodes = if on.is_empty() {
            Vec::new()
        } else {
            let nodes = match self.gpu_nodes().await {
                Ok(nodes) => nodes,
                // Who may only see the namespace gets the rest of the answer without them.
                Err(kube::Error::Api(status)) if status.code == 403 => Vec::new(),
                Err(error) => return Err(told("cannot list GpuNodes", error)),
            };
            nodes.into_iter().filter(|node| on.contains(&node.name_any().as_str())).collect()
        };
        let why = if why::waits(&job) { self.why(&job).await } else { None };
        Ok(JobView { job, events, why, gpu_nodes })
    }

    /// Why the job does not fit. Who may not list pods or nodes of the whole cluster gets the operator's sentence alone, and hears why.
    async fn why(&self, job: &GpuJob) -> Option<String> {
        match self.world().await {
            Ok(world) => why::explain(job, world),
            Err(error) => Some(format!("not known in detail: {error:#}")),
        }
    }

    /// All that a placement depends on.
    pub async fn world(&self) -> Result<World> {
        let NodesView { gpu_nodes, nodes, topology } = self.nodes().await?;
        let api: Api<Pod> = Api::all(self.client.clone());
        let mut pods = Vec::new();
        let listed = list::each(&api, |pod| pods.push(PodFacts::of(pod))).await;
        listed.map_err(|error| told("cannot list the pods of all namespaces", error))?;
        Ok(World { nodes, gpu_nodes, pods, levels: topology })
    }

    /// The jobs of all namespaces.
    pub async fn jobs(&self) -> Result<Vec<GpuJob>> {
        let jobs = list::readable(&self.client, note).await;
        jobs.map_err(|error| told("cannot list the GpuJobs of all namespaces", error))
    }

    /// The job as the API server would take it, with its defaults; or what is wrong with it. Nothing is stored.
    ///
    /// A job of that name may be there and may not be changed, so another name is judged.
    pub async fn judge(&self, mut manifest: Value) -> Result<GpuJob> {
        let metadata = manifest.get("metadata");
        let text = |field: &str| metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
        let name = text("name").context("metadata.name is missing")?.to_owned();
        let namespace = text("namespace").unwrap_or(&self.namespace).to_owned();
        // As long as the name itself, since how long it may be depends on the groups.
        let other = "x".repeat(name.len());
        manifest["metadata"] = json!({"name": other, "namespace": namespace});
        let api: Api<GpuJob> = Api::namespaced(self.client.clone(), &namespace);
        let params = PatchParams::apply("kubectl-weft").dry_run().validation_strict();
        let mut job = match api.patch(&other, &params, &Patch::Apply(&manifest)).await {
            Ok(job) => job,
            // Without the CRD the answer is 404 as well, but not about a namespace.
            Err(kube::Error::Api(status)) if status.code != 404 || status.message.starts_with("namespaces ") => {
                let denied = if status.code == 403 { DENIED } else { "" };
                bail!("the API server refuses {name}: {}{denied}", status.message.replace(&other, &name))
            }
            Err(error) => return Err(told("cannot have the job judged", error)),
        };
        job.metadata.name = Some(name);
        Ok(job)
    }

    /// All nodes, with the labels of their levels.
    pub async fn nodes(&self) -> Result<NodesView> {
        let topologies: Api<GpuTopology> = Api::all(self.client.clone());
        let gpu_nodes = self.gpu_nodes().await.map_err(|error| told("cannot list GpuNodes", error))?;
        let topology = topologies.get_opt(names::TOPOLOGY_NAME).await;
        let topology = topology.map_err(|error| told("cannot read the GpuTopology", error))?;
        let api: Api<Node> = Api::all(self.client.clone());
        let mut nodes = Vec::new();
        let listed = list::each(&api, |node| nodes.push(NodeFacts::of(node))).await;
        listed.map_err(|error| told("cannot list nodes", error))?;
        Ok(NodesView { gpu_nodes, nodes, topology: topology.map_or_else(GpuTopologySpec::fallback, |t| t.spec) })
    }

    async fn gpu_nodes(&self) -> kube::Result<Vec<GpuNode>> {
        list::readable(&self.client, note).await
    }

    async fn events(&self, kind: &str, name: &str) -> Result<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let of = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let list = api.list(&ListParams::default().fields(&of)).await;
        Ok(list.map_err(|error| told(&format!("cannot list the events of {kind} {name}"), error))?.items)
    }
}

/// Says something beside the answer.
pub fn note(line: String) {
    eprintln!("note: {line}");
}

/// An error as a sentence with the next step.
fn told(what: &str, error: kube::Error) -> anyhow::Error {
    match error {
        // The name of a resource that is not known comes without a word about it.
        kube::Error::Api(status) if status.code == 404 => anyhow!(
            "this cluster does not know Weft's resources: install the chart, as docs/getting-started.md says under \"On a cluster of yours\""
        ),
        kube::Error::Api(status) if status.code == 403 => anyhow!("{what}: {}{DENIED}", status.message),
        kube::Error::Api(status) => anyhow!("{what}: {}", status.message),
        other => anyhow!(other).context(what.to_owned()),
    }
}
