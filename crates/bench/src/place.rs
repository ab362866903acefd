//! Placing gangs: every case of the goals, on 5,000 and on 10,000 nodes, against best fit over all nodes.

use std::collections::HashMap;

use anyhow::{Context, Result};
use weft_topology::{Claim, Cluster, Exclusion, Gang, GpuUuid, Group, NodeName, Owner, Placement, place, place_where};

use crate::counting;
use crate::machines::{Filled, filled, node_name};
use crate::measure::{Against, Line, Measured, Printer, measure};
use crate::random::Random;
use crate::rivals::{Ask, Split, View, best_fit};

/// Workers and GPUs of each.
const GANGS: [(u32, u32); 5] = [(1, 1), (1, 8), (8, 8), (64, 8), (512, 8)];

const SIZES: [usize; 2] = [5_000, 10_000];

pub fn run(print: Printer) -> Result<()> {
    // The 5,000-node figures by case, for the ratio that larger clusters are held to.
    let mut smaller: HashMap<String, Measured> = HashMap::new();
    let mut report = |case: &str, nodes: usize, fill: f64, mut line: Line<'_>| {
        let key = format!("{case},fill={fill}");
        if nodes == SIZES[0] {
            smaller.insert(key, line.ours);
        } else if let Some(before) = smaller.get(&key) {
            line.extra.push(("p50_ratio_to_5000_nodes", line.ours.p50_us / before.p50_us));
            line.extra.push(("p99_ratio_to_5000_nodes", line.ours.p99_us / before.p99_us));
        }
        line.case = format!("{case},nodes={nodes},fill={fill}");
        print.line(&line);
    };
    let alone =
        |ours, extra| Line { bench: "place", case: String::new(), ours, against: "nothing", theirs: None, extra };
    for nodes in SIZES {
        for fill in [0.0, 0.5, 0.8] {
            let before = (counting::live_bytes(), counting::allocations());
            let Filled { mut cluster, mut held } = filled(nodes, fill)?;
            // Who holds what is on our list for the case `mixed`, and no part of the cluster.
            let list = (held.capacity() * size_of::<(Owner, u32)>()) as i64;
            let bytes = (counting::live_bytes() - before.0 - list) as f64 / nodes as f64;
            let view = View::of(&cluster);
            for (workers, gpus) in GANGS {
                let gang = Gang { groups: vec![Group::new("w", workers, gpus)], ..Gang::default() };
                let (case, line) = against_best_fit(&cluster, &view, &gang, &|_| true)?;
                report(&case, nodes, fill, line);
            }
            // A selector that every fourth node matches, as a pool of a team.
            let gang = Gang { groups: vec![Group::new("w", 8, 8)], ..Gang::default() };
            let (case, line) = against_best_fit(&cluster, &view, &gang, &|node| node % 4 == 0)?;
            report(&format!("selector,{case}"), nodes, fill, line);

            report("event", nodes, fill, alone(events(&mut cluster, nodes), vec![]));
            report("snapshot", nodes, fill, alone(measure(20, || cluster.clone()), vec![]));
            let (mixed, per_second) = mixed(&mut cluster, &mut held, fill)?;
            report("mixed", nodes, fill, alone(mixed, vec![("decisions_per_second", per_second)]));
            let member = cluster.member(&node_name(0).into()).context("the first node")?;
            let upsert = measure(200, || cluster.upsert(member.clone()));
            report("node_changed", nodes, fill, alone(upsert, vec![("bytes_per_node", bytes)]));
        }
    }
    Ok(())
}

/// One gang, placed by both on the nodes that `eligible` tells by number.
fn against_best_fit<'a>(
    cluster: &Cluster,
    view: &View,
    gang: &Gang,
    eligible: &dyn Fn(usize) -> bool,
) -> Result<(String, Line<'a>)> {
    let group = &gang.groups[0];
    let selected = |_: &Group, node: &NodeName| {
        let number = node.as_str()[1..].parse().unwrap_or(0);
        if eligible(number) { Ok(()) } else { Err(Exclusion::Selector { detail: "pool=a".into() }) }
    };
    let everywhere = (0..view.hosts.len()).all(eligible);
    let decide = || if everywhere { place(cluster, gang) } else { place_where(cluster, gang, &selected) };
    let ours = measure(300, decide);
    let mut view = view.clone();
    for (n, host) in view.hosts.iter_mut().enumerate() {
        host.kind = if eligible(n) { 1 } else { 2 };
    }
    let rack = view.children.len() - 1;
    let ask = Ask { workers: group.replicas, gpus: group.gpus, kinds: 1, required: None, preferred: Some(rack) };
    let measured = measure(50, || best_fit::place(&view, &ask));
    let counting_anew = measure(5, || View::of(cluster));
    let (mine, theirs) = (decide(), best_fit::place(&view, &ask));
    let value = |split: &Split| (view.used(split, rack) + view.opened(split, group.gpus)) as f64;
    let objective = match (&mine, &theirs) {
        (Ok(mine), Some(theirs)) => Some(value(theirs) / value(&split(mine)).max(1.0)),
        // Neither finds room, and neither is better.
        (Err(_), None) => Some(1.0),
        (Ok(_), None) => Some(f64::MAX),
        (Err(_), Some(_)) => Some(0.0),
    };
    let refused = if mine.is_err() { ",refused" } else { "" };
    let case = format!("gang={}x{}{refused}", group.replicas, group.gpus);
    let against = "best fit over all nodes; racks used + nodes broken";
    let theirs = Some(Against { measured, objective });
    let extra = vec![("ratio_time_with_snapshot", (measured.p50_us + counting_anew.p50_us) / ours.p50_us)];
    Ok((case, Line { bench: "place", case: String::new(), ours, against, theirs, extra }))
}

fn split(placement: &Placement) -> Split {
    let mut split = Split::new();
    for worker in &placement.workers {
        let host = worker.node.as_str()[1..].parse().unwrap_or(0);
        match split.iter_mut().find(|(at, _)| *at == host) {
            Some((_, workers)) => *workers += 1,
            None => split.push((host, 1)),
        }
    }
    split
}

/// A GPU is taken on some node, then freed: one event each.
fn events(cluster: &mut Cluster, nodes: usize) -> Measured {
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
    let measured = measure(10_000, || {
        if next % 2 == 0 {
            let (node, claim) = &claims[next / 2 % claims.len()];
            cluster.claim(node, owner.clone(), claim.clone());
        } else {
            cluster.release(&owner);
        }
        next += 1;
    });
    cluster.release(&owner);
    measured
}

/// Jobs of 1, 2, 4 and 8 GPUs come, each in place of earlier ones, so that the cluster stays as full as it is: the time of
/// a decision, and decisions per second with the events that they bring.
fn mixed(cluster: &mut Cluster, held: &mut Vec<(Owner, u32)>, fill: f64) -> Result<(Measured, f64)> {
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
    Ok((Measured::of(times, allocations), per_second))
}
