//! Values by number: how exporters read many things in one call.

use std::{
    ffi::{c_int, c_longlong, c_uint},
    time::{SystemTime, UNIX_EPOCH},
};

use nvml_wrapper_sys::bindings::{field_id::*, *};

use super::{
    ffi::{Code, Device, Pointer},
    reliability::recovery_action,
    session,
};
use crate::state::{Gpu, Health};

/// Time lost to thermal and power limits: these numbers moved in driver 580.82, and the headers still have the old ones.
const LIMITED_FIRST: c_uint = 269;
const LIMITED_LAST: c_uint = 271;

/// A value with the type that the driver gives it.
enum Value {
    Unsigned(c_uint),
    Long(u64),
    Signed(c_int),
}

/// Reads field `id`; `scope` is the link for NVLink's, or what is measured for power's.
fn read(gpu: Gpu<'_>, id: c_uint, scope: c_uint) -> Result<Value, Code> {
    use Value::{Long, Signed, Unsigned};
    let facts = gpu.facts();
    let board = &facts.board;
    let milliwatts = |watts: u32| Unsigned(watts * 1000);
    let nvlink = || session::current().ok().and_then(|(machine, _)| machine.profile().nvlink.clone());
    let linked = |value: Value| if facts.links.is_empty() { Err(Code::NotSupported) } else { Ok(value) };
    let below = |limit: u32, slowdown: u32| Signed(slowdown as c_int - limit as c_int);
    Ok(match id {
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => Unsigned(recovery_action(gpu)),
        NVML_FI_DEV_MEMORY_TEMP => Unsigned(gpu.load().memory_temperature_c),
        NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION | NVML_FI_DEV_ENERGY => Long(gpu.load().energy_mj),
        NVML_FI_DEV_POWER_AVERAGE | NVML_FI_DEV_POWER_INSTANT => match scope {
            NVML_POWER_SCOPE_GPU => Unsigned(gpu.load().power_mw),
            _ => return Err(Code::NotSupported),
        },
        NVML_FI_DEV_POWER_MIN_LIMIT => milliwatts(board.power_watts.min_limit),
        NVML_FI_DEV_POWER_MAX_LIMIT
        | NVML_FI_DEV_POWER_DEFAULT_LIMIT
        | NVML_FI_DEV_POWER_CURRENT_LIMIT
        | NVML_FI_DEV_POWER_REQUESTED_LIMIT => milliwatts(board.power_watts.limit),
        NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT => below(board.temperature_c.shutdown, board.temperature_c.slowdown),
        NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT => Signed(0),

        NVML_FI_DEV_ECC_CURRENT | NVML_FI_DEV_ECC_PENDING => Unsigned(board.ecc.into()),
        NVML_FI_DEV_ECC_DBE_VOL_TOTAL
        | NVML_FI_DEV_ECC_DBE_AGG_TOTAL
        | NVML_FI_DEV_ECC_DBE_VOL_DEV
        | NVML_FI_DEV_ECC_DBE_AGG_DEV
            if board.ecc =>
        {
            Long(gpu.memory_errors().uncorrected)
        }
        NVML_FI_DEV_ECC_SBE_VOL_TOTAL..=NVML_FI_DEV_ECC_DBE_AGG_CBU if board.ecc => Long(0),
        NVML_FI_DEV_REMAPPED_COR => Unsigned(0),
        NVML_FI_DEV_REMAPPED_UNC => Unsigned(gpu.memory_errors().rows_remapped),
        NVML_FI_DEV_REMAPPED_PENDING => Unsigned(gpu.memory_errors().remap_pending.into()),
        NVML_FI_DEV_REMAPPED_FAILURE => Unsigned(gpu.memory_errors().remap_failed.into()),

        NVML_FI_DEV_PCIE_REPLAY_COUNTER | NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER => Unsigned(0),
        NVML_FI_DEV_PCIE_L0_TO_RECOVERY_COUNTER
        | NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS..=NVML_FI_DEV_PCIE_COUNT_LANE_ERROR => Unsigned(0),
        NVML_FI_DEV_PCIE_COUNT_TX_BYTES => Long(gpu.traffic().pcie_tx_bytes),
        NVML_FI_DEV_PCIE_COUNT_RX_BYTES => Long(gpu.traffic().pcie_rx_bytes),

        NVML_FI_DEV_NVLINK_LINK_COUNT => Unsigned(facts.links.len() as c_uint),
        NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT => {
            let switched = facts.links.iter().filter(|remote| matches!(remote, crate::profile::Remote::Switch(_)));
            linked(Unsigned(switched.count() as c_uint))?
        }
        NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON | NVML_FI_DEV_NVLINK_GET_SPEED => {
            linked(Unsigned(nvlink().ok_or(Code::NotSupported)?.link_mbytes_per_second))?
        }
        NVML_FI_DEV_NVLINK_GET_STATE => linked(Unsigned(((scope as usize) < facts.links.len()).into()))?,
        // KiB; the links of a GPU share its traffic evenly, and all of them are scope 2³² − 1.
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX | NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX => {
            linked(Long(share(gpu.traffic().nvlink_tx_bytes, scope, facts.links.len())?))?
        }
        NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX | NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX => {
            linked(Long(share(gpu.traffic().nvlink_rx_bytes, scope, facts.links.len())?))?
        }
        NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL
        | NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL
        | NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL
        | NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL
        | NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY..=NVML_FI_DEV_NVLINK_ERROR_DL_CRC => linked(Long(0))?,
        NVML_FI_DEV_C2C_LINK_COUNT => Unsigned(0),
        NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED => Unsigned(board.mig_capable.into()),
        NVML_FI_DEV_PERF_POLICY_POWER..=NVML_FI_DEV_PERF_POLICY_RELIABILITY | LIMITED_FIRST..=LIMITED_LAST => Long(0),
        _ => return Err(Code::NotSupported),
    })
}

