//! Follows the machine: opens the driver, reads the GPUs, watches them, and publishes a [`Snapshot`] at each change.
//!
//! ```text
//!             no driver: say so, try again
//!            ┌───────────┐
//!            ▼           │
//!   ┌─▶ open the driver ─┘
//!   │        ▼
//!   │   read GPUs and wires ◀── the set of GPUs changed
//!   │        ▼                          │
//!   └── watch health and measure ───────┘
//!     the driver was replaced
//! ```
//!
//! A GPU that was seen once stays in the list, unhealthy when it cannot be read, until the agent restarts: kubelet and
//! the operator then know that a GPU is missing, instead of seeing a smaller machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::OptionFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task;
use tokio_util::sync::CancellationToken;
use weft_nvml::{
    Board, Driver, DriverError, DriverRoot, Health, HealthPolicy, Machine, Monitor, Observation, Probe, Sink, State,
    Unanswered,
};
use weft_topology::{GpuUuid, Link, Node, NodeFacts};

use crate::remembered::{Inbox, Remembered};
use crate::samples::Samples;
use crate::snapshot::{Problem, Snapshot, Standing};
use crate::status::Status;

/// How long to wait before looking for a driver again.
const RETRY: Duration = Duration::from_secs(5);
/// How often to see whether the driver or the set of GPUs changed.
const REDISCOVER: Duration = Duration::from_secs(5);
/// A GPU whose look has not come back for this long does not answer. Looks are a second apart and take milliseconds.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait for what the agent before this one left. Pods need their GPUs also without an API server; what comes
/// later is taken in later.
const MEMORY: Duration = Duration::from_secs(5);

/// What the inventory is told at start.
pub struct Settings {
    /// Where the driver is.
    pub root: DriverRoot,
    /// The node's name.
    pub node_name: String,
    /// The rules of health.
    pub policy: HealthPolicy,
    /// How often to measure.
    pub interval: Duration,
    /// Whether a missing driver is the end.
    pub fail_on_init_error: bool,
}

/// Follows the machine until `shutdown`.
pub async fn follow(
    settings: Settings,
    memory: Inbox,
    snapshots: watch::Sender<Arc<Snapshot>>,
    samples: Arc<Samples>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut inventory = Inventory {
        settings,
        snapshots,
        samples,
        status,
        known: None,
        health: BTreeMap::new(),
        stored: Some(memory.stored),
        remembered: None,
        taken: memory.taken,
    };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = inventory.run() => ended,
    }
}

struct Inventory {
    settings: Settings,
    snapshots: watch::Sender<Arc<Snapshot>>,
    samples: Arc<Samples>,
    status: Arc<Status>,
    /// The last reading, with every GPU ever seen.
    known: Option<Machine>,
    health: BTreeMap<GpuUuid, Watched>,
    /// Where the agent before this one left its memory, until it is there.
    stored: Option<oneshot::Receiver<Remembered>>,
    /// What it left, until the GPUs are known.
    remembered: Option<Remembered>,
    taken: CancellationToken,
}

/// One GPU's health with what its publication needs.
struct Watched {
    health: Health,
    healthy_since: SystemTime,
    /// When its last look came back.
    looked: Instant,
}

/// What a look at the driver as a whole found.
struct Look {
    replaced: bool,
    readable: Vec<GpuUuid>,
}

/// Why watching ended.
enum Ended {
    GpusChanged,
    DriverReplaced,
}

impl Inventory {
    async fn run(&mut self) -> anyhow::Result<()> {
        if let Some(mut stored) = self.stored.take() {
            match tokio::time::timeout(MEMORY, &mut stored).await {
                // Nobody reads it: there is no API server.
                Ok(answer) => self.remembered = answer.ok(),
                Err(_) => {
                    tracing::warn!("the stored GpuNode is not known yet; XIDs of before this start come later");
                    self.stored = Some(stored);
                }
            }
        }
        loop {
            let driver = self.open().await?;
            loop {
                if let Err(error) = self.read(driver).await {
                    self.complain("DriverFailed", &error);
                    tokio::time::sleep(RETRY).await;
                    if self.restart(driver).await? {
                        continue;
                    }
                    break;
                }
                match self.watch(driver).await? {
                    Ended::GpusChanged => tracing::info!("the set of GPUs changed; reading the machine again"),
                    Ended::DriverReplaced => {
                        tracing::info!("the driver was replaced; opening the new one");
                        break;
                    }
                }
            }
        }
    }

