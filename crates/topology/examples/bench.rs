//! How fast the decisions are, beside what others do on the same input.
//!
//! `cargo run --release -p weft-topology --example bench -- allocate|place [--json]`
//!
//! One line per case. With `--json` one object a line: `bench`, `case`, `p50_us`, `p99_us`, `allocations` (per decision),
//! `against`, `ratio_time` (theirs over ours: above 1 we are faster) and `ratio_objective` (above 1 we are better; for
//! placements the share of theirs over ours in racks used plus nodes opened, for allocations the wires of the set and
//! what can be packed into the rest).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use weft_topology::{
    Claim, Cluster, Gang, Gpu, GpuSet, Group, Health, LevelLabel, Link, Member, Node, NodeFacts, Path, Resources,
    Standing, Wire, choose, place,
};

/// Counts allocations of the measuring thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on unchanged to the system's allocator; counting touches a thread-local only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise on `layout` is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, that is from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Median, 99th percentile and allocations of a decision.
struct Measured {
    p50_us: f64,
    p99_us: f64,
    allocations: u64,
}

fn measure<T>(repeats: usize, mut decision: impl FnMut() -> T) -> Measured {
    for _ in 0..repeats / 10 + 1 {
        black_box(decision());
    }
    let mut times = Vec::with_capacity(repeats);
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..repeats {
        let start = Instant::now();
        black_box(decision());
        times.push(start.elapsed().as_nanos() as f64 / 1_000.0);
    }
    let allocations = (ALLOCATIONS.with(Cell::get) - before) / repeats as u64;
    times.sort_by(f64::total_cmp);
    Measured { p50_us: times[repeats / 2], p99_us: times[repeats * 99 / 100], allocations }
}

fn report(json: bool, bench: &str, case: &str, ours: &Measured, against: &str, theirs: Option<(&Measured, f64)>) {
    let ratio_time = theirs.map(|(theirs, _)| theirs.p50_us / ours.p50_us);
    let ratio_objective = theirs.map(|(_, ratio)| ratio);
    if json {
        let line = serde_json::json!({
            "bench": bench, "case": case, "p50_us": ours.p50_us, "p99_us": ours.p99_us,
            "allocations": ours.allocations, "against": against, "ratio_time": ratio_time,
            "ratio_objective": ratio_objective,
        });
        println!("{line}");
    } else {
        let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{bench:<9} {case:<34} p50 {:>9.2} µs  p99 {:>9.2} µs  {:>6} allocations  × {:>8} in time, × {} in objective ({against})",
            ours.p50_us,
            ours.p99_us,
            ours.allocations,
            ratio(ratio_time),
            ratio(ratio_objective),
        );
    }
}

