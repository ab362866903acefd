//! What is said where there is no room: why, and what would make some. Other jobs that end, more nodes, or a smaller question.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use weft_topology::what_if::{Addition, NoAddition, place_on_empty, smallest_addition};
use weft_topology::{
    Asked, Cluster, Exclusion, Gang, Group, Health, Member, NoPlacement, Node, NodeFacts, NodeName, Seat, Standing,
    place,
};

use super::Source;

/// Reasons told of those that rule out nodes.
const REASONS: usize = 3;

/// Writes all that is to be said of a gang without a place.
pub(super) fn tell(text: &mut String, asked: &Asked, why: &NoPlacement, cluster: &Cluster, source: Source) {
    let _ = writeln!(text, "{} has no place: {}", asked.name, why.tree());
    if matches!(why, NoPlacement::Invalid(_)) {
        return;
    }
    let rules = asked.rules();
    let eligible = |group: &Group, node: &NodeName| rules.admit(group, node);
    let _ = match place_on_empty(cluster, &asked.gang, &eligible) {
        Ok(placement) => writeln!(text, "If all other work ended it would fit: {placement}"),
        Err(why) => writeln!(text, "Waiting for other jobs does not help; if all of them ended: {why}"),
    };
    let groups = || asked.gang.groups.iter();
    // Added nodes are taken as open to all groups, so their model has to be.
    let models = models(cluster, |node| groups().all(|group| rules.admit(group, node).is_ok()));
    if models.is_empty() {
        // Of no use is a node only if all groups that need GPUs are kept off it.
        let needs_gpus = groups().any(|group| group.gpus > 0);
        let ruled_out = |node: &NodeName| {
            let open = groups().filter(|group| group.gpus > 0 || !needs_gpus).map(|group| rules.admit(group, node));
            open.reduce(Result::or).and_then(Result::err)
        };
        let mut with_gpus = cluster.nodes().filter(|seat| !seat.member.node.gpus().is_empty());
        let told = if with_gpus.any(|seat| ruled_out(seat.name()).is_none()) {
            "What more nodes would do is not worked out: no node with GPUs may take workers of all groups".to_owned()
        } else {
            no_model(cluster, ruled_out, source)
        };
        let _ = writeln!(text, "{told}");
        return;
    }
    let tried = models.iter().map(|model| smallest_addition(cluster, &asked.gang, &eligible, model));
    let (found, failed): (Vec<_>, Vec<_>) = tried.partition(Result::is_ok);
    let _ = match found.into_iter().flatten().min_by_key(|addition| addition.nodes) {
        Some(addition) => writeln!(text, "{}", in_words(&addition)),
        None => {
            writeln!(text, "{}", no_addition(cluster, &asked.gang, &models, failed.into_iter().filter_map(Result::err)))
        }
    };
}

/// A node of each kind of hardware, of those that are admitted: the one in the best state, and as if it had just joined.
fn models(cluster: &Cluster, admitted: impl Fn(&NodeName) -> bool) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let mut seats: Vec<_> = cluster.nodes().filter(|seat| admitted(seat.name())).collect();
    let sick = |seat: &Seat| seat.member.node.gpus().len() - seat.member.node.healthy().len();
    seats.sort_by_key(|seat| (seat.member.standing != Standing::Ready, sick(seat), seat.name()));
    for seat in seats {
        let node = &seat.member.node;
        let kind = |other: &Member| {
            let gpus = other.node.gpus().iter().map(|gpu| (&gpu.product, &gpu.mig_profile));
            other.node.wiring() == node.wiring()
                && gpus.eq(node.gpus().iter().map(|gpu| (&gpu.product, &gpu.mig_profile)))
        };
        if !node.gpus().is_empty()
            && !members.iter().any(kind)
            && let Some(member) = cluster.member(seat.name())
        {
            members.push(Member { standing: Standing::Ready, node: repaired(member.node), ..member });
        }
    }
    members
}

/// The same machine with all of its GPUs healthy.
fn repaired(node: Node) -> Node {
    let mut facts = NodeFacts::from(node.clone());
    facts.gpus.iter_mut().for_each(|gpu| gpu.health = Health::Healthy);
    // The facts come from a node, so they make one again.
    Node::new(facts).unwrap_or(node)
}

