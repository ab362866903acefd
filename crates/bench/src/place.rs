//! Placing gangs: every case of the goals, on 5,000 and on 10,000 nodes, against best fit over all nodes; or the questions
//! of a stored situation.

mod situation;

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use weft_topology::{
    Claim, Cluster, Exclusion, Gang, GpuUuid, Group, NoPlacement, NodeName, Owner, Placement, place, place_where,
};

use crate::counting;
use crate::machines::{Filled, filled, node_name};
use crate::measure::{Against, Line, Measured, Printer, Samples, sample};
use crate::random::Random;
use crate::rivals::{Ask, Split, View, best_fit};

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Measure the questions of this file instead, YAML or JSON as `kubectl weft simulate --save` writes it.
    #[arg(long, value_name = "FILE")]
    situation: Option<PathBuf>,
}

/// Workers and GPUs of each.
const GANGS: [(u32, u32); 7] = [(1, 1), (1, 8), (8, 8), (128, 1), (64, 2), (64, 8), (512, 8)];

const SIZES: [usize; 2] = [5_000, 10_000];

/// Each case is measured on so many clusters, since one that happens to be filled in an odd way says little, and the 99th
/// percentile, of the samples of all, is about the median of the slowest. (Empty ones are all the same.)
fn clusters(fill: f64) -> u64 {
    if fill == 0.0 { 1 } else { 45 }
}

