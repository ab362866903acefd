//! What a very large cluster takes of the operator: `cargo run --release -p weft-operator --example memory`.
//!
//! Fills the controller as the watches do with 5,000 nodes of 8 GPUs, their reports, 150,000 pods (Kubernetes' own limits) and
//! 500 jobs of 10 workers that have all GPUs, and prints the memory of this process after each. The limit in the chart rests on
//! it. Then 1,000 more jobs wait: it prints how long looking at all of them takes, and what is written, at first and once a
//! worker has ended.

#![allow(clippy::unwrap_used, reason = "an example on data that it makes itself")]

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_api::node::{GpuReport, LinkReport};
use weft_api::{GpuNode, GpuNodeSpec, GpuNodeStatus};
use weft_operator::controller::Controller;
use weft_operator::facts::{NodeFacts, PodFacts};
use weft_operator::index::{JobEntry, JobKey};
use weft_operator::metrics::Metrics;
use weft_operator::reconcile::{Settings, Verdict};
use weft_operator::watch::{Change, Kind, Seen};
use weft_operator::worker_pod::RuntimeImage;
use weft_operator::write::Outcome;

const NODES: usize = 5_000;
const PODS: usize = 150_000;
const JOBS: usize = 500;
const WORKERS: usize = 10;
const WAITING: usize = 1_000;

fn node_name(n: usize) -> String {
    format!("ip-10-{}-{}.eu-west-1.compute.internal", n / 256, n % 256)
}

fn node(n: usize) -> Seen {
    let mut labels: serde_json::Map<String, Value> = (0..30)
        .map(|label| (format!("example.com/label-of-a-usual-length-{label}"), json!(format!("value-{label}"))))
        .collect();
    labels.insert("kubernetes.io/hostname".into(), json!(node_name(n)));
    labels.insert("topology.weft.dev/rack".into(), json!(format!("rack-{}", n / 16)));
    let resources = json!({
        "cpu": "192", "memory": "2Ti", "pods": "110", "ephemeral-storage": "1Ti", "hugepages-1Gi": "0", "hugepages-2Mi": "0", "nvidia.com/gpu": "8",
    });
    let node = json!({
        "metadata": {"name": node_name(n), "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": resources},
    });
    Seen::Node(NodeFacts::of(serde_json::from_value(node).unwrap()))
}

fn gpu(n: usize, index: usize) -> String {
    format!("GPU-{n:08x}-aaaa-bbbb-cccc-{index:012x}")
}

fn report(n: usize) -> Seen {
    let gpus = (0..8).map(|index| GpuReport {
        index: u32::try_from(index).unwrap(),
        uuid: gpu(n, index),
        product: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes: 80 << 30,
        ..GpuReport::default()
    });
    let pairs = (0..8).flat_map(|a| (a + 1..8).map(move |b| (a, b)));
    let links = pairs.map(|(a, b)| LinkReport { a, b, wire: "NVS18+NODE".into() }).collect();
    let mut report = GpuNode::new(&node_name(n), GpuNodeSpec {});
    report.status = Some(GpuNodeStatus { gpus: gpus.collect(), links, ..GpuNodeStatus::default() });
    Seen::Report(report)
}

/// The first pods are workers, all others are anybody's, with what the kubelet says of them.
fn pod(n: usize) -> Seen {
    let at = n % NODES;
    let mut pod = json!({
        "metadata": {"name": format!("a-deployment-of-usual-name-{n:010x}"), "namespace": format!("team-{}", n % 200), "uid": format!("11111111-2222-3333-4444-{n:012x}")},
        "spec": {"nodeName": node_name(at), "containers": [
            {"name": "app", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}},
        ]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 9, "state": {
                "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container=app pod=a-deployment-of-usual-name"},
            }},
        ]},
    });
    if n < JOBS * WORKERS {
        let job = n / WORKERS;
        let gpus: Vec<String> = (0..8).map(|index| gpu(at, index)).collect();
        pod["metadata"] = json!({
            "name": format!("job-{job}-w-{}", n % WORKERS), "namespace": "default", "uid": format!("11111111-2222-3333-4444-{n:012x}"),
            "labels": {"weft.dev/rank": (n % WORKERS).to_string(), "weft.dev/attempt": "0"}, "annotations": {"weft.dev/gpus": gpus.join(",")},
            "ownerReferences": [{"apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob", "name": format!("job-{job}"), "uid": format!("uid-{job}"), "controller": true}],
        });
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node_name(at)});
        pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = json!("8");
        pod["status"] = json!({"phase": "Running", "containerStatuses": [
            {"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
        ]});
    }
    Seen::Pod(Box::new(PodFacts::of(serde_json::from_value(pod).unwrap())))
}

