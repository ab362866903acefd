//! Makes a worker's pod out of the job's template: names, rank and rendezvous variables, GPUs, the runtime sidecar, the node.

use crate::index::JobKey;
use crate::revision::Revision;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    HTTPGetAction, Pod, PodSchedulingGate, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext,
    Service, ServiceSpec, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use kube::api::ObjectMeta;
use serde_json::Value;
use std::collections::BTreeMap;
use weft_api::job::Group;
use weft_api::{GpuJob, names};

/// Images that the operator adds to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeImage {
    /// Image of the runtime, for sidecars and programs.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; none leaves it to Kubernetes.
    pub pull_policy: Option<String>,
}

/// One worker among all workers of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub rank: u32,
    /// Position of its group in the job.
    pub group: usize,
    /// Its index in the group.
    pub index: u32,
    /// Name of its pod.
    pub pod: String,
}

/// One start of a worker: where, with what, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// How often the worker was started before.
    pub attempt: u32,
    /// The host name label of its node.
    pub host: &'a str,
    /// The UUIDs of the GPUs that are planned for it.
    pub gpus: &'a [String],
    /// The job as it is now.
    pub revision: Revision,
}

/// All workers of a job by rank, with `sizes[g]` workers in group `g`.
pub fn members(job: &GpuJob, sizes: &[u32]) -> Vec<Member> {
    let groups = job.spec.groups.iter().enumerate();
    let indices =
        groups.flat_map(|(g, group)| (0..sizes.get(g).copied().unwrap_or(0)).map(move |index| (g, group, index)));
    let ranked = (0..).zip(indices);
    ranked
        .map(|(rank, (group, spec, index))| Member { rank, group, index, pod: job.pod_name(&spec.name, index) })
        .collect()
}

/// A template that is no pod: the field, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.groups[{group}].template.spec{field}: {problem}")]
pub struct BadTemplate {
    pub group: usize,
    /// Such as `.restartPolicy`, or nothing for the whole.
    pub field: String,
    pub problem: String,
}