/// What was measured of one case, on all clusters so far.
struct Case {
    name: String,
    clusters: u64,
    /// On how many of them there was no room.
    refused: u64,
    ours: Samples,
    theirs: Option<BestFit>,
    /// What only this case has, summed over clusters.
    extra: Option<(&'static str, f64)>,
}

/// Best fit on the same clusters.
struct BestFit {
    times: Samples,
    /// Counting the nodes first.
    counting: Samples,
    /// Sums of the objective, ours and theirs, over the clusters where both found room; none if there was no such cluster.
    objective: Option<(f64, f64)>,
    /// On how many clusters only one of the two found room: Weft, best fit.
    only: (u64, u64),
}

impl Case {
    fn alone(name: &str, ours: Samples, extra: Option<(&'static str, f64)>) -> Self {
        Self { name: name.to_owned(), clusters: 1, refused: 0, ours, theirs: None, extra }
    }

    fn append(&mut self, other: Self) {
        self.clusters += other.clusters;
        self.refused += other.refused;
        self.ours.append(other.ours);
        if let (Some(mine), Some(theirs)) = (&mut self.theirs, other.theirs) {
            mine.times.append(theirs.times);
            mine.counting.append(theirs.counting);
            mine.objective = match (mine.objective, theirs.objective) {
                (Some(sums), Some(values)) => Some((sums.0 + values.0, sums.1 + values.1)),
                (sums, values) => sums.or(values),
            };
            mine.only.0 += theirs.only.0;
            mine.only.1 += theirs.only.1;
        }
        if let (Some((_, sum)), Some((_, value))) = (&mut self.extra, other.extra) {
            *sum += value;
        }
    }

    /// Whether no cluster had room.
    fn is_refused(&self) -> bool {
        self.refused == self.clusters
    }

    fn line(self) -> Line<'static> {
        let ours = self.ours.measured();
        let mut extra: Vec<(&str, f64)> = self.extra.into_iter().collect();
        extra.iter_mut().for_each(|(_, sum)| *sum /= self.clusters as f64);
        let mut against = "nothing";
        let mut only = (0, 0);
        let theirs = self.theirs.map(|theirs| {
            let (measured, counting) = (theirs.times.measured(), theirs.counting.measured());
            extra.push(("ratio_time_with_snapshot", (measured.p50_us + counting.p50_us) / ours.p50_us));
            against = "best fit over all nodes; racks used + nodes broken";
            only = theirs.only;
            Against { measured, objective: theirs.objective.map(|(mine, theirs)| theirs / mine) }
        });
        let some = [
            ("clusters_without_room", self.refused),
            ("clusters_only_weft_finds_room_on", only.0),
            ("clusters_only_best_fit_finds_room_on", only.1),
        ];
        extra.extend(some.iter().filter(|(_, count)| *count > 0).map(|&(name, count)| (name, count as f64)));
        Line { bench: "place", case: self.name, ours, against, theirs, extra }
    }
}

pub fn run(args: &Args, print: Printer) -> Result<()> {
    match &args.situation {
        Some(file) => situation::run(file, print),
        None => goals(print),
    }
}

/// Every case of the goals.
fn goals(print: Printer) -> Result<()> {
    // The 5,000-node figures by case, for the ratio that larger clusters are held to.
    let mut smaller: HashMap<String, Measured> = HashMap::new();
    for nodes in SIZES {
        for fill in [0.0, 0.5, 0.8] {
            let mut cases: Vec<Case> = Vec::new();
            for seed in 0..clusters(fill) {
                for case in on_one_cluster(nodes, fill, seed)? {
                    match cases.iter_mut().find(|other| other.name == case.name) {
                        Some(other) => other.append(case),
                        None => cases.push(case),
                    }
                }
            }
            for case in cases {
                let refused = if case.is_refused() { ",refused" } else { "" };
                let mut line = case.line();
                line.case += refused;
                let key = format!("{},fill={fill}", line.case);
                if nodes == SIZES[0] {
                    smaller.insert(key, line.ours);
                } else if let Some(before) = smaller.get(&key) {
                    line.extra.push(("p50_ratio_to_5000_nodes", line.ours.p50_us / before.p50_us));
                    line.extra.push(("p99_ratio_to_5000_nodes", line.ours.p99_us / before.p99_us));
                }
                line.case = format!("{},nodes={nodes},fill={fill}", line.case);
                print.line(&line);
            }
        }
    }
    Ok(())
}

fn on_one_cluster(nodes: usize, fill: f64, seed: u64) -> Result<Vec<Case>> {
    let before = (counting::live_bytes(), counting::allocations());
    let Filled { mut cluster, mut held } = filled(nodes, fill, seed)?;
    // Who holds what is on our list for the case `mixed`, and no part of the cluster.
    let list = (held.capacity() * size_of::<(Owner, u32)>()) as i64;
    let bytes = (counting::live_bytes() - before.0 - list) as f64 / nodes as f64;
    let view = View::of(&cluster);
    let gang = |workers, gpus| Gang { groups: vec![Group::new("w", workers, gpus)], ..Gang::default() };
    let mut cases = Vec::new();
    for (workers, gpus) in GANGS {
        cases.push(against_best_fit(&cluster, &view, &gang(workers, gpus), "", &|_| true, clusters(fill)));
    }
    // As the operator asks: whether a node is ruled out is asked of each. It makes a difference where there is no room.
    cases.push(against_best_fit(&cluster, &view, &gang(512, 8), "asked,", &|_| true, clusters(fill)));
    // A selector that every fourth node matches, as a pool of a team.
    cases.push(against_best_fit(&cluster, &view, &gang(8, 8), "selector,", &|node| node % 4 == 0, clusters(fill)));

    cases.push(Case::alone("event", events(&mut cluster, nodes), None));
    cases.push(Case::alone("snapshot", sample(20, || cluster.clone()), None));
    let (times, per_second) = mixed(&mut cluster, &mut held, fill);
    cases.push(Case::alone("mixed", times, Some(("decisions_per_second", per_second))));
    let member = cluster.member(&node_name(0).into()).context("the first node")?;
    let upsert = sample(200, || cluster.upsert(member.clone()));
    cases.push(Case::alone("node_changed", upsert, Some(("bytes_per_node", bytes))));
    Ok(cases)
}

/// One gang, placed by both on the nodes that `eligible` tells by number.
fn against_best_fit(
    cluster: &Cluster,
    view: &View,
    gang: &Gang,
    prefix: &str,
    eligible: &dyn Fn(usize) -> bool,
    clusters: u64,
) -> Case {
    let group = &gang.groups[0];
    let selected = |_: &Group, node: &NodeName| {
        let number = node.as_str()[1..].parse().unwrap_or(0);
        if eligible(number) { Ok(()) } else { Err(Exclusion::Selector { detail: "pool=a".into() }) }
    };
    let asked = !prefix.is_empty();
    let decide = || if asked { place_where(cluster, gang, &selected) } else { place(cluster, gang) };
    let mut seen = view.clone();
    for (n, host) in seen.hosts.iter_mut().enumerate() {
        host.kind = if eligible(n) { 1 } else { 2 };
    }
    let rack = view.children.len() - 1;
    let ask = Ask { workers: group.replicas, gpus: group.gpus, kinds: 1, required: None, preferred: Some(rack) };
    let number = |node: &NodeName| node.as_str()[1..].parse().ok();
    let rival = Rival { cluster, view, seen, ask, number: &number };
    let name = format!("{prefix}gang={}x{}", group.replicas, group.gpus);
    compare(name, 4_500 / clusters as usize, &decide, Some(&rival))
}

/// Best fit on the same cluster.
struct Rival<'a> {
    cluster: &'a Cluster,
    /// The cluster in counts, by which the objective goes.
    view: &'a View,
    /// The same as far as the gang may use it, on which best fit places it.
    seen: View,
    ask: Ask,
    /// Where a node is in the views.
    number: &'a dyn Fn(&NodeName) -> Option<usize>,
}