/// One link's part of a GPU's NVLink traffic, KiB.
fn share(bytes: u64, link: c_uint, links: usize) -> Result<u64, Code> {
    match link as usize {
        _ if link == c_uint::MAX => Ok(bytes / 1024),
        link if link < links => Ok(bytes / 1024 / links as u64),
        _ => Err(Code::InvalidArgument),
    }
}

exports! {
    /// Reads fields; each has its own result.
    fn nvmlDeviceGetFieldValues(device: Device, count: c_int, values: Pointer<nvmlFieldValue_t>) {
        let gpu = device.gpu();
        // A lost GPU still has one thing to say: what is to be done about it.
        let gpu = match (gpu, device.identity()) {
            (Err(Code::GpuIsLost), Ok(lost)) => lost,
            (gpu, _) => gpu?,
        };
        let lost = gpu.health() == Health::Lost;
        let mut answered = false;
        for index in 0..usize::try_from(count).map_err(|_| Code::InvalidArgument)? {
            let mut field = values.get_at(index)?;
            field.timestamp =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as c_longlong);
            field.latencyUsec = 0;
            let read = if lost && field.fieldId != NVML_FI_DEV_GET_GPU_RECOVERY_ACTION {
                Err(Code::GpuIsLost)
            } else {
                read(gpu, field.fieldId, field.scopeId)
            };
            answered |= read.is_ok();
            field.nvmlReturn = super::ffi::answer(|| match read {
                Ok(Value::Unsigned(value)) => {
                    field.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
                    field.value = nvmlValue_t { ullVal: value.into() };
                    Ok(())
                }
                Ok(Value::Long(value)) => {
                    field.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
                    field.value = nvmlValue_t { ullVal: value };
                    Ok(())
                }
                Ok(Value::Signed(value)) => {
                    field.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_INT;
                    field.value = nvmlValue_t { siVal: value };
                    Ok(())
                }
                Err(code) => Err(code),
            });
            values.put_at(index, field)?;
        }
        if lost && !answered { Err(Code::GpuIsLost) } else { Ok(()) }
    }
}
