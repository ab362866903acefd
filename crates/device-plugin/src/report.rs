//! What is published of a node: its `GpuNode`'s status, derived from the machine and from who holds what.

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use weft_api::conditions;
use weft_api::node::{GpuNodeStatus, GpuReport, Health, Holder, LinkReport, condition};
use weft_topology::Link;

use crate::holders::Holders;
use crate::snapshot::Snapshot;

/// Derives the status. `before` is the last one: times of what did not change are taken from it.
pub fn report(
    snapshot: &Snapshot,
    holders: &Holders,
    boot_id: Option<&str>,
    before: Option<&GpuNodeStatus>,
    now: Timestamp,
) -> GpuNodeStatus {
    let gpus: Vec<GpuReport> =
        snapshot.node.gpus().iter().map(|gpu| gpu_report(snapshot, holders, before, gpu)).collect();
    let facts = weft_topology::NodeFacts::from(snapshot.node.clone());
    let link = |link: &Link| LinkReport { a: link.from, b: link.to, wire: link.wire.to_string() };

    let complaints = snapshot.complaints();
    let message = match (&snapshot.problem, complaints.as_slice()) {
        (Some(problem), _) => Some(problem.message.clone()),
        (None, []) => None,
        (None, [one]) => Some(one.clone()),
        (None, [first, others @ ..]) => Some(format!("{first}; and {} more", others.len())),
    };
    let healthy = gpus.iter().filter(|gpu| gpu.health == Health::Healthy).count();
    let (ready, reason) = match &snapshot.problem {
        Some(problem) => (false, problem.reason),
        None if healthy == 0 => (false, "NoHealthyGpu"),
        None if !complaints.is_empty() => (true, "SomeGpusUnhealthy"),
        None => (true, "AllGpusHealthy"),
    };
    let mut list = before.map(|status| status.conditions.clone()).unwrap_or_default();
    let sentence = message.clone().unwrap_or_else(|| format!("all {} GPUs are healthy", gpus.len()));
    conditions::set(&mut list, condition::READY, ready, reason, &sentence, None, &Time(now));
    GpuNodeStatus {
        summary: format!("{healthy}/{}", gpus.len()),
        message,
        driver_version: snapshot.driver.as_ref().map(|driver| driver.version.clone()),
        cuda_version: snapshot.driver.as_ref().map(|driver| driver.cuda_version.clone()),
        nvlink_domain: snapshot.node.nvlink_domain().map(ToOwned::to_owned),
        boot_id: boot_id.map(ToOwned::to_owned),
        gpus,
        links: facts.links.iter().map(link).collect(),
        conditions: list,
    }
}

fn gpu_report(
    snapshot: &Snapshot,
    holders: &Holders,
    before: Option<&GpuNodeStatus>,
    gpu: &weft_topology::Gpu,
) -> GpuReport {
    let report = GpuReport::of(gpu);
    let standing = snapshot.standing.get(&gpu.uuid).and_then(|standing| time(standing.since));
    // An agent that restarted has only just seen the GPU; what it is has been so for longer.
    let known = before.and_then(|status| status.gpus.iter().find(|old| old.uuid == gpu.uuid.as_str()));
    let since = match known {
        Some(old) if old.health == report.health && old.reason == report.reason && old.since.is_some() => {
            old.since.clone()
        }
        _ => standing,
    };
    let holder = match holders.of(gpu.uuid.as_str()) {
        Some(holder) => Some(Holder {
            namespace: holder.namespace.clone(),
            pod: holder.pod.clone(),
            container: holder.container.clone(),
        }),
        None if holders.are_known() => None,
        // kubelet has not said yet: what was true before the agent restarted still is.
        None => known.and_then(|old| old.holder.clone()),
    };
    GpuReport {
        fault: snapshot.standing.get(&gpu.uuid).and_then(|standing| standing.fault).map(|fault| fault.reason()),
        since,
        holder,
        ..report
    }
}

