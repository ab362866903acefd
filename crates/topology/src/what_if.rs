//! Questions about clusters that are not there (yet): emptied, or with nodes added.

use crate::{
    Cluster, Eligibility, Gang, Group, Member, NoPlacement, Node, NodeFacts, NodeName, Owner, Placement, place_where,
};

/// The fewest nodes that make room for a gang.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// How many nodes; none if there is room already.
    pub nodes: u32,
    /// What they look like: the model given, labelled for the domain that they have to be in.
    pub member: Member,
    /// How the gang is placed then; the names of added nodes start with [`ADDED`].
    pub placement: Placement,
}

/// What the names of nodes that are only imagined start with.
pub const ADDED: &str = "added-node-";

impl Cluster {
    /// The same cluster with nothing held or planned.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let mut empty = self.clone();
        let owners: Vec<Owner> = self.owners().cloned().collect();
        for owner in &owners {
            empty.release(owner);
        }
        empty
    }
}

/// The fewest nodes like `model` to add, and where: what an autoscaler is asked for.
///
/// Where the gang requires a level, the nodes go all into one domain of it: each domain there is, and the one that
/// `model` is labelled for, is tried. The model itself is taken as eligible. Of equally many nodes the first domain wins,
/// the model's own first.
///
/// # Errors
/// The reason why the gang has no place even with one node like `model` per worker.
pub fn smallest_addition(
    cluster: &Cluster,
    gang: &Gang,
    eligible: Eligibility<'_>,
    model: &Member,
) -> Result<Addition, NoPlacement> {
    let eligible = |group: &Group, node: &NodeName| {
        if node.as_str().starts_with(ADDED) { Ok(()) } else { eligible(group, node) }
    };
    let attempt = |member: &Member, nodes: u32| -> Result<Placement, NoPlacement> {
        let mut larger = cluster.clone();
        for nth in 0..nodes {
            larger.upsert(Member { node: renamed(&member.node, nth), ..member.clone() });
        }
        place_where(&larger, gang, &eligible)
    };
    let most = gang.groups.iter().map(|group| group.replicas).sum::<u32>() - gang.placed.len() as u32;
    let mut best = match attempt(model, 0) {
        Ok(placement) => return Ok(Addition { nodes: 0, member: model.clone(), placement }),
        Err(invalid @ NoPlacement::Invalid(_)) => return Err(invalid),
        Err(NoPlacement::NoRoom(_)) => None,
    };
    let mut why = None;
    for member in models(cluster, gang, model) {
        // Room does not go away as nodes are added, so the fewest that do can be found by halving.
        let below = best.as_ref().map_or(most + 1, |best: &Addition| best.nodes);
        let (mut fails, mut fits) = (0, below);
        if below > 1 {
            match attempt(&member, below - 1) {
                Ok(placement) => {
                    fits = below - 1;
                    best = Some(Addition { nodes: fits, member: member.clone(), placement });
                }
                Err(reason) => {
                    why.get_or_insert(reason);
                    continue;
                }
            }
        }
        while fits - fails > 1 {
            let middle = fails.midpoint(fits);
            match attempt(&member, middle) {
                Ok(placement) => {
                    fits = middle;
                    best = Some(Addition { nodes: fits, member: member.clone(), placement });
                }
                Err(_) => fails = middle,
            }
        }
    }
    match (best, why) {
        (Some(best), _) => Ok(best),
        (None, Some(why)) => Err(why),
        (None, None) => {
            attempt(model, most).map(|placement| Addition { nodes: most, member: model.clone(), placement })
        }
    }
}

/// The model, labelled as it is and for each other domain of the level that the gang requires.
fn models(cluster: &Cluster, gang: &Gang, model: &Member) -> Vec<Member> {
    let mut models = vec![model.clone()];
    let depth = gang.required.as_ref().and_then(|level| cluster.depth(level));
    let Some(depth) = depth.filter(|&depth| depth < cluster.levels().len()) else { return models };
    let mut seen = Vec::new();
    for seat in cluster.nodes() {
        let path = &seat.path[..=depth];
        if path[depth].is_none() || seen.contains(&path) {
            continue;
        }
        seen.push(path);
        let mut member = model.clone();
        for (level, name) in cluster.levels().iter().zip(path) {
            match name {
                Some(name) => member.labels.insert(level.label.clone(), name.as_str().to_owned()),
                None => member.labels.remove(&level.label),
            };
        }
        models.push(member);
    }
    models
}

/// The same machine under another name, with GPUs of its own.
fn renamed(node: &Node, nth: u32) -> Node {
    let mut facts = NodeFacts::from(node.clone());
    facts.name = format!("{ADDED}{nth}");
    for gpu in &mut facts.gpus {
        gpu.uuid = format!("{}-{nth}", gpu.uuid).into();
    }
    // The facts come from a node, so they make one again.
    Node::new(facts).unwrap_or_else(|_| node.clone())
}
