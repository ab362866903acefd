//! One look at one GPU: its measurements, and whether it answered at all.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_MEMORY_TEMP};

use crate::driver::Driver;
use crate::health::{Probe, RecoveryAction, Unanswered};
use crate::raw::{self, RemappedRows};

/// Measurements of one GPU. A value that the GPU or its driver does not have is `None`, never zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Share of the last sampling period in which a kernel ran, percent.
    pub gpu_utilization_percent: Option<u32>,
    /// Share of it in which memory was read or written, percent.
    pub memory_utilization_percent: Option<u32>,
    /// Share in which the video encoder was busy, percent.
    pub encoder_utilization_percent: Option<u32>,
    /// Share in which the video decoder was busy, percent.
    pub decoder_utilization_percent: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<MemoryUse>,
    /// Temperature of the chip, °C.
    pub temperature_celsius: Option<u32>,
    /// Temperature of the memory, °C.
    pub memory_temperature_celsius: Option<u32>,
    /// Power drawn, watts.
    pub power_watts: Option<f64>,
    /// Power limit that holds, watts.
    pub power_limit_watts: Option<f64>,
    /// Energy drawn since the driver was loaded, millijoules.
    pub energy_millijoules: Option<u64>,
    /// Clock of the multiprocessors, MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory, MHz.
    pub memory_clock_mhz: Option<u32>,
    /// PCIe packets sent again since the driver was loaded.
    pub pcie_replays: Option<u32>,
    /// Corrected memory errors since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Uncorrected memory errors since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Memory rows replaced.
    pub remapped_rows: Option<RemappedRows>,
}

/// Memory of a GPU, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use by processes.
    pub used: u64,
    /// Free.
    pub free: u64,
    /// Held back by the driver.
    pub reserved: u64,
}

/// Takes all measurements of one GPU, and the verdict whether it answered.
///
/// It answered if any call succeeded; it is lost if any call says so.
pub fn sample(driver: Driver, device: &Device<'_>) -> (Sample, Probe) {
    let mut calls = Calls::default();
    let utilization = calls.note(device.utilization_rates());
    let sample = Sample {
        gpu_utilization_percent: utilization.as_ref().map(|u| u.gpu),
        memory_utilization_percent: utilization.map(|u| u.memory),
        encoder_utilization_percent: calls.note(device.encoder_utilization()).map(|u| u.utilization),
        decoder_utilization_percent: calls.note(device.decoder_utilization()).map(|u| u.utilization),
        memory: calls.note(device.memory_info()).map(|m| MemoryUse {
            used: m.used,
            free: m.free,
            reserved: m.reserved,
        }),
        temperature_celsius: calls.note(device.temperature(TemperatureSensor::Gpu)),
        memory_temperature_celsius: calls
            .note(field(device, NVML_FI_DEV_MEMORY_TEMP))
            .and_then(|value| u32::try_from(value).ok())
            // GPUs without the sensor report zero.
            .filter(|celsius| *celsius > 0),
        power_watts: calls.note(device.power_usage()).map(milli),
        power_limit_watts: calls.note(device.enforced_power_limit()).map(milli),
        energy_millijoules: calls.note(device.total_energy_consumption()),
        sm_clock_mhz: calls.note(device.clock_info(Clock::SM)),
        memory_clock_mhz: calls.note(device.clock_info(Clock::Memory)),
        pcie_replays: calls.note(device.pcie_replay_counter()),
        ecc_corrected: calls.note(device.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile)),
        ecc_uncorrected: calls.note(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)),
        remapped_rows: calls.note(raw::remapped_rows(driver.nvml, device)),
    };
    let action = calls.note(field(device, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)).map(RecoveryAction::from_nvml);
    (sample, calls.verdict(action))
}

/// Reads one NVML field as an integer.
fn field(device: &Device<'_>, id: u32) -> Result<u64, NvmlError> {
    let mut values = device.field_values_for(&[FieldId(id)])?;
    let value = values.pop().ok_or(NvmlError::NoData)??.value?;
    Ok(match value {
        SampleValue::U32(value) => u64::from(value),
        SampleValue::U64(value) => value,
        SampleValue::I64(value) => u64::try_from(value).map_err(|_| NvmlError::NoData)?,
        SampleValue::F64(value) if value >= 0.0 => value as u64,
        SampleValue::F64(_) => return Err(NvmlError::NoData),
    })
}

fn milli(value: u32) -> f64 {
    f64::from(value) / 1000.0
}

/// What the calls of one look said together.
#[derive(Default)]
struct Calls {
    answered: bool,
    failed: Option<Unanswered>,
}

impl Calls {
    /// Keeps a value and remembers what its absence means.
    fn note<T>(&mut self, result: Result<T, NvmlError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.answered = true;
                Some(value)
            }
            Err(error) => {
                match verdict(&error) {
                    // The worst word stands.
                    Some(Unanswered::Lost) => self.failed = Some(Unanswered::Lost),
                    Some(why) if self.failed != Some(Unanswered::Lost) => {
                        let worse = why == Unanswered::ResetRequired || self.failed.is_none();
                        if worse {
                            self.failed = Some(why);
                        }
                    }
                    _ => {}
                }
                None
            }
        }
    }

    fn verdict(&self, action: Option<RecoveryAction>) -> Probe {
        match self.failed {
            Some(why @ (Unanswered::Lost | Unanswered::ResetRequired)) => Probe::Unanswered(why),
            _ if !self.answered => Probe::Unanswered(Unanswered::Error),
            _ => Probe::Answered(action),
        }
    }
}

/// What an error says about the GPU; `None` if it only says that the question was not for it.
pub(crate) fn verdict(error: &NvmlError) -> Option<Unanswered> {
    match error {
        NvmlError::GpuLost => Some(Unanswered::Lost),
        NvmlError::ResetRequired => Some(Unanswered::ResetRequired),
        NvmlError::NotSupported
        | NvmlError::FunctionNotFound
        | NvmlError::FailedToLoadSymbol(_)
        | NvmlError::NoPermission
        | NvmlError::NoData
        | NvmlError::InvalidArg
        | NvmlError::UnexpectedVariant(_)
        | NvmlError::IncorrectBits(_) => None,
        _ => Some(Unanswered::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(results: Vec<Result<(), NvmlError>>) -> Probe {
        let mut calls = Calls::default();
        for result in results {
            calls.note(result);
        }
        calls.verdict(None)
    }

    #[test]
    fn one_answer_is_an_answer_whatever_is_not_supported() {
        let results = vec![Err(NvmlError::NotSupported), Ok(()), Err(NvmlError::Unknown)];
        assert_eq!(probe(results), Probe::Answered(None));
    }

    #[test]
    fn the_word_lost_outweighs_cached_answers() {
        let results = vec![Ok(()), Err(NvmlError::GpuLost), Err(NvmlError::ResetRequired)];
        assert_eq!(probe(results), Probe::Unanswered(Unanswered::Lost));
    }

    #[test]
    fn a_handle_that_became_invalid_is_no_answer() {
        assert_eq!(probe(vec![Err(NvmlError::InvalidArg)]), Probe::Unanswered(Unanswered::Error));
    }

    #[test]
    fn only_errors_are_no_answer() {
        let results = vec![Err(NvmlError::NotSupported), Err(NvmlError::Unknown)];
        assert_eq!(probe(results), Probe::Unanswered(Unanswered::Error));
    }
}
