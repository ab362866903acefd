//! Operators that die, see late, or are of another version than the job.

use crate::condition_of;
use crate::world::{Answer, World, gang};
use jiff::SignedDuration;
use serde_json::json;
use weft_api::job::{Phase, condition};
use weft_operator::reconcile::Action;

#[test]
fn an_operator_killed_anywhere_loses_nothing_and_counts_nothing_twice() {
    // The actions of a start are: service, two pods, then two gates in the next batch; those of a replacement follow.
    for actions in 0..8 {
        let mut world = World::demo();
        world.submit(
            "g",
            gang(
                2,
                8,
                json!({"topology": {"required": "rack"}, "failurePolicy": {"replace": "WholeGang", "maxRestarts": 5}}),
            ),
        );
        world.die_after = Some(actions);
        world.step(1);
        world.restart_operator();
        world.run();
        assert_eq!(world.status("g").phase, Phase::Running, "killed after {actions} actions");
        world.end("g-w-0", 1, "");
        world.die_after = Some(actions);
        world.step(0);
        world.step(3);
        world.restart_operator();
        world.step(3);
        world.run();
        world.run();
        let status = world.status("g");
        assert_eq!(
            (status.phase, status.restarts, status.replacements),
            (Phase::Running, 1, 0),
            "killed after {actions} actions: {}",
            status.message
        );
    }
}

#[test]
fn a_restarted_operator_leaves_running_gangs_alone_and_gives_their_gpus_to_nobody() {
    let mut world = World::demo();
    world.submit("g", gang(2, 4, json!({})));
    world.run();
    let before = (world.pods.clone(), world.status("g"));
    world.restart_operator();
    world.submit("next", gang(2, 4, json!({})));
    world.run();
    assert_eq!(world.status("g"), before.1);
    assert!(before.0.iter().all(|(key, pod)| world.pods[key].metadata.uid == pod.metadata.uid));
    assert_eq!(world.status("next").phase, Phase::Running);
}

#[test]
fn what_was_sent_is_not_sent_again_while_the_watch_lags_unless_it_lags_for_long() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.step(1);
    let count = |world: &World, wanted: fn(&Action) -> bool| world.sent.iter().filter(|action| wanted(action)).count();
    let lifts: fn(&Action) -> bool = |action| matches!(action, Action::LiftGate { .. });
    let deletions: fn(&Action) -> bool = |action| matches!(action, Action::DeletePod { .. });
    assert_eq!(count(&world, lifts), 2);
    world.lag();
    world.change_job("g", |job| job.spec.suspend = true);
    world.step(0);
    world.step(1);
    assert_eq!(count(&world, deletions), 2, "each once");
    world.step(5);
    assert_eq!(count(&world, deletions), 4, "the watch shows nothing for long: perhaps nothing happened");
    world.catch_up();
    world.run();
    assert_eq!((world.status("g").phase, world.pods.len()), (Phase::Suspended, 0));
}

#[test]
fn a_job_of_a_newer_version_is_left_as_it_is_and_goes_on_when_it_can_be_read_again() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.run();
    let before = world.status("g");
    world.set_unreadable("g", Some("spec.failurePolicy.replace: unknown variant `HalfOfThem`"));
    world.set_unreadable("new", Some("spec.colour: missing"));
    world.submit("new", gang(1, 1, json!({})));
    world.set_health("node-1", 0, Some("XID 79"));
    let (sent, written) = (world.sent.len(), world.statuses.len());
    world.step(1);
    world.step(3600);
    let status = world.status("g");
    assert_eq!((world.sent.len(), world.statuses.len()), (sent, written), "nothing but the condition is written");
    assert_eq!(world.said_unreadable, 2, "and that once");
    assert_eq!((status.phase, &status.workers, &status.message), (before.phase, &before.workers, &before.message));
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("False".into(), "Unreadable".into())));
    let valid = status.conditions.iter().find(|c| c.type_ == condition::VALID).unwrap();
    assert!(valid.message.contains("HalfOfThem"), "{}", valid.message);
    assert!(world.status("new").message.contains("spec.colour: missing"), "{}", world.status("new").message);
    world.set_unreadable("g", None);
    world.set_health("node-1", 0, None);
    world.run();
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("True".into(), "Accepted".into())));
    assert_eq!((world.status("g").phase, world.status("g").replacements), (Phase::Running, 0));
}

