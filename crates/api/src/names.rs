//! The names on which Weft's parts agree (`docs/contracts.md`).

/// API group of every Weft resource.
pub const GROUP: &str = "weft.dev";
/// API version of every Weft resource.
pub const VERSION: &str = "v1alpha1";
/// Extended resource that the node agent advertises and pods ask for.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";
/// Taint key that GPU nodes carry by custom; every worker tolerates it.
pub const GPU_TAINT: &str = "nvidia.com/gpu";

/// Pod label: name of the GpuJob that the pod is a worker of.
pub const LABEL_JOB: &str = "weft.dev/job";
/// Pod label: name of the group within the job.
pub const LABEL_GROUP: &str = "weft.dev/group";
/// Pod label: rank among all workers of the job, from 0.
pub const LABEL_RANK: &str = "weft.dev/rank";
/// Pod label: how often this worker was started before, from 0.
pub const LABEL_ATTEMPT: &str = "weft.dev/attempt";
/// Pod annotation: UUIDs of the GPUs planned for the pod, separated by commas.
pub const ANNOTATION_GPUS: &str = "weft.dev/gpus";
/// Pod annotation: what the pod was made of, `<generation of the job>-<digest of its groups and runtime>`.
pub const ANNOTATION_REVISION: &str = "weft.dev/revision";
/// Scheduling gate that a worker carries until the whole gang exists.
pub const GATE_PLACEMENT: &str = "weft.dev/placement";

/// Field manager of the operator.
pub const MANAGER_OPERATOR: &str = "weft-operator";
/// Field manager of the node agent.
pub const MANAGER_AGENT: &str = "weft-agent";

/// Name of the runtime's container and of the shared volume.
pub const RUNTIME: &str = "weft-runtime";
/// Where the shared volume is mounted in every container.
pub const RUNTIME_DIR: &str = "/run/weft";
/// The runtime's control socket.
pub const RUNTIME_SOCKET: &str = "/run/weft/runtime.sock";
/// Folder of the shared-memory regions.
pub const RUNTIME_SHM_DIR: &str = "/run/weft/shm";
/// Folder at which a program pod sees its program.
pub const PROGRAM_DIR: &str = "/etc/weft/program";
/// File name of the program in its ConfigMap and folder.
pub const PROGRAM_FILE: &str = "program.yaml";

/// Name of the one `GpuTopology` object that is used.
pub const TOPOLOGY_NAME: &str = "default";
/// Name of the last level, which is always there: the node itself.
pub const LEVEL_HOST: &str = "host";
/// Node label that names the host.
pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// Port at which rank 0 of a job is met (PyTorch's customary one).
pub const MASTER_PORT: u16 = 29500;

/// Name of the pod of one worker: also its host name.
pub fn pod_name(job: &str, group: &str, index: u32) -> String {
    format!("{job}-{group}-{index}")
}

/// Name of the ConfigMap that holds a job's program.
pub fn program_config_map(job: &str) -> String {
    format!("{job}-program")
}