    /// Opens the driver, trying for as long as it takes.
    async fn open(&mut self) -> anyhow::Result<Driver> {
        loop {
            self.status.alive_for(Duration::from_secs(60));
            let root = self.settings.root.clone();
            match task::spawn_blocking(move || Driver::open(&root)).await? {
                Ok(driver) => {
                    tracing::info!(library = %driver.library().display(), "opened the NVIDIA driver");
                    return Ok(driver);
                }
                Err(error) if self.settings.fail_on_init_error => return Err(error.into()),
                Err(error) => {
                    self.complain("NoDriver", &error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Starts a driver again that failed. Returns whether it is still the one that is installed.
    async fn restart(&self, driver: Driver) -> anyhow::Result<bool> {
        let root = self.settings.root.clone();
        let outcome = task::spawn_blocking(move || match driver.was_replaced(&root) {
            true => None,
            false => Some(driver.restart()),
        });
        match outcome.await? {
            None => return Ok(false),
            Some(Ok(())) => {}
            Some(Err(error)) => self.complain("DriverFailed", &error),
        }
        Ok(true)
    }

    /// Publishes that the machine as a whole is unusable. GPUs that were known stay listed.
    fn complain(&self, reason: &'static str, error: &DriverError) {
        let problem = Problem { reason, message: error.to_string() };
        self.snapshots.send_if_modified(|current| {
            if current.problem.as_ref() == Some(&problem) {
                return false;
            }
            tracing::error!(%error, "no usable driver; trying again every {} s", RETRY.as_secs());
            let next = Snapshot::clone(current).without_driver(problem, SystemTime::now());
            *current = Arc::new(next);
            true
        });
    }

    async fn read(&mut self, driver: Driver) -> Result<(), DriverError> {
        // A slow driver takes 0.6 s for each pair of GPUs, 72 s for 16 of them.
        self.status.alive_for(Duration::from_secs(300));
        let name = self.settings.node_name.clone();
        let machine = match task::spawn_blocking(move || weft_nvml::read(driver, &name)).await {
            Ok(read) => read?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        for gpu in &machine.unreadable {
            tracing::error!(index = gpu.index, error = gpu.error, "a GPU cannot be read: drain the node and reset it");
        }
        tracing::info!(
            gpus = machine.facts.gpus.len(),
            unreadable = machine.unreadable.len(),
            driver = machine.driver.version,
            "read the machine"
        );
        let machine = match self.known.take() {
            Some(before) => keep_missing(before, machine),
            None => machine,
        };
        let now = SystemTime::now();
        for gpu in &machine.facts.gpus {
            self.health.entry(gpu.uuid.clone()).or_insert_with(|| Watched {
                health: Health::default(),
                healthy_since: now,
                looked: Instant::now(),
            });
        }
        self.known = Some(machine);
        self.recall();
        Ok(())
    }

    /// Takes over the XIDs that the agent before this one saw. Returns whether there were any.
    fn recall(&mut self) -> bool {
        let (Some(machine), Some(remembered)) = (&self.known, self.remembered.take()) else { return false };
        let mut changed = false;
        for (uuid, (fault, since)) in remembered.faults(&machine.driver.version, &self.settings.policy) {
            if self.health.get_mut(&uuid).is_some_and(|watched| watched.health.recall(fault, since)) {
                tracing::warn!(gpu = %uuid, reason = fault.reason(), "GPU {fault} (seen before this agent started)");
                changed = true;
            }
        }
        changed
    }

    /// Watches until the driver or the GPUs change.
    async fn watch(&mut self, driver: Driver) -> anyhow::Result<Ended> {
        let (sender, mut observed) = mpsc::unbounded_channel();
        let sink: Sink = Arc::new(move |uuid: &GpuUuid, observation| {
            // The receiver is gone only when watching ends.
            let _ = sender.send((uuid.clone(), observation));
        });
        let known: Vec<GpuUuid> = self.health.keys().cloned().collect();
        let _monitor = Monitor::start(driver, &known, self.settings.interval, &sink)?;
        let mut readable = task::spawn_blocking(move || weft_nvml::uuids(driver)).await?.unwrap_or_default();
        // A GPU that came up since the machine was read is new.
        readable.retain(|gpu| known.contains(gpu));
        let started = Instant::now();
        for watched in self.health.values_mut() {
            watched.looked = started;
        }
        self.publish();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut next_look = tokio::time::Instant::now() + REDISCOVER;
        let mut looking: Option<task::JoinHandle<Look>> = None;
        loop {
            tokio::select! {
                Some((uuid, observation)) = observed.recv() => {
                    if self.observe(&uuid, observation) {
                        self.publish();
                    }
                }
                _ = tick.tick() => {
                    self.status.alive_for(Duration::from_secs(30));
                    if self.notice_silence() {
                        self.publish();
                    }
                }
                Some(stored) = OptionFuture::from(self.stored.as_mut()), if self.stored.is_some() => {
                    self.stored = None;
                    self.remembered = stored.ok();
                    self.recall();
                    self.publish();
                }
                // One at a time: a driver that hangs here holds one thread, and is noticed GPU by GPU.
                () = tokio::time::sleep_until(next_look), if looking.is_none() => {
                    let root = self.settings.root.clone();
                    looking = Some(task::spawn_blocking(move || Look {
                        replaced: driver.was_replaced(&root),
                        readable: weft_nvml::uuids(driver).unwrap_or_default(),
                    }));
                }
                Some(look) = OptionFuture::from(looking.as_mut()), if looking.is_some() => {
                    looking = None;
                    next_look = tokio::time::Instant::now() + REDISCOVER;
                    let look = look?;
                    if look.replaced {
                        return Ok(Ended::DriverReplaced);
                    }
                    // Only a GPU that is new asks for a reading; one that went is known by its own look.
                    if look.readable.iter().any(|gpu| !readable.contains(gpu)) {
                        return Ok(Ended::GpusChanged);
                    }
                }
            }
        }
    }

    /// Takes in one observation. Returns whether anything that others see changed.
    fn observe(&mut self, uuid: &GpuUuid, observation: Observation) -> bool {
        let Some(watched) = self.health.get_mut(uuid) else { return false };
        let policy = &self.settings.policy;
        let now = SystemTime::now();
        let changed = match observation {
            Observation::Xid(xid) => {
                tracing::warn!(gpu = %uuid, xid, ignored = policy.ignored_xids.contains(&xid), "XID");
                self.samples.xid(uuid, xid);
                watched.health.on_xid(xid, policy, now)
            }
            Observation::Looked { sample, probe } => {
                watched.looked = Instant::now();
                match probe {
                    Probe::Answered(_) => self.samples.set(uuid, *sample),
                    Probe::Unanswered(_) => self.samples.forget(uuid),
                }
                watched.health.on_probe(probe, policy, now)
            }
        };
        if changed {
            watched.note(uuid, now);
        }
        changed
    }

    /// Counts a GPU whose look hangs as one that does not answer.
    fn notice_silence(&mut self) -> bool {
        let now = SystemTime::now();
        let mut changed = false;
        for (uuid, watched) in &mut self.health {
            if watched.looked.elapsed() > SILENCE + self.settings.interval {
                self.samples.forget(uuid);
                let silent = Probe::Unanswered(Unanswered::Error);
                if watched.health.on_probe(silent, &self.settings.policy, now) {
                    watched.note(uuid, now);
                    changed = true;
                }
            }
        }
        changed
    }

    fn publish(&self) {
        let Some(machine) = &self.known else { return };
        match snapshot(machine, &self.health) {
            Ok(next) => {
                self.snapshots.send_if_modified(|current| {
                    let changed = **current != next;
                    if changed {
                        *current = Arc::new(next);
                    }
                    changed
                });
                if self.stored.is_none() && self.remembered.is_none() {
                    self.taken.cancel();
                }
            }
            Err(error) => tracing::error!(%error, "this machine cannot be described"),
        }
    }
}

impl Watched {
    /// Writes the one log line of a change of health.
    fn note(&mut self, uuid: &GpuUuid, now: SystemTime) {
        match self.health.state() {
            State::Healthy => {
                self.healthy_since = now;
                tracing::info!(gpu = %uuid, "GPU is healthy again");
            }
            State::Unhealthy { fault, .. } => tracing::error!(gpu = %uuid, reason = fault.reason(), "GPU {fault}"),
        }
    }
}

fn snapshot(machine: &Machine, health: &BTreeMap<GpuUuid, Watched>) -> Result<Snapshot, weft_topology::NodeError> {
    let standing: BTreeMap<GpuUuid, Standing> = health
        .iter()
        .map(|(uuid, watched)| (uuid.clone(), Standing::new(watched.health.state(), watched.healthy_since)))
        .collect();
    let mut facts = machine.facts.clone();
    for gpu in &mut facts.gpus {
        gpu.health = match standing.get(&gpu.uuid).and_then(|standing| standing.fault) {
            None => weft_topology::Health::Healthy,
            Some(fault) => weft_topology::Health::unhealthy(fault.to_string()),
        };
    }
    let problem = (facts.gpus.is_empty()).then(|| match machine.unreadable.first() {
        None => Problem {
            reason: "NoGpus",
            message:
                "the driver finds no GPU; run `nvidia-smi` on the node, or take it out of the agent's node selector"
                    .to_owned(),
        },
        Some(gpu) => Problem {
            reason: "GpusUnreadable",
            message: format!("no GPU can be read (GPU {}: {}); drain the node and reboot it", gpu.index, gpu.error),
        },
    });
    Ok(Snapshot {
        node: Node::new(facts)?,
        driver: Some(machine.driver.clone()),
        boards: machine.boards.iter().map(|board| (board.uuid.clone(), board.clone())).collect(),
        standing,
        unreadable: unreadable(machine),
        problem,
    })
}

/// GPUs that were never read. Those that were are in the list as unhealthy.
fn unreadable(machine: &Machine) -> Vec<String> {
    let known = |gpu: &&weft_nvml::Unreadable| {
        machine.facts.gpus.iter().any(|seen| Some(&seen.uuid) == gpu.uuid.as_ref() || seen.index == gpu.index)
    };
    let sentence = |gpu: &weft_nvml::Unreadable| {
        format!("GPU {} cannot be read ({}): drain the node and reset it", gpu.index, gpu.error)
    };
    machine.unreadable.iter().filter(|gpu| !known(gpu)).map(sentence).collect()
}

/// The new reading, plus the GPUs of the one before that it lacks, with their old wires.
fn keep_missing(before: Machine, mut now: Machine) -> Machine {
    let place = |facts: &NodeFacts, uuid: &GpuUuid| facts.gpus.iter().position(|gpu| gpu.uuid == *uuid);
    let read = now.facts.gpus.len();
    for gpu in &before.facts.gpus {
        if place(&now.facts, &gpu.uuid).is_none() {
            now.facts.gpus.push(gpu.clone());
        }
    }
    for link in &before.facts.links {
        let end = |old: u32| place(&now.facts, &before.facts.gpus.get(old as usize)?.uuid);
        if let (Some(from), Some(to)) = (end(link.from), end(link.to))
            && (from >= read || to >= read)
        {
            now.facts.links.push(Link { from: from as u32, to: to as u32, wire: link.wire });
        }
    }
    let missing: Vec<Board> =
        before.boards.into_iter().filter(|old| !now.boards.iter().any(|board| board.uuid == old.uuid)).collect();
    now.boards.extend(missing);
    now
}

#[cfg(test)]
mod tests {
    use weft_nvml::DriverInfo;
    use weft_topology::{Gpu, Path, Wire};

    use super::*;

    fn machine(names: &[&str]) -> Machine {
        let gpu = |(index, name): (usize, &&str)| Gpu {
            uuid: GpuUuid::from(*name),
            index: index as u32,
            product: "GPU".into(),
            memory_bytes: 1,
            pci_bus_id: format!("{index}").into(),
            numa: None,
            health: weft_topology::Health::Healthy,
            mig_profile: None,
        };
        let board = |name: &&str| Board {
            uuid: GpuUuid::from(*name),
            minor: 0,
            compute_capability: None,
            architecture: None,
            serial: None,
            vbios: None,
        };
        let n = names.len() as u32;
        let pairs = (0..n).flat_map(|a| (0..n).filter(move |b| *b != a).map(move |b| (a, b)));
        let wire = Wire::nvlink(4, Path::CrossSocket);
        Machine {
            driver: DriverInfo { version: "1".into(), cuda_version: "13.0".into(), library: "/lib".into() },
            facts: NodeFacts {
                name: "node".into(),
                gpus: names.iter().enumerate().map(gpu).collect(),
                links: pairs.map(|(from, to)| Link { from, to, wire }).collect(),
                ..NodeFacts::default()
            },
            boards: names.iter().map(board).collect(),
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn a_gpu_that_vanished_stays_in_the_list_with_its_wires() {
        let merged = keep_missing(machine(&["a", "b", "c"]), machine(&["a", "c"]));
        let node = Node::new(merged.facts.clone()).unwrap();
        assert_eq!(node.gpus().len(), 3);
        assert_eq!(merged.boards.len(), 3);
        assert!(node.assumptions().is_empty(), "no wire had to be guessed: {:?}", node.assumptions());
    }

    #[test]
    fn a_machine_without_gpus_says_so() {
        let snapshot = snapshot(&machine(&[]), &BTreeMap::new()).unwrap();
        assert_eq!(snapshot.problem.unwrap().reason, "NoGpus");
    }

    #[test]
    fn an_unhealthy_gpu_is_unhealthy_in_the_node_and_named_in_a_sentence() {
        let mut sick = Health::default();
        sick.on_xid(79, &HealthPolicy::default(), SystemTime::UNIX_EPOCH);
        let watched = Watched { health: sick, healthy_since: SystemTime::UNIX_EPOCH, looked: Instant::now() };
        let snapshot = snapshot(&machine(&["a", "b"]), &BTreeMap::from([("b".into(), watched)])).unwrap();
        assert_eq!(snapshot.node.healthy().len(), 1);
        assert_eq!(snapshot.complaints(), ["GPU 1 (b) fell off the bus (XID 79): drain the node and reset it"]);
    }
}
