//! What `bench` leaves out: node selectors and other resources, events after snapshots, memory, and wirings without symmetry.
//!
//! `cargo run --release -p weft-topology --example bench_more [-- --json] [-- one NODES FILL WORKERS GPUS REPEATS [resources]]`
//!
//! The lines are those of `bench`. Times are those of the measuring thread's processor clock, so that other work on the
//! machine does not count; reading it costs some 0.3 µs, which is in the figures. `one` repeats a single decision and prints
//! nothing, for a profiler.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use weft_topology::{
    Claim, Cluster, Exclusion, Gang, Gpu, GpuSet, Group, Health, LevelLabel, Link, Member, Node, NodeFacts, NodeName,
    Path, Resources, Standing, Wire, choose, place, place_where,
};

/// Counts allocations and bytes of the measuring thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on unchanged to the system's allocator; counting touches thread-locals only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size() as i64));
        // SAFETY: the caller's promise on `layout` is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.with(|bytes| bytes.set(bytes.get() - layout.size() as i64));
        // SAFETY: `pointer` came from `alloc` above, that is from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Nanoseconds that this thread ran.
fn clock() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives until the call returns.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

struct Report {
    json: bool,
}

impl Report {
    fn measure<T>(&self, bench: &str, case: &str, repeats: usize, mut decision: impl FnMut() -> T) {
        for _ in 0..repeats / 10 + 1 {
            black_box(decision());
        }
        let mut times = Vec::with_capacity(repeats);
        let before = ALLOCATIONS.with(Cell::get);
        for _ in 0..repeats {
            let start = clock();
            black_box(decision());
            times.push((clock() - start) / 1_000.0);
        }
        let allocations = (ALLOCATIONS.with(Cell::get) - before) / repeats as u64;
        times.sort_by(f64::total_cmp);
        let (p50, p99) = (times[repeats / 2], times[repeats * 99 / 100]);
        if self.json {
            let line = serde_json::json!({
                "bench": bench, "case": case, "p50_us": p50, "p99_us": p99, "allocations": allocations,
                "against": "nothing", "ratio_time": null, "ratio_objective": null,
            });
            println!("{line}");
        } else {
            println!("{bench:<9} {case:<52} p50 {p50:>9.2} µs  p99 {p99:>9.2} µs  {allocations:>6} allocations");
        }
    }
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
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

fn machine(name: &str, n: u32, mut wire: impl FnMut(u32, u32) -> Wire) -> Node {
    let gpu = |index: u32| Gpu {
        uuid: format!("GPU-{name}-3b1c-4d0e-9f27-5a8e6c{index:06}").into(),
        index,
        product: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes: 80 << 30,
        pci_bus_id: format!("00000000:{index:02X}:00.0").into(),
        numa: Some(index * 2 / n),
        health: Health::Healthy,
        mig_profile: None,
    };
    let pairs = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let links = pairs.map(|(from, to)| Link { from, to, wire: wire(from, to) }).collect();
    let facts = NodeFacts { name: name.into(), gpus: (0..n).map(gpu).collect(), links, ..Default::default() };
    Node::new(facts).unwrap_or_else(|error| fail(&error.to_string()))
}

fn node_name(n: u32) -> NodeName {
    format!("gpu-node-{n:05}").as_str().into()
}

fn h100(n: u32) -> Member {
    let path = |a, b| if a / 4 == b / 4 { Path::SameNuma } else { Path::CrossSocket };
    let node = machine(node_name(n).as_str(), 8, |a, b| Wire::nvswitch(18, path(a, b)));
    let rack = n / 16;
    let labels = [("block", rack / 8), ("rack", rack)];
    Member {
        node,
        labels: labels.map(|(key, value)| (key.to_owned(), format!("{key}-{value:04}"))).into(),
        standing: Standing::Ready,
        allocatable: Resources::new().with("cpu", 192_000).with("memory", 2 << 40).with("pods", 110),
    }
}

/// The clusters of `bench`, with other resources.
fn cluster(nodes: u32, fill: f64) -> Cluster {
    let levels = vec![LevelLabel::new("block", "block"), LevelLabel::new("rack", "rack")];
    let mut cluster = Cluster::new(levels).unwrap_or_else(|error| fail(&error.to_string()));
    (0..nodes).for_each(|n| cluster.upsert(h100(n)));
    let mut random = Random(0x5eed_1234_abcd_0001);
    let (total, mut held, mut owner) = (f64::from(nodes) * 8.0, 0.0, 0u64);
    while held < total * fill {
        let size = [1usize, 2, 4, 8, 8][random.below(5) as usize];
        let name = node_name(random.below(u64::from(nodes)) as u32);
        let Some(seat) = cluster.node(&name) else { continue };
        let Ok(choice) = choose(&seat.member.node, seat.free(), GpuSet::EMPTY, GpuSet::EMPTY, size) else { continue };
        let gpus = seat.member.node.uuids(choice.gpus);
        owner += 1;
        let resources = Resources::new().with("cpu", 8_000 * size as u64).with("pods", 1);
        let claim = Claim { gpus, resources, ..Default::default() };
        cluster.claim(&name, format!("team-a/job-{owner}-worker-0").into(), claim);
        held += size as f64;
    }
    cluster
}

fn gang(workers: u32, gpus: u32) -> Gang {
    Gang { groups: vec![Group::new("w", workers, gpus)], ..Default::default() }
}

fn allocate(report: &Report) {
    let mut random = Random(7);
    let mut wires = || Wire::nvlink(random.below(4) as u8, Path::ALL[random.below(7) as usize]);
    let wires: Vec<Wire> = (0..120).map(|_| wires()).collect();
    let fresh = || {
        let mut next = wires.iter().copied();
        machine("random", 16, |_, _| next.next().unwrap_or_default())
    };
    let tables = || choose(&fresh(), GpuSet::first(16), GpuSet::EMPTY, GpuSet::EMPTY, 1).is_ok();
    report.measure("allocate", "n=16,wires=random,tables", 10, tables);
    let node = fresh();
    for k in [2, 4, 8, 12] {
        let case = format!("n=16,wires=random,k={k}");
        report.measure("allocate", &case, 1_000, || choose(&node, node.all(), GpuSet::EMPTY, GpuSet::EMPTY, k));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let report = Report { json: arguments.iter().any(|argument| argument == "--json") };
    if let [one, nodes, fill, workers, gpus, repeats, more @ ..] = arguments.as_slice()
        && one == "one"
    {
        let number = |text: &String| text.parse().unwrap_or_else(|_| fail(&format!("{text} is no number")));
        let cluster = cluster(number(nodes) as u32, number(fill));
        let mut gang = gang(number(workers) as u32, number(gpus) as u32);
        if !more.is_empty() {
            gang.groups[0].resources = Resources::new().with("cpu", 16_000).with("pods", 1);
        }
        (0..number(repeats) as u32).for_each(|_| drop(black_box(place(&cluster, &gang))));
        return;
    }
    allocate(&report);
    for nodes in [5_000, 10_000] {
        for fill in [0.0, 0.5, 0.8] {
            let before = BYTES.with(Cell::get);
            let mut cluster = cluster(nodes, fill);
            let bytes = (BYTES.with(Cell::get) - before) as f64 / f64::from(nodes);
            let of = |what: &str| format!("{what},nodes={nodes},fill={fill}");
            if report.json {
                println!("{}", serde_json::json!({"bench": "place", "case": of("memory"), "bytes_per_node": bytes}));
            } else {
                println!("place     {:<52} {bytes:.0} bytes a node", of("memory"));
            }
            for (workers, gpus) in [(1, 1), (1, 8), (8, 8), (64, 8), (512, 8)] {
                let mut gang = gang(workers, gpus);
                let of = |what: &str| of(&format!("gang={workers}x{gpus},{what}"));
                let repeats = if workers < 64 { 2_000 } else { 300 };
                report.measure("place", &of("plain"), repeats, || place(&cluster, &gang));
                gang.groups[0].resources =
                    Resources::new().with("cpu", 16_000).with("memory", 64 << 30).with("pods", 1);
                report.measure("place", &of("resources"), repeats, || place(&cluster, &gang));
                for (what, one_in) in [("half the nodes", 2), ("one node in 50", 50)] {
                    let eligible = |_: &Group, node: &NodeName| {
                        let number: u32 = node.as_str()[9..].parse().unwrap_or(0);
                        match (number / 3) % one_in {
                            0 => Ok(()),
                            _ => Err(Exclusion::Selector { detail: "class=a".to_owned() }),
                        }
                    };
                    let repeats = if workers < 64 { 300 } else { 50 };
                    report.measure("place", &of(what), repeats, || place_where(&cluster, &gang, &eligible));
                }
            }
            let (name, mut nth) = (node_name(100), 0u32);
            let uuid = |nth: u32| cluster.node(&name).map(|seat| seat.member.node.gpus()[nth as usize].uuid.clone());
            let uuids: Vec<_> = (0..8).filter_map(uuid).collect();
            let mut claim = |cluster: &mut Cluster| {
                nth = (nth + 1) % 8;
                let claim = Claim { gpus: vec![uuids[nth as usize].clone()], ..Default::default() };
                cluster.claim(&name, "event".into(), claim);
            };
            report.measure("place", &of("event=claim"), 10_000, || claim(&mut cluster));
            report.measure("place", &of("event=claim after a snapshot"), 2_000, || {
                let snapshot = cluster.clone();
                claim(&mut cluster);
                snapshot
            });
            let facts = h100(100);
            report.measure("place", &of("event=node relabelled and back"), 1_000, || {
                let mut moved = facts.clone();
                moved.labels.insert("rack".to_owned(), "rack-0000".to_owned());
                cluster.upsert(moved);
                cluster.upsert(facts.clone());
            });
            report.measure("place", &of("snapshot"), 1_000, || cluster.clone());
        }
    }
}
