//! Which GPUs kubelet should give a container, when it asks without saying for whom.
//!
//! Pods are admitted in the order in which they were bound, so the first pod that still waits and asks for this many
//! GPUs is taken to be the one. If GPUs were planned for it and are free, they are the answer; otherwise the node is
//! solved exactly, keeping away from what is planned for the others.

use weft_topology::{GpuSet, GpuUuid, Node, choose};

use crate::pods::GpuPod;

/// What kubelet asks for one container.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Device ids that are free.
    pub available: &'a [String],
    /// Device ids that must be in the answer.
    pub must_include: &'a [String],
    /// How many.
    pub size: usize,
}

/// The answer, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The GPUs.
    pub gpus: Vec<GpuUuid>,
    /// The pod that the question was taken to be about: namespace and name.
    pub pod: Option<(String, String)>,
    /// Whether they are the ones planned for that pod.
    pub planned: bool,
    /// The sentence for the log.
    pub because: String,
}

/// Answers one question. `waiting` are the pods without GPUs, the first bound first.
///
/// Never fails: ids that the node does not know (kubelet remembers what an earlier plugin offered) are left out, and
/// where no good answer exists there are fewer GPUs in it; kubelet then fills up from what is available.
pub fn preferred(node: &Node, waiting: &[GpuPod], question: Question<'_>) -> Answer {
    let known = |ids: &[String]| -> GpuSet { ids.iter().filter_map(|id| node.position(id)).collect() };
    let must = known(question.must_include).intersection(node.healthy());
    let free = known(question.available).union(must);
    let planned_set =
        |pod: &GpuPod| -> GpuSet { pod.planned.iter().filter_map(|id| node.position(id.as_str())).collect() };

    // A plan of which a healthy GPU is taken was already carried out: that the pod holds it shows a moment later.
    let carried_out = |pod: &GpuPod| !planned_set(pod).intersection(node.healthy()).is_subset(free);
    let asker = waiting.iter().find(|pod| pod.requests.contains(&question.size) && !carried_out(pod));
    let name = |pod: &GpuPod| (pod.namespace.clone(), pod.name.clone());

    if let Some(pod) = asker {
        let planned = planned_set(pod);
        let whole = planned.len() == question.size && pod.planned.len() == question.size;
        if whole && planned.is_subset(free.intersection(node.healthy())) && must.is_subset(planned) {
            return Answer {
                gpus: node.uuids(planned),
                pod: Some(name(pod)),
                planned: true,
                because: format!(
                    "GPUs {} of {}, planned for {}/{}",
                    node.indices(planned),
                    node.name(),
                    pod.namespace,
                    pod.name
                ),
            };
        }
    }

    let of_others = waiting
        .iter()
        .filter(|pod| asker.is_none_or(|asker| !std::ptr::eq(*pod, asker)))
        .fold(GpuSet::EMPTY, |all, pod| all.union(planned_set(pod)));
    let (gpus, because) = match choose(node, free, must, of_others, question.size) {
        Ok(choice) => (choice.gpus, choice.explain(node).to_string()),
        Err(refusal) => (must, refusal.to_string()),
    };
    Answer { gpus: node.uuids(gpus), pod: asker.map(name), planned: false, because }
}

#[cfg(test)]
mod tests {
    use weft_topology::{Gpu, Health, Link, NodeFacts, Path, Wire};

    use super::*;

    /// Four GPUs, bridged in pairs (0,1) and (2,3).
    fn node() -> Node {
        let gpu = |index: u32| Gpu {
            uuid: format!("GPU-{index}").into(),
            index,
            product: "A100".into(),
            memory_bytes: 1,
            pci_bus_id: format!("{index}").into(),
            numa: Some(index / 2),
            health: Health::Healthy,
            mig_profile: None,
        };
        let bridge = |from, to| Link { from, to, wire: Wire::nvlink(12, Path::SameNuma) };
        let links = vec![bridge(0, 1), bridge(2, 3)];
        Node::new(NodeFacts { name: "node".into(), gpus: (0..4).map(gpu).collect(), links, ..NodeFacts::default() })
            .unwrap()
    }

    fn ids(gpus: &[u32]) -> Vec<String> {
        gpus.iter().map(|gpu| format!("GPU-{gpu}")).collect()
    }

