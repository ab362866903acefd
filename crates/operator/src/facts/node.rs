//! A node: its labels, taints and readiness, and whether they let a worker in.

use crate::quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};
use std::collections::BTreeMap;
use weft_api::names;
use weft_topology::{Exclusion, Resources, Standing};

/// What matters of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub standing: Standing,
    /// Since when the node is not ready; none while it is.
    pub not_ready_since: Option<Timestamp>,
    /// Nothing is heard from its kubelet: its pods may have ended, or run on.
    pub unreachable: bool,
    /// Somebody who knows says that the node is off and its pods have ended (Kubernetes' out-of-service taint, KEP-2268).
    pub out_of_service: bool,
    /// CPU, memory, pods and every extended resource, GPUs too: what the kubelet advertises now.
    pub allocatable: Resources,
}

impl NodeFacts {
    /// Reads a node.
    pub fn of(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let is_ready =
            ready.is_some_and(|condition| condition.status == "True") && node.metadata.deletion_timestamp.is_none();
        let unreachable = ready.is_none_or(|condition| condition.status == "Unknown");
        let taints = spec.taints.unwrap_or_default();
        let since = ready.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
        Self {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            unreachable,
            // Kubernetes too believes it only of a node that is not ready.
            out_of_service: !is_ready && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE),
            taints,
            standing: match (is_ready, spec.unschedulable) {
                (false, _) => Standing::NotReady,
                (true, Some(true)) => Standing::Cordoned,
                (true, _) => Standing::Ready,
            },
            not_ready_since: (!is_ready).then(|| since.unwrap_or(Timestamp::UNIX_EPOCH)),
            allocatable: quantity::resources(status.allocatable.iter().flatten()),
        }
    }

    /// The value of the label by which pods are bound to the node.
    pub fn hostname(&self) -> Option<&str> {
        self.labels.get(names::LABEL_HOSTNAME).map(String::as_str)
    }
}

/// What a pod asks of its node besides resources: selector, required affinity, tolerations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeRules {
    selector: BTreeMap<String, String>,
    /// Any of the terms must match; none: no rule.
    affinity: Option<Vec<NodeSelectorTerm>>,
    tolerations: Vec<Toleration>,
}

impl NodeRules {
    /// Reads the rules of a pod specification.
    pub fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            selector: spec.node_selector.clone().unwrap_or_default(),
            affinity: required.map(|selector| selector.node_selector_terms.clone()),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        }
    }

    /// Whether the node lets the pod in, or the first reason why not.
    pub fn admit(&self, node: &NodeFacts) -> Result<(), Exclusion> {
        if node.hostname().is_none() {
            return Err(Exclusion::Other { detail: format!("the node has no label {}", names::LABEL_HOSTNAME) });
        }
        for (key, value) in &self.selector {
            if node.labels.get(key) != Some(value) {
                return Err(Exclusion::Selector { detail: format!("{key}={value}") });
            }
        }
        if let Some(terms) = &self.affinity
            && !terms.iter().any(|term| matches(term, node))
        {
            return Err(Exclusion::Selector { detail: "required node affinity".to_owned() });
        }
        let binding = |taint: &&Taint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                && !TOLD_BY_STANDING.contains(&taint.key.as_str())
                && !self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
        };
        match node.taints.iter().find(binding) {
            None => Ok(()),
            Some(taint) => {
                let value = taint.value.as_deref().filter(|value| !value.is_empty());
                let value = value.map(|value| format!("={value}")).unwrap_or_default();
                Err(Exclusion::Taint { detail: format!("{}{value}:{}", taint.key, taint.effect) })
            }
        }
    }
}

/// Set by a person or a cloud controller on a node that is shut down.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Taints that say the same as the node's standing.
const TOLD_BY_STANDING: [&str; 3] =
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable"];

/// Kubernetes: a toleration without key and with `Exists` matches all; without effect it matches every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && ((key.is_empty() && exists)
            || (key == taint.key && (exists || value == taint.value.as_deref().unwrap_or_default())))
}

