//! Nodes that are lost, silent, or gone, one or most of them.

use crate::world::{World, gang};
use serde_json::json;
use weft_api::job::Phase;
use weft_operator::facts::PodKey;

#[test]
fn workers_of_a_lost_node_move_after_the_grace() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    let since = world.now;
    world.change_node(&node, |node| {
        node["status"]["conditions"] =
            json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": since.to_string()}]);
    });
    world.step(5);
    assert_eq!(world.nodes_of("g")[0], node, "not yet given up");
    world.step(6);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements), (Phase::Running, 1));
    assert_ne!(world.nodes_of("g"), [node]);
}

/// Marks a node as not ready since now, or as ready.
fn set_ready(world: &mut World, node: &str, ready: bool) {
    let now = world.now.to_string();
    let status = if ready { "True" } else { "Unknown" };
    world.change_node(node, |node| {
        node["status"]["conditions"] = json!([{"type": "Ready", "status": status, "lastTransitionTime": now}]);
    });
}

#[test]
fn workers_are_kept_while_most_nodes_are_not_ready_and_nodes_get_their_grace_anew_after_that() {
    let mut world = World::demo();
    world.add_node("node-4", "rack-b", 8);
    world.submit("g", gang(2, 8, json!({"topology": {"required": "rack"}})));
    world.run();
    let nodes = world.nodes_of("g");
    assert_eq!(nodes, ["node-1", "node-2"]);
    for node in ["node-1", "node-2", "node-3"] {
        set_ready(&mut world, node, false);
    }
    world.step(11);
    world.step(3600);
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements, world.nodes_of("g")), (Phase::Running, 0, nodes.clone()));
    assert!(status.message.contains("node-1 is not ready, and so are most"), "{}", status.message);
    assert!(status.workers[1].message.as_ref().unwrap().contains("node-2 is not ready"));
    set_ready(&mut world, "node-3", true);
    world.step(20);
    world.step(9);
    assert_eq!(world.status("g").replacements, 0, "the outage is over since a moment ago");
    set_ready(&mut world, "node-1", true);
    world.step(0);
    world.step(2);
    world.run();
    let status = world.status("g");
    assert_eq!(status.replacements, 1, "a node that does not come back is given up: {}", status.message);
    assert!(!status.message.contains("so are most"), "{}", status.message);
}

#[test]
fn a_deleted_pod_on_a_silent_node_is_removed_by_force_when_its_node_is_given_up_and_in_an_outage_never() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    let pod = PodKey::new("default", "g-w-0");
    for node in ["node-1", "node-2", "node-3"] {
        set_ready(&mut world, node, false);
    }
    world.step(0);
    world.delete_pod("g-w-0", 5);
    for _ in 0..10 {
        world.step(60);
        assert!(world.pods.contains_key(&pod), "it may run on, and a second one must not be beside it");
    }
    for ready in ["node-1", "node-2", "node-3"] {
        set_ready(&mut world, ready, ready != node);
    }
    world.step(0);
    world.step(9);
    assert!(world.pods.contains_key(&pod), "the node has its grace anew");
    world.step(1);
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.workers[0].attempt), (Phase::Running, 1), "{}", status.message);
    assert_ne!(world.nodes_of("g"), [node]);
}

#[test]
fn nodes_whose_reports_cannot_be_read_are_counted_with_those_that_have_gpus() {
    let mut world = World::demo();
    for n in 0..20 {
        world.add_node(&format!("cpu-{n}"), "rack-c", 8);
        world.remove_report(&format!("cpu-{n}"));
    }
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    let nodes = world.nodes_of("g");
    for node in ["node-1", "node-2", "node-3"] {
        world.set_unreadable_report(node);
        set_ready(&mut world, node, false);
    }
    world.step(11);
    world.step(60);
    let status = world.status("g");
    assert_eq!((status.replacements, world.nodes_of("g")), (0, nodes), "{}", status.message);
    assert!(status.message.contains("and so are most"), "{}", status.message);
    // An agent that is gone for good leaves a node like any other: three of 23 are no outage.
    for node in ["node-1", "node-2", "node-3"] {
        world.remove_report(node);
    }
    world.step(0);
    world.step(11);
    assert_ne!(world.status("g").replacements, 0, "{}", world.status("g").message);
}

#[test]
fn workers_of_a_node_that_is_said_to_be_out_of_service_move_at_once() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    set_ready(&mut world, &node, false);
    world.change_node(&node, |node| {
        node["spec"] =
            json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]});
    });
    world.step(0);
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 1));
    assert_ne!(world.nodes_of("g"), [node]);
}

#[test]
fn a_worker_that_must_not_run_twice_stays_on_a_node_that_is_cut_off_until_somebody_says_that_it_is_off() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({"failurePolicy": {"onUnreachableNode": "Wait"}})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    set_ready(&mut world, &node, false);
    world.step(3600);
    let status = world.status("g");
    assert_eq!((status.replacements, world.nodes_of("g")), (0, vec![node.clone()]));
    assert!(status.message.contains(&format!("nothing is heard from node {node}")), "{}", status.message);
    // Kubernetes' own eviction marks the pod as deleted; whether it has ended is not known by that.
    world.change_pod("g-w-0", |pod| pod["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z"));
    world.step(0);
    world.step(3600);
    assert!(world.pods.contains_key(&PodKey::new("default", "g-w-0")), "no second pod of the rank beside it");
    world.change_node(&node, |node| {
        node["spec"] = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
    });
    world.step(0);
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 1));
    assert_ne!(world.nodes_of("g"), [node]);
}

#[test]
fn a_node_that_is_not_ready_but_heard_ends_its_workers_in_order() {
    let mut world = World::demo();
    world.submit("g", gang(1, 8, json!({})));
    world.run();
    let node = world.nodes_of("g")[0].clone();
    let now = world.now.to_string();
    world.change_node(&node, |node| {
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "lastTransitionTime": now}]);
    });
    world.step(11);
    let pod = world.pods[&PodKey::new("default", "g-w-0")].clone();
    assert!(pod.metadata.deletion_timestamp.is_some(), "asked to end, with its own grace");
    world.run();
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 1));
}

#[test]
fn workers_of_a_deleted_node_and_deleted_pods_are_replaced() {
    let mut world = World::demo();
    world.submit("g", gang(2, 4, json!({"failurePolicy": {"replace": "FailedWorkers"}})));
    world.run();
    world.remove_pod(&PodKey::new("default", "g-w-1"));
    world.run();
    let status = world.status("g");
    assert_eq!((status.phase, status.replacements), (Phase::Running, 1));
    let node = world.nodes_of("g")[0].clone();
    world.remove_node(&node);
    world.run();
    assert_eq!(world.status("g").phase, Phase::Running, "{}", world.status("g").message);
    assert!(!world.nodes_of("g").contains(&node));
}
