//! The calls that `nvml-wrapper` lacks or gets wrong. All of this crate's `unsafe` is here.
//!
//! Every function goes through the symbol's `Result` instead of the generated method, because the method panics when
//! the driver is too old to have the symbol; here that is [`NvmlError::FailedToLoadSymbol`], which callers treat as
//! "not supported".

use std::mem;

use nvml_wrapper::enum_wrappers::device::TopologyLevel;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, EventSet, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_GPU_FABRIC_STATE_COMPLETED, nvmlEventData_t, nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfoV_t,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU as LINK_TO_GPU,
    nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH as LINK_TO_SWITCH, nvmlIntNvLinkDeviceType_t,
};

/// What is at the other end of an NVLink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// Another GPU.
    Gpu,
    /// An NVSwitch.
    Switch,
    /// A CPU, or something newer than this code.
    Other,
}

/// The NVLink domain that a GPU was enrolled in by the fabric manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// Identity of the cluster of NVSwitches; all zero where the fabric spans one host only.
    pub cluster_uuid: [u8; 16],
    /// GPUs of one cluster reach each other over NVLink only within one clique.
    pub clique: u32,
}

/// Shuts NVML down and starts it again, for a kernel module that was reloaded under it
/// ([nvmlShutdown](https://docs.nvidia.com/deploy/nvml-api/group__nvmlInitializationAndCleanup.html)).
///
/// Devices from before answer with errors afterwards; nobody may be using one now.
pub fn restart(nvml: &Nvml) -> Result<(), NvmlError> {
    let shutdown = nvml_sym(nvml.lib().nvmlShutdown.as_ref())?;
    let init = nvml_sym(nvml.lib().nvmlInit_v2.as_ref())?;
    // SAFETY: neither call takes anything; NVML counts starts, and this one is paired with the start of `nvml`.
    match nvml_try(unsafe { shutdown() }) {
        // The last attempt to start it failed.
        Ok(()) | Err(NvmlError::Uninitialized) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: as above.
    nvml_try(unsafe { init() })
}

/// The newest CUDA version that the driver supports: 13.0 is 13000
/// ([nvmlSystemGetCudaDriverVersion](https://docs.nvidia.com/deploy/nvml-api/group__nvmlSystemQueries.html)).
///
/// The wrapper calls the second version, which loads `libcuda.so.1` and fails where the loader does not find it: in a container
/// that sees the driver under a root of its own, that is always.
pub fn cuda_version(nvml: &Nvml) -> Result<i32, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlSystemGetCudaDriverVersion.as_ref())?;
    let mut version = 0;
    // SAFETY: `version` is a live, writable integer.
    nvml_try(unsafe { call(&mut version) })?;
    Ok(version)
}

/// What the device at the far end of `link` is
/// ([nvmlDeviceGetNvLinkRemoteDeviceType](https://docs.nvidia.com/deploy/nvml-api/group__NvLink.html)).
///
/// `nvml-wrapper` 0.13 has this call, but hands the driver a temporary and so always answers *unknown*.
pub fn link_end(nvml: &Nvml, device: &Device<'_>, link: u32) -> Result<LinkEnd, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetNvLinkRemoteDeviceType.as_ref())?;
    let mut kind: nvmlIntNvLinkDeviceType_t = 0;
    // SAFETY: the handle belongs to `nvml`, which outlives this call, and `kind` is a live, writable integer.
    nvml_try(unsafe { call(device.handle(), link, &mut kind) })?;
    Ok(match kind {
        LINK_TO_GPU => LinkEnd::Gpu,
        LINK_TO_SWITCH => LinkEnd::Switch,
        _ => LinkEnd::Other,
    })
}

/// The nearest place on the PCIe tree that the way between two GPUs passes
/// ([nvmlDeviceGetTopologyCommonAncestor](https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html)).
///
/// The wrapper's method takes the second device by value, though a device is asked about many others.
pub fn common_ancestor(nvml: &Nvml, from: &Device<'_>, to: &Device<'_>) -> Result<TopologyLevel, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetTopologyCommonAncestor.as_ref())?;
    let mut level = 0;
    // SAFETY: both handles belong to `nvml`, and `level` is a live, writable integer.
    nvml_try(unsafe { call(from.handle(), to.handle(), &mut level) })?;
    TopologyLevel::try_from(level)
}