/// All requirements of a term must hold; an empty term matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_field = |field: &NodeSelectorRequirement| field.key == "metadata.name" && holds(field, Some(&node.name));
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|label| holds(label, node.labels.get(&label.key).map(String::as_str)))
        && fields.iter().all(by_field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|text| number(text));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.iter().any(|v| v == value)),
        "NotIn" => value.is_none_or(|value| values.iter().all(|v| v != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(labels: serde_json::Value, taints: serde_json::Value) -> NodeFacts {
        let mut labels = labels;
        labels[names::LABEL_HOSTNAME] = json!("node-1");
        let node = json!({
            "metadata": {"name": "node-1", "labels": labels}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2", "nvidia.com/gpu": "8"}},
        });
        NodeFacts::of(serde_json::from_value(node).unwrap())
    }

    fn rules(spec: serde_json::Value) -> NodeRules {
        let mut spec = spec;
        spec["containers"] = json!([]);
        NodeRules::of(&serde_json::from_value(spec).unwrap())
    }

    fn affinity(expression: serde_json::Value) -> NodeRules {
        let terms = json!([{"matchExpressions": [expression]}]);
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        rules(json!({"affinity": {"nodeAffinity": required}}))
    }

    #[test]
    fn a_node_selector_that_does_not_match_is_named() {
        let node = node(json!({"gpu-class": "h100"}), json!([]));
        assert_eq!(rules(json!({"nodeSelector": {"gpu-class": "h100"}})).admit(&node), Ok(()));
        let refused = rules(json!({"nodeSelector": {"gpu-class": "a100"}})).admit(&node).unwrap_err();
        assert_eq!(refused, Exclusion::Selector { detail: "gpu-class=a100".to_owned() });
    }

    #[test]
    fn every_affinity_operator_is_understood() {
        let node = node(json!({"gen": "9"}), json!([]));
        let table = [
            (json!({"key": "gen", "operator": "In", "values": ["8", "9"]}), true),
            (json!({"key": "gen", "operator": "NotIn", "values": ["9"]}), false),
            (json!({"key": "gen", "operator": "Exists"}), true),
            (json!({"key": "gen", "operator": "DoesNotExist"}), false),
            (json!({"key": "gen", "operator": "Gt", "values": ["8"]}), true),
            (json!({"key": "gen", "operator": "Lt", "values": ["9"]}), false),
            (json!({"key": "none", "operator": "NotIn", "values": ["9"]}), true),
        ];
        for (expression, expected) in table {
            assert_eq!(affinity(expression.clone()).admit(&node).is_ok(), expected, "{expression}");
        }
    }

    #[test]
    fn taints_keep_out_what_does_not_tolerate_them() {
        let gpu = json!([{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]);
        let tainted = node(json!({}), gpu);
        let refused = rules(json!({})).admit(&tainted).unwrap_err();
        assert_eq!(refused, Exclusion::Taint { detail: "nvidia.com/gpu=present:NoSchedule".to_owned() });
        let tolerations = json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]);
        assert_eq!(rules(json!({"tolerations": tolerations})).admit(&tainted), Ok(()));
        let wish = json!([{"key": "x", "effect": "PreferNoSchedule"}]);
        assert_eq!(rules(json!({})).admit(&node(json!({}), wish)), Ok(()));
        let pressure = json!([{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]);
        assert!(rules(json!({})).admit(&node(json!({}), pressure)).is_err());
    }

    #[test]
    fn standing_follows_readiness_and_cordon() {
        let read = |spec: serde_json::Value, ready: &str| {
            let conditions = json!([{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            let value = json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}});
            NodeFacts::of(serde_json::from_value(value).unwrap())
        };
        assert_eq!(read(json!({}), "True").standing, Standing::Ready);
        assert_eq!(read(json!({"unschedulable": true}), "True").standing, Standing::Cordoned);
        let lost = read(json!({}), "Unknown");
        assert_eq!(lost.standing, Standing::NotReady);
        assert!(lost.not_ready_since.is_some());
    }
}
