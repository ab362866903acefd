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
}

#[derive(Deserialize)]
struct Gpu {
    uuid: String,
}

#[derive(Deserialize)]
struct Claim {
    node: String,
    owner: String,
    #[serde(default)]
    gpus: Vec<String>,
}

#[derive(Deserialize)]
struct Job {
    name: String,
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
}

#[derive(Deserialize)]
struct Group {
    name: String,
}

#[derive(Deserialize)]
struct Verdict {
    group: Option<String>,
    node: String,
}

/// Sentences on what contradicts itself in a file that can be read.
pub(super) fn on(file: &Value) -> Vec<String> {
    let File { cluster, jobs, asked } = File::deserialize(file).unwrap_or_default();
    let mut notes = Vec::new();
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
    }
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    let mut owners = BTreeSet::new();
    for Claim { node, owner, gpus } in &cluster.claims {
        if !owners.insert(owner.as_str()) {
            notes.push(format!("{owner:?} has two claims; the last one counts"));
        }
        let Some(there) = nodes.get(node.as_str()) else {
            notes.push(format!(
                "the claim of {owner:?} is on node {node:?}, which is not among cluster.nodes: it takes nothing"
            ));
            continue;
        };
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
    for Job { name, owners: own } in &jobs {
        for owner in own.iter().filter(|owner| !owners.contains(owner.as_str())) {
            notes.push(format!("job {name:?} has the owner {owner:?}, which has no claim"));
        }
    }
    for Asked { name, gang, verdicts } in &asked {
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