/// The pod specification of a group's workers, before anything that differs between workers: what nodes are judged by.
///
/// # Errors
/// [`BadTemplate`] names the field that no worker can have.
pub fn base_spec(job: &GpuJob, group: usize, runtime: &RuntimeImage) -> Result<PodSpec, BadTemplate> {
    let asked = &job.spec.groups[group];
    let mut spec = match &asked.template {
        Some(template) => template_spec(group, &template.spec)?,
        None => program_spec(job, runtime),
    };
    let gpus = BTreeMap::from([(names::GPU_RESOURCE.to_owned(), Quantity(asked.gpus.to_string()))]);
    if job.spec.has_sidecar() {
        add_sidecar(job, &mut spec, runtime);
    }
    if asked.gpus > 0 {
        let holder = match spec.init_containers.as_mut().and_then(|list| list.first_mut()) {
            Some(sidecar) if job.spec.has_sidecar() => Some(sidecar),
            _ => spec.containers.first_mut(),
        };
        if let Some(holder) = holder {
            holder.resources.get_or_insert_default().limits.get_or_insert_default().extend(gpus);
        }
        let toleration = Toleration {
            key: Some(names::GPU_TAINT.to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        };
        spec.tolerations.get_or_insert_default().push(toleration);
    }
    // The operator itself decides when the worker of a silent node is given up. Without these, admission adds tolerations of 300 s,
    // after which Kubernetes deletes the pods of all such nodes whatever the job's policy and during an outage, too.
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.iter().any(|toleration| toleration.key.as_deref() == Some(taint)) {
            tolerations.push(Toleration {
                key: Some(taint.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                ..Toleration::default()
            });
        }
    }
    spec.restart_policy = Some("Never".to_owned());
    if spec.priority_class_name.is_none() {
        spec.priority_class_name.clone_from(&job.spec.priority_class_name);
    }
    Ok(spec)
}

/// The pod of one worker, gated, bound to its host and with its GPUs planned for it.
///
/// # Errors
/// As [`base_spec`].
pub fn worker_pod(
    job: &GpuJob,
    all: &[Member],
    member: &Member,
    start: Start<'_>,
    runtime: &RuntimeImage,
) -> Result<Pod, BadTemplate> {
    let mut spec = base_spec(job, member.group, runtime)?;
    let group = &job.spec.groups[member.group];
    let environment = environment(job, all, member, group);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let own = container.env.take().unwrap_or_default();
        // Before the user's own, so that those may refer to them as $(WEFT_RANK); a name that the user sets is the user's.
        let ours = environment.iter().filter(|(name, _)| !own.iter().any(|env| env.name == *name));
        let mut env: Vec<EnvVar> = ours.map(|(name, value)| variable(name, value)).collect();
        env.extend(own);
        container.env = Some(env);
    }
    spec.hostname = Some(member.pod.clone());
    spec.subdomain = job.metadata.name.clone();
    spec.node_selector.get_or_insert_default().insert(names::LABEL_HOSTNAME.to_owned(), start.host.to_owned());
    let gate = PodSchedulingGate { name: names::GATE_PLACEMENT.to_owned() };
    spec.scheduling_gates.get_or_insert_default().push(gate);

    let metadata = group.template.as_ref().and_then(|template| template.metadata.clone()).unwrap_or_default();
    let mut labels = metadata.labels;
    labels.extend([
        (names::LABEL_JOB.to_owned(), job.metadata.name.clone().unwrap_or_default()),
        (names::LABEL_GROUP.to_owned(), group.name.clone()),
        (names::LABEL_RANK.to_owned(), member.rank.to_string()),
        (names::LABEL_ATTEMPT.to_owned(), start.attempt.to_string()),
    ]);
    let mut annotations = metadata.annotations;
    annotations.insert(names::ANNOTATION_REVISION.to_owned(), start.revision.to_string());
    if !start.gpus.is_empty() {
        annotations.insert(names::ANNOTATION_GPUS.to_owned(), start.gpus.join(","));
    }
    let metadata = ObjectMeta {
        name: Some(member.pod.clone()),
        namespace: job.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner(job)]),
        ..ObjectMeta::default()
    };
    Ok(Pod { metadata, spec: Some(spec), status: None })
}

/// The headless service by which workers find each other, ready or not.
pub fn service(job: &GpuJob) -> Service {
    let name = job.metadata.name.clone().unwrap_or_default();
    let selector = BTreeMap::from([(names::LABEL_JOB.to_owned(), name.clone())]);
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        selector: Some(selector.clone()),
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    Service { metadata: owned(job, name, selector), spec: Some(spec), status: None }
}

/// The ConfigMap with the job's program, as the runtime reads it.
///
/// # Errors
/// When the program cannot be written as YAML, which no program that was read from YAML does.
pub fn program(job: &GpuJob) -> Result<Option<ConfigMap>, serde_json::Error> {
    let Some(program) = &job.spec.program else { return Ok(None) };
    let name = job.metadata.name.clone().unwrap_or_default();
    let labels = BTreeMap::from([(names::LABEL_JOB.to_owned(), name.clone())]);
    // JSON is YAML, and floats keep their digits in it.
    let text = serde_json::to_string_pretty(program)?;
    let data = BTreeMap::from([(names::PROGRAM_FILE.to_owned(), text)]);
    let metadata = owned(job, names::program_config_map(&name), labels);
    Ok(Some(ConfigMap { metadata, data: Some(data), immutable: Some(true), ..ConfigMap::default() }))
}

/// A raw pod of the template as it was written, for the API server to judge: a typed one would have lost the misspelt fields.
pub fn template_probe(job: &GpuJob, group: usize) -> Option<Value> {
    let template = job.spec.groups[group].template.as_ref()?;
    let mut spec = template.spec.clone();
    spec.insert("restartPolicy".to_owned(), "Never".into());
    let mut metadata = serde_json::to_value(template.metadata.clone().unwrap_or_default()).ok()?;
    metadata["name"] = job.pod_name(&job.spec.groups[group].name, 0).into();
    metadata["namespace"] = job.metadata.namespace.clone().into();
    Some(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

fn owned(job: &GpuJob, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: job.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner(job)]),
        ..ObjectMeta::default()
    }
}

