//! Where GPUs are plugged in, and how they are wired to each other.

use std::ffi::{c_uint, c_ulong, c_ulonglong};

use nvml_wrapper_sys::bindings::{nvmlGpuFabricInfo_t, nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfo_v3_t, nvmlPciInfo_t};

use super::{
    ffi::{Answer, Code, Device, Pointer, put_list_or_count, version},
    identity::{gpu_pci_info, pci_info},
    session,
};
use crate::profile::{Nearness, Remote, parse_cpu_list};

/// PCI ids of an NVSwitch of the third generation, packed as NVML does.
const NVSWITCH_ID: u32 = 0x22a3_10de;

/// `NVML_GPU_FABRIC_STATE_COMPLETED`: fabric manager is done with the GPU.
const FABRIC_COMPLETED: u8 = 3;
/// Degraded bandwidth, route recovery, unhealthy route, access timeout: each "no" (2), two bits apart.
const FABRIC_HEALTH_ALL_WELL: u32 = 0b10_10_10_10;
/// `NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY`.
const FABRIC_HEALTHY: u8 = 1;

/// Words of C's `unsigned long` with these bits set, as sets of processors and of NUMA nodes are passed.
fn put_bits(words: c_uint, set: Pointer<c_ulong>, bits: impl IntoIterator<Item = usize>) -> Answer {
    if words == 0 || set.is_null() {
        return Err(Code::InvalidArgument);
    }
    let width = c_ulong::BITS as usize;
    let mut filled = vec![0 as c_ulong; words as usize];
    for bit in bits {
        if let Some(word) = filled.get_mut(bit / width) {
            *word |= 1 << (bit % width);
        }
    }
    filled.into_iter().enumerate().try_for_each(|(index, word)| set.put_at(index, word))
}

fn cpus(device: Device, words: c_uint, set: Pointer<c_ulong>) -> Answer {
    let numa = device.gpu()?.facts().numa as usize;
    let (machine, _) = session::current()?;
    let list = machine.profile().numa.get(numa).and_then(|numa| parse_cpu_list(&numa.cpus));
    put_bits(words, set, list.ok_or(Code::Unknown)?)
}

/// The other end of link `link`. Links beyond those of the GPU are inactive; beyond NVML's highest they are no links.
fn remote(device: Device, link: c_uint) -> Result<Option<Remote>, Code> {
    let links = &device.gpu()?.facts().links;
    match links.get(link as usize) {
        Some(remote) => Ok(Some(*remote)),
        None if links.is_empty() => Err(Code::NotSupported),
        None if link < crate::profile::MAX_LINKS as c_uint => Ok(None),
        None => Err(Code::InvalidArgument),
    }
}

fn active(device: Device, link: c_uint) -> Result<Remote, Code> {
    remote(device, link)?.ok_or(Code::NotSupported)
}

fn remote_pci(device: Device, link: c_uint, info: Pointer<nvmlPciInfo_t>) -> Answer {
    let (machine, _) = session::current()?;
    info.put(match active(device, link)? {
        Remote::Gpu(index) => gpu_pci_info(&machine.facts()[index]),
        Remote::Switch(pci) => pci_info(pci, NVSWITCH_ID, 0),
    })
}

/// Cluster and clique of the fabric.
fn fabric(device: Device) -> Result<([u8; 16], c_uint), Code> {
    device.gpu()?;
    let (machine, _) = session::current()?;
    let fabric = machine.profile().fabric.as_ref().ok_or(Code::NotSupported)?;
    let digits: Vec<u8> = fabric.cluster.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    let mut cluster = [0; 16];
    for (byte, pair) in cluster.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok((cluster, fabric.clique))
}

