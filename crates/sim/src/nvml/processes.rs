//! The processes on a GPU.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{nvmlProcessInfo_t, nvmlProcessInfo_v1_t};

use super::{
    ffi::{Answer, Device, Pointer, put_list},
    session,
};
use crate::state::ProcessInfo;

/// Not on a partition.
const NO_INSTANCE: c_uint = c_uint::MAX;

fn compute(device: Device) -> Result<Vec<ProcessInfo>, super::ffi::Code> {
    let gpu = device.gpu()?.facts().index;
    Ok(session::current()?.0.processes(gpu))
}

fn with_instances(device: Device, count: Pointer<c_uint>, infos: Pointer<nvmlProcessInfo_t>) -> Answer {
    let as_nvml = |process: ProcessInfo| nvmlProcessInfo_t {
        pid: process.pid as c_uint,
        usedGpuMemory: process.memory_bytes,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    };
    put_list(count, infos, compute(device)?.into_iter().map(as_nvml).collect())
}

fn none(device: Device, count: Pointer<c_uint>) -> Answer {
    device.gpu()?;
    count.put(0)
}

exports! {
    /// Processes with a CUDA context, and their memory.
    fn nvmlDeviceGetComputeRunningProcesses(device: Device, count: Pointer<c_uint>, infos: Pointer<nvmlProcessInfo_v1_t>) {
        let as_nvml =
            |process: ProcessInfo| nvmlProcessInfo_v1_t { pid: process.pid as c_uint, usedGpuMemory: process.memory_bytes };
        put_list(count, infos, compute(device)?.into_iter().map(as_nvml).collect())
    }

    /// Processes with a CUDA context, their memory and their partition.
    fn nvmlDeviceGetComputeRunningProcesses_v2(device: Device, count: Pointer<c_uint>, infos: Pointer<nvmlProcessInfo_t>) {
        with_instances(device, count, infos)
    }

    /// As `nvmlDeviceGetComputeRunningProcesses_v2`.
    fn nvmlDeviceGetComputeRunningProcesses_v3(device: Device, count: Pointer<c_uint>, infos: Pointer<nvmlProcessInfo_t>) {
        with_instances(device, count, infos)
    }

    /// Processes that draw: none.
    fn nvmlDeviceGetGraphicsRunningProcesses(device: Device, count: Pointer<c_uint>, _infos: Pointer<nvmlProcessInfo_v1_t>) {
        none(device, count)
    }

    /// As `nvmlDeviceGetGraphicsRunningProcesses`.
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(device: Device, count: Pointer<c_uint>, _infos: Pointer<nvmlProcessInfo_t>) {
        none(device, count)
    }

    /// As `nvmlDeviceGetGraphicsRunningProcesses`.
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(device: Device, count: Pointer<c_uint>, _infos: Pointer<nvmlProcessInfo_t>) {
        none(device, count)
    }

    /// Processes that share the GPU through MPS: none.
    fn nvmlDeviceGetMPSComputeRunningProcesses(device: Device, count: Pointer<c_uint>, _infos: Pointer<nvmlProcessInfo_v1_t>) {
        none(device, count)
    }

    /// As `nvmlDeviceGetMPSComputeRunningProcesses`.
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(device: Device, count: Pointer<c_uint>, _infos: Pointer<nvmlProcessInfo_t>) {
        none(device, count)
    }

    /// As `nvmlDeviceGetMPSComputeRunningProcesses`.
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(device: Device, count: Pointer<c_uint>, _infos: Pointer<nvmlProcessInfo_t>) {
        none(device, count)
    }
}