fn owner(job: &GpuJob) -> OwnerReference {
    OwnerReference {
        api_version: GpuJob::api_version(&()).into_owned(),
        kind: GpuJob::kind(&()).into_owned(),
        name: job.metadata.name.clone().unwrap_or_default(),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn template_spec(group: usize, spec: &serde_json::Map<String, Value>) -> Result<PodSpec, BadTemplate> {
    let bad = |field: &str, problem: String| BadTemplate { group, field: field.to_owned(), problem };
    let spec: PodSpec = serde_path_to_error::deserialize(Value::Object(spec.clone())).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!(".{path}") };
        bad(&field, error.into_inner().to_string())
    })?;
    if spec.restart_policy.as_deref().is_some_and(|policy| policy != "Never") {
        return Err(bad(
            ".restartPolicy",
            "leave it out; spec.failurePolicy says when workers are started again".to_owned(),
        ));
    }
    if spec.node_name.is_some() {
        return Err(bad(
            ".nodeName",
            "leave it out, Weft chooses the node; nodeSelector can narrow the choice".to_owned(),
        ));
    }
    let inits = spec.init_containers.iter().flatten();
    for container in spec.containers.iter().chain(inits) {
        let resources = container.resources.as_ref();
        let asks =
            |list: Option<&BTreeMap<String, Quantity>>| list.is_some_and(|list| list.contains_key(names::GPU_RESOURCE));
        if resources.is_some_and(|r| asks(r.limits.as_ref()) || asks(r.requests.as_ref())) {
            let problem = format!(
                "leave {} out of container {:?}; spec.groups[{group}].gpus says how many",
                names::GPU_RESOURCE,
                container.name
            );
            return Err(bad("", problem));
        }
        if container.name == names::RUNTIME {
            return Err(bad("", format!("the container name {:?} is Weft's own; use another", names::RUNTIME)));
        }
    }
    Ok(spec)
}

fn program_spec(job: &GpuJob, runtime: &RuntimeImage) -> PodSpec {
    let folder = VolumeMount {
        name: "program".to_owned(),
        mount_path: names::PROGRAM_DIR.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let file = format!("{}/{}", names::PROGRAM_DIR, names::PROGRAM_FILE);
    let container = Container {
        command: Some(["weft-runtime", "run", &file, "--json"].map(str::to_owned).to_vec()),
        volume_mounts: Some(vec![folder]),
        security_context: Some(restricted(true)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..runtime_container(job, runtime)
    };
    let source = ConfigMapVolumeSource {
        name: names::program_config_map(job.metadata.name.as_deref().unwrap_or_default()),
        ..ConfigMapVolumeSource::default()
    };
    PodSpec {
        containers: vec![container],
        volumes: Some(vec![Volume { name: "program".to_owned(), config_map: Some(source), ..Volume::default() }]),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        ..PodSpec::default()
    }
}

fn runtime_container(job: &GpuJob, runtime: &RuntimeImage) -> Container {
    let asked = job.spec.runtime.as_ref();
    let metrics =
        ContainerPort { name: Some("weft-metrics".to_owned()), container_port: 9401, ..ContainerPort::default() };
    Container {
        name: names::RUNTIME.to_owned(),
        image: Some(asked.and_then(|runtime| runtime.image.clone()).unwrap_or_else(|| runtime.image.clone())),
        image_pull_policy: runtime.pull_policy.clone(),
        resources: asked.and_then(|runtime| runtime.resources.clone()).or(Some(ResourceRequirements::default())),
        ports: Some(vec![metrics]),
        ..Container::default()
    }
}

/// What pod security `restricted` asks of a container, with its rule on the user where `non_root`: the user of the runtime's
/// image is a number, else the kubelet could not tell that it is not root.
fn restricted(non_root: bool) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        run_as_non_root: non_root.then_some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..SecurityContext::default()
    }
}

