//! What a file for `simulate` says that cannot be meant: taken as it stands, but not without a word.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

/// Of a situation only what can contradict itself.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    cluster: Cluster,
    jobs: Vec<Job>,
    asked: Vec<Asked>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cluster {
    nodes: Vec<Member>,
    claims: Vec<Claim>,
}

#[derive(Deserialize)]
struct Member {
    node: Node,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    #[serde(default)]
    gpus: Vec<Gpu>,
    #[serde(default)]
    links: Vec<Link>,
}

#[derive(Deserialize)]
struct Gpu {
    uuid: String,
}

#[derive(Deserialize)]
struct Link {
    from: usize,
    to: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    node: String,
    owner: String,
    #[serde(default)]
    gpus: Vec<String>,
    #[serde(default)]
    unidentified_gpus: u64,
}

#[derive(Deserialize)]
struct Job {
    name: String,
    gang: Gang,
    #[serde(default)]
    owners: Vec<String>,
}

#[derive(Deserialize)]
struct Asked {
    name: String,
    gang: Gang,
    #[serde(default)]
    verdicts: Vec<Verdict>,
}

#[derive(Deserialize)]
struct Gang {
    groups: Vec<Group>,
    #[serde(default)]
    placed: Vec<Placed>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    gpus: u64,
}

#[derive(Deserialize)]
struct Placed {
    group: String,
    index: u64,
    node: String,
}

#[derive(Deserialize)]
struct Verdict {
    group: Option<String>,
    node: String,
}

/// Sentences on what contradicts itself in a file that can be read.
pub(super) fn on(file: &Value) -> Vec<String> {
    let File { cluster, jobs, asked } = File::deserialize(file).unwrap_or_default();
    let mut notes = without_a_name(&cluster, &jobs, &asked);
    // By node, its GPUs.
    let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut on: BTreeMap<&str, &str> = BTreeMap::new();
    for Member { node } in &cluster.nodes {
        let gpus = node.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
        if nodes.insert(&node.name, gpus).is_some() {
            notes.push(format!("node {:?} is there twice; the last one counts", node.name));
        }
        for Gpu { uuid } in &node.gpus {
            if let Some(other) = on.insert(uuid, &node.name).filter(|other| *other != node.name) {
                notes.push(format!("GPU {uuid:?} is on {other:?} and on {:?}: give each its own uuid", node.name));
            }
        }
        for Link { from, to } in node.links.iter().filter(|link| link.from.max(link.to) >= node.gpus.len()) {
            notes.push(format!(
                "node {:?} has a link from {from} to {to}, and its {} GPUs count from 0: that link is left out",
                node.name,
                node.gpus.len()
            ));
        }
    }
    // By owner, the node that its claim is on.
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    let mut unidentified: BTreeMap<&str, u64> = BTreeMap::new();
    for Claim { node, owner, gpus, unidentified_gpus } in &cluster.claims {
        if owners.insert(owner, node).is_some() {
            notes.push(format!("{owner:?} has two claims; the last one counts"));
        }
        let Some(there) = nodes.get(node.as_str()) else {
            notes.push(format!(
                "the claim of {owner:?} is on node {node:?}, which is not among cluster.nodes: it takes nothing"
            ));
            continue;
        };
        let so_far = unidentified.entry(node).or_default();
        *so_far = so_far.saturating_add(*unidentified_gpus);
        for gpu in gpus {
            if !there.contains(gpu.as_str()) {
                notes.push(format!(
                    "the claim of {owner:?} is on GPU {gpu:?}, which node {node:?} does not have: that takes nothing"
                ));
            } else if let Some(other) = holders.insert(gpu, owner).filter(|other| other != owner) {
                notes.push(format!("GPU {gpu:?} is claimed by {other:?} and by {owner:?}"));
            }
        }
    }
    for (node, unidentified) in unidentified {
        let there = nodes.get(node).map_or(0, BTreeSet::len) as u64;
        if unidentified > there {
            notes.push(format!("claims on node {node:?} are for {unidentified} unidentifiedGpus, and it has {there}"));
        }
    }
    for Job { name, gang, owners: own } in &jobs {
        for owner in own.iter().filter(|owner| !owners.contains_key(owner.as_str())) {
            notes.push(format!("job {name:?} has the owner {owner:?}, which has no claim"));
        }
        for (nth, worker) in gang.placed.iter().enumerate().filter(|(_, worker)| gang.has_gpus(worker)) {
            let Placed { group, index, node } = worker;
            let worker = format!("worker {index} of group {group:?} of job {name:?}");
            match own.get(nth).map(|owner| (owner, owners.get(owner.as_str()))) {
                None => notes.push(format!(
                    "{worker} is placed and has no entry in owners: what it holds counts only if another claim has it"
                )),
                Some((owner, Some(other))) if other != node => notes.push(format!(
                    "{worker} is placed on node {node:?}, and the claim of its owner {owner:?} is on {other:?}"
                )),
                Some(_) => {}
            }
        }
    }
    for Asked { name, gang, verdicts } in &asked {
        let mut placed: BTreeMap<&str, usize> = BTreeMap::new();
        for worker in gang.placed.iter().filter(|worker| gang.has_gpus(worker)) {
            *placed.entry(&worker.node).or_default() += 1;
        }
        for (node, workers) in placed {
            let claims = owners.values().filter(|on| **on == node).count();
            if claims < workers {
                notes.push(format!(
                    "{workers} workers of {name:?} are placed on node {node:?}, which has {claims} claims: GPUs that none names are given away"
                ));
            }
        }
        for Verdict { group, node } in verdicts {
            if !nodes.contains_key(node.as_str()) {
                notes.push(format!("a verdict of {name:?} rules out node {node:?}, which is not among cluster.nodes"));
            }
            if let Some(group) = group.as_ref().filter(|group| gang.groups.iter().all(|other| other.name != **group)) {
                notes.push(format!("a verdict of {name:?} is for group {group:?}, which its gang does not have"));
            }
        }
    }
    notes
}

impl Gang {
    /// Whether a worker holds GPUs; if its group is not there, that is refused elsewhere.
    fn has_gpus(&self, worker: &Placed) -> bool {
        self.groups.iter().any(|group| group.name == worker.group && group.gpus > 0)
    }
}

/// Names that are empty, which nothing else can refer to.
fn without_a_name(cluster: &Cluster, jobs: &[Job], asked: &[Asked]) -> Vec<String> {
    let gangs = jobs.iter().map(|job| &job.gang).chain(asked.iter().map(|asked| &asked.gang));
    let gpus = cluster.nodes.iter().flat_map(|member| &member.node.gpus);
    let empty = |names: &mut dyn Iterator<Item = &String>| names.filter(|name| name.is_empty()).count();
    [
        ("node.name in cluster.nodes", empty(&mut cluster.nodes.iter().map(|member| &member.node.name))),
        ("uuid in node.gpus", empty(&mut gpus.map(|gpu| &gpu.uuid))),
        ("owner in cluster.claims", empty(&mut cluster.claims.iter().map(|claim| &claim.owner))),
        ("name in jobs", empty(&mut jobs.iter().map(|job| &job.name))),
        ("name in asked", empty(&mut asked.iter().map(|asked| &asked.name))),
        ("name in gang.groups", empty(&mut gangs.flat_map(|gang| &gang.groups).map(|group| &group.name))),
    ]
    .into_iter()
    .filter(|&(_, empty)| empty > 0)
    .map(|(what, empty)| format!("{what} is empty {empty} time{}: give a name", if empty == 1 { "" } else { "s" }))
    .collect()
}
