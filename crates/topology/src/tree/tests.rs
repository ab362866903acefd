//! That every sum of the tree is what its definition says, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::domain::{LEVELS, SUMMED};
use super::{ROOT, Tree};
use crate::stock::Stock;
use crate::{Claim, Cluster, Gpu, GpuSet, Health, LevelLabel, Member, Node, NodeFacts, Resources, Seat, Standing};

pub(crate) const LABELS: [&str; 3] = ["zone", "block", "rack"];

/// A node is told of, with these labels and the kind of its machine, or goes; and so many of its GPUs are held.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    node: u8,
    there: bool,
    kind: u8,
    labels: [Option<u8>; 3],
    held: u8,
    unidentified: bool,
    ready: bool,
}

/// So many events on so many nodes.
pub(crate) fn events(count: usize, nodes: u8) -> impl Strategy<Value = Vec<Event>> {
    let label = |values: u8| prop::option::weighted(0.9, 0..values);
    let labels = (label(2), label(2), label(3)).prop_map(|(zone, block, rack)| [zone, block, rack]);
    let one = (0..nodes, prop::bool::weighted(0.8), 0u8..4, labels, any::<u8>(), any::<u8>(), 0u8..12);
    let event = one.prop_map(|(node, there, kind, labels, held, fewer, standing)| Event {
        node,
        there,
        kind,
        labels,
        held: held & fewer,
        unidentified: standing == 0,
        ready: standing != 1,
    });
    prop::collection::vec(event, count)
}

fn machine(name: &str, kind: u8) -> Node {
    let gpu = |index: u32| Gpu {
        uuid: format!("GPU-{name}-{index}").into(),
        index,
        product: if kind == 2 || kind == 3 && index > 0 { "GPU B".into() } else { "GPU A".into() },
        memory_bytes: 1,
        pci_bus_id: "".into(),
        numa: Some(0),
        health: if kind == 2 && index == 3 { Health::unhealthy("XID 79") } else { Health::Healthy },
        mig_profile: (kind == 3 && index > 2).then(|| "1g.10gb".into()),
    };
    let gpus = (0..if kind == 0 { 10 } else { 4 }).map(gpu).collect();
    let nvlink_domain = (kind == 1).then(|| "fabric.1".into());
    Node::new(NodeFacts { name: name.into(), gpus, nvlink_domain, ..NodeFacts::default() }).unwrap()
}

pub(crate) fn apply(cluster: &mut Cluster, event: &Event) {
    let name = format!("n{:02}", event.node);
    if !event.there {
        cluster.remove(&name.as_str().into());
        return;
    }
    let labels = LABELS.iter().zip(&event.labels);
    cluster.upsert(Member {
        node: machine(&name, event.kind),
        labels: labels.filter_map(|(label, value)| Some((label.to_string(), (*value)?.to_string()))).collect(),
        standing: if event.ready { Standing::Ready } else { Standing::Cordoned },
        allocatable: Resources::new(),
    });
    let held = GpuSet::from_bits(event.held.into());
    let gpus = held.iter().map(|gpu| format!("GPU-{name}-{gpu}").into()).collect();
    let unidentified_gpus = u32::from(event.unidentified);
    let claim = Claim { gpus, unidentified_gpus, ..Claim::default() };
    cluster.claim(&name.as_str().into(), name.as_str().into(), claim);
}

fn seats(tree: &Tree, id: u32) -> Vec<&Seat> {
    let domain = tree.domain(id);
    let below = domain.children.iter().flat_map(|&child| seats(tree, child));
    below.chain(domain.seats.iter().map(|&seat| tree.seat(seat).unwrap())).collect()
}

/// The domains of a level below one, `between` levels above the innermost.
fn below(tree: &Tree, id: u32, between: usize) -> Vec<u32> {
    let children = &tree.domain(id).children;
    let depth = |child: u32| tree.levels.len() - 1 - tree.domain(child).depth.unwrap();
    let (here, deeper): (Vec<u32>, Vec<u32>) = children.iter().partition(|&&child| depth(child) == between);
    here.into_iter().chain(deeper.into_iter().flat_map(|child| below(tree, child, between))).collect()
}