/// The sidecar is the first init container (KEP-753): it starts before all others and is ended after them.
fn add_sidecar(job: &GpuJob, spec: &mut PodSpec, runtime: &RuntimeImage) {
    let shared = VolumeMount {
        name: names::RUNTIME.to_owned(),
        mount_path: names::RUNTIME_DIR.to_owned(),
        ..VolumeMount::default()
    };
    // A template that makes its whole pod root makes the sidecar root: the kubelet would start no container that forbids it.
    let root = spec.security_context.as_ref().is_some_and(|pod| pod.run_as_user == Some(0));
    let inits = spec.init_containers.get_or_insert_default();
    let timeout = job.spec.runtime.as_ref().and_then(|runtime| runtime.operation_timeout_seconds);
    let timeout = timeout.map(|seconds| format!("--operation-timeout={seconds}"));
    let command = ["weft-runtime", "serve"].into_iter().map(str::to_owned).chain(timeout);
    let sidecar = Container {
        command: Some(command.collect()),
        security_context: Some(restricted(!root)),
        // Why it ended, when it did: its last words are a sentence.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        restart_policy: Some("Always".to_owned()),
        // The other containers start when the GPUs are served.
        startup_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/readyz".to_owned()),
                port: IntOrString::String("weft-metrics".to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(1),
            timeout_seconds: Some(2),
            failure_threshold: Some(120),
            ..Probe::default()
        }),
        ..runtime_container(job, runtime)
    };
    inits.insert(0, sidecar);
    for container in spec.containers.iter_mut().chain(inits.iter_mut()) {
        container.volume_mounts.get_or_insert_default().push(shared.clone());
    }
    let memory = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: None };
    spec.volumes.get_or_insert_default().push(Volume {
        name: names::RUNTIME.to_owned(),
        empty_dir: Some(memory),
        ..Volume::default()
    });
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// The name by which one worker reaches another.
fn address(key: &JobKey, pod: &str) -> String {
    format!("{pod}.{}.{}.svc", key.name, key.namespace)
}

/// Rank and rendezvous, by Weft's names and by those that PyTorch, JAX and launchers look for.
fn environment(job: &GpuJob, all: &[Member], member: &Member, group: &Group) -> Vec<(&'static str, String)> {
    let key = JobKey {
        namespace: job.metadata.namespace.clone().unwrap_or_default(),
        name: job.metadata.name.clone().unwrap_or_default(),
    };
    let hosts: Vec<String> = all.iter().map(|member| address(&key, &member.pod)).collect();
    let master = hosts.first().cloned().unwrap_or_default();
    let port = names::MASTER_PORT.to_string();
    let world = all.len().to_string();
    let rank = member.rank.to_string();
    let size = all.iter().filter(|other| other.group == member.group).count().to_string();
    let mut variables = vec![
        ("WEFT_JOB", key.name.clone()),
        ("WEFT_GROUP", group.name.clone()),
        ("WEFT_RANK", rank.clone()),
        ("WEFT_WORLD_SIZE", world.clone()),
        ("WEFT_GROUP_RANK", member.index.to_string()),
        ("WEFT_GROUP_SIZE", size),
        ("WEFT_MASTER_ADDR", master.clone()),
        ("WEFT_MASTER_PORT", port.clone()),
        ("WEFT_HOSTS", hosts.join(",")),
        ("RANK", rank.clone()),
        ("WORLD_SIZE", world.clone()),
        ("MASTER_ADDR", master.clone()),
        ("MASTER_PORT", port.clone()),
        ("NODE_RANK", rank.clone()),
        ("PET_NNODES", world.clone()),
        ("PET_NODE_RANK", rank.clone()),
        ("PET_MASTER_ADDR", master.clone()),
        ("PET_MASTER_PORT", port.clone()),
        ("JAX_NUM_PROCESSES", world),
        ("JAX_PROCESS_ID", rank),
        ("JAX_COORDINATOR_ADDRESS", format!("{master}:{port}")),
    ];
    if job.spec.has_sidecar() {
        variables.push(("WEFT_RUNTIME_SOCKET", names::RUNTIME_SOCKET.to_owned()));
        variables.push(("WEFT_SHM_DIR", names::RUNTIME_SHM_DIR.to_owned()));
    }
    variables
}

#[cfg(test)]
mod tests;
