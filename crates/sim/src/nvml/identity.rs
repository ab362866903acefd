//! What a GPU is and how it is set up.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDeviceAddressingMode_v1_t, nvmlDeviceAttributes_t, nvmlDeviceCapabilities_v1_t, nvmlPciInfo_t,
    nvmlPciInfoExt_v1_t, nvmlPdi_v1_t,
};

use super::{
    ffi::{Answer, Code, Device, Pointer, chars, version},
    session,
};
use crate::{
    profile::{Architecture, Brand, GpuFacts, PciAddress},
    state::Gpu,
};

const DISABLED: c_uint = 0;
const ENABLED: c_uint = 1;

/// What NVML tells of a PCI device. NVSwitches have no subsystem that could be asked for here.
pub fn pci_info(pci: PciAddress, device_id: u32, subsystem_id: u32) -> nvmlPciInfo_t {
    let legacy = format!("{:04X}:{:02X}:{:02X}.{:X}", pci.domain, pci.bus, pci.device, pci.function);
    nvmlPciInfo_t {
        busIdLegacy: chars(&legacy),
        domain: pci.domain,
        bus: pci.bus.into(),
        device: pci.device.into(),
        pciDeviceId: device_id,
        pciSubSystemId: subsystem_id,
        busId: chars(&pci.to_string()),
    }
}

pub fn gpu_pci_info(facts: &GpuFacts) -> nvmlPciInfo_t {
    pci_info(facts.pci, facts.board.pci_device, facts.board.pci_subsystem)
}

/// Answers that follow from the facts of a GPU that is not lost.
fn fact<T>(device: Device, to: Pointer<T>, read: impl FnOnce(&GpuFacts) -> T) -> Answer {
    to.put(read(device.gpu()?.facts()))
}

fn fact_text(device: Device, to: Pointer<c_char>, length: c_uint, read: impl FnOnce(&GpuFacts) -> &str) -> Answer {
    to.put_text(length, read(device.gpu()?.facts()))
}

/// Answers that the library remembers of a GPU, lost or not.
fn remembered(device: Device) -> Result<&'static GpuFacts, Code> {
    device.identity().map(|gpu: Gpu<'static>| gpu.facts())
}

fn pci(device: Device, to: Pointer<nvmlPciInfo_t>) -> Answer {
    to.put(gpu_pci_info(remembered(device)?))
}

fn attributes(device: Device, to: Pointer<nvmlDeviceAttributes_t>) -> Answer {
    device.gpu()?;
    // Only MIG devices have them.
    if to.is_null() { Err(Code::InvalidArgument) } else { Err(Code::NotSupported) }
}