/// For each node below a domain with just so many free whole GPUs: the free GPUs of the domains that it is in, the innermost
/// first.
fn tightest(tree: &Tree, id: u32, free: u32) -> Vec<Vec<u32>> {
    let domain = tree.domain(id);
    let mut all: Vec<Vec<u32>> = Vec::new();
    for &child in &domain.children {
        for mut one in tightest(tree, child, free) {
            one.push(tree.domain(child).free);
            all.push(one);
        }
    }
    let mine = domain.seats.iter().filter(|&&seat| tree.seat(seat).unwrap().free_whole() == free);
    all.extend(mine.map(|_| Vec::new()));
    all
}

fn holds_what_it_says(tree: &Tree, id: u32) {
    let (domain, seats) = (tree.domain(id), seats(tree, id));
    let sum = |of: fn(&Seat) -> u32| seats.iter().map(|seat| of(seat)).sum::<u32>();
    assert_eq!(domain.nodes, sum(|_| 1));
    assert_eq!(domain.free, sum(Seat::free_count));
    assert_eq!(domain.busy, sum(|seat| u32::from(!seat.is_idle())));
    assert_eq!(domain.nvlinked, sum(|seat| u32::from(seat.member.node.nvlink_domain().is_some())));
    assert_eq!(domain.is_nvlink(), domain.nvlinked > 0 && domain.children.is_empty());
    for free in 0..=GpuSet::CAPACITY {
        let nodes = seats.iter().filter(|seat| seat.free_whole() as usize == free).count();
        assert_eq!(domain.by_free.get(free).copied().unwrap_or(0) as usize, nodes, "nodes with {free} free GPUs");
    }
    for gpus in 1..=12 {
        assert_eq!(domain.room(gpus), seats.iter().map(|seat| seat.free_whole() / gpus).sum::<u32>());
    }
    assert_eq!(domain.room(0), domain.room(1));
    for gpus in 1..=12 {
        let mut counted: BTreeMap<String, u32> = BTreeMap::new();
        domain.stocks.lacks(gpus).for_each(|(lack, nodes)| *counted.entry(format!("{lack:?}")).or_default() += nodes);
        let mut looked: BTreeMap<String, u32> = BTreeMap::new();
        let lacks = seats.iter().filter_map(|seat| Stock::of(seat).lack(gpus));
        lacks.for_each(|lack| *looked.entry(format!("{lack:?}")).or_default() += 1);
        assert_eq!(counted, looked, "why nodes take no worker of {gpus} GPUs");
    }
    let mut products: BTreeMap<&str, u32> = BTreeMap::new();
    for seat in &seats {
        let of_one: BTreeSet<&str> = seat.member.node.gpus().iter().map(|gpu| &*gpu.product).collect();
        of_one.into_iter().for_each(|product| *products.entry(product).or_default() += 1);
    }
    let known: BTreeMap<&str, u32> = domain.products.iter().map(|(product, nodes)| (&**product, *nodes)).collect();
    assert_eq!((known, domain.products.len()), (products.clone(), products.len()));
    let whole: Vec<u32> = domain.whole.iter().map(|&whole| whole.into()).collect();
    let of_seats: Vec<u32> = domain.seats.iter().map(|&seat| tree.seat(seat).unwrap().free_whole()).collect();
    assert_eq!(whole, of_seats);
    assert!(domain.seats.is_sorted_by_key(|&seat| tree.seat(seat).unwrap().name()));
    assert!(domain.children.is_sorted_by_key(|&child| &tree.domain(child).key));
    assert!(domain.children.iter().all(|&child| tree.domain(child).parent == id));
    // Nobody asks the root where its nodes are tightest.
    for free in (1..=SUMMED as u32 + 2).filter(|_| id != ROOT) {
        let plain = tightest(tree, id, free).into_iter().filter(|above| !above.is_empty()).min();
        let plain = plain.filter(|_| free as usize <= SUMMED).map(|mut above| {
            above.resize(LEVELS, 0);
            above
        });
        assert_eq!(domain.tightest(free), plain.as_deref(), "nodes with {free} free GPUs");
        for between in 0..domain.depth.map_or(0, |depth| tree.levels.len() - 1 - depth) {
            let most = below(tree, id, between).iter().map(|&id| tree.domain(id).room(free)).max();
            let most = most.filter(|_| free as usize <= SUMMED);
            assert_eq!(domain.roomiest(free, between), most, "room for workers of {free} GPUs, {between} levels up");
        }
    }
    domain.children.iter().for_each(|&child| holds_what_it_says(tree, child));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sum_is_that_of_the_nodes_below(events in events(80, 14)) {
        let mut cluster = Cluster::new(LABELS.map(|label| LevelLabel::new(label, label)).to_vec()).unwrap();
        for event in &events {
            apply(&mut cluster, event);
            let tree = cluster.tree();
            holds_what_it_says(tree, ROOT);
            for depth in 0..LABELS.len() {
                let (level, domains) = (tree.level(depth).unwrap(), tree.domains_at(depth));
                let unnamed = domains.iter().filter(|&&id| tree.domain(id).key.name.is_none()).count();
                assert_eq!((level.domains as usize, level.unnamed as usize), (domains.len(), unnamed));
            }
        }
    }

    #[test]
    fn domains_look_alike_where_they_hold_the_same_and_only_there(events in events(60, 14)) {
        let mut cluster = Cluster::new(LABELS.map(|label| LevelLabel::new(label, label)).to_vec()).unwrap();
        events.iter().for_each(|event| apply(&mut cluster, event));
        let tree = cluster.tree();
        let mut seen: BTreeMap<u64, String> = BTreeMap::new();
        let mut looks: BTreeMap<String, u64> = BTreeMap::new();
        for depth in 0..LABELS.len() {
            for id in tree.domains_at(depth) {
                let (content, signature) = (format!("{depth}: {}", content(tree, id)), tree.domain(id).signature);
                prop_assert_eq!(seen.entry(signature).or_insert_with(|| content.clone()), &content);
                prop_assert_eq!(*looks.entry(content).or_insert(signature), signature);
            }
        }
    }
}

