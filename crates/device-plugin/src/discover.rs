//! `weft-agent discover`: prints the machine as the agent reads it.

use std::fmt::Write;

use weft_nvml::{Driver, Machine};
use weft_topology::Node;

use crate::args::Args;

/// Reads the machine and returns the text to print.
pub fn discover(args: &Args, json: bool) -> anyhow::Result<String> {
    let driver = Driver::open(&args.driver_root())?;
    let machine = weft_nvml::read(driver, &args.node_name()?)?;
    let node = Node::new(machine.facts.clone())?;
    if json { as_json(&machine, &node) } else { Ok(as_text(&machine, &node)) }
}

fn as_json(machine: &Machine, node: &Node) -> anyhow::Result<String> {
    let boards = machine.boards.iter().map(|board| {
        serde_json::json!({
            "uuid": board.uuid, "minor": board.minor, "architecture": board.architecture,
            "computeCapability": board.compute_capability.map(|(major, minor)| format!("{major}.{minor}")),
            "serial": board.serial, "vbios": board.vbios,
        })
    });
    let unreadable = machine
        .unreadable
        .iter()
        .map(|gpu| serde_json::json!({"index": gpu.index, "uuid": gpu.uuid, "error": gpu.error}));
    let document = serde_json::json!({
        "driver": {
            "version": machine.driver.version,
            "cudaVersion": machine.driver.cuda_version,
            "library": machine.driver.library,
        },
        "node": node,
        "boards": boards.collect::<Vec<_>>(),
        "unreadable": unreadable.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// A table of GPUs and the matrix of wires, as `nvidia-smi topo -m` draws it.
fn as_text(machine: &Machine, node: &Node) -> String {
    let mut text = String::new();
    let driver = &machine.driver;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}: driver {}, CUDA {}", node.name(), driver.version, driver.cuda_version);
    if let Some(domain) = node.nvlink_domain() {
        let _ = writeln!(text, "NVLink domain {domain}");
    }
    for gpu in node.gpus() {
        let numa = gpu.numa.map_or("-".to_owned(), |numa| numa.to_string());
        let memory = gpu.memory_bytes >> 20;
        let _ = writeln!(
            text,
            "GPU {:<2} {}  {}  {memory} MiB  {}  NUMA {numa}",
            gpu.index, gpu.uuid, gpu.product, gpu.pci_bus_id
        );
    }
    for gpu in &machine.unreadable {
        let _ = writeln!(text, "GPU {:<2} cannot be read: {}", gpu.index, gpu.error);
    }
    let n = node.gpus().len();
    if n > 1 {
        let header: String = node.gpus().iter().map(|gpu| format!("{:>6}", format!("GPU{}", gpu.index))).collect();
        let _ = writeln!(text, "\n      {header}");
        for a in 0..n {
            let wire = |b: usize| if a == b { "X".to_owned() } else { node.wiring().wire(a, b).short() };
            let row: String = (0..n).map(|b| format!("{:>6}", wire(b))).collect();
            let _ = writeln!(text, "{:<6}{row}", format!("GPU{}", node.gpus()[a].index));
        }
    }
    for assumption in node.assumptions() {
        let _ = writeln!(text, "note: {assumption}");
    }
    text
}