fn job(n: usize) -> Seen {
    let template = json!({"spec": {"containers": [{"name": "app", "image": "registry.example.com/team/app:1", "args": vec!["--an-argument"; 20]}]}});
    let value = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob",
        "metadata": {"name": format!("job-{n}"), "namespace": "default", "uid": format!("uid-{n}"), "generation": 1},
        "spec": {"groups": [{"name": "w", "replicas": WORKERS, "gpus": 8, "template": template}]},
    });
    let key = JobKey { namespace: "default".into(), name: format!("job-{n}") };
    let job = Ok(Arc::new(serde_json::from_value(value).unwrap()));
    Seen::Job(key, JobEntry { uid: format!("uid-{n}"), generation: Some(1), job })
}

fn main() {
    let runtime = RuntimeImage { image: "weft-runtime".into(), pull_policy: None };
    let settings = Settings { runtime, node_lost_after: jiff::SignedDuration::from_secs(60) };
    let mut controller = Controller::new(settings, Metrics::default());
    print("nothing yet");
    list(&mut controller, Kind::Levels, 0, &job);
    list(&mut controller, Kind::Node, NODES, &node);
    list(&mut controller, Kind::Report, NODES, &report);
    list(&mut controller, Kind::Pod, PODS, &pod);
    list(&mut controller, Kind::Job, JOBS, &job);
    let mut now = jiff::Timestamp::now();
    look(&mut controller, now);
    print("decisions on all jobs");
    list(&mut controller, Kind::Job, JOBS + WAITING, &job);
    for round in 0..3 {
        now += jiff::SignedDuration::from_secs(1);
        let (took, written) = look(&mut controller, now);
        println!("{took:?} for all jobs with {WAITING} that wait, {round} workers ended since; {written} jobs written");
        controller.apply(Change { kind: Kind::Pod, event: Event::Delete(pod(round)) });
    }
}

fn list(controller: &mut Controller, kind: Kind, count: usize, make: &dyn Fn(usize) -> Seen) {
    controller.apply(Change { kind, event: Event::Init });
    for n in 0..count {
        controller.apply(Change { kind, event: Event::InitApply(make(n)) });
    }
    controller.apply(Change { kind, event: Event::InitDone });
    print(&format!("{count} {}", kind.resource()));
}

/// Decides on all jobs that are due, as if everything written went through at once, until nothing is; how long the decisions
/// took, and for how many jobs something was written.
fn look(controller: &mut Controller, now: jiff::Timestamp) -> (Duration, usize) {
    let (mut took, mut written) = (Duration::ZERO, 0);
    loop {
        let start = Instant::now();
        let batches = controller.decide(now, start + Duration::from_secs(3600));
        took += start.elapsed();
        if batches.is_empty() {
            return (took, written);
        }
        written += batches.len();
        for batch in batches {
            let mut outcome = Outcome::of(&batch);
            (outcome.status, outcome.verdict) = (batch.status, Some(Verdict::Fine));
            controller.settle(outcome, now);
        }
    }
}

/// Memory of this process now and at most so far, as Linux counts it.
fn print(after: &str) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
    };
    println!("{:>5} MiB now, {:>5} MiB at most: {after}", figure("VmRSS:"), figure("VmHWM:"));
}
