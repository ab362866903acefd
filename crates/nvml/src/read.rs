//! Reads a machine: its GPUs, where they sit and how they are wired.
//!
//! One GPU that is lost or misbehaves never keeps the others from being read: it is listed under
//! [`Machine::unreadable`], and a wire that nobody could tell is left out for [`weft_topology`] to infer.

use std::fs;
use std::path::PathBuf;

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_NVLINK_LINK_COUNT;
use nvml_wrapper_sys::bindings::{NVML_AFFINITY_SCOPE_NODE, NVML_NVLINK_MAX_LINKS};
use weft_topology::{Gpu, GpuUuid, Health, Link, NodeFacts, Path, Wire};

use crate::driver::{Driver, DriverError};
use crate::raw::{self, Fabric, LinkEnd};

/// A machine as the driver describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The driver.
    pub driver: DriverInfo,
    /// GPUs and wires, for [`weft_topology::Node::new`].
    pub facts: NodeFacts,
    /// What else is known of each GPU, in the order of `facts.gpus`.
    pub boards: Vec<Board>,
    /// GPUs that the driver counts and that could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// The driver's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverInfo {
    /// Of the kernel module: `580.159.04`.
    pub version: String,
    /// The newest CUDA version that it runs: `13.0`.
    pub cuda_version: String,
    /// The management library that was loaded.
    pub library: PathBuf,
}

/// Facts of one GPU that no decision needs, but people and device nodes do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// The GPU.
    pub uuid: GpuUuid,
    /// Its device node is `/dev/nvidia<minor>`.
    pub minor: u32,
    /// Major and minor compute capability.
    pub compute_capability: Option<(i32, i32)>,
    /// `Hopper`.
    pub architecture: Option<String>,
    /// Serial number of the board.
    pub serial: Option<String>,
    /// Firmware of the board.
    pub vbios: Option<String>,
}

/// A GPU that the driver counts and that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// NVML's index.
    pub index: u32,
    /// Its identity, if at least that could be read.
    pub uuid: Option<GpuUuid>,
    /// What the driver said.
    pub error: String,
}

/// Reads everything. Takes from milliseconds to seconds (a call per pair of GPUs, two per NVLink), so it is done once
/// and again only when the set of GPUs changed.
pub fn read(driver: Driver, node_name: &str) -> Result<Machine, DriverError> {
    let nvml = driver.nvml;
    let count = nvml.device_count().map_err(|source| DriverError::Call { call: "nvmlDeviceGetCount", source })?;
    let mut found = Vec::new();
    let mut unreadable = Vec::new();
    for index in 0..count {
        match read_gpu(driver, index) {
            Ok(gpu) => found.push(gpu),
            Err(gpu) => unreadable.push(gpu),
        }
    }
    let links = links(driver, &found);
    let nvlink_domain = found.iter().find_map(|gpu| gpu.domain.clone()).map(Into::into);
    let (gpus, boards) = found.into_iter().map(|found| (found.gpu, found.board)).unzip();
    let facts = NodeFacts { name: node_name.to_owned(), gpus, links, nvlink_domain, ..NodeFacts::default() };
    Ok(Machine { driver: driver_info(driver)?, facts, boards, unreadable })
}

/// The identities of the GPUs that [`read`] would read now, by index: enough to notice that the set changed. One that tells
/// its identity and nothing else is not among them, so it is noticed when it can be read.
pub fn uuids(driver: Driver) -> Result<Vec<GpuUuid>, DriverError> {
    let nvml = driver.nvml;
    let count = nvml.device_count().map_err(|source| DriverError::Call { call: "nvmlDeviceGetCount", source })?;
    let uuid = |index| read_gpu(driver, index).ok().map(|found| found.gpu.uuid);
    Ok((0..count).filter_map(uuid).collect())
}

fn driver_info(driver: Driver) -> Result<DriverInfo, DriverError> {
    let version = driver
        .nvml
        .sys_driver_version()
        .map_err(|source| DriverError::Call { call: "nvmlSystemGetDriverVersion", source })?;
    let cuda = raw::cuda_version(driver.nvml)
        .map_err(|source| DriverError::Call { call: "nvmlSystemGetCudaDriverVersion", source })?;
    let cuda_version = format!("{}.{}", cuda / 1000, cuda % 1000 / 10);
    Ok(DriverInfo { version, cuda_version, library: driver.library().to_path_buf() })
}