/// Why no node can be a model for more.
fn no_model(cluster: &Cluster, ruled_out: impl Fn(&NodeName) -> Option<Exclusion>, source: Source) -> String {
    let with_gpus = cluster.nodes().filter(|seat| !seat.member.node.gpus().is_empty());
    let mut reasons: BTreeMap<Exclusion, usize> = BTreeMap::new();
    for exclusion in with_gpus.filter_map(|seat| ruled_out(seat.name())) {
        *reasons.entry(exclusion).or_default() += 1;
    }
    if reasons.is_empty() {
        return match source {
            Source::Cluster => "No node has GPUs: `kubectl get gpunodes` says what the agents found".to_owned(),
            Source::File => "No node has GPUs: give some under `cluster.nodes`".to_owned(),
        };
    }
    let nodes: usize = reasons.values().sum();
    let mut steps: Vec<&str> = Vec::new();
    for reason in reasons.keys() {
        let step = match reason {
            Exclusion::Taint { .. } => "tolerate the taint in the pod template",
            Exclusion::Selector { .. } => "change the node selector or affinity",
            _ => "see to these nodes",
        };
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    if source == Source::File {
        steps.push("take the verdicts out of the file");
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|&(_, nodes)| std::cmp::Reverse(nodes));
    let rest: usize = reasons.iter().skip(REASONS).map(|(_, nodes)| nodes).sum();
    let mut told: Vec<String> =
        reasons.iter().take(REASONS).map(|(reason, nodes)| format!("{nodes} by {reason}")).collect();
    if rest > 0 {
        told.push(format!("{rest} by other reasons"));
    }
    let all = if nodes == 1 { "The only node".to_owned() } else { format!("All {nodes} nodes") };
    let is = if nodes == 1 { "is" } else { "are" };
    format!("{all} with GPUs {is} ruled out, {}: {}", told.join(", "), steps.join(", or "))
}

/// Why more nodes do not help, and what to ask in place of it.
fn no_addition(
    cluster: &Cluster,
    gang: &Gang,
    models: &[Member],
    errors: impl IntoIterator<Item = NoAddition>,
) -> String {
    for group in &gang.groups {
        let short: Option<Vec<_>> = models.iter().map(|model| Some((model, short(cluster, group, model)?))).collect();
        // Of nodes that all fall short, what the last reason in their order is about is the nearest to being enough.
        let nearest = short
            .as_ref()
            .and_then(|short| short.iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.node.name().cmp(a.0.node.name()))));
        if let Some((model, reason)) = nearest
            && let Some(told) = smaller(group, model, reason, models)
        {
            return told;
        }
    }
    let errors: Vec<NoAddition> = errors.into_iter().collect();
    let not_tried = errors.iter().find(|error| !matches!(error, NoAddition::NoPlacement(_)));
    match not_tried.or(errors.first()) {
        Some(error @ NoAddition::TooMany(_)) => error.to_string(),
        Some(NoAddition::GaveUp(model)) => {
            format!("No number of nodes like {model} was found that makes room; not all ways to add them were tried")
        }
        Some(error) if models.len() > 1 => {
            format!(
                "More nodes of one kind would not make room, and of several kinds together they are not looked at; of one kind: {error}"
            )
        }
        Some(error) => {
            format!(
                "More nodes like those that it may use would not make room either; with one for each worker: {error}"
            )
        }
        None => "More nodes like those that it may use would not make room either".to_owned(),
    }
}

/// What keeps a single worker of a group from an empty node like `model`; none if it fits.
fn short(cluster: &Cluster, group: &Group, model: &Member) -> Option<Exclusion> {
    let (replicas, min, required, preferred, balanced, slices) = (1, None, None, None, None, Vec::new());
    let group = Group { replicas, min, required, preferred, balanced, slices, ..group.clone() };
    let mut alone = Cluster::new(cluster.levels().to_vec()).ok()?;
    alone.upsert(model.clone());
    match place(&alone, &Gang { groups: vec![group], ..Gang::default() }) {
        Err(NoPlacement::NoRoom(why)) => why.excluded.into_iter().next().map(|excluded| excluded.reason),
        _ => None,
    }
}

/// What to ask less of, where that is known.
fn smaller(group: &Group, model: &Member, reason: &Exclusion, models: &[Member]) -> Option<String> {
    let (name, node) = (&group.name, model.node.name());
    Some(match reason {
        Exclusion::WrongProduct { .. } => {
            let of = group.product.as_ref().map(|product| format!("{product:?}"));
            let profile = group.mig_profile.as_ref().map(|profile| format!("MIG devices {profile:?}"));
            let wanted = profile.into_iter().chain(of).collect::<Vec<_>>().join(" of ");
            let there: BTreeSet<String> = models.iter().flat_map(products).collect();
            let there: Vec<String> = there.into_iter().collect();
            let whole = if wanted.is_empty() { "whole GPUs".to_owned() } else { wanted };
            format!("Group {name:?} asks for {whole}; what there is: {}: ask for one of these", there.join(", "))
        }
        Exclusion::TooFewGpus { has, needs } => format!(
            "A worker of group {name:?} asks for {needs} GPUs and a node like {node} has {has}: ask for fewer GPUs in more workers"
        ),
        Exclusion::Wires { joined, has, needs } => format!(
            "A worker of group {name:?} asks for {needs} GPUs joined {joined} and a node like {node} joins {has}: ask for fewer GPUs in \
             more workers, or without `joinedBy`"
        ),
        Exclusion::Resource { name: resource, free, needs } => {
            // As the convention has it.
            let unit = if resource == "cpu" { "m" } else { "" };
            format!(
                "A worker of group {name:?} asks for {needs}{unit} {resource} and an empty node like {node} has {free}{unit}: ask for less \
                 {resource}"
            )
        }
        _ => return None,
    })
}

/// What GPUs a node has, in words.
fn products(member: &Member) -> Vec<String> {
    let product = |gpu: &weft_topology::Gpu| match &gpu.mig_profile {
        Some(profile) => format!("{} in {profile} slices", gpu.product),
        None => gpu.product.to_string(),
    };
    member.node.gpus().iter().map(product).collect()
}

/// `2 more nodes like node-1 (8 × NVIDIA H100) would make room: 1 in rack a, 1 in rack b`.
fn in_words(addition: &Addition) -> String {
    let node = &addition.member.node;
    let product = node.gpus().first().map_or("GPU", |gpu| &*gpu.product);
    let s = if addition.nodes == 1 { "" } else { "s" };
    let fewest = if addition.fewest { "no fewer would" } else { "fewer might do" };
    let mut text = format!(
        "{} more node{s} like {} ({} × {product}) would make room, {fewest}",
        addition.nodes,
        node.name(),
        node.gpus().len()
    );
    if let Some(level) = &addition.level {
        for (nth, part) in addition.parts.iter().enumerate() {
            let domain = part.domain.as_ref().map_or("no domain with a name", |domain| domain.as_str());
            let _ = write!(text, "{} {} in {level} {domain}", if nth == 0 { ":" } else { "," }, part.nodes);
        }
    }
    text
}
