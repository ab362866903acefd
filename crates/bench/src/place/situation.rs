//! The questions of a stored situation (docs/placement.md), each decided as `Situation::decide` decides it, beside best fit
//! where the file says all that best fit goes by.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use weft_topology::{
    Asked, Cluster, Gang, Group, Level, NoPlacement, NodeName, Rules, Seat, Situation, Standing, place_where,
};

use super::{Case, Rival, compare};
use crate::measure::Printer;
use crate::rivals::{Ask, View};

/// A question is decided for about so long, and at least and at most so many times.
const SECONDS: f64 = 2.0;
const REPEATS: (usize, usize) = (10, 1_000);

pub fn run(file: &Path, print: Printer) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!("cannot read {}: name a file that `kubectl weft simulate --save` wrote", file.display())
    })?;
    let situation = read(&text).with_context(|| format!("the situation in {}", file.display()))?;
    for case in cases(&situation)? {
        print.line(&case.line());
    }
    Ok(())
}

/// YAML, of which JSON is a part.
fn read(text: &str) -> Result<Situation> {
    let situation = Situation::read(serde_yaml_ng::Deserializer::from_str(text))?;
    if situation.asked.is_empty() {
        bail!("it asks for nothing: add a gang under `asked`");
    }
    Ok(situation)
}

fn cases(situation: &Situation) -> Result<Vec<Case>> {
    let cluster = &situation.cluster;
    let view = View::of(cluster);
    let numbers: HashMap<&NodeName, usize> = cluster.nodes().enumerate().map(|(n, seat)| (seat.name(), n)).collect();
    let number = |node: &NodeName| numbers.get(node).copied();
    let case = |asked: &Asked| {
        let rules = asked.rules();
        let eligible = |group: &Group, node: &NodeName| rules.admit(group, node);
        let decide = || place_where(cluster, &asked.gang, &eligible);
        let start = Instant::now();
        if let Err(NoPlacement::Invalid(why)) = decide() {
            bail!("{} is no question to measure: {why}", asked.name);
        }
        let repeats = (SECONDS / start.elapsed().as_secs_f64()) as usize;
        let repeats = if cfg!(test) { 1 } else { repeats.clamp(REPEATS.0, REPEATS.1) };
        let counted = by_counts(cluster, &view, &asked.gang, &rules);
        let rival = counted.as_ref().map(|(view, seen, ask)| Rival {
            cluster,
            view,
            seen: seen.clone(),
            ask: *ask,
            number: &number,
        });
        Ok(compare(asked.name.clone(), repeats, &decide, rival.as_ref()))
    };
    situation.asked.iter().map(case).collect()
}

/// The gang as best fit takes it, with the cluster in counts of the GPUs that suit it, all of them and as far as it may use
/// them. None if it asks for what best fit knows nothing of.
fn by_counts(cluster: &Cluster, view: &View, gang: &Gang, rules: &Rules<'_>) -> Option<(View, View, Ask)> {
    let [group] = gang.groups.as_slice() else { return None };
    let plain = gang.relations.is_empty()
        && gang.placed.is_empty()
        && group.min.is_none_or(|min| min == group.replicas)
        && group.gpus > 0
        && group.mig_profile.is_none()
        && group.joined_by.is_none()
        && group.balanced.is_none()
        && group.slices.is_empty();
    if !plain {
        return None;
    }
    let depth = |level: &Option<Level>| level.as_ref().and_then(|level| cluster.depth(level));
    let levels = view.children.len();
    // Of two levels, the inner one: its domains are within those of the other.
    let required = depth(&gang.required).max(depth(&group.required));
    if required.is_some_and(|required| required >= levels) {
        // One node for all is no level that best fit is told of.
        return None;
    }
    // Where the file prefers nothing, what best fit prefers everywhere here.
    let preferred = depth(&gang.preferred).max(depth(&group.preferred)).or(levels.checked_sub(1));
    let ask = Ask { workers: group.replicas, gpus: group.gpus, kinds: 1, required, preferred };
    let (mut all, mut seen) = (view.clone(), view.clone());
    for (n, seat) in cluster.nodes().enumerate() {
        let free = suiting(seat, group);
        let labelled = required.is_none_or(|level| seat.path[level].is_some());
        let admitted = labelled && rules.admit(group, seat.name()).is_ok();
        let others =
            seat.spare.times(&group.resources).map_or(u32::MAX, |(times, _)| times.try_into().unwrap_or(u32::MAX));
        let host = &mut all.hosts[n];
        host.free = free;
        // Idle is a node of which nobody holds a GPU, also if not all of them suit.
        host.gpus = if seat.is_idle() { free } else { free.max(host.gpus) + 1 };
        let host = &mut seen.hosts[n];
        host.free = free.min(others.saturating_mul(group.gpus));
        host.kind = if admitted { 1 } else { 2 };
    }
    Some((all, seen, ask))
}