/// A GPU while the machine is being read.
struct Found {
    device: Device<'static>,
    place: PciPlace,
    gpu: Gpu,
    board: Board,
    domain: Option<String>,
}

/// Where a GPU sits. Compared instead of the text, which the driver writes with domains of four or eight digits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PciPlace {
    domain: u32,
    bus: u32,
    device: u32,
}

impl From<&PciInfo> for PciPlace {
    fn from(pci: &PciInfo) -> Self {
        PciPlace { domain: pci.domain, bus: pci.bus, device: pci.device }
    }
}

fn read_gpu(driver: Driver, index: u32) -> Result<Found, Unreadable> {
    let failed =
        |uuid: Option<&GpuUuid>, error: NvmlError| Unreadable { index, uuid: uuid.cloned(), error: error.to_string() };
    let device = driver.nvml.device_by_index(index).map_err(|error| failed(None, error))?;
    let uuid = GpuUuid::from(device.uuid().map_err(|error| failed(None, error))?);
    let failed = |error| failed(Some(&uuid), error);
    let pci = device.pci_info().map_err(failed)?;
    let product = device.name().map_err(failed)?;
    let memory_bytes = device.memory_info().map_err(failed)?.total;
    let minor = device.minor_number().map_err(failed)?;
    let gpu = Gpu {
        uuid: uuid.clone(),
        index,
        product: product.into(),
        memory_bytes,
        numa: numa(&device, &pci),
        pci_bus_id: pci.bus_id.as_str().into(),
        health: Health::Healthy,
        mig_profile: None,
    };
    let board = Board {
        uuid: uuid.clone(),
        minor,
        compute_capability: device.cuda_compute_capability().ok().map(|c| (c.major, c.minor)),
        architecture: device.architecture().ok().map(|a| a.to_string()),
        serial: device.serial().ok(),
        vbios: device.vbios_version().ok(),
    };
    let domain = raw::fabric(driver.nvml, &device).ok().flatten().and_then(|fabric| domain_name(&fabric));
    Ok(Found { place: PciPlace::from(&pci), device, gpu, board, domain })
}

/// The name that NVIDIA's label `nvidia.com/gpu.clique` has: `<cluster UUID>.<clique>`. A fabric that does not leave the
/// host has no cluster UUID, and then there is no domain outside the node.
fn domain_name(fabric: &Fabric) -> Option<String> {
    let uuid = &fabric.cluster_uuid;
    if uuid.iter().all(|byte| *byte == 0) {
        return None;
    }
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Some(format!("{a}-{b}-{c}-{d}-{e}.{}", fabric.clique))
}

/// The NUMA node whose memory is nearest.
///
/// Not `nvmlDeviceGetNumaNodeId`: that is the node that the GPU's own memory forms on coherent machines. The driver's
/// memory affinity is a set of nodes; more than one member says nothing, and then sysfs is asked, whose −1 means "none".
fn numa(device: &Device<'_>, pci: &PciInfo) -> Option<u32> {
    // Room for 1024 NUMA nodes, the kernel's limit.
    const WORDS: usize = 16;
    if let Ok(words) = device.memory_affinity(WORDS, NVML_AFFINITY_SCOPE_NODE)
        && let Some(node) = only_bit(&words)
    {
        return Some(node);
    }
    let name = format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device);
    fs::read_to_string(format!("/sys/bus/pci/devices/{name}/numa_node")).ok()?.trim().parse().ok()
}

/// The number of the one bit that is set; `None` for none or several.
fn only_bit(words: &[u64]) -> Option<u32> {
    let mut found = None;
    for (i, word) in words.iter().enumerate() {
        match (word.count_ones(), found) {
            (0, _) => {}
            (1, None) => found = Some(i as u32 * 64 + word.trailing_zeros()),
            _ => return None,
        }
    }
    found
}