    fn pod(name: &str, size: usize, planned: &[u32]) -> GpuPod {
        GpuPod {
            namespace: "ns".into(),
            name: name.into(),
            requests: vec![size],
            planned: ids(planned).into_iter().map(GpuUuid::from).collect(),
        }
    }

    fn ask(waiting: &[GpuPod], available: &[u32], must: &[u32], size: usize) -> Answer {
        let (available, must_include) = (ids(available), ids(must));
        preferred(&node(), waiting, Question { available: &available, must_include: &must_include, size })
    }

    fn gpus(answer: &Answer) -> Vec<&str> {
        answer.gpus.iter().map(GpuUuid::as_str).collect()
    }

    #[test]
    fn the_plan_of_the_first_waiting_pod_of_that_size_is_the_answer() {
        let waiting = [pod("one", 1, &[0]), pod("a", 2, &[2, 3]), pod("b", 2, &[0, 1])];
        let answer = ask(&waiting, &[0, 1, 2, 3], &[], 2);
        assert_eq!((gpus(&answer), answer.planned), (vec!["GPU-2", "GPU-3"], true));
        assert_eq!(answer.pod, Some(("ns".into(), "a".into())));
    }

    #[test]
    fn a_plan_that_was_already_carried_out_is_passed_over() {
        let waiting = [pod("a", 2, &[0, 1]), pod("b", 2, &[2, 3])];
        let answer = ask(&waiting, &[2, 3], &[], 2);
        assert_eq!((gpus(&answer), answer.planned), (vec!["GPU-2", "GPU-3"], true));
    }

    #[test]
    fn without_a_plan_the_answer_is_the_best_wired_set() {
        let answer = ask(&[], &[0, 2, 3], &[], 2);
        assert_eq!((gpus(&answer), answer.planned), (vec!["GPU-2", "GPU-3"], false));
    }

    #[test]
    fn a_pod_without_a_plan_that_comes_first_does_not_get_the_plan_of_another() {
        let waiting = [pod("stranger", 1, &[]), pod("planned", 1, &[0])];
        let answer = ask(&waiting, &[0, 1, 2, 3], &[], 1);
        assert_eq!(answer.pod, Some(("ns".into(), "stranger".into())));
        assert!(!gpus(&answer).contains(&"GPU-0"), "{answer:?}");
    }

    #[test]
    fn what_is_planned_for_others_is_taken_only_when_nothing_else_is_left() {
        let waiting = [pod("later", 2, &[2, 3])];
        let answer = ask(&waiting, &[0, 2, 3], &[], 1);
        assert_eq!(gpus(&answer), ["GPU-0"]);
        let answer = ask(&waiting, &[0, 2, 3], &[], 3);
        assert_eq!(answer.gpus.len(), 3);
    }

    #[test]
    fn gpus_that_must_be_included_are() {
        let answer = ask(&[], &[0, 1, 2, 3], &[3], 2);
        assert_eq!(gpus(&answer), ["GPU-2", "GPU-3"]);
        let waiting = [pod("a", 2, &[0, 1])];
        let answer = ask(&waiting, &[0, 1, 2, 3], &[3], 2);
        assert!(gpus(&answer).contains(&"GPU-3") && !answer.planned, "a plan without it does not serve");
    }

    #[test]
    fn ids_that_nobody_knows_are_left_out_and_break_nothing() {
        let available = vec!["GPU-0".to_owned(), "GPU-gone".to_owned()];
        let must_include = vec!["GPU-gone".to_owned()];
        let question = Question { available: &available, must_include: &must_include, size: 1 };
        assert_eq!(gpus(&preferred(&node(), &[], question)), ["GPU-0"]);
        let question = Question { available: &available, must_include: &[], size: 2 };
        let answer = preferred(&node(), &[], question);
        assert!(answer.gpus.is_empty(), "kubelet fills up: {answer:?}");
    }

    #[test]
    fn an_unhealthy_gpu_is_not_given_even_if_planned() {
        let sick = node().with_health("GPU-2", Health::unhealthy("XID 79")).unwrap();
        let waiting = [pod("a", 2, &[2, 3]), pod("b", 1, &[3])];
        let available = ids(&[0, 1, 3]);
        let question = Question { available: &available, must_include: &[], size: 2 };
        let answer = preferred(&sick, &waiting, question);
        assert_eq!((gpus(&answer), answer.planned), (vec!["GPU-0", "GPU-1"], false));
        assert_eq!(answer.pod, Some(("ns".into(), "a".into())), "it is still this pod's turn");
    }
}