exports! {
    /// How near two GPUs are through PCIe.
    fn nvmlDeviceGetTopologyCommonAncestor(one: Device, other: Device, level: Pointer<c_uint>) {
        level.put(one.gpu()?.facts().nearness(other.gpu()?.facts()) as c_uint)
    }

    /// The GPUs at exactly this level from one.
    fn nvmlDeviceGetTopologyNearestGpus(device: Device, level: c_uint, count: Pointer<c_uint>, array: Pointer<Device>) {
        let facts = device.gpu()?.facts();
        let (machine, visible) = session::current()?;
        let at_level = |index: &usize| {
            *index != facts.index && facts.nearness(&machine.facts()[*index]) as c_uint == level
        };
        put_list_or_count(count, array, visible.into_iter().filter(at_level).map(Device::of).collect())
    }

    /// Whether one GPU can read (0), write (1), reach over NVLink (2), do atomics on (3), reach over PCIe (4) another.
    fn nvmlDeviceGetP2PStatus(one: Device, other: Device, what: c_uint, status: Pointer<c_uint>) {
        const OK: c_uint = 0;
        const NOT_ACROSS_PROCESSORS: c_uint = 3;
        const NOT_SUPPORTED: c_uint = 5;
        let (one, other) = (one.gpu()?.facts(), other.gpu()?.facts());
        let nvlink = one.nvlinks_to(other) > 0;
        let pcie = one.nearness(other) < Nearness::System;
        status.put(match what {
            _ if one.index == other.index => return Err(Code::InvalidArgument),
            0 | 1 if one.peer_access(other) => OK,
            0 | 1 => NOT_ACROSS_PROCESSORS,
            2 | 3 if nvlink => OK,
            2 | 3 => NOT_SUPPORTED,
            4 if pcie => OK,
            4 => NOT_ACROSS_PROCESSORS,
            _ => return Err(Code::InvalidArgument),
        })
    }

    /// The processors next to a GPU.
    fn nvmlDeviceGetCpuAffinity(device: Device, words: c_uint, set: Pointer<c_ulong>) { cpus(device, words, set) }

    /// The processors in a GPU's NUMA node (0) or socket (1), which are the same here.
    fn nvmlDeviceGetCpuAffinityWithinScope(device: Device, words: c_uint, set: Pointer<c_ulong>, scope: c_uint) {
        if scope > 1 {
            return Err(Code::InvalidArgument);
        }
        cpus(device, words, set)
    }

    /// The NUMA nodes next to a GPU.
    fn nvmlDeviceGetMemoryAffinity(device: Device, words: c_uint, set: Pointer<c_ulong>, scope: c_uint) {
        if scope > 1 {
            return Err(Code::InvalidArgument);
        }
        put_bits(words, set, [device.gpu()?.facts().numa as usize])
    }

    /// The NUMA node that a GPU's memory is: none, as on every machine whose GPU memory is not the system's.
    fn nvmlDeviceGetNumaNodeId(device: Device, _node: Pointer<c_uint>) {
        device.gpu()?;
        Err(Code::NotSupported)
    }

    /// Whether a link is up.
    fn nvmlDeviceGetNvLinkState(device: Device, link: c_uint, state: Pointer<c_uint>) {
        state.put(c_uint::from(remote(device, link)?.is_some()))
    }

    /// Generation of a link.
    fn nvmlDeviceGetNvLinkVersion(device: Device, link: c_uint, generation: Pointer<c_uint>) {
        active(device, link)?;
        let (machine, _) = session::current()?;
        let nvlink = machine.profile().nvlink.as_ref().ok_or(Code::NotSupported)?;
        // NVML's own count: 5 is NVLink 3, 6 is NVLink 3.1, 7 is NVLink 4.
        generation.put(match nvlink.version {
            3 => 5,
            4 => 7,
            5 => 8,
            older => older,
        })
    }

    /// What a link can do: peer to peer (0), atomics (2), being valid (5); none reaches system memory or is SLI.
    fn nvmlDeviceGetNvLinkCapability(device: Device, link: c_uint, capability: c_uint, able: Pointer<c_uint>) {
        active(device, link)?;
        able.put(match capability {
            0 | 2 | 5 => 1,
            1 | 3 | 4 => 0,
            _ => return Err(Code::InvalidArgument),
        })
    }

    /// PCI address of a link's other end.
    fn nvmlDeviceGetNvLinkRemotePciInfo(device: Device, link: c_uint, info: Pointer<nvmlPciInfo_t>) {
        remote_pci(device, link, info)
    }

    /// As `nvmlDeviceGetNvLinkRemotePciInfo`.
    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: Device, link: c_uint, info: Pointer<nvmlPciInfo_t>) {
        remote_pci(device, link, info)
    }

    /// Whether a link's other end is a GPU (0) or a switch (2).
    fn nvmlDeviceGetNvLinkRemoteDeviceType(device: Device, link: c_uint, kind: Pointer<c_uint>) {
        kind.put(match active(device, link)? {
            Remote::Gpu(_) => 0,
            Remote::Switch(_) => 2,
        })
    }

    /// Errors of a link: none.
    fn nvmlDeviceGetNvLinkErrorCounter(device: Device, link: c_uint, counter: c_uint, count: Pointer<c_ulonglong>) {
        active(device, link)?;
        if counter > 4 {
            return Err(Code::InvalidArgument);
        }
        count.put(0)
    }

    /// The fabric that a GPU belongs to.
    fn nvmlDeviceGetGpuFabricInfo(device: Device, info: Pointer<nvmlGpuFabricInfo_t>) {
        let (cluster, clique) = fabric(device)?;
        info.put(nvmlGpuFabricInfo_t { clusterUuid: cluster, status: 0, cliqueId: clique, state: FABRIC_COMPLETED })
    }

    /// The fabric that a GPU belongs to, and how it is; the caller's structure says which version it is.
    fn nvmlDeviceGetGpuFabricInfoV(device: Device, info: Pointer<nvmlGpuFabricInfo_v2_t>) {
        // The version comes first in all of them, and only that much may be read before it is known.
        let asked = info.as_version::<c_uint>().get()?;
        let (clusterUuid, cliqueId) = fabric(device)?;
        let (status, state, healthMask) = (0, FABRIC_COMPLETED, FABRIC_HEALTH_ALL_WELL);
        if asked == version::<nvmlGpuFabricInfo_v2_t>(2) {
            info.put(nvmlGpuFabricInfo_v2_t { version: asked, clusterUuid, status, cliqueId, state, healthMask })
        } else if asked == version::<nvmlGpuFabricInfo_v3_t>(3) {
            let healthSummary = FABRIC_HEALTHY;
            info.as_version().put(nvmlGpuFabricInfo_v3_t {
                version: asked, clusterUuid, status, cliqueId, state, healthMask, healthSummary,
            })
        } else {
            Err(Code::VersionOfArgument)
        }
    }
}
