//! What changes while a GPU works: memory, utilisation, temperature, power, clocks, the PCIe link.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlMarginTemperature_v1_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlTemperature_v1_t,
    nvmlUtilization_t, nvmlViolationTime_t,
};

use super::ffi::{Answer, Code, Device, Pointer, put_list_or_count, version};
use crate::{profile::Board, state::Gpu};

/// Drivers refresh utilisation this often, µs.
const SAMPLING_PERIOD_US: c_uint = 1_000_000 / 6;

/// `nvmlClocksEventReasonGpuIdle`.
const IDLE: c_ulonglong = 1;
/// All reasons that the driver can report: the nine lowest bits.
const ALL_REASONS: c_ulonglong = 0x1ff;

fn milliwatts(watts: u32) -> c_uint {
    watts * 1000
}

fn board(device: Device) -> Result<&'static Board, Code> {
    Ok(&device.gpu()?.facts().board)
}

/// Clocks by NVML's numbers: graphics, multiprocessors, memory, video.
fn clock(gpu: Gpu<'_>, kind: c_uint, now: bool) -> Result<c_uint, Code> {
    let clocks = gpu.facts().board.clocks_mhz;
    let cores = if now { gpu.load().clock_mhz } else { clocks.max };
    match kind {
        0 | 1 => Ok(cores),
        2 => Ok(clocks.memory),
        // The video engines run at about four fifths of the graphics clock.
        3 => Ok(cores * 4 / 5),
        _ => Err(Code::InvalidArgument),
    }
}

/// Engines that no simulated process uses.
fn idle_engine(device: Device, percent: Pointer<c_uint>, period: Pointer<c_uint>) -> Answer {
    device.gpu()?;
    percent.put(0)?;
    period.put(SAMPLING_PERIOD_US)
}

fn event_reasons(device: Device, reasons: Pointer<c_ulonglong>) -> Answer {
    reasons.put(if device.gpu()?.load().idle { IDLE } else { 0 })
}

fn supported_reasons(device: Device, reasons: Pointer<c_ulonglong>) -> Answer {
    device.gpu()?;
    reasons.put(ALL_REASONS)
}

fn performance_state(device: Device, state: Pointer<c_uint>) -> Answer {
    device.gpu()?;
    // Data-centre boards stay in P0.
    state.put(0)
}