/// A machine of two sockets with bridged neighbours.
fn machine(name: &str, n: u32, wire: impl Fn(u32, u32, Path) -> Wire) -> Node {
    let gpu = |index: u32| Gpu {
        uuid: format!("GPU-{name}-{index}").into(),
        index,
        product: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes: 80 << 30,
        pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
        numa: Some(index * 2 / n),
        health: Health::Healthy,
        mig_profile: None,
    };
    let path = |a, b| if a * 2 / n == b * 2 / n { Path::SameNuma } else { Path::CrossSocket };
    let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let links = pairs.map(|(from, to)| Link { from, to, wire: wire(from, to, path(from, to)) }).collect();
    let facts = NodeFacts { name: name.into(), gpus: (0..n).map(gpu).collect(), links, ..Default::default() };
    Node::new(facts).unwrap_or_else(|error| fail(&error.to_string()))
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

/// The best partition of all free GPUs into sets of the size asked for, by enumeration, as go-gpuallocator does it (up
/// to 8 GPUs: beyond, it takes seconds); of the best one the best set.
fn best_partition(node: &Node, free: GpuSet, size: usize) -> GpuSet {
    fn cut(node: &Node, rest: GpuSet, size: usize, spare: usize, sets: &mut Vec<GpuSet>, best: &mut (u32, GpuSet)) {
        let Some(lowest) = rest.lowest() else {
            let total = sets.iter().map(|&set| node.wiring().within(set)).sum();
            let whole = sets.iter().filter(|set| set.len() == size);
            if let Some(&top) = whole.max_by_key(|&&set| node.wiring().within(set))
                && (total > best.0 || best.1.is_empty())
            {
                *best = (total, top);
            }
            return;
        };
        let first = GpuSet::from_iter([lowest]);
        for set in (0..=rest.bits()).map(GpuSet::from_bits) {
            let short = size.saturating_sub(set.len());
            if set.len() <= size && set.is_subset(rest) && first.is_subset(set) && short <= spare {
                sets.push(set);
                cut(node, rest.difference(set), size, spare - short, sets, best);
                sets.pop();
            }
        }
    }
    let mut best = (0, GpuSet::EMPTY);
    let spare = free.len().next_multiple_of(size) - free.len();
    cut(node, free, size, spare, &mut Vec::new(), &mut best);
    best.1
}

fn allocate(json: bool) {
    for n in [8u32, 16] {
        let fresh =
            || machine("n", n, |a, b, path| if a / 2 == b / 2 { Wire::nvlink(4, path) } else { Wire::over(path) });
        let tables = measure(5, || {
            let node = fresh();
            choose(&node, node.all(), GpuSet::EMPTY, GpuSet::EMPTY, 1)
        });
        report(json, "allocate", &format!("n={n},tables"), &tables, "nothing", None);
        let node = fresh();
        for k in 1..n as usize {
            let free = node.all();
            let ours = measure(2_000, || choose(&node, free, GpuSet::EMPTY, GpuSet::EMPTY, k));
            let case = format!("n={n},k={k}");
            if n > 8 {
                report(json, "allocate", &case, &ours, "partition enumeration takes seconds here", None);
                continue;
            }
            let theirs = measure(20, || best_partition(&node, free, k));
            let value = |set: GpuSet| {
                let rest = free.difference(set);
                f64::from(node.wiring().within(set)) + f64::from(node.wiring().within(rest))
            };
            let Ok(choice) = choose(&node, free, GpuSet::EMPTY, GpuSet::EMPTY, k) else { continue };
            let ratio = value(choice.gpus) / value(best_partition(&node, free, k)).max(1.0);
            report(json, "allocate", &case, &ours, "partition enumeration", Some((&theirs, ratio)));
        }
    }
}

/// A stream of numbers that is the same every time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Nodes of eight H100 in racks of 16 and blocks of 8 racks; `fill` of the GPUs are held by jobs of 1, 2, 4 and 8 GPUs
/// that came and went at random.
fn cluster(nodes: u32, fill: f64) -> Cluster {
    let levels = vec![LevelLabel::new("block", "block"), LevelLabel::new("rack", "rack")];
    let mut cluster = Cluster::new(levels).unwrap_or_else(|error| fail(&error.to_string()));
    for n in 0..nodes {
        let node = machine(&format!("n{n:05}"), 8, |_, _, path| Wire::nvswitch(18, path));
        let rack = n / 16;
        let labels =
            [("block", rack / 8), ("rack", rack)].map(|(key, value)| (key.to_owned(), format!("{key}-{value:04}")));
        cluster.upsert(Member {
            node,
            labels: labels.into(),
            standing: Standing::Ready,
            allocatable: Resources::new(),
        });
    }
    let mut random = Random(0x5eed_1234_abcd_0001);
    let (total, mut held, mut owner) = (f64::from(nodes) * 8.0, 0.0, 0u64);
    while held < total * fill {
        let (size, name) =
            ([1usize, 2, 4, 8, 8][random.below(5) as usize], format!("n{:05}", random.below(u64::from(nodes))));
        let Some(seat) = cluster.node(&name.as_str().into()) else { continue };
        let none = GpuSet::EMPTY;
        // Too full for this size: another draw brings another node and, sooner or later, a single GPU.
        let Ok(choice) = choose(&seat.member.node, seat.free(), none, none, size) else { continue };
        let gpus = seat.member.node.uuids(choice.gpus);
        owner += 1;
        cluster.claim(&name.as_str().into(), format!("job-{owner}").into(), Claim { gpus, ..Default::default() });
        held += size as f64;
    }
    cluster
}

/// What others do: over all nodes, per worker the node with the least room that is enough, within the rack with the
/// least room that is enough if there is one. Racks used and idle nodes opened.
fn best_fit(cluster: &Cluster, workers: u32, gpus: u32) -> Option<(usize, usize)> {
    let mut racks: BTreeMap<&str, Vec<(u32, bool)>> = BTreeMap::new();
    for seat in cluster.nodes() {
        let rack = seat.path[1].as_ref().map_or("", |name| name.as_str());
        racks.entry(rack).or_default().push((seat.free_count(), seat.is_idle()));
    }
    let room = |nodes: &[(u32, bool)]| nodes.iter().map(|node| node.0 / gpus).sum::<u32>();
    let mut order: Vec<(u32, &str)> = racks.iter().map(|(name, nodes)| (room(nodes), *name)).collect();
    order.sort_unstable();
    let (mut rest, mut used, mut opened) = (workers, 0, 0);
    while rest > 0 {
        let at = order.iter().position(|&(room, _)| room >= rest).or(order.len().checked_sub(1))?;
        let (_, rack) = order.remove(at);
        let nodes = racks.get_mut(rack)?;
        nodes.sort_unstable();
        used += 1;
        for (free, idle) in nodes.iter().filter(|node| node.0 >= gpus) {
            let here = (free / gpus).min(rest);
            opened += usize::from(*idle && here * gpus < *free);
            rest -= here;
            if rest == 0 {
                break;
            }
        }
    }
    Some((used, opened))
}

fn place_all(json: bool) {
    for nodes in [5_000, 10_000] {
        for fill in [0.0, 0.5, 0.8] {
            let mut cluster = cluster(nodes, fill);
            for (workers, gpus) in [(1, 1), (1, 8), (8, 8), (64, 8), (512, 8)] {
                let gang = Gang { groups: vec![Group::new("w", workers, gpus)], ..Default::default() };
                let ours = measure(300, || place(&cluster, &gang));
                let theirs = measure(20, || best_fit(&cluster, workers, gpus));
                let ratio = match (place(&cluster, &gang), best_fit(&cluster, workers, gpus)) {
                    (Ok(placed), Some((racks, opened))) => {
                        let term =
                            |name: &str| placed.terms.iter().find(|t| t.name == name).map_or(0, |t| t.value) as f64;
                        (racks + opened) as f64 / (term("racks used") + term("hosts opened")).max(1.0)
                    }
                    // Neither finds room, and neither is better.
                    (Err(_), None) => 1.0,
                    (found, _) => {
                        if found.is_ok() {
                            f64::INFINITY
                        } else {
                            0.0
                        }
                    }
                };
                let case = format!("gang={workers}x{gpus},nodes={nodes},fill={fill}");
                report(json, "place", &case, &ours, "best fit over all nodes", Some((&theirs, ratio)));
            }
            let (name, mut gpu) = ("n00100", 0);
            let event = measure(10_000, || {
                gpu = (gpu + 1) % 8;
                let gpus = vec![format!("GPU-{name}-{gpu}").into()];
                cluster.claim(&name.into(), "event".into(), Claim { gpus, ..Default::default() });
            });
            report(json, "place", &format!("event,nodes={nodes},fill={fill}"), &event, "nothing", None);
            cluster.release(&"event".into());
            let snapshot = measure(20, || cluster.clone());
            report(json, "place", &format!("snapshot,nodes={nodes},fill={fill}"), &snapshot, "nothing", None);
            let sizes = [1, 2, 4, 8].map(|gpus| Gang { groups: vec![Group::new("w", 1, gpus)], ..Default::default() });
            let mut next = 0;
            let mixed = measure(2_000, || {
                next += 1;
                place(&cluster, &sizes[next % 4])
            });
            report(json, "place", &format!("mixed,nodes={nodes},fill={fill}"), &mixed, "nothing", None);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    match arguments.first().map(String::as_str) {
        Some("allocate") => allocate(json),
        Some("place") => place_all(json),
        _ => fail("usage: bench allocate|place [--json]"),
    }
}