/// One question, decided so many times by Weft and, if there is a rival, by it.
fn compare(
    name: String,
    repeats: usize,
    decide: &dyn Fn() -> Result<Placement, NoPlacement>,
    rival: Option<&Rival<'_>>,
) -> Case {
    let ours = sample(repeats, decide);
    let mine = decide();
    let theirs = rival.map(|rival| {
        let times = sample(10, || best_fit::place(&rival.seen, &rival.ask));
        let counting = sample(2, || View::of(rival.cluster));
        let theirs = best_fit::place(&rival.seen, &rival.ask);
        let (objective, only) = match (&mine, &theirs) {
            (Ok(mine), Some(theirs)) => (Some((rival.value(&rival.split(mine)), rival.value(theirs))), (0, 0)),
            (Err(_), None) => (None, (0, 0)),
            (Ok(_), None) => (None, (1, 0)),
            (Err(_), Some(_)) => (None, (0, 1)),
        };
        BestFit { times, counting, objective, only }
    });
    Case { name, clusters: 1, refused: u64::from(mine.is_err()), ours, theirs, extra: None }
}

impl Rival<'_> {
    /// Racks used, or domains of what the innermost level is, and idle nodes of which only a part is taken.
    fn value(&self, split: &Split) -> f64 {
        let innermost = self.view.children.len().saturating_sub(1);
        (self.view.used(split, innermost) + self.view.opened(split, self.ask.gpus)) as f64
    }

    fn split(&self, placement: &Placement) -> Split {
        let mut split = Split::new();
        for host in placement.workers.iter().filter_map(|worker| (self.number)(&worker.node)) {
            match split.iter_mut().find(|(at, _)| *at == host) {
                Some((_, workers)) => *workers += 1,
                None => split.push((host, 1)),
            }
        }
        split
    }
}

/// A GPU is taken on some node, then freed: one event each.
fn events(cluster: &mut Cluster, nodes: usize) -> Samples {
    let mut random = Random::new(1);
    let owner = Owner::from("event");
    let claims: Vec<(NodeName, Claim)> = (0..1_000)
        .map(|_| {
            let name = node_name(random.below(nodes));
            let gpu = GpuUuid::from(format!("GPU-{name}-{}", random.below(8)));
            (name.into(), Claim { gpus: vec![gpu], ..Claim::default() })
        })
        .collect();
    let mut next = 0;
    let times = sample(10_000, || {
        if next % 2 == 0 {
            let (node, claim) = &claims[next / 2 % claims.len()];
            cluster.claim(node, owner.clone(), claim.clone());
        } else {
            cluster.release(&owner);
        }
        next += 1;
    });
    cluster.release(&owner);
    times
}

/// Jobs of 1, 2, 4 and 8 GPUs come, each in place of earlier ones, so that the cluster stays as full as it is: the time of
/// a decision, and decisions per second with the events that they bring.
fn mixed(cluster: &mut Cluster, held: &mut Vec<(Owner, u32)>, fill: f64) -> (Samples, f64) {
    let gangs = [1, 2, 4, 8].map(|gpus| Gang { groups: vec![Group::new("w", 1, gpus)], ..Gang::default() });
    let mut random = Random::new(2);
    let mut times = Vec::new();
    let (mut allocations, mut balance) = (0, 0i64);
    let start = std::time::Instant::now();
    for nth in 0..4_000 {
        let gang = &gangs[random.below(gangs.len())];
        while balance > 0 && !held.is_empty() {
            let (owner, gpus) = held.swap_remove(random.below(held.len()));
            cluster.release(&owner);
            balance -= i64::from(gpus);
        }
        let (before, begin) = (counting::allocations(), std::time::Instant::now());
        let answer = place(cluster, gang);
        times.push(begin.elapsed().as_nanos() as f64 / 1_000.0);
        allocations += counting::allocations() - before;
        let Ok(placement) = answer else { continue };
        for worker in placement.workers {
            let owner = Owner::from(format!("mixed-{nth}"));
            let gpus = worker.gpus.len() as u32;
            cluster.claim(&worker.node, owner.clone(), Claim { gpus: worker.gpus, ..Claim::default() });
            held.push((owner, gpus));
            balance += i64::from(gpus);
        }
        if fill == 0.0 {
            // An empty cluster stays empty.
            balance = balance.max(1);
        }
    }
    let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
    (Samples::new(times, allocations), per_second)
}
