//! A machine as `weft-sim status` shows it.

use std::fmt;

use serde::Serialize;

use crate::state::{Gpu, Health, Isolation, Machine};

/// A machine at one moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Name of its profile.
    pub profile: String,
    /// Seed of its GPUs' identities.
    pub seed: String,
    /// Driver version.
    pub driver: String,
    /// CUDA version.
    pub cuda: String,
    /// Whether processes see only the GPUs whose device nodes they have.
    pub isolated: bool,
    /// All its GPUs.
    pub gpus: Vec<GpuStatus>,
}

/// A GPU at one moment.
#[derive(Debug, Serialize)]
pub struct GpuStatus {
    /// Index and minor number.
    pub index: usize,
    /// UUID.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// PCI address.
    pub pci: String,
    /// NUMA node.
    pub numa: u32,
    /// `healthy`, `xid` or `lost`.
    pub health: &'static str,
    /// The last XID since it was well.
    pub xid: Option<u32>,
    /// Whole memory, bytes.
    pub memory_total_bytes: u64,
    /// Memory that processes hold, bytes.
    pub memory_used_bytes: u64,
    /// Part of the last second in which something ran, 0 to 100.
    pub utilization_percent: u32,
    /// °C.
    pub temperature_c: u32,
    /// W.
    pub power_watts: f64,
    /// Kernel launches since the machine was made.
    pub launches: u64,
    /// Processes on it.
    pub processes: Vec<ProcessStatus>,
}

/// A process on a GPU.
#[derive(Debug, Serialize)]
pub struct ProcessStatus {
    /// PID, as seen from here.
    pub pid: i32,
    /// Command.
    pub command: String,
    /// GPU memory that it holds, bytes.
    pub memory_bytes: u64,
    /// CUDA contexts.
    pub contexts: u32,
    /// Kernel launches.
    pub launches: u64,
}

impl Status {
    /// Reads a machine.
    pub fn read(machine: &Machine) -> Status {
        machine.poll();
        let profile = machine.profile();
        Status {
            profile: profile.name.clone(),
            seed: machine.seed().to_owned(),
            driver: profile.driver.clone(),
            cuda: profile.cuda.clone(),
            isolated: machine.isolation() != Isolation::Off,
            gpus: machine.gpus().map(|gpu| GpuStatus::read(machine, gpu)).collect(),
        }
    }
}

impl GpuStatus {
    fn read(machine: &Machine, gpu: Gpu<'_>) -> GpuStatus {
        let (facts, memory, load) = (gpu.facts(), gpu.memory(), gpu.load());
        let processes = machine.processes(facts.index).into_iter().map(|process| ProcessStatus {
            pid: process.pid,
            command: process.command,
            memory_bytes: process.memory_bytes,
            contexts: process.contexts,
            launches: process.launches,
        });
        GpuStatus {
            index: facts.index,
            uuid: facts.uuid.clone(),
            name: facts.board.name.clone(),
            pci: facts.pci.to_string(),
            numa: facts.numa,
            health: match gpu.health() {
                Health::Healthy => "healthy",
                Health::Xid(_) => "xid",
                Health::Lost => "lost",
            },
            xid: gpu.last_xid(),
            memory_total_bytes: memory.total_bytes,
            memory_used_bytes: memory.used_bytes,
            utilization_percent: load.gpu_percent,
            temperature_c: load.temperature_c,
            power_watts: f64::from(load.power_mw) / 1000.0,
            launches: load.launches,
            processes: processes.collect(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let isolation = if self.isolated { "isolated by device nodes" } else { "all GPUs visible" };
        writeln!(
            f,
            "{} · driver {} · CUDA {} · seed {} · {isolation}",
            self.profile, self.driver, self.cuda, self.seed
        )?;
        for gpu in &self.gpus {
            let health = match (gpu.health, gpu.xid) {
                (health, Some(xid)) if health != "xid" => format!("{health} (XID {xid})"),
                (_, Some(xid)) => format!("XID {xid}"),
                (health, None) => health.to_owned(),
            };
            writeln!(
                f,
                "{:>2}  {}  {}  NUMA {}  {:>6} of {} MiB  {:>3} %  {:>3} °C  {:>4.0} W  {health}",
                gpu.index,
                gpu.uuid,
                gpu.pci,
                gpu.numa,
                gpu.memory_used_bytes >> 20,
                gpu.memory_total_bytes >> 20,
                gpu.utilization_percent,
                gpu.temperature_c,
                gpu.power_watts,
            )?;
            for process in &gpu.processes {
                let (mib, launches) = (process.memory_bytes >> 20, process.launches);
                writeln!(f, "      {}  {mib} MiB  {launches} launches  {}", process.pid, process.command)?;
            }
        }
        Ok(())
    }
}