/// Whole seconds: that is what Kubernetes stores, and what is written must equal what is read back.
fn time(time: SystemTime) -> Option<Time> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(Time)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use weft_nvml::Fault;
    use weft_topology::{Gpu, GpuUuid, Node, NodeFacts, Path, Wire};

    use super::*;
    use crate::snapshot::{Problem, Standing};

    /// A node with two healthy GPUs.
    pub(crate) fn snapshot() -> Snapshot {
        let gpu = |index: u32| Gpu {
            uuid: format!("GPU-{index}").into(),
            index: index * 2,
            product: "GPU".into(),
            memory_bytes: 1,
            pci_bus_id: format!("{index}").into(),
            numa: None,
            health: weft_topology::Health::Healthy,
            mig_profile: None,
        };
        let link = |from, to| Link { from, to, wire: Wire::nvswitch(18, Path::CrossSocket) };
        let mut snapshot = Snapshot::empty("node", None).unwrap();
        snapshot.node = Node::new(NodeFacts {
            name: "node".into(),
            gpus: vec![gpu(0), gpu(1)],
            links: vec![link(0, 1), link(1, 0)],
            ..NodeFacts::default()
        })
        .unwrap();
        let healthy = Standing { fault: None, since: SystemTime::UNIX_EPOCH + Duration::from_secs(5) };
        snapshot.standing = snapshot.node.gpus().iter().map(|gpu| (gpu.uuid.clone(), healthy)).collect();
        snapshot
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn each_pair_is_reported_once() {
        let status = report(&snapshot(), &Holders::default(), None, None, at(9));
        assert_eq!(status.links, [LinkReport { a: 0, b: 1, wire: "NVS18+SYS".into() }]);
        assert_eq!(status.summary, "2/2");
        assert!(conditions::is_true(&status.conditions, condition::READY));
    }

    #[test]
    fn the_same_facts_make_the_same_status_whenever_they_are_seen() {
        let first = report(&snapshot(), &Holders::default(), None, None, at(9));
        let mut later = snapshot();
        for standing in later.standing.values_mut() {
            standing.since += Duration::from_secs(3600);
        }
        assert_eq!(report(&later, &Holders::default(), None, Some(&first), at(4000)), first);
    }

    #[test]
    fn a_holder_stays_until_kubelet_says_otherwise() {
        let nobody_knows = Holders::default();
        let nobody_holds = Holders::from(weft_proto::podresources::ListPodResourcesResponse::default());
        let mut first = report(&snapshot(), &nobody_knows, None, None, at(9));
        first.gpus[0].holder = Some(Holder { namespace: "ns".into(), pod: "p".into(), container: "c".into() });
        assert_eq!(report(&snapshot(), &nobody_knows, None, Some(&first), at(10)), first);
        assert_eq!(report(&snapshot(), &nobody_holds, None, Some(&first), at(10)).gpus[0].holder, None);
    }

    #[test]
    fn an_unhealthy_gpu_has_its_sentence_and_its_time() {
        let first = report(&snapshot(), &Holders::default(), None, None, at(9));
        let mut sick = snapshot();
        let uuid = GpuUuid::from("GPU-1");
        let fault = Fault::Xid(79);
        sick.node = sick.node.with_health(uuid.as_str(), weft_topology::Health::unhealthy(fault.to_string())).unwrap();
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(20_900);
        sick.standing.insert(uuid, Standing { fault: Some(fault), since });
        let status = report(&sick, &Holders::default(), None, Some(&first), at(21));
        assert_eq!(status.summary, "1/2");
        assert_eq!(status.gpus[1].since, Some(Time(at(20))));
        assert_eq!((status.gpus[0].fault.as_deref(), status.gpus[1].fault.as_deref()), (None, Some("Xid79")));
        let message = status.message.unwrap();
        assert!(message.starts_with("GPU 2 (GPU-1) fell off the bus"), "{message}");
        assert!(conditions::is_true(&status.conditions, condition::READY), "the other one can still be asked for");
    }

    #[test]
    fn a_node_without_a_driver_is_not_ready_and_says_why() {
        let problem = Problem { reason: "NoDriver", message: "no driver: install it".into() };
        let snapshot = Snapshot::empty("node", Some(problem)).unwrap();
        let status = report(&snapshot, &Holders::default(), None, None, at(1));
        assert_eq!((status.summary.as_str(), status.message.as_deref()), ("0/0", Some("no driver: install it")));
        assert_eq!(status.conditions[0].reason, "NoDriver");
        assert_eq!(status.conditions[0].status, "False");
    }
}