/// Whole GPUs of the product asked for that can still be given away.
fn suiting(seat: &Seat, group: &Group) -> u32 {
    if seat.member.standing != Standing::Ready {
        return 0;
    }
    let wanted = group.product.as_ref().map(|product| product.to_lowercase());
    let suits = seat.member.node.positions(|gpu| {
        gpu.mig_profile.is_none() && wanted.as_ref().is_none_or(|wanted| gpu.product.to_lowercase().contains(wanted))
    });
    (seat.free().intersection(suits).len() as u32).saturating_sub(seat.unidentified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Line;

    /// Rack r1 with a node `a` that is free and `b` with one GPU of two taken, rack r2 with `c` that is free.
    const FILE: &str = include_str!("../../fixtures/situation.yaml");

    fn lines(situation: &Situation) -> Vec<Line<'static>> {
        cases(situation).unwrap().into_iter().map(Case::line).collect()
    }

    #[test]
    fn every_question_of_a_file_is_a_line_of_its_name_beside_best_fit_where_that_knows_what_is_asked() {
        let situation = read(FILE).unwrap();
        let lines = lines(&situation);
        let told: Vec<_> = lines.iter().map(|line| (&*line.case, line.theirs.map(|theirs| theirs.objective))).collect();
        let expected = [
            // Both take `c`, as `a` is ruled out.
            ("team/pair", Some(Some(1.0))),
            // Best fit takes the rack with less room and breaks its node, Weft the rest of `b`.
            ("team/single", Some(Some(2.0))),
            ("team/large", Some(None)),
            ("team/growing", None),
        ];
        assert_eq!(told, expected);
        assert_eq!(lines[3].against, "nothing");
        assert!(lines[2].extra.contains(&("clusters_without_room", 1.0)));
        // The answers are those of `decide`.
        let mut decided = situation.clone();
        decided.decide();
        let refused = |line: &&Line<'_>| line.extra.iter().any(|(name, _)| *name == "clusters_without_room");
        for (asked, line) in decided.asked.iter().zip(&lines) {
            assert_eq!(asked.no_placement.is_some(), refused(&line), "{}", asked.name);
        }
    }

    #[test]
    fn a_file_of_json_is_read_as_well() {
        let json = serde_json::to_string(&read(FILE).unwrap()).unwrap();
        assert_eq!(lines(&read(&json).unwrap()).len(), 4);
    }

    #[test]
    fn best_fit_sees_only_nodes_and_gpus_that_the_gang_may_use() {
        let situation = read(FILE).unwrap();
        let view = View::of(&situation.cluster);
        let free = |asked: &Asked| {
            let (_, seen, ask) = by_counts(&situation.cluster, &view, &asked.gang, &asked.rules()).unwrap();
            seen.hosts.iter().map(|host| host.room(&ask)).collect::<Vec<_>>()
        };
        let mut asked = situation.asked[1].clone();
        assert_eq!(free(&asked), [2, 1, 2]);
        asked.gang.groups[0].resources = weft_topology::Resources::new().with("cpu", 5_000);
        assert_eq!(free(&asked), [1, 1, 1]);
        asked.gang.groups[0].product = Some("h100".into());
        assert_eq!(free(&asked), [0, 0, 0]);
        assert_eq!(free(&situation.asked[0]), [0, 0, 1]);
    }

    #[test]
    fn a_file_without_questions_and_a_question_that_no_cluster_could_hold_are_named() {
        let mut situation = read(FILE).unwrap();
        situation.asked[1].gang.required = Some("row".into());
        let error = cases(&situation).err().unwrap().to_string();
        assert!(error.contains("team/single") && error.contains("level row is unknown"), "{error}");
        situation.asked.clear();
        let error = read(&serde_yaml_ng::to_string(&situation).unwrap()).unwrap_err().to_string();
        assert!(error.contains("`asked`"), "{error}");
    }
}