/// What a domain holds that a gang can tell, in no order.
fn content(tree: &Tree, id: u32) -> String {
    let domain = tree.domain(id);
    let mut all: Vec<String> = domain.children.iter().map(|&child| content(tree, child)).collect();
    all.extend(domain.seats.iter().map(|&seat| {
        let seat = tree.seat(seat).unwrap();
        let node = &seat.member.node;
        let mig = seat.whole.len() < node.gpus().len();
        let nvlinked = node.nvlink_domain().is_some();
        let (ready, idle) = (seat.member.standing == Standing::Ready, seat.is_idle());
        let products: Vec<&str> = node.gpus().iter().map(|gpu| &*gpu.product).collect();
        format!("{products:?} {mig} {nvlinked} {:?} {} {idle} {ready}", seat.free(), seat.unidentified)
    }));
    all.sort();
    format!("[{}]", all.join(", "))
}

#[test]
fn a_node_whose_sick_gpu_is_held_does_not_look_idle() {
    let mut cluster = Cluster::new(LABELS.map(|label| LevelLabel::new(label, label)).to_vec()).unwrap();
    // GPU 3 of this kind is sick; on the second node somebody holds it, on the third of some GPU it is not known who.
    for (node, held, unidentified) in [(0, 0, false), (1, 0b1000, false), (2, 0, true), (3, 0, false)] {
        let labels = [Some(0), Some(0), Some(node)];
        apply(&mut cluster, &Event { node, there: true, kind: 2, labels, held, unidentified, ready: true });
    }
    let tree = cluster.tree();
    let looks: Vec<u64> = tree.domains_at(2).into_iter().map(|id| tree.domain(id).signature).collect();
    assert_eq!(looks[0], looks[3]);
    assert!(looks[0] != looks[1] && looks[0] != looks[2] && looks[1] != looks[2]);
}
