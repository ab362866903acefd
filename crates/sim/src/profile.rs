//! What a simulated machine is made of: the YAML that people write, and the facts per GPU that follow from it.
//!
//! A profile says each thing once: one board for all GPUs, one line for each GPU's place, one block for the NVLinks.
//! [`Profile::facts`] spreads that out into what a driver reports for each GPU. UUIDs and serial numbers follow from a
//! seed, so that a node keeps its GPUs' identities when it is made again.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::state::MAX_GPUS;

/// NVLinks that a GPU can have: what NVML calls `NVML_NVLINK_MAX_LINKS`.
pub const MAX_LINKS: usize = 18;

const BUILT_IN: [(&str, &str); 3] = [
    ("h100x8", include_str!("../profiles/h100x8.yaml")),
    ("l40sx8", include_str!("../profiles/l40sx8.yaml")),
    ("a100x4", include_str!("../profiles/a100x4.yaml")),
];

/// A machine as written in YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name, for people.
    pub name: String,
    /// Driver version, as `580.95.05`.
    pub driver: String,
    /// Newest CUDA version that the driver runs, as `13.0`.
    pub cuda: String,
    /// The server's model.
    pub machine: String,
    /// What every GPU of the machine is.
    pub board: Board,
    /// The NUMA nodes, in order.
    pub numa: Vec<Numa>,
    /// The GPUs, in the order of their minor numbers.
    pub gpus: Vec<Place>,
    /// How GPUs are wired beside PCIe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink: Option<NvLink>,
    /// The NVLink fabric that fabric manager joined the GPUs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Fabric>,
}

/// One model of GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Product name as the driver gives it.
    pub name: String,
    /// Product line.
    pub brand: Brand,
    /// Generation.
    pub architecture: Architecture,
    /// As `9.0`.
    pub compute_capability: String,
    /// Board part number.
    pub part_number: String,
    /// Firmware version of the board.
    pub vbios: String,
    /// PCI device and vendor, as NVML packs them: `device << 16 | vendor`.
    pub pci_device: u32,
    /// PCI subsystem device and vendor, packed alike.
    pub pci_subsystem: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// CUDA cores.
    pub cores: u32,
    /// Whole memory, MiB.
    pub memory_mib: u64,
    /// Memory that the driver keeps for itself, MiB.
    pub reserved_mib: u64,
    /// BAR1 aperture, MiB.
    pub bar1_mib: u64,
    /// Width of the memory bus.
    pub memory_bus_bits: u32,
    /// Level-two cache, KiB.
    pub l2_cache_kib: u32,
    /// Clocks, MHz.
    pub clocks_mhz: Clocks,
    /// Power, W.
    pub power_watts: Power,
    /// Temperatures, °C.
    pub temperature_c: Temperature,
    /// Widest PCIe link of the board.
    pub pcie: Pcie,
    /// Whether memory is protected by ECC.
    pub ecc: bool,
    /// Whether the GPU can be partitioned (it is not: MIG mode is reported as disabled).
    pub mig_capable: bool,
}

/// Product line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Brand {
    /// Data-centre boards since Ampere.
    Nvidia,
    /// Data-centre boards before.
    Tesla,
    /// Consumer boards.
    Geforce,
}

/// GPU generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Compute capability 7.0.
    Volta,
    /// Compute capability 7.5.
    Turing,
    /// Compute capability 8.0 to 8.7.
    Ampere,
    /// Compute capability 8.9.
    Ada,
    /// Compute capability 9.0.
    Hopper,
    /// Compute capability 10 and 12.
    Blackwell,
}

/// Clocks, MHz.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// Multiprocessors with nothing to do.
    pub idle: u32,
    /// Multiprocessors at work.
    pub max: u32,
    /// Memory.
    pub memory: u32,
}

/// Power, W.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// With nothing to do.
    pub idle: u32,
    /// Limit as delivered, which is also the highest.
    pub limit: u32,
    /// Lowest limit that may be set.
    pub min_limit: u32,
}

/// Temperatures, °C.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    /// After a while with nothing to do.
    pub idle: u32,
    /// After a while at full load.
    pub busy: u32,
    /// Where the driver lowers the clocks.
    pub slowdown: u32,
    /// Where the GPU turns itself off.
    pub shutdown: u32,
}

/// A PCIe link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    /// Generation.
    pub generation: u32,
    /// Lanes.
    pub width: u32,
}

/// One NUMA node of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numa {
    /// Its processors, as the kernel lists them: `0-15,32-47`.
    pub cpus: String,
}