exports! {
    /// Memory; what the driver keeps counts as used.
    fn nvmlDeviceGetMemoryInfo(device: Device, info: Pointer<nvmlMemory_t>) {
        let memory = device.gpu()?.memory();
        info.put(nvmlMemory_t {
            total: memory.total_bytes,
            free: memory.free_bytes,
            used: memory.used_bytes + memory.reserved_bytes,
        })
    }

    /// Memory; what the driver keeps is told apart.
    fn nvmlDeviceGetMemoryInfo_v2(device: Device, info: Pointer<nvmlMemory_v2_t>) {
        let asked = info.get()?.version;
        if asked != version::<nvmlMemory_v2_t>(2) {
            return Err(Code::VersionOfArgument);
        }
        let memory = device.gpu()?.memory();
        info.put(nvmlMemory_v2_t {
            version: asked,
            total: memory.total_bytes,
            reserved: memory.reserved_bytes,
            free: memory.free_bytes,
            used: memory.used_bytes,
        })
    }

    /// The aperture through which the host reaches GPU memory.
    fn nvmlDeviceGetBAR1MemoryInfo(device: Device, info: Pointer<nvmlBAR1Memory_t>) {
        let total = board(device)?.bar1_mib << 20;
        // The driver's own mapping.
        let used = 1 << 20;
        info.put(nvmlBAR1Memory_t { bar1Total: total, bar1Free: total - used, bar1Used: used })
    }

    /// Part of the last second in which something ran, and in which memory was used.
    fn nvmlDeviceGetUtilizationRates(device: Device, utilization: Pointer<nvmlUtilization_t>) {
        let load = device.gpu()?.load();
        utilization.put(nvmlUtilization_t { gpu: load.gpu_percent, memory: load.memory_percent })
    }

    /// Video encoder.
    fn nvmlDeviceGetEncoderUtilization(device: Device, percent: Pointer<c_uint>, period: Pointer<c_uint>) {
        idle_engine(device, percent, period)
    }

    /// Video decoder.
    fn nvmlDeviceGetDecoderUtilization(device: Device, percent: Pointer<c_uint>, period: Pointer<c_uint>) {
        idle_engine(device, percent, period)
    }

    /// JPEG engine.
    fn nvmlDeviceGetJpgUtilization(device: Device, percent: Pointer<c_uint>, period: Pointer<c_uint>) {
        idle_engine(device, percent, period)
    }

    /// Optical-flow engine.
    fn nvmlDeviceGetOfaUtilization(device: Device, percent: Pointer<c_uint>, period: Pointer<c_uint>) {
        idle_engine(device, percent, period)
    }

    /// Video encoding sessions: none.
    fn nvmlDeviceGetEncoderStats(device: Device, sessions: Pointer<c_uint>, rate: Pointer<c_uint>, latency: Pointer<c_uint>) {
        device.gpu()?;
        [sessions, rate, latency].into_iter().try_for_each(|to| to.put(0))
    }

    /// °C.
    fn nvmlDeviceGetTemperature(device: Device, sensor: c_uint, celsius: Pointer<c_uint>) {
        let load = device.gpu()?.load();
        if sensor != 0 {
            return Err(Code::InvalidArgument);
        }
        celsius.put(load.temperature_c)
    }

    /// °C.
    fn nvmlDeviceGetTemperatureV(device: Device, temperature: Pointer<nvmlTemperature_v1_t>) {
        let mut asked = temperature.get()?;
        if asked.version != version::<nvmlTemperature_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        if asked.sensorType != 0 {
            return Err(Code::InvalidArgument);
        }
        asked.temperature = device.gpu()?.load().temperature_c as c_int;
        temperature.put(asked)
    }

    /// °C up to the slowdown.
    fn nvmlDeviceGetMarginTemperature(device: Device, margin: Pointer<nvmlMarginTemperature_v1_t>) {
        let mut asked = margin.get()?;
        if asked.version != version::<nvmlMarginTemperature_v1_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        let gpu = device.gpu()?;
        asked.marginTemperature = gpu.facts().board.temperature_c.slowdown as c_int - gpu.load().temperature_c as c_int;
        margin.put(asked)
    }

    /// °C at which something happens.
    fn nvmlDeviceGetTemperatureThreshold(device: Device, threshold: c_uint, celsius: Pointer<c_uint>) {
        let limits = board(device)?.temperature_c;
        celsius.put(match threshold {
            0 => limits.shutdown,
            1 => limits.slowdown,
            // Memory, and the chip itself.
            2 => limits.shutdown,
            3 => limits.slowdown - 3,
            4..=6 => return Err(Code::NotSupported),
            _ => return Err(Code::InvalidArgument),
        })
    }

    /// mW, averaged over the last second.
    fn nvmlDeviceGetPowerUsage(device: Device, power: Pointer<c_uint>) { power.put(device.gpu()?.load().power_mw) }

    /// mJ since the driver was loaded.
    fn nvmlDeviceGetTotalEnergyConsumption(device: Device, energy: Pointer<c_ulonglong>) {
        energy.put(device.gpu()?.load().energy_mj)
    }

    /// There is a power limit.
    fn nvmlDeviceGetPowerManagementMode(device: Device, mode: Pointer<c_uint>) {
        device.gpu()?;
        mode.put(1)
    }

    /// mW.
    fn nvmlDeviceGetPowerManagementLimit(device: Device, limit: Pointer<c_uint>) {
        limit.put(milliwatts(board(device)?.power_watts.limit))
    }

    /// mW.
    fn nvmlDeviceGetEnforcedPowerLimit(device: Device, limit: Pointer<c_uint>) {
        limit.put(milliwatts(board(device)?.power_watts.limit))
    }

    /// mW.
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: Device, limit: Pointer<c_uint>) {
        limit.put(milliwatts(board(device)?.power_watts.limit))
    }

    /// mW.
    fn nvmlDeviceGetPowerManagementLimitConstraints(device: Device, low: Pointer<c_uint>, high: Pointer<c_uint>) {
        let power = board(device)?.power_watts;
        low.put(milliwatts(power.min_limit))?;
        high.put(milliwatts(power.limit))
    }

    /// Mains.
    fn nvmlDeviceGetPowerSource(device: Device, source: Pointer<c_uint>) {
        device.gpu()?;
        source.put(0)
    }

    /// MHz, now.
    fn nvmlDeviceGetClockInfo(device: Device, kind: c_uint, mhz: Pointer<c_uint>) {
        mhz.put(clock(device.gpu()?, kind, true)?)
    }

    /// MHz, at most.
    fn nvmlDeviceGetMaxClockInfo(device: Device, kind: c_uint, mhz: Pointer<c_uint>) {
        mhz.put(clock(device.gpu()?, kind, false)?)
    }

    /// MHz, now (0), as set (1), by default (2), at most (3).
    fn nvmlDeviceGetClock(device: Device, kind: c_uint, which: c_uint, mhz: Pointer<c_uint>) {
        if which > 3 {
            return Err(Code::InvalidArgument);
        }
        mhz.put(clock(device.gpu()?, kind, which == 0)?)
    }

    /// MHz, as set for applications.
    fn nvmlDeviceGetApplicationsClock(device: Device, kind: c_uint, mhz: Pointer<c_uint>) {
        mhz.put(clock(device.gpu()?, kind, false)?)
    }

    /// MHz, as delivered.
    fn nvmlDeviceGetDefaultApplicationsClock(device: Device, kind: c_uint, mhz: Pointer<c_uint>) {
        mhz.put(clock(device.gpu()?, kind, false)?)
    }

    /// MHz, at most.
    fn nvmlDeviceGetMaxCustomerBoostClock(device: Device, kind: c_uint, mhz: Pointer<c_uint>) {
        mhz.put(clock(device.gpu()?, kind, false)?)
    }

    /// The one memory clock, MHz.
    fn nvmlDeviceGetSupportedMemoryClocks(device: Device, count: Pointer<c_uint>, clocks: Pointer<c_uint>) {
        let memory = board(device)?.clocks_mhz.memory;
        put_list_or_count(count, clocks, vec![memory])
    }

    /// Multiprocessor clocks from the highest to the idle one, in steps of 15 MHz.
    fn nvmlDeviceGetSupportedGraphicsClocks(device: Device, memory: c_uint, count: Pointer<c_uint>, clocks: Pointer<c_uint>) {
        let board = board(device)?.clocks_mhz;
        if memory != board.memory {
            return Err(Code::NotFound);
        }
        put_list_or_count(count, clocks, (board.idle..=board.max).rev().step_by(15).collect())
    }

    /// Why the clocks are as they are.
    fn nvmlDeviceGetCurrentClocksEventReasons(device: Device, reasons: Pointer<c_ulonglong>) {
        event_reasons(device, reasons)
    }

    /// The older name of `nvmlDeviceGetCurrentClocksEventReasons`.
    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: Device, reasons: Pointer<c_ulonglong>) {
        event_reasons(device, reasons)
    }

    /// The reasons that can be reported.
    fn nvmlDeviceGetSupportedClocksEventReasons(device: Device, reasons: Pointer<c_ulonglong>) {
        supported_reasons(device, reasons)
    }

    /// The older name of `nvmlDeviceGetSupportedClocksEventReasons`.
    fn nvmlDeviceGetSupportedClocksThrottleReasons(device: Device, reasons: Pointer<c_ulonglong>) {
        supported_reasons(device, reasons)
    }

    /// Time lost to a limit: none.
    fn nvmlDeviceGetViolationStatus(device: Device, _policy: c_uint, time: Pointer<nvmlViolationTime_t>) {
        device.gpu()?;
        time.put(nvmlViolationTime_t { referenceTime: crate::state::now_ns() / 1000, violationTime: 0 })
    }

    /// Performance state.
    fn nvmlDeviceGetPerformanceState(device: Device, state: Pointer<c_uint>) { performance_state(device, state) }

    /// The older name of `nvmlDeviceGetPerformanceState`.
    fn nvmlDeviceGetPowerState(device: Device, state: Pointer<c_uint>) { performance_state(device, state) }

    /// Server boards have no fans of their own.
    fn nvmlDeviceGetNumFans(device: Device, fans: Pointer<c_uint>) {
        device.gpu()?;
        fans.put(0)
    }

    /// Generation of the PCIe link.
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: Device, generation: Pointer<c_uint>) {
        generation.put(board(device)?.pcie.generation)
    }

    /// Generation that board and slot can do.
    fn nvmlDeviceGetMaxPcieLinkGeneration(device: Device, generation: Pointer<c_uint>) {
        generation.put(board(device)?.pcie.generation)
    }

    /// Generation that the board can do.
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration(device: Device, generation: Pointer<c_uint>) {
        generation.put(board(device)?.pcie.generation)
    }

    /// Lanes of the PCIe link.
    fn nvmlDeviceGetCurrPcieLinkWidth(device: Device, lanes: Pointer<c_uint>) { lanes.put(board(device)?.pcie.width) }

    /// Lanes that board and slot have.
    fn nvmlDeviceGetMaxPcieLinkWidth(device: Device, lanes: Pointer<c_uint>) { lanes.put(board(device)?.pcie.width) }

    /// MT/s of a lane.
    fn nvmlDeviceGetPcieSpeed(device: Device, speed: Pointer<c_uint>) {
        speed.put(match board(device)?.pcie.generation {
            1 => 2_500,
            2 => 5_000,
            generation => 8_000 << generation.saturating_sub(3).min(3),
        })
    }

    /// The same, as a number of the list of speeds: the generation.
    fn nvmlDeviceGetPcieLinkMaxSpeed(device: Device, speed: Pointer<c_uint>) {
        speed.put(board(device)?.pcie.generation)
    }

    /// KiB/s, sent (0) or received (1) by the GPU in the last second.
    fn nvmlDeviceGetPcieThroughput(device: Device, counter: c_uint, kib: Pointer<c_uint>) {
        let traffic = device.gpu()?.traffic();
        let rate = match counter {
            0 => traffic.pcie_tx_kib_per_second,
            1 => traffic.pcie_rx_kib_per_second,
            _ => return Err(Code::InvalidArgument),
        };
        kib.put(rate.min(c_uint::MAX.into()) as c_uint)
    }

    /// Packets that had to be sent again: none.
    fn nvmlDeviceGetPcieReplayCounter(device: Device, count: Pointer<c_uint>) {
        device.gpu()?;
        count.put(0)
    }
}