exports! {
    /// Product name.
    fn nvmlDeviceGetName(device: Device, name: Pointer<c_char>, length: c_uint) {
        fact_text(device, name, length, |facts| &facts.board.name)
    }

    /// Index among the GPUs that this process sees.
    fn nvmlDeviceGetIndex(device: Device, index: Pointer<c_uint>) {
        let facts = remembered(device)?;
        let place = session::current()?.1.iter().position(|visible| *visible == facts.index);
        index.put(place.ok_or(Code::InvalidArgument)? as c_uint)
    }

    /// UUID, as `GPU-…`.
    fn nvmlDeviceGetUUID(device: Device, uuid: Pointer<c_char>, length: c_uint) {
        uuid.put_text(length, &remembered(device)?.uuid)
    }

    /// N of `/dev/nvidiaN`.
    fn nvmlDeviceGetMinorNumber(device: Device, minor: Pointer<c_uint>) {
        minor.put(remembered(device)?.index as c_uint)
    }

    /// PCI address and ids.
    fn nvmlDeviceGetPciInfo(device: Device, info: Pointer<nvmlPciInfo_t>) { pci(device, info) }

    /// As `nvmlDeviceGetPciInfo`.
    fn nvmlDeviceGetPciInfo_v2(device: Device, info: Pointer<nvmlPciInfo_t>) { pci(device, info) }

    /// As `nvmlDeviceGetPciInfo`.
    fn nvmlDeviceGetPciInfo_v3(device: Device, info: Pointer<nvmlPciInfo_t>) { pci(device, info) }

    /// PCI address, ids and class.
    fn nvmlDeviceGetPciInfoExt(device: Device, info: Pointer<nvmlPciInfoExt_v1_t>) {
        let asked = info.get()?;
        if asked.version != version::<nvmlPciInfoExt_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        let pci = gpu_pci_info(remembered(device)?);
        info.put(nvmlPciInfoExt_v1_t {
            version: asked.version,
            domain: pci.domain,
            bus: pci.bus,
            device: pci.device,
            pciDeviceId: pci.pciDeviceId,
            pciSubSystemId: pci.pciSubSystemId,
            // Display controller, 3D.
            baseClass: 3,
            subClass: 2,
            busId: pci.busId,
        })
    }

    /// Serial number of the board.
    fn nvmlDeviceGetSerial(device: Device, serial: Pointer<c_char>, length: c_uint) {
        fact_text(device, serial, length, |facts| &facts.serial)
    }

    /// Part number of the board.
    fn nvmlDeviceGetBoardPartNumber(device: Device, number: Pointer<c_char>, length: c_uint) {
        fact_text(device, number, length, |facts| &facts.board.part_number)
    }

    /// Firmware version of the board.
    fn nvmlDeviceGetVbiosVersion(device: Device, text: Pointer<c_char>, length: c_uint) {
        fact_text(device, text, length, |facts| &facts.board.vbios)
    }

    /// Version of the GPU system processor's firmware, which comes with the driver.
    fn nvmlDeviceGetGspFirmwareVersion(device: Device, text: Pointer<c_char>) {
        device.gpu()?;
        // The header fixes the buffer's length.
        text.put_text(nvml_wrapper_sys::bindings::NVML_GSP_FIRMWARE_VERSION_BUF_SIZE, session::current()?.0.driver_version())
    }

    /// The GPU system processor is used, as by default.
    fn nvmlDeviceGetGspFirmwareMode(device: Device, enabled: Pointer<c_uint>, default: Pointer<c_uint>) {
        device.gpu()?;
        enabled.put(ENABLED)?;
        default.put(ENABLED)
    }

    /// Product line.
    fn nvmlDeviceGetBrand(device: Device, brand: Pointer<c_uint>) {
        fact(device, brand, |facts| match facts.board.brand {
            Brand::Tesla => 2,
            Brand::Geforce => 5,
            Brand::Nvidia => 14,
        })
    }

    /// Generation.
    fn nvmlDeviceGetArchitecture(device: Device, architecture: Pointer<c_uint>) {
        fact(device, architecture, |facts| match facts.board.architecture {
            Architecture::Volta => 5,
            Architecture::Turing => 6,
            Architecture::Ampere => 7,
            Architecture::Ada => 8,
            Architecture::Hopper => 9,
            Architecture::Blackwell => 10,
        })
    }

    /// CUDA compute capability.
    fn nvmlDeviceGetCudaComputeCapability(device: Device, major: Pointer<c_int>, minor: Pointer<c_int>) {
        let (high, low) = device.gpu()?.facts().compute_capability;
        major.put(high as c_int)?;
        minor.put(low as c_int)
    }

    /// CUDA cores.
    fn nvmlDeviceGetNumGpuCores(device: Device, cores: Pointer<c_uint>) { fact(device, cores, |facts| facts.board.cores) }

    /// Width of the memory bus, bits.
    fn nvmlDeviceGetMemoryBusWidth(device: Device, bits: Pointer<c_uint>) {
        fact(device, bits, |facts| facts.board.memory_bus_bits)
    }

    /// PCI Express.
    fn nvmlDeviceGetBusType(device: Device, kind: Pointer<c_uint>) { fact(device, kind, |_| 2) }

    /// Place on the baseboard.
    fn nvmlDeviceGetModuleId(device: Device, module: Pointer<c_uint>) {
        fact(device, module, |facts| facts.index as c_uint + 1)
    }

    /// Number of the board: that of its bus.
    fn nvmlDeviceGetBoardId(device: Device, board: Pointer<c_uint>) {
        fact(device, board, |facts| facts.pci.domain << 16 | u32::from(facts.pci.bus) << 8)
    }

    /// Every board carries one GPU.
    fn nvmlDeviceGetMultiGpuBoard(device: Device, multiple: Pointer<c_uint>) { fact(device, multiple, |_| 0) }

    /// Whether two handles are on one board: only if they are the same.
    fn nvmlDeviceOnSameBoard(one: Device, other: Device, same: Pointer<c_int>) {
        one.gpu()?;
        other.gpu()?;
        same.put(c_int::from(one == other))
    }

    /// Per-device identifier, fused into the chip.
    fn nvmlDeviceGetPdi(device: Device, pdi: Pointer<nvmlPdi_v1_t>) {
        let asked = pdi.get()?;
        if asked.version != version::<nvmlPdi_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        let digits = device.gpu()?.facts().uuid.bytes().filter(u8::is_ascii_hexdigit);
        let value = digits.fold(0, |value: c_ulonglong, digit| {
            value << 4 | c_ulonglong::from((digit as char).to_digit(16).unwrap_or_default())
        });
        pdi.put(nvmlPdi_v1_t { version: asked.version, value })
    }

    /// No capability of those that NVML counts.
    fn nvmlDeviceGetCapabilities(device: Device, capabilities: Pointer<nvmlDeviceCapabilities_v1_t>) {
        let asked = capabilities.get()?;
        if asked.version != version::<nvmlDeviceCapabilities_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        device.gpu()?;
        capabilities.put(nvmlDeviceCapabilities_v1_t { version: asked.version, capMask: 0 })
    }

    /// GPU memory has addresses of its own.
    fn nvmlDeviceGetAddressingMode(device: Device, mode: Pointer<nvmlDeviceAddressingMode_v1_t>) {
        let asked = mode.get()?;
        if asked.version != version::<nvmlDeviceAddressingMode_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        device.gpu()?;
        mode.put(nvmlDeviceAddressingMode_v1_t { version: asked.version, value: 0 })
    }

    /// No display is on.
    fn nvmlDeviceGetDisplayActive(device: Device, active: Pointer<c_uint>) { fact(device, active, |_| DISABLED) }

    /// No display is connected.
    fn nvmlDeviceGetDisplayMode(device: Device, mode: Pointer<c_uint>) { fact(device, mode, |_| DISABLED) }

    /// The driver stays loaded.
    fn nvmlDeviceGetPersistenceMode(device: Device, mode: Pointer<c_uint>) { fact(device, mode, |_| ENABLED) }

    /// Any number of contexts.
    fn nvmlDeviceGetComputeMode(device: Device, mode: Pointer<c_uint>) { fact(device, mode, |_| 0) }

    /// No accounting.
    fn nvmlDeviceGetAccountingMode(device: Device, mode: Pointer<c_uint>) { fact(device, mode, |_| DISABLED) }

    /// No virtualisation.
    fn nvmlDeviceGetVirtualizationMode(device: Device, mode: Pointer<c_uint>) { fact(device, mode, |_| 0) }

    /// Not partitioned, now and after the next reset.
    fn nvmlDeviceGetMigMode(device: Device, current: Pointer<c_uint>, pending: Pointer<c_uint>) {
        if !device.gpu()?.facts().board.mig_capable {
            return Err(Code::NotSupported);
        }
        current.put(DISABLED)?;
        pending.put(DISABLED)
    }

    /// No handle is that of a partition.
    fn nvmlDeviceIsMigDeviceHandle(device: Device, is_mig: Pointer<c_uint>) { fact(device, is_mig, |_| 0) }

    /// The most partitions that there could be.
    fn nvmlDeviceGetMaxMigDeviceCount(device: Device, count: Pointer<c_uint>) {
        fact(device, count, |facts| if facts.board.mig_capable { 7 } else { 0 })
    }

    /// There are no partitions.
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: Device, _index: c_uint, _mig: Pointer<Device>) {
        device.gpu()?;
        Err(Code::NotFound)
    }

    /// Only partitions have attributes.
    fn nvmlDeviceGetAttributes(device: Device, to: Pointer<nvmlDeviceAttributes_t>) { attributes(device, to) }

    /// As `nvmlDeviceGetAttributes`.
    fn nvmlDeviceGetAttributes_v2(device: Device, to: Pointer<nvmlDeviceAttributes_t>) { attributes(device, to) }
}