/// Where one GPU is plugged in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// PCI address: `0000:1b:00.0`.
    pub pci: String,
    /// The way down from the processor: `NUMA node/host bridge[/PCIe switch…]`.
    pub at: String,
}

/// The machine's NVLinks: all through switches, or bridges between pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvLink {
    /// NVLink generation.
    pub version: u32,
    /// Speed of one link in one direction, MB/s.
    pub link_mbytes_per_second: u32,
    /// All GPUs on the same NVSwitches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched: Option<Switched>,
    /// Bridges from GPU to GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<Bridge>,
}

/// A baseboard with NVSwitches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switched {
    /// Links of each GPU, dealt out to the switches in turn.
    pub links_per_gpu: usize,
    /// PCI addresses of the switches.
    pub switches: Vec<String>,
}

/// A bridge between two GPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// The two GPUs, by their place in `gpus`.
    pub gpus: [usize; 2],
    /// NVLinks in the bridge.
    pub links: usize,
}

/// The fabric that a GPU belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// UUID of the NVLink cluster; zeros inside one machine.
    pub cluster: String,
    /// Clique within the cluster.
    pub clique: u32,
}

/// A PCI address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// Domain, also called segment.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device on the bus.
    pub device: u8,
    /// Function of the device.
    pub function: u8,
}

impl PciAddress {
    /// Reads `0000:1b:00.0`, with a domain of any length.
    pub fn parse(text: &str) -> Option<Self> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        Some(PciAddress {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            device: u8::from_str_radix(device, 16).ok().filter(|d| *d < 32)?,
            function: function.parse().ok().filter(|f| *f < 8)?,
        })
    }
}

impl fmt::Display for PciAddress {
    /// As NVML writes it, with eight digits of domain.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}:{:02X}:{:02X}.{:X}", self.domain, self.bus, self.device, self.function)
    }
}

/// The other end of an NVLink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Another GPU, by index.
    Gpu(usize),
    /// An NVSwitch, by its PCI address.
    Switch(PciAddress),
}

/// How near two GPUs are through PCIe; the values are NVML's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Nearness {
    /// The same board.
    Internal = 0,
    /// Under one PCIe switch (`PIX`).
    SingleSwitch = 10,
    /// Under several PCIe switches of one host bridge (`PXB`).
    MultipleSwitches = 20,
    /// Under one host bridge (`PHB`).
    HostBridge = 30,
    /// In one NUMA node (`NODE`).
    Node = 40,
    /// Across NUMA nodes (`SYS`).
    System = 50,
}

/// Everything fixed about one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuFacts {
    /// Place among the machine's GPUs; also the minor number: `/dev/nvidia<index>`.
    pub index: usize,
    /// `GPU-xxxxxxxx-xxxx-4xxx-xxxx-xxxxxxxxxxxx`.
    pub uuid: String,
    /// Serial number of the board.
    pub serial: String,
    /// PCI address.
    pub pci: PciAddress,
    /// NUMA node.
    pub numa: u32,
    /// NUMA node, host bridge, PCIe switches.
    pub path: Vec<u32>,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Whole memory, bytes.
    pub memory_bytes: u64,
    /// Memory that the driver keeps, bytes.
    pub reserved_bytes: u64,
    /// The model.
    pub board: Board,
    /// NVLinks; the index is the link number.
    pub links: Vec<Remote>,
}

impl GpuFacts {
    /// How near `other` is through PCIe.
    pub fn nearness(&self, other: &GpuFacts) -> Nearness {
        let common = self.path.iter().zip(&other.path).take_while(|(a, b)| a == b).count();
        let whole = self.path.len() == common && other.path.len() == common;
        match common {
            _ if self.index == other.index => Nearness::Internal,
            0 => Nearness::System,
            1 => Nearness::Node,
            2 => Nearness::HostBridge,
            _ if whole => Nearness::SingleSwitch,
            _ => Nearness::MultipleSwitches,
        }
    }

    /// Whether each of the two can read the other's memory: over NVLink, or over PCIe within a NUMA node.
    pub fn peer_access(&self, other: &GpuFacts) -> bool {
        self.index != other.index && (self.nvlinks_to(other) > 0 || self.nearness(other) < Nearness::System)
    }

