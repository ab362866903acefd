//! Pods that were asked for and never came, came late, or are slow to go: nothing is held for them for ever, and nothing is done
//! again and again.

use crate::storm::check;
use crate::world::{World, gang};
use serde_json::json;
use weft_api::job::Phase;
use weft_operator::facts::PodKey;

/// A second at a time: the operator decides, hears what came of it, and the kubelets do their part.
fn turn(world: &mut World, seconds: u32) {
    for _ in 0..seconds {
        world.pass_unheard(1);
        world.hear(9);
        world.kubelet();
    }
}

/// A job for all of both H100 nodes, whose pods were asked for and never came.
fn vanished() -> World {
    let mut world = World::demo();
    world.submit("a", gang(2, 8, json!({})));
    world.pass();
    world.creations_vanish = true;
    world.pass();
    world.creations_vanish = false;
    world
}

/// Whether a job gets all of both H100 nodes.
fn gets_both_nodes(world: &mut World) -> bool {
    world.submit("b", gang(2, 8, json!({})));
    turn(world, 40);
    world.status("b").phase == Phase::Running
}

#[test]
fn a_suspended_job_holds_nothing_for_pods_that_never_came() {
    let mut world = vanished();
    world.change_job("a", |job| job.spec.suspend = true);
    world.step(1);
    assert_eq!(world.status("a").phase, Phase::Suspended);
    assert!(gets_both_nodes(&mut world), "{}", world.status("b").message);
}

#[test]
fn a_suspended_job_whose_pods_are_not_seen_yet_is_written_once() {
    let mut world = World::demo();
    world.lag();
    world.submit("a", gang(1, 8, json!({})));
    world.step(0);
    world.change_job("a", |job| job.spec.suspend = true);
    world.step(0);
    let written = world.statuses.len();
    turn(&mut world, 20);
    assert_eq!(world.statuses.len(), written);
    world.catch_up();
    turn(&mut world, 10);
    assert!(world.pods.is_empty(), "what came after all is deleted");
}

#[test]
fn a_job_that_failed_holds_nothing_for_a_pod_that_never_came() {
    let mut world = World::demo();
    let policy = json!({"activeDeadlineSeconds": 30, "failurePolicy": {"replace": "FailedWorkers"}});
    world.submit("a", gang(2, 8, policy));
    world.run();
    world.creations_vanish = true;
    world.remove_pod(&PodKey::new("default", "a-w-1"));
    turn(&mut world, 40);
    world.creations_vanish = false;
    turn(&mut world, 40);
    assert_eq!((world.status("a").phase, world.pods.len()), (Phase::Failed, 0));
    assert!(gets_both_nodes(&mut world), "{}", world.status("b").message);
}

#[test]
fn a_job_whose_groups_got_other_names_holds_nothing_for_pods_of_the_old_ones() {
    let mut world = vanished();
    world.change_job("a", |job| job.spec.groups[0].name = "v".into());
    turn(&mut world, 20);
    assert_eq!(world.status("a").phase, Phase::Running, "{}", world.status("a").message);
    world.delete_job("a");
    world.step(1);
    assert!(gets_both_nodes(&mut world), "{}", world.status("b").message);
}

#[test]
fn a_job_that_cannot_be_read_and_is_deleted_holds_nothing() {
    let mut world = vanished();
    world.set_unreadable("a", Some("spec.colour"));
    world.step(1);
    world.delete_job("a");
    assert!(gets_both_nodes(&mut world), "{}", world.status("b").message);
}

#[test]
fn a_late_pod_of_an_earlier_job_does_not_free_what_is_planned_for_the_next_of_the_name() {
    let mut world = World::demo();
    world.submit("a", gang(1, 8, json!({})));
    world.pass();
    let first = world.decide_only();
    assert_eq!(first.len(), 1, "its creation waits for its turn");
    world.delete_job("a");
    world.submit("a", gang(1, 8, json!({})));
    world.pass_unheard(0);
    world.hear(1);
    let second = world.decide_only();
    world.execute_late(first);
    for other in ["b", "c"] {
        world.submit(other, gang(1, 8, json!({})));
    }
    // Garbage collection.
    world.remove_pod(&PodKey::new("default", "a-w-0"));
    for _ in 0..4 {
        world.pass_unheard(0);
        world.hear(8);
    }
    world.execute_late(second);
    check(&world).unwrap();
    assert_eq!(world.pods.len(), 2, "the second job's, and one of the others'");
}

#[test]
fn a_job_that_is_gone_and_still_seen_is_not_written_without_end() {
    let mut world = World::demo();
    world.submit("a", gang(1, 8, json!({})));
    world.run();
    world.delete_job_unseen("a");
    world.set_health("node-1", 0, Some("XID 79"));
    world.step(1);
    world.step(0);
}

#[test]
fn a_job_that_was_shrunk_while_suspended_starts_once_though_old_workers_end_slowly() {
    for is_seen in [true, false] {
        let mut world = World::demo();
        world.submit("a", gang(4, 2, json!({})));
        world.run();
        world.change_job("a", |job| job.spec.suspend = true);
        world.step(1);
        world.change_job("a", |job| job.spec.groups[0].replicas = 2);
        if is_seen {
            world.step(1);
        }
        world.change_job("a", |job| job.spec.suspend = false);
        world.step(1);
        for pod in ["a-w-0", "a-w-1"] {
            world.remove_pod(&PodKey::new("default", pod));
        }
        world.step(0);
        world.step(1);
        let status = world.status("a");
        assert_eq!((status.workers.len(), status.workers[0].attempt), (2, 1), "{}", status.message);
        assert!(world.pods.contains_key(&PodKey::new("default", "a-w-3")), "it ends slowly");
    }
}

#[test]
fn a_job_that_is_suspended_and_changed_stops_though_nobody_can_judge_its_templates() {
    let mut world = World::demo();
    world.submit("a", gang(2, 8, json!({})));
    world.run();
    world.probe_fails = true;
    world.change_job("a", |job| {
        job.spec.suspend = true;
        job.spec.groups[0].replicas = 1;
    });
    turn(&mut world, 60);
    assert_eq!((world.status("a").phase, world.pods.len()), (Phase::Suspended, 0));
}
