//! The same state gives the same answer, by whatever events it came about: also where a search was given up, and ties are
//! broken by name on any number of levels.
#![allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]

mod machines;

use machines::{member, node};
use proptest::prelude::*;
use weft_topology::*;

fn levels(depth: usize) -> Vec<LevelLabel> {
    let name = |depth: usize| format!("level-{depth}");
    (0..depth).map(|depth| LevelLabel::new(&name(depth), &name(depth))).collect()
}

/// A node with its domains from the outermost, and the GPUs that somebody holds.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    path: Vec<String>,
    held: u64,
}

impl Place {
    fn put(&self, cluster: &mut Cluster, links: u8) {
        let machine = node(&self.name, 8, |_, _| Wire::nvswitch(links, Path::SameNuma));
        let labels: Vec<(String, &str)> =
            self.path.iter().enumerate().map(|(depth, name)| (format!("level-{depth}"), name.as_str())).collect();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(label, name)| (label.as_str(), *name)).collect();
        let gpus = machine.uuids(GpuSet::from_bits(self.held));
        cluster.upsert(member(machine, &labels));
        let name = self.name.as_str();
        if self.held > 0 {
            cluster.claim(&name.into(), name.into(), Claim { gpus, ..Claim::default() });
        }
    }
}

#[test]
fn a_balanced_group_too_large_to_search_does_not_depend_on_the_order_of_events() {
    let build = |order: &mut dyn Iterator<Item = u32>| {
        let mut cluster = Cluster::new(levels(1)).unwrap();
        for i in order {
            let path = vec![(i / 12).to_string()];
            Place { name: format!("n{i:03}"), path, held: 0 }.put(&mut cluster, 18);
        }
        cluster
    };
    let mut group = Group::new("w", 600, 1);
    group.balanced = Some(Balance { level: "level-0".into(), most: None });
    let gang = Gang { groups: vec![group], ..Gang::default() };
    let placement = place(&build(&mut (0..120)), &gang).unwrap();
    assert!(!placement.exact, "or this shows nothing");
    assert_eq!(place(&build(&mut (0..120).rev()), &gang).unwrap(), placement);
}

#[test]
fn of_equals_below_seven_levels_the_first_by_name_is_taken() {
    // The blocks a and b do not look alike, since the wires of n3 are others.
    let nodes = [("n0", "a", "0", 255), ("n1", "a", "1", 0), ("n2", "b", "0", 0), ("n3", "b", "1", 255)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        let mut cluster = Cluster::new(levels(7)).unwrap();
        for at in order {
            let (name, block, rack, held) = nodes[at];
            let path = ["x", "x", "x", "x", "x", block, rack].map(str::to_owned).to_vec();
            Place { name: name.into(), path, held }.put(&mut cluster, if at == 3 { 12 } else { 18 });
        }
        let gang = Gang { groups: vec![Group::new("w", 1, 8)], ..Gang::default() };
        assert_eq!(place(&cluster, &gang).unwrap().workers[0].node.as_str(), "n1");
    }
}

#[test]
fn of_equals_in_two_blocks_of_many_racks_the_first_by_name_is_taken_below_six_levels() {
    let mut cluster = Cluster::new(levels(6)).unwrap();
    for (block, rack) in (0..2).flat_map(|block| (0..600).map(move |rack| (block, rack))) {
        // Free are a late rack of the first block and an early one of the second.
        let held = if [(0, 300), (1, 44)].contains(&(block, rack)) { 0 } else { 255 };
        let path = vec!["x".into(), "x".into(), "x".into(), "x".into(), block.to_string(), format!("{rack:03}")];
        let place = Place { name: format!("n{block}-{rack:03}"), path, held };
        place.put(&mut cluster, if (block, rack) == (1, 1) { 12 } else { 18 });
    }
    let gang = Gang { groups: vec![Group::new("w", 1, 8)], ..Gang::default() };
    assert_eq!(place(&cluster, &gang).unwrap().workers[0].node.as_str(), "n0-300");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_gang_gets_the_same_place_whatever_came_before(
        depth in 1usize..=4, fan in 1u64..=5, held in prop::collection::vec(any::<u8>(), 1..=60), busy in any::<u8>(),
        order in any::<u64>(), sizes in prop::collection::vec((1u32..=50, 0usize..4), 1..=3), balanced in 0usize..4,
        relation in 0usize..4,
    ) {
        let places: Vec<Place> = (0u64..).zip(&held).map(|(i, held)| {
            let path = (1..=depth as u32).rev().map(|level| (i / fan.pow(level)).to_string()).collect();
            Place { name: format!("n{i:02}"), path, held: u64::from(held & busy) }
        }).collect();
        let mut straight = Cluster::new(levels(depth)).unwrap();
        places.iter().for_each(|place| place.put(&mut straight, 18));
        // In another order, elsewhere first, some removed and put back.
        let mut shuffled: Vec<&Place> = places.iter().collect();
        shuffled.sort_by_key(|place| (place.name.bytes().fold(order, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15)), &place.name));
        let mut winding = Cluster::new(levels(depth)).unwrap();
        for place in &shuffled {
            Place { path: vec!["other".into(); depth], held: 255, ..(*place).clone() }.put(&mut winding, 18);
            winding.release(&place.name.as_str().into());
        }
        for (nth, place) in shuffled.iter().enumerate() {
            if nth % 3 == 0 {
                winding.remove(&place.name.as_str().into());
            }
            place.put(&mut winding, 18);
        }
        let groups = sizes.iter().zip(["a", "b", "c"]).map(|(&(replicas, gpus), name)| Group::new(name, replicas, [1, 2, 4, 8][gpus]));
        let mut gang = Gang { groups: groups.collect(), ..Gang::default() };
        gang.groups[0].balanced = (balanced < depth).then(|| Balance { level: format!("level-{balanced}").as_str().into(), most: None });
        if gang.groups.len() > 1 {
            let (groups, level) = (vec!["a".to_owned(), "b".to_owned()], Level::from(format!("level-{}", depth - 1).as_str()));
            gang.relations = match relation {
                0 => vec![Relation::Together { groups, level }],
                1 => vec![Relation::Apart { groups, level }],
                2 => vec![Relation::Leader { leader: "b".into(), workers: "a".into(), level }],
                _ => Vec::new(),
            };
        }
        prop_assert_eq!(place(&straight, &gang), place(&winding, &gang));
    }
}