/// The GPU's NVLink domain, or `None` where there is no fabric or the fabric manager has not finished with it
/// ([nvmlDeviceGetGpuFabricInfoV](https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html)).
pub fn fabric(nvml: &Nvml, device: &Device<'_>) -> Result<Option<Fabric>, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetGpuFabricInfoV.as_ref())?;
    // Version 3 came with driver 570; an older one refuses it and takes version 2, whose fields are a prefix.
    let versions = [versioned::<nvmlGpuFabricInfoV_t>(3), versioned::<nvmlGpuFabricInfo_v2_t>(2)];
    let mut refused = NvmlError::NotSupported;
    for version in versions {
        // SAFETY: the structure is plain old data, for which zero is a valid value of every field.
        let mut info: nvmlGpuFabricInfoV_t = unsafe { mem::zeroed() };
        info.version = version;
        // SAFETY: the handle belongs to `nvml`; `info` is at least as large as the size that its version states.
        match nvml_try(unsafe { call(device.handle(), &mut info) }) {
            Ok(()) => {
                let complete = u32::from(info.state) == NVML_GPU_FABRIC_STATE_COMPLETED;
                let healthy = nvml_try(info.status).is_ok();
                return Ok(
                    (complete && healthy).then_some(Fabric { cluster_uuid: info.clusterUuid, clique: info.cliqueId })
                );
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// NVML's structure version: the size in the low bits, the number in the highest byte.
const fn versioned<T>(number: u32) -> u32 {
    mem::size_of::<T>() as u32 | (number << 24)
}

/// Rows of GPU memory that were replaced by spare ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemappedRows {
    /// Replaced because of correctable errors.
    pub correctable: u32,
    /// Replaced because of uncorrectable errors.
    pub uncorrectable: u32,
    /// A replacement waits for the next reset.
    pub pending: bool,
    /// A row could not be replaced: the board is due for exchange.
    pub failed: bool,
}

/// Row remapping since the board was made
/// ([nvmlDeviceGetRemappedRows](https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html)).
pub fn remapped_rows(nvml: &Nvml, device: &Device<'_>) -> Result<RemappedRows, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetRemappedRows.as_ref())?;
    let (mut correctable, mut uncorrectable, mut pending, mut failed) = (0, 0, 0, 0);
    // SAFETY: the handle belongs to `nvml`, and all four pointers are to live, writable integers.
    nvml_try(unsafe { call(device.handle(), &mut correctable, &mut uncorrectable, &mut pending, &mut failed) })?;
    Ok(RemappedRows { correctable, uncorrectable, pending: pending != 0, failed: failed != 0 })
}

/// The event types that this GPU can report, as NVML's bits. The wrapper's type drops the bits that it does not know.
pub fn supported_events(nvml: &Nvml, device: &Device<'_>) -> Result<u64, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetSupportedEventTypes.as_ref())?;
    let mut bits = 0;
    // SAFETY: the handle belongs to `nvml`, and `bits` is a live, writable integer.
    nvml_try(unsafe { call(device.handle(), &mut bits) })?;
    Ok(bits)
}

/// Asks for events of one GPU to be delivered to `set`.
///
/// The wrapper's method consumes the set and frees it on any error, also on "not supported".
pub fn register_events(nvml: &Nvml, device: &Device<'_>, bits: u64, set: &EventSet<'_>) -> Result<(), NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceRegisterEvents.as_ref())?;
    // SAFETY: device and set belong to `nvml` and are borrowed, so alive; the set is not copied.
    nvml_try(unsafe { call(device.handle(), bits, set.handle()) })
}

/// One event as NVML delivers it.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// One of NVML's event type bits.
    pub kind: u64,
    /// For an XID event, the XID.
    pub data: u64,
}

/// Waits for the next event of the set, at most `timeout_ms` milliseconds: then [`NvmlError::Timeout`].
///
/// The wrapper's method drops event bits that are newer than it.
pub fn wait(nvml: &Nvml, set: &EventSet<'_>, timeout_ms: u32) -> Result<Event, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlEventSetWait_v2.as_ref())?;
    // SAFETY: the structure is plain old data, for which zero is a valid value of every field.
    let mut data: nvmlEventData_t = unsafe { mem::zeroed() };
    // SAFETY: the set belongs to `nvml` and is borrowed for the call; `data` is live and writable.
    nvml_try(unsafe { call(set.handle(), &mut data, timeout_ms) })?;
    Ok(Event { kind: data.eventType, data: data.eventData })
}
