//! What the control plane is loaded with: nodes without machines, their GpuNodes, jobs, and the same pods without jobs.

use serde_json::{Value, json};

/// GPUs of a node.
pub const GPUS: usize = 8;
/// Nodes of a rack, and racks of a zone.
const RACK: usize = 16;
const ZONE: usize = 64;

/// Workers and GPUs of each, and how many of ten jobs are of that size. The largest comes first, so that there is always one.
const MIX: [(Size, usize); 4] = [(size(8, 8), 1), (size(2, 8), 2), (size(1, 4), 3), (size(1, 1), 4)];

/// How large a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    pub workers: usize,
    /// Per worker.
    pub gpus: usize,
}

pub const fn size(workers: usize, gpus: usize) -> Size {
    Size { workers, gpus }
}

/// The sizes of so many jobs, in an order that is the same every time.
pub fn mix(jobs: usize) -> Vec<Size> {
    let ten = MIX.iter().flat_map(|&(size, of_ten)| std::iter::repeat_n(size, of_ten));
    let mut sizes: Vec<Size> = ten.cycle().take(jobs).collect();
    // Fisher and Yates, with Knuth's generator: sizes that came in a pattern would sit in a pattern.
    let mut state = 1_u64;
    for last in (1..sizes.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sizes.swap(last, (state >> 33) as usize % (last + 1));
    }
    sizes
}

/// The levels of the cluster.
pub fn levels() -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "GpuTopology", "metadata": {"name": "default"},
        "spec": {"levels": [
            {"name": "zone", "nodeLabel": "topology.kubernetes.io/zone"},
            {"name": "rack", "nodeLabel": crate::cluster::RACK_LABEL},
        ]},
    })
}

pub fn node_name(index: usize) -> String {
    format!("kwok-{index:05}")
}

/// A node that kwok plays: 8 GPUs, 192 CPUs, 2 Ti.
pub fn node(index: usize) -> Value {
    let room = json!({"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": GPUS.to_string()});
    let (name, rack) = (node_name(index), index / RACK);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": format!("zone-{}", rack / ZONE),
                crate::cluster::RACK_LABEL: format!("rack-{rack:04}"),
            },
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "status": {"allocatable": room, "capacity": room},
    })
}

/// The report of a node, without its status: that is for a second request, as with every agent.
pub fn gpu_node(index: usize, node_uid: &Value) -> Value {
    let name = node_name(index);
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid});
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {},
    })
}

/// An H100 HGX machine: every GPU reaches every other through NVSwitches, four of them hang on each NUMA node.
pub fn gpu_node_status(index: usize) -> Value {
    let pairs = (0..GPUS).flat_map(|a| (a + 1..GPUS).map(move |b| (a, b)));
    let wire = |a: usize, b: usize| if a / 4 == b / 4 { "NVS18+NODE" } else { "NVS18+SYS" };
    let links: Vec<Value> = pairs.map(|(a, b)| json!({"a": a, "b": b, "wire": wire(a, b)})).collect();
    let gpu = |gpu: usize| {
        json!({
            "index": gpu, "uuid": gpu_uuid(&node_name(index), gpu), "product": "NVIDIA H100 80GB HBM3",
            "memoryBytes": 85_520_809_984_u64, "numa": gpu / 4, "pciBusId": format!("00000000:{:02X}:00.0", 16 + gpu),
        })
    };
    json!({"status": {"gpus": (0..GPUS).map(gpu).collect::<Vec<_>>(), "links": links}})
}

/// The name of a GPU says on which node it is.
pub fn gpu_uuid(node: &str, gpu: usize) -> String {
    format!("GPU-{node}-{gpu}")
}

/// A pod that asks for GPUs and for nothing else: kube-scheduler alone decides.
pub fn pod(name: &str, gpus: usize) -> Value {
    let container = json!({
        "name": "app", "image": "none", "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}},
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}})
}

pub fn job(name: &str, size: Size) -> Value {
    let template = json!({"spec": {"containers": [{"name": "app", "image": "none"}]}});
    let group = json!({"name": "worker", "replicas": size.workers, "gpus": size.gpus, "template": template});
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": name}, "spec": {"groups": [group]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_of_the_same_sizes_in_the_same_order_every_time() {
        let sizes = mix(360);
        assert_eq!(sizes, mix(360));
        let of = |wanted: Size| sizes.iter().filter(|size| **size == wanted).count();
        assert_eq!([of(size(8, 8)), of(size(2, 8)), of(size(1, 4)), of(size(1, 1))], [36, 72, 108, 144]);
        assert_ne!(sizes[..10], sizes[10..20], "no pattern");
        assert_eq!(mix(1), [size(8, 8)]);
        assert!(mix(7).contains(&size(8, 8)));
    }

    #[test]
    fn a_report_has_every_pair_of_gpus_once() {
        let status = gpu_node_status(3);
        let links = status["status"]["links"].as_array().unwrap();
        let of = |wire: &str| links.iter().filter(|link| link["wire"] == wire).count();
        assert_eq!((links.len(), of("NVS18+NODE"), of("NVS18+SYS")), (28, 12, 16));
        assert_eq!(status["status"]["gpus"][7]["uuid"], "GPU-kwok-00003-7");
    }
}
