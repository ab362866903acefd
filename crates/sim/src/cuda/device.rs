//! Attributes of a device, from its profile and its compute capability ("CUDA C++ Programming Guide", *Technical specifications*).

use super::driver::{Device, Driver};
use super::error::{Answer, Error};
use crate::profile::GpuFacts;

/// What one multiprocessor has.
pub struct Limits {
    pub threads_per_multiprocessor: i32,
    pub blocks_per_multiprocessor: i32,
    pub shared_per_multiprocessor: i32,
    /// Shared memory of a block that asks for more than 48 KiB, bytes.
    pub shared_optin: i32,
    /// Single-precision units for each double-precision unit.
    pub single_to_double: i32,
}

/// Limits by compute capability.
pub fn limits(facts: &GpuFacts) -> Limits {
    let (threads, blocks, shared_kib, ratio) = match facts.compute_capability {
        (7, 0) => (2048, 32, 96, 2),
        (7, _) => (1024, 16, 64, 32),
        (8, 0) => (2048, 32, 164, 2),
        (8, 9) => (1536, 24, 100, 64),
        (8, _) => (1536, 16, 100, 64),
        (9, _) => (2048, 32, 228, 2),
        (10, _) => (2048, 32, 228, 2),
        _ => (1536, 24, 100, 64),
    };
    // One KiB of each block's shared memory is the system's, from compute capability 8.0.
    let system = if facts.compute_capability.0 >= 8 { 1 } else { 0 };
    Limits {
        threads_per_multiprocessor: threads,
        blocks_per_multiprocessor: blocks,
        shared_per_multiprocessor: shared_kib << 10,
        shared_optin: (shared_kib - system) << 10,
        single_to_double: ratio,
    }
}

/// `CUdevice_attribute` by its number.
///
/// # Errors
/// [`Error::InvalidValue`] for a number that is none.
pub fn attribute(driver: &Driver, device: &Device, number: i32) -> Answer<i32> {
    let facts = device.facts(driver);
    let (board, limits) = (&facts.board, limits(facts));
    let (major, minor) = facts.compute_capability;
    let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Ok(match number {
        // Most threads of a block, and its axes.
        1..=3 => 1024,
        4 => 64,
        // Most blocks of a grid by axis.
        5 => i32::MAX,
        6 | 7 => 65_535,
        8 => super::module::DEFAULT_SHARED_BYTES,
        // Constant memory.
        9 => 64 << 10,
        10 => 32,
        // Longest pitch.
        11 => i32::MAX,
        // Registers of a block and of a multiprocessor.
        12 | 82 => 65_536,
        13 => int(board.clocks_mhz.max) * 1000,
        // Alignment of textures and surfaces.
        14 | 30 => 512,
        16 => int(board.multiprocessors),
        32 => i32::from(board.ecc),
        33 => i32::from(facts.pci.bus),
        34 => i32::from(facts.pci.device),
        50 => int(facts.pci.domain),
        36 => int(board.clocks_mhz.memory) * 1000,
        37 => int(board.memory_bus_bits),
        38 => int(board.l2_cache_kib) << 10,
        39 => limits.threads_per_multiprocessor,
        // Copy engines.
        40 => 3,
        75 => int(major),
        76 => int(minor),
        81 => limits.shared_per_multiprocessor,
        87 => limits.single_to_double,
        97 => limits.shared_optin,
        106 => limits.blocks_per_multiprocessor,
        111 => 1024,
        // Overlap, mapped host memory, concurrent kernels, unified addressing, priorities, caches, managed memory, preemption,
        // registered memory, cooperative launch, flush of remote writes, host registration, memory pools.
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 91 | 95 | 98 | 99 | 115 => 1,
        // Pool handles that can be exported, and every feature that is not simulated.
        17..=150 => 0,
        _ => return Err(Error::InvalidValue),
    })
}

/// The 16 bytes of `GPU-xxxxxxxx-xxxx-…`.
pub fn uuid_bytes(uuid: &str) -> [u8; 16] {
    let digits: Vec<u8> =
        uuid.trim_start_matches("GPU-").chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    std::array::from_fn(|i| digits.get(2 * i).copied().unwrap_or(0) << 4 | digits.get(2 * i + 1).copied().unwrap_or(0))
}

/// Whether kernels on one GPU can be given access to the memory of another: over NVLink, or within one NUMA node over PCIe.
pub fn can_access(from: &GpuFacts, to: &GpuFacts) -> bool {
    from.index != to.index && (from.nvlinks_to(to) > 0 || from.nearness(to) != crate::profile::Nearness::System)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_by_its_digits() {
        let bytes = uuid_bytes("GPU-00112233-4455-4677-8899-aabbccddeeff");
        assert_eq!(bytes[..8], [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x46, 0x77]);
        assert_eq!(bytes[15], 0xff);
    }
}
