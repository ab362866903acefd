//! Places the workers that have no pod, and lifts the gates once the gang is complete.

use super::slots::Slot;
use super::{ASK_AGAIN, Action, NoRoom, Work};
use crate::ask::Ask;
use crate::facts::requests_of;
use crate::index::planned_claim;
use crate::worker_pod::{self, Start};
use jiff::Timestamp;
use std::collections::HashMap;
use weft_api::job::{GroupStatus, WorkerPhase};
use weft_topology::{Group, NodeName, Placed, Placement};

/// Why workers have no pod yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// None has.
    Nothing,
    /// There is no room; the sentence says what for.
    NoRoom(String),
    /// The job names a level that there is not, or not yet.
    NoLevel(String),
    /// The API server refuses pods.
    Refused(String),
    /// Pods under the same names have to go first.
    Names(String),
    /// A pause after a failure.
    Pause(Timestamp),
}

impl Work<'_> {
    /// Finds places for the missing workers, all of them or none.
    pub(super) fn place_missing(&mut self) -> Missing {
        self.recreate_assumed();
        if !self.slots.iter().any(Slot::is_missing) {
            return Missing::Nothing;
        }
        let missing = || self.slots.iter().filter(|slot| slot.is_missing());
        if let Some(slot) = missing().find(|slot| slot.name_taken) {
            return Missing::Names(format!(
                "pod {} is there already and is not this job's: waiting until it is deleted",
                slot.key
            ));
        }
        // Under its name there is one pod at a time, which keeps its place until it has gone; and those that are missing are placed
        // together.
        let leaving = missing().filter(|slot| slot.outdated.is_some()).count();
        if leaving > 0 {
            return Missing::Names(format!(
                "waiting for {leaving} old pod{} to end",
                if leaving == 1 { "" } else { "s" }
            ));
        }
        let pause = missing().filter_map(|slot| slot.state.not_before.as_ref()).map(|time| time.0).max();
        if let Some(until) = pause.filter(|until| *until > self.now) {
            self.wake_at(until);
            return Missing::Pause(until);
        }
        // Not the job's end: levels are added and renamed, and the job may have been made before its level.
        if let Some(why) = crate::validate::levels(self.job, self.index.levels()) {
            self.give_up_unstarted();
            return Missing::NoLevel(why);
        }
        if let Some(refusal) = self.memo.refusal.clone().filter(|refusal| refusal.until > self.now) {
            self.wake_at(refusal.until);
            self.give_up_unstarted();
            return Missing::Refused(refusal.message);
        }
        match self.find_places() {
            Ok(placement) => {
                self.settle(&placement);
                Missing::Nothing
            }
            Err(why) => {
                self.memo.refusal = None;
                self.give_up_unstarted();
                Missing::NoRoom(why)
            }
        }
    }

    /// Pods that were decided on and are not there yet: asked for again, since the request may have been lost. The API server
    /// answers that they exist if it was not.
    fn recreate_assumed(&mut self) {
        let members = self.members();
        let waiting: Vec<usize> = (0..self.slots.len())
            .filter(|&at| self.slots[at].assumed && self.slots[at].pod.is_none() && self.slots[at].outdated.is_none())
            .collect();
        let again = waiting
            .iter()
            .filter_map(|&at| self.memo.asked.get(&self.slots[at].key))
            .min()
            .map(|asked| *asked + ASK_AGAIN);
        if let Some(again) = again.filter(|again| *again > self.now) {
            return self.wake_at(again);
        }
        if waiting.is_empty() {
            return;
        }
        self.decision.actions.push(Action::EnsureSupport);
        for at in waiting {
            let node = self.index.assumed(&self.slots[at].key).and_then(|(node, _)| self.index.node(node));
            if node.is_none_or(|node| node.hostname().is_none()) {
                // Its node went in the meantime: the next look places it anew.
                self.decision.void.push(self.slots[at].key.clone());
                self.wake_at(self.now);
            } else if self.slots[at].state.node.is_some() {
                self.create(at, &members);
            } else {
                // Started anew just now, while it may be there: the next look asks for it where it was to be.
                self.wake_at(self.now);
            }
        }
    }

    fn find_places(&mut self) -> Result<Placement, String> {
        let ask = Ask::of(self.job, &self.settings.runtime).map_err(|error| error.to_string())?;
        let mut gang = ask.gang(self.job);
        if !self.slots.iter().all(Slot::is_missing) {
            for (group, size) in gang.groups.iter_mut().zip(self.sizes()) {
                (group.replicas, group.min) = (size, None);
            }
        }
        gang.placed = self.placed();
        let (cluster, index) = (self.index.cluster(), self.index);
        let eligible = |group: &Group, node: &NodeName| ask.admits(index, group, node);
        let missing = (0..self.slots.len()).filter(|&at| self.slots[at].is_missing()).collect();
        let asked = (self.job.metadata.generation, missing);
        let again = |told: &NoRoom| told.at.saturating_add(self.memo.tell_again).unwrap_or(Timestamp::MAX);
        // Not if the clock was set back: it would stand for as long.
        let stands = |told: &NoRoom| told.asked == asked && told.at <= self.now && self.now < again(told);
        let Some(told) = self.memo.no_room.take().filter(stands) else {
            let found = weft_topology::place_where(cluster, &gang, &eligible).map_err(|why| why.to_string());
            self.memo.no_room = found.as_ref().err().map(|why| NoRoom { why: why.clone(), at: self.now, asked });
            return found;
        };
        let found = weft_topology::place_if_room(cluster, &gang, &eligible).map_err(|error| error.to_string())?;
        if found.is_none() {
            self.wake_at(again(&told));
            self.memo.no_room = Some(told.clone());
        }
        found.ok_or(told.why)
    }

    /// Workers that keep their place. One that has ended well needs none, but counts as where it was; if that node is gone, as
    /// where any other worker is.
    fn placed(&self) -> Vec<Placed> {
        let there = |node: &&str| self.index.node(node).is_some();
        let anywhere = self.slots.iter().filter(|slot| slot.is_live()).find_map(|slot| slot.node().filter(there));
        let keep = self.slots.iter().filter(|slot| !slot.is_missing());
        let place = |slot: &Slot<'_>| {
            let node = slot.node().filter(there).or(anywhere)?;
            let group = self.job.spec.groups[slot.member.group].name.clone();
            Some(Placed { group, index: slot.member.index, node: node.into() })
        };
        keep.filter_map(place).collect()
    }

    /// Writes the placement into the status and asks for the pods.
    fn settle(&mut self, placement: &Placement) {
        if self.slots.iter().all(Slot::is_missing) {
            self.resize(placement);
        }
        let members = self.members();
        self.decision.actions.push(Action::EnsureSupport);
        let mut next: HashMap<&str, std::vec::IntoIter<&weft_topology::Worker>> = HashMap::new();
        for group in &self.job.spec.groups {
            let workers: Vec<_> = placement.workers.iter().filter(|worker| worker.group == group.name).collect();
            next.insert(&group.name, workers.into_iter());
        }
        for at in 0..self.slots.len() {
            if !self.slots[at].is_missing() {
                continue;
            }
            let group = self.job.spec.groups[self.slots[at].member.group].name.as_str();
            let Some(worker) = next.get_mut(group).and_then(Iterator::next) else { continue };
            let state = &mut self.slots[at].state;
            state.node = Some(worker.node.to_string());
            state.planned_gpus = worker.gpus.iter().map(ToString::to_string).collect();
            state.not_before = None;
            self.slots[at].assumed = true;
            self.create(at, &members);
        }
        self.memo.placement = Some(placement.to_string());
    }

    /// A gang that starts with fewer workers than asked for is that many workers from here on.
    fn resize(&mut self, placement: &Placement) {
        let count = |name: &str| placement.workers.iter().filter(|worker| worker.group == name).count();
        let groups = self.job.spec.groups.iter().map(|group| GroupStatus {
            name: group.name.clone(),
            replicas: u32::try_from(count(&group.name)).unwrap_or(u32::MAX),
        });
        self.decision.status.groups = groups.collect();
        let slots = std::mem::take(&mut self.slots);
        let mut members = self.members().into_iter().peekable();
        for mut slot in slots {
            // Both lists are in the order of groups and indices; the shorter one leaves out the last of a group.
            if members.peek().is_some_and(|member| member.pod == slot.member.pod)
                && let Some(member) = members.next()
            {
                slot.state.rank = member.rank;
                slot.member = member;
                self.slots.push(slot);
            }
        }
    }

    fn create(&mut self, at: usize, members: &[worker_pod::Member]) {
        let slot = &self.slots[at];
        let Some(node) = slot.state.node.clone() else { return };
        let Some(host) = self.index.node(&node).and_then(|facts| facts.hostname()) else { return };
        let gpus = &slot.state.planned_gpus;
        let start = Start { attempt: slot.state.attempt, host, gpus, revision: self.revision() };
        let made = worker_pod::worker_pod(self.job, members, &slot.member, start, &self.settings.runtime);
        // `base_spec` was asked for the same group before, so this is not reached with a bad template.
        let Ok(pod) = made else { return };
        let requests = pod.spec.as_ref().map(requests_of).unwrap_or_default();
        self.decision.assume.push((slot.key.clone(), node, planned_claim(gpus, &requests)));
        self.decision.actions.push(Action::CreatePod(Box::new(pod)));
    }

    /// A gang of which no worker ever started lets go of what it holds while the rest has no place.
    fn give_up_unstarted(&mut self) {
        let live = || self.slots.iter().filter(|slot| slot.is_live());
        if live().any(|slot| slot.pod.is_none_or(|pod| !pod.is_gated())) || self.slots.iter().any(Slot::succeeded) {
            return;
        }
        for at in 0..self.slots.len() {
            if self.slots[at].is_live() {
                self.restart(at, None, None);
            }
        }
        let groups = &self.job.spec.groups;
        let whole =
            |status: &GroupStatus| groups.iter().any(|g| g.name == status.name && g.replicas == status.replicas);
        // A gang that started with fewer workers than asked for may start with more the next time.
        if !self.decision.status.groups.iter().all(whole) {
            self.decision.status.groups.clear();
        }
        self.remove_outdated();
    }

    /// Lets the scheduler take the gang, once all of its pods exist.
    pub(super) fn lift_gates(&mut self) {
        let complete = self.slots.iter().all(|slot| slot.pod.is_some() || slot.state.phase == WorkerPhase::Succeeded);
        if !complete {
            return;
        }
        let gated =
            self.slots.iter().filter_map(|slot| slot.pod).filter(|pod| pod.is_gated() && pod.deletion_due.is_none());
        let lifts = gated.map(|pod| Action::LiftGate {
            pod: pod.key.clone(),
            uid: pod.uid.clone(),
            rest: pod.gates.iter().filter(|gate| *gate != weft_api::names::GATE_PLACEMENT).cloned().collect(),
        });
        self.decision.actions.extend(lifts.collect::<Vec<_>>());
    }
}