#[test]
fn a_job_that_has_ended_is_not_run_again_after_an_older_operator_could_not_read_it() {
    let mut world = World::demo();
    world.submit("g", gang(1, 1, json!({})));
    world.run();
    world.end("g-w-0", 1, "");
    world.step(0);
    world.step(3);
    assert_eq!(world.status("g").phase, Phase::Failed);
    world.set_unreadable("g", Some("spec.colour: missing"));
    world.step(1);
    world.set_unreadable("g", None);
    world.change_job("g", |job| job.spec.ttl_seconds_after_finished = Some(3600));
    world.run();
    assert_eq!(world.status("g").phase, Phase::Failed, "{}", world.status("g").message);
    assert_eq!(condition_of(&world, "g", condition::VALID), Some(("True".into(), "Accepted".into())));
}

#[test]
fn a_pod_that_was_asked_for_twice_keeps_its_gpus_while_the_watch_lags() {
    let mut world = World::demo();
    world.lag();
    world.submit("a", gang(1, 8, json!({})));
    world.step(1);
    world.step(6);
    let creations = world.sent.iter().filter(|action| matches!(action, Action::CreatePod(_))).count();
    assert_eq!(creations, 2, "the watch shows nothing for long: perhaps nothing was created");
    for other in ["b", "c"] {
        world.submit(other, gang(1, 8, json!({})));
    }
    world.step(1);
    world.catch_up();
    world.run();
    let phases = ["a", "b", "c"].map(|job| world.status(job).phase);
    assert_eq!(phases, [Phase::Running, Phase::Running, Phase::Pending]);
}

#[test]
fn a_pod_that_was_asked_for_twice_keeps_its_gpus_when_the_second_time_does_not_get_through() {
    let mut world = World::demo();
    world.lag();
    world.submit("a", gang(2, 4, json!({})));
    world.step(1);
    assert_eq!(world.nodes_of("a"), ["node-1", "node-1"]);
    // The status changes, and is not written; so nothing is asked for.
    world.change_pod("a-w-0", |pod| pod["status"] = json!({"phase": "Running"}));
    world.show("a-w-0");
    world.answers.push_back(Answer::NotDone);
    world.pass_unheard(6);
    world.hear(1);
    // Without the pause after a failure, in which it is asked for a third time.
    for (other, gpus) in [("b", 8), ("c", 4), ("d", 4)] {
        world.submit(other, gang(1, gpus, json!({})));
    }
    for _ in 0..2 {
        world.pass_unheard(0);
        world.hear(3);
    }
    world.step(1);
    world.catch_up();
    world.run();
    let phases = ["a", "b", "c", "d"].map(|job| world.status(job).phase);
    assert_eq!(phases, [Phase::Running, Phase::Running, Phase::Running, Phase::Pending]);
}

#[test]
fn a_status_whose_writing_was_not_answered_is_written_again() {
    let mut world = World::demo();
    world.submit("a", gang(1, 8, json!({})));
    world.run();
    // The GPU recovers before the operator hears that the loss of the worker was written.
    world.set_health("node-1", 0, Some("XID 79"));
    world.answers.push_back(Answer::Lost);
    world.pass_unheard(0);
    assert_ne!(world.status("a").phase, Phase::Running);
    world.set_health("node-1", 0, None);
    world.hear(1);
    world.step(1);
    assert_eq!((world.status("a").phase, world.status("a").workers[0].attempt), (Phase::Running, 0));
}

#[test]
fn a_batch_that_waited_long_for_its_turn_is_not_sent_again_when_it_comes_back() {
    let mut world = World::demo();
    world.submit("g", gang(2, 8, json!({})));
    world.pass_unheard(1);
    world.hear(1);
    world.lag();
    world.pass_unheard(0);
    world.now += SignedDuration::from_secs(20);
    world.hear(1);
    world.pass_unheard(0);
    let creations = |world: &World| world.sent.iter().filter(|action| matches!(action, Action::CreatePod(_))).count();
    assert_eq!(creations(&world), 2);
    world.hear(1);
    world.step(6);
    assert_eq!(creations(&world), 4, "but it is when the watch shows nothing for long after that");
}