    /// NVLinks over which `other` is reached: directly, or through switches that both are on.
    pub fn nvlinks_to(&self, other: &GpuFacts) -> usize {
        if self.index == other.index {
            return 0;
        }
        self.links
            .iter()
            .filter(|remote| match remote {
                Remote::Gpu(index) => *index == other.index,
                Remote::Switch(_) => other.links.contains(remote),
            })
            .count()
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither a known name nor a file.
    #[error("no profile is called `{0}`: use h100x8, l40sx8, a100x4 or the path of a YAML file")]
    Unknown(String),
    /// The file cannot be read.
    #[error("cannot read the profile {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not the YAML of a profile.
    #[error("the profile {path} is not right: {source}")]
    Syntax {
        /// The file, or the built-in's name.
        path: String,
        /// The line and field.
        source: serde_yaml_ng::Error,
    },
    /// YAML that describes no possible machine.
    #[error("the profile `{profile}` describes no possible machine: {why}")]
    Impossible {
        /// The profile.
        profile: String,
        /// The field and the reason.
        why: String,
    },
}

impl Profile {
    /// A built-in profile by name, or one from a YAML file by path.
    ///
    /// # Errors
    /// The name is unknown, or the file is unreadable or wrong.
    pub fn load(name_or_path: &str) -> Result<Profile, ProfileError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_path);
        if !path.is_file() {
            return Err(ProfileError::Unknown(name_or_path.to_owned()));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|source| ProfileError::Read { path: name_or_path.to_owned(), source })?;
        Self::parse(name_or_path, &text)
    }

    /// Reads a profile from YAML and checks that its facts can be derived.
    ///
    /// # Errors
    /// The text is not a profile, or describes no possible machine.
    pub fn parse(path: &str, text: &str) -> Result<Profile, ProfileError> {
        let profile: Profile =
            serde_yaml_ng::from_str(text).map_err(|source| ProfileError::Syntax { path: path.to_owned(), source })?;
        profile.facts("check")?;
        Ok(profile)
    }

    /// CUDA version as the driver packs it: 13.0 is 13000.
    ///
    /// # Errors
    /// The profile's `cuda` is not `major.minor`.
    pub fn cuda_version(&self) -> Result<i32, ProfileError> {
        let (major, minor) = self.pair("cuda", &self.cuda)?;
        Ok((major * 1000 + minor * 10) as i32)
    }

    /// The facts of every GPU; UUIDs and serial numbers follow from `seed`.
    ///
    /// # Errors
    /// The profile describes no possible machine.
    pub fn facts(&self, seed: &str) -> Result<Vec<GpuFacts>, ProfileError> {
        if self.gpus.is_empty() || self.gpus.len() > MAX_GPUS {
            return Err(self.impossible(format!("gpus: {} of them, 1 to {MAX_GPUS} are possible", self.gpus.len())));
        }
        self.cuda_version()?;
        for (number, numa) in self.numa.iter().enumerate() {
            if parse_cpu_list(&numa.cpus).is_none() {
                return Err(self.impossible(format!("numa[{number}].cpus: `{}` is not a CPU list", numa.cpus)));
            }
        }
        let compute_capability = self.pair("board.compute_capability", &self.board.compute_capability)?;
        if self.board.memory_mib <= self.board.reserved_mib {
            return Err(self.impossible("board.memory_mib must be above reserved_mib".to_owned()));
        }
        let links = self.links()?;
        self.gpus
            .iter()
            .zip(links)
            .enumerate()
            .map(|(index, (place, links))| {
                let pci = self.address(&format!("gpus[{index}].pci"), &place.pci)?;
                let path = place
                    .at
                    .split('/')
                    .map(|step| step.parse::<u32>().ok())
                    .collect::<Option<Vec<_>>>()
                    .filter(|path| path.len() >= 2)
                    .ok_or_else(|| {
                        self.impossible(format!("gpus[{index}].at: `{}` is not NUMA/host bridge[/switch…]", place.at))
                    })?;
                let numa = path.first().copied().unwrap_or_default();
                if numa as usize >= self.numa.len() {
                    return Err(self.impossible(format!("gpus[{index}].at: there is no NUMA node {numa}")));
                }
                let identity = Sha256::digest(format!("{seed}/{index}"));
                Ok(GpuFacts {
                    index,
                    uuid: uuid_v4(&identity[..16]),
                    serial: format!("165{:010}", be_u32(&identity[16..20])),
                    pci,
                    numa,
                    path,
                    compute_capability,
                    memory_bytes: self.board.memory_mib << 20,
                    reserved_bytes: self.board.reserved_mib << 20,
                    board: self.board.clone(),
                    links,
                })
            })
            .collect()
    }

    fn links(&self) -> Result<Vec<Vec<Remote>>, ProfileError> {
        let mut links = vec![Vec::new(); self.gpus.len()];
        let Some(nvlink) = &self.nvlink else { return Ok(links) };
        if let Some(switched) = &nvlink.switched {
            let switches = switched
                .switches
                .iter()
                .map(|text| self.address("nvlink.switched.switches", text))
                .collect::<Result<Vec<_>, _>>()?;
            if switches.is_empty() {
                return Err(self.impossible("nvlink.switched.switches is empty".to_owned()));
            }
            for gpu in &mut links {
                gpu.extend(switches.iter().cycle().take(switched.links_per_gpu).map(|s| Remote::Switch(*s)));
            }
        }
        for bridge in &nvlink.bridges {
            let [a, b] = bridge.gpus;
            if a == b || a >= links.len() || b >= links.len() {
                return Err(self.impossible(format!("nvlink.bridges: {a} and {b} are not two GPUs of this machine")));
            }
            links[a].extend(std::iter::repeat_n(Remote::Gpu(b), bridge.links));
            links[b].extend(std::iter::repeat_n(Remote::Gpu(a), bridge.links));
        }
        if let Some(index) = links.iter().position(|gpu| gpu.len() > MAX_LINKS) {
            return Err(self.impossible(format!("nvlink: GPU {index} has more than {MAX_LINKS} links")));
        }
        Ok(links)
    }

    fn pair(&self, field: &str, text: &str) -> Result<(u32, u32), ProfileError> {
        text.split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| self.impossible(format!("{field}: `{text}` is not major.minor")))
    }

    fn address(&self, field: &str, text: &str) -> Result<PciAddress, ProfileError> {
        PciAddress::parse(text)
            .ok_or_else(|| self.impossible(format!("{field}: `{text}` is not a PCI address like 0000:1b:00.0")))
    }

    fn impossible(&self, why: String) -> ProfileError {
        ProfileError::Impossible { profile: self.name.clone(), why }
    }
}