/// Every wire of which something could be told, once in each direction.
fn links(driver: Driver, gpus: &[Found]) -> Vec<Link> {
    let places: Vec<PciPlace> = gpus.iter().map(|gpu| gpu.place).collect();
    let nvlinks: Vec<NvLinks> = gpus.iter().map(|gpu| nvlinks(driver, &gpu.device, &places)).collect();
    let mut links = Vec::new();
    for (a, gpu) in gpus.iter().enumerate() {
        for (b, other) in gpus.iter().enumerate() {
            if a == b {
                continue;
            }
            let Some(path) = path(driver, &gpu.device, &other.device) else { continue };
            let through_switch = nvlinks[a].to_switch.min(nvlinks[b].to_switch);
            let direct = nvlinks[a].to_gpu[b];
            let wire = if direct > 0 {
                Wire::nvlink(direct, path)
            } else if through_switch > 0 && reachable_by_nvlink(&gpu.device, &other.device) {
                Wire::nvswitch(through_switch, path)
            } else {
                Wire::over(path)
            };
            links.push(Link { from: a as u32, to: b as u32, wire });
        }
    }
    links
}

/// The way over PCIe.
fn path(driver: Driver, from: &Device<'_>, to: &Device<'_>) -> Option<Path> {
    match raw::common_ancestor(driver.nvml, from, to) {
        Ok(TopologyLevel::Internal) => Some(Path::SameBoard),
        Ok(TopologyLevel::Single) => Some(Path::SingleSwitch),
        Ok(TopologyLevel::Multiple) => Some(Path::MultipleSwitches),
        Ok(TopologyLevel::HostBridge) => Some(Path::HostBridge),
        Ok(TopologyLevel::Node) => Some(Path::SameNuma),
        Ok(TopologyLevel::System) => Some(Path::CrossSocket),
        Err(error) => {
            tracing::debug!(library = %driver.library().display(), %error, "the driver does not tell a PCIe path");
            None
        }
    }
}

/// Whether NVLinks into switches carry traffic between the two. They do not before the fabric manager has set the
/// switches up. A driver that cannot say is believed.
fn reachable_by_nvlink(from: &Device<'_>, to: &Device<'_>) -> bool {
    match from.p2p_status(to, P2pCapabilitiesIndex::NvLink) {
        Ok(status) => status == P2pStatus::Ok,
        Err(_) => true,
    }
}

/// The active NVLinks of one GPU by where they lead.
struct NvLinks {
    to_switch: u8,
    /// By the other GPU's place in the list.
    to_gpu: Vec<u8>,
}

fn nvlinks(driver: Driver, device: &Device<'_>, places: &[PciPlace]) -> NvLinks {
    let mut links = NvLinks { to_switch: 0, to_gpu: vec![0; places.len()] };
    for number in 0..nvlink_count(device) {
        let link = device.link_wrapper_for(number);
        if !link.is_active().unwrap_or(false) {
            continue;
        }
        if matches!(raw::link_end(driver.nvml, device, number), Ok(LinkEnd::Switch)) {
            links.to_switch += 1;
            continue;
        }
        // A driver before 460 does not tell the kind; the address does when it is a GPU's.
        if let Ok(pci) = link.remote_pci_info()
            && let Some(other) = places.iter().position(|place| *place == PciPlace::from(&pci))
        {
            links.to_gpu[other] += 1;
        }
    }
    links
}

/// How many NVLinks the GPU has, as far as the driver tells; else as many as NVML can name.
fn nvlink_count(device: &Device<'_>) -> u32 {
    let fields = device.field_values_for(&[FieldId(NVML_FI_DEV_NVLINK_LINK_COUNT)]).ok();
    let value = fields.and_then(|mut values| values.pop()?.ok()?.value.ok());
    match value {
        Some(SampleValue::U32(count)) => count.min(NVML_NVLINK_MAX_LINKS),
        _ => NVML_NVLINK_MAX_LINKS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_one_numa_node_names_it_and_others_do_not() {
        assert_eq!(only_bit(&[0b100, 0]), Some(2));
        assert_eq!(only_bit(&[0, 1]), Some(64));
        assert_eq!(only_bit(&[0b11]), None);
        assert_eq!(only_bit(&[1, 1]), None);
        assert_eq!(only_bit(&[0, 0]), None);
    }

    #[test]
    fn a_domain_is_written_as_nvidia_labels_it() {
        let mut cluster_uuid = [0; 16];
        assert_eq!(domain_name(&Fabric { cluster_uuid, clique: 3 }), None);
        cluster_uuid[15] = 1;
        let name = domain_name(&Fabric { cluster_uuid, clique: 0 });
        assert_eq!(name.as_deref(), Some("00000000-0000-0000-0000-000000000001.0"));
    }
}
