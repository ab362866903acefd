//! The life of jobs, decision by decision, without a cluster: the operator's own controller in a world of plain data.
//! `World::hold` fails every test in which a GPU is given to two pods or after it failed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's message")]

mod failures;
mod nodes;
mod operators;
mod people;
mod starts;
mod storm;
mod unanswered;
mod world;

use world::World;

/// Status and reason of a job's condition.
fn condition_of(world: &World, job: &str, type_: &str) -> Option<(String, String)> {
    let status = world.status(job);
    status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.status.clone(), c.reason.clone()))
}
