//! Memory errors and their repair.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlEccErrorCounts_t, nvmlEccSramErrorStatus_v1_t, nvmlRepairStatus_v1_t, nvmlRowRemapperHistogramValues_t,
};

use super::ffi::{Answer, Code, Device, Pointer, version};
use crate::state::{Gpu, Health};

/// NVML's numbers of error types and counters: corrected or uncorrected, volatile or aggregate.
const UNCORRECTED: c_uint = 1;
/// `NVML_MEMORY_LOCATION_DEVICE_MEMORY`.
const DEVICE_MEMORY: c_uint = 2;
/// Banks of a GPU's memory that the remapper watches over.
const BANKS: c_uint = 640;

/// What the driver wants done to the GPU: nothing (0), a reset (1), a reboot of the node (2).
pub fn recovery_action(gpu: Gpu<'_>) -> c_uint {
    match gpu.health() {
        Health::Healthy => 0,
        Health::Xid(_) => 1,
        Health::Lost => 2,
    }
}

fn protected(device: Device) -> Result<Gpu<'static>, Code> {
    let gpu = device.gpu()?;
    if gpu.facts().board.ecc { Ok(gpu) } else { Err(Code::NotSupported) }
}

/// Errors of device memory; the simulator has no others.
fn errors(device: Device, kind: c_uint, counter: c_uint) -> Result<c_ulonglong, Code> {
    let gpu = protected(device)?;
    if kind > UNCORRECTED || counter > 1 {
        return Err(Code::InvalidArgument);
    }
    Ok(if kind == UNCORRECTED { gpu.memory_errors().uncorrected } else { 0 })
}

fn retired(device: Device, cause: c_uint, count: Pointer<c_uint>) -> Answer {
    device.gpu()?;
    if cause > 1 || count.is_null() {
        return Err(Code::InvalidArgument);
    }
    // Boards since Ampere remap rows instead.
    Err(Code::NotSupported)
}

exports! {
    /// Whether memory is protected, now and after the next reset.
    fn nvmlDeviceGetEccMode(device: Device, current: Pointer<c_uint>, pending: Pointer<c_uint>) {
        protected(device)?;
        current.put(1)?;
        pending.put(1)
    }

    /// Memory is protected by default.
    fn nvmlDeviceGetDefaultEccMode(device: Device, mode: Pointer<c_uint>) {
        protected(device)?;
        mode.put(1)
    }

    /// Memory errors of a kind, since the last reset or ever.
    fn nvmlDeviceGetTotalEccErrors(device: Device, kind: c_uint, counter: c_uint, count: Pointer<c_ulonglong>) {
        count.put(errors(device, kind, counter)?)
    }

    /// Memory errors by where they happened.
    fn nvmlDeviceGetDetailedEccErrors(device: Device, kind: c_uint, counter: c_uint, counts: Pointer<nvmlEccErrorCounts_t>) {
        let memory = errors(device, kind, counter)?;
        counts.put(nvmlEccErrorCounts_t { l1Cache: 0, l2Cache: 0, deviceMemory: memory, registerFile: 0 })
    }

    /// Memory errors at one place.
    fn nvmlDeviceGetMemoryErrorCounter(device: Device, kind: c_uint, counter: c_uint, place: c_uint, count: Pointer<c_ulonglong>) {
        let memory = errors(device, kind, counter)?;
        match place {
            DEVICE_MEMORY => count.put(memory),
            0..=7 => count.put(0),
            _ => Err(Code::InvalidArgument),
        }
    }

    /// Errors of the caches: none.
    fn nvmlDeviceGetSramEccErrorStatus(device: Device, status: Pointer<nvmlEccSramErrorStatus_v1_t>) {
        let asked = status.get()?.version;
        if asked != version::<nvmlEccSramErrorStatus_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        protected(device)?;
        status.put(nvmlEccSramErrorStatus_v1_t {
            version: asked,
            aggregateUncParity: 0,
            aggregateUncSecDed: 0,
            aggregateCor: 0,
            volatileUncParity: 0,
            volatileUncSecDed: 0,
            volatileCor: 0,
            aggregateUncBucketL2: 0,
            aggregateUncBucketSm: 0,
            aggregateUncBucketPcie: 0,
            aggregateUncBucketMcu: 0,
            aggregateUncBucketOther: 0,
            bThresholdExceeded: 0,
        })
    }

    /// Rows replaced after corrected and uncorrected errors; whether a reset is needed for one, whether one failed.
    fn nvmlDeviceGetRemappedRows(
        device: Device,
        corrected: Pointer<c_uint>,
        uncorrected: Pointer<c_uint>,
        pending: Pointer<c_uint>,
        failed: Pointer<c_uint>,
    ) {
        let errors = protected(device)?.memory_errors();
        corrected.put(0)?;
        uncorrected.put(errors.rows_remapped)?;
        pending.put(errors.remap_pending.into())?;
        failed.put(errors.remap_failed.into())
    }

    /// How many spare rows the banks have left.
    fn nvmlDeviceGetRowRemapperHistogram(device: Device, values: Pointer<nvmlRowRemapperHistogramValues_t>) {
        let used = protected(device)?.memory_errors().rows_remapped.min(BANKS);
        values.put(nvmlRowRemapperHistogramValues_t { max: BANKS - used, high: used, partial: 0, low: 0, none: 0 })
    }

    /// Repairs that wait for a reset: none.
    fn nvmlDeviceGetRepairStatus(device: Device, status: Pointer<nvmlRepairStatus_v1_t>) {
        let asked = status.get()?.version;
        if asked != version::<nvmlRepairStatus_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        protected(device)?;
        status.put(nvmlRepairStatus_v1_t { version: asked, bChannelRepairPending: 0, bTpcRepairPending: 0 })
    }

    /// Pages taken out of use.
    fn nvmlDeviceGetRetiredPages(device: Device, cause: c_uint, count: Pointer<c_uint>, _addresses: Pointer<c_ulonglong>) {
        retired(device, cause, count)
    }

    /// As `nvmlDeviceGetRetiredPages`.
    fn nvmlDeviceGetRetiredPages_v2(
        device: Device,
        cause: c_uint,
        count: Pointer<c_uint>,
        _addresses: Pointer<c_ulonglong>,
        _times: Pointer<c_ulonglong>,
    ) {
        retired(device, cause, count)
    }

    /// Whether pages wait to be taken out of use.
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: Device, _pending: Pointer<c_uint>) {
        device.gpu()?;
        Err(Code::NotSupported)
    }
}