/// The processors of a list like `0-3,8`; nothing if it is not one.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 8191 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn uuid_v4(bytes: &[u8]) -> String {
    let mut text = String::from("GPU");
    for (at, byte) in bytes.iter().enumerate() {
        // Version 4, variant 1, as RFC 9562 wants them; NVIDIA's own UUIDs follow it.
        let byte = match at {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if matches!(at, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_the_machines_they_say() {
        let h100 = Profile::load("h100x8").unwrap().facts("node-1").unwrap();
        assert_eq!(h100.len(), 8);
        assert_eq!(h100[0].nvlinks_to(&h100[7]), 18);
        assert_eq!(h100[0].nearness(&h100[1]), Nearness::SingleSwitch);
        assert_eq!(h100[0].nearness(&h100[2]), Nearness::Node);
        assert_eq!(h100[0].nearness(&h100[4]), Nearness::System);

        let l40s = Profile::load("l40sx8").unwrap().facts("x").unwrap();
        assert_eq!(l40s[0].nvlinks_to(&l40s[1]), 0);
        assert_eq!(l40s[0].nearness(&l40s[2]), Nearness::HostBridge);

        let a100 = Profile::load("a100x4").unwrap().facts("x").unwrap();
        assert_eq!(
            [a100[0].nvlinks_to(&a100[1]), a100[1].nvlinks_to(&a100[2]), a100[2].nvlinks_to(&a100[3])],
            [12, 0, 12]
        );
        assert_eq!(a100[0].nearness(&a100[1]), Nearness::Node);
    }

    #[test]
    fn identities_follow_from_the_seed() {
        let profile = Profile::load("h100x8").unwrap();
        assert_eq!(profile.facts("node-1").unwrap(), profile.facts("node-1").unwrap());
        let one = profile.facts("node-1").unwrap();
        let two = profile.facts("node-2").unwrap();
        assert!(one.iter().all(|gpu| two.iter().all(|other| other.uuid != gpu.uuid)));
        assert_eq!(one[0].uuid.len(), "GPU-00000000-0000-4000-8000-000000000001".len());
    }

    #[test]
    fn a_wrong_profile_names_the_field() {
        let text = include_str!("../profiles/a100x4.yaml");
        let cases = [
            (text.replace("at: 1/1", "at: 7/1"), "gpus[3].at: there is no NUMA node 7"),
            (text.replace("gpus: [2, 3]", "gpus: [2, 9]"), "nvlink.bridges: 2 and 9"),
            (text.replace("0000:17:00.0", "somewhere"), "gpus[0].pci: `somewhere`"),
            (text.replace("memory_mib: 81920", "memory: 81920"), "memory"),
            (text.replace("cpus: 0-23", "cpus: many"), "numa[0].cpus"),
        ];
        for (text, want) in cases {
            let message = Profile::parse("mine.yaml", &text).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
    }
}
