//! The codes of five libraries as one type that reads well.

use std::fmt;

use cudarc::cublas::result::CublasError;
use cudarc::cufft::result::CufftError;
use cudarc::cusparse::result::CusparseError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use cudarc::nvrtc::result::NvrtcError;

/// What a CUDA library answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaError {
    /// The library's own name of the code, such as `CUDA_ERROR_ILLEGAL_ADDRESS`.
    pub name: String,
    /// The driver's number, where it was the driver.
    pub driver_code: Option<u32>,
    /// The driver's description.
    pub description: Option<String>,
}

impl CudaError {
    /// Whether CUDA is dead in this process: every later call would answer the same.
    ///
    /// CUDA Driver API, `CUresult`: these errors "leave the process in an inconsistent state".
    pub fn is_sticky(&self) -> bool {
        // 700 illegal address, 702 launch timeout, 710 assert, 713..=719 launch failures, 214 ECC, 220 NVLink,
        // 226 contained, 46 device unavailable, 999 unknown.
        matches!(self.driver_code, Some(46 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 713..=719 | 721 | 999))
    }

    /// Whether memory ran out.
    pub fn is_out_of_memory(&self) -> bool {
        self.driver_code == Some(CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32) || self.name.contains("ALLOC_FAILED")
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(code) = self.driver_code {
            write!(f, " ({code})")?;
        }
        if let Some(description) = &self.description {
            write!(f, ", {description}")?;
        }
        Ok(())
    }
}

impl From<DriverError> for CudaError {
    fn from(error: DriverError) -> Self {
        let text =
            |text: Result<&std::ffi::CStr, DriverError>| text.ok().map(|text| text.to_string_lossy().into_owned());
        Self {
            name: text(error.error_name()).unwrap_or_else(|| format!("{:?}", error.0)),
            driver_code: Some(error.0 as u32),
            description: text(error.error_string()),
        }
    }
}

macro_rules! from_status {
    ($($error:ty),*) => {$(
        impl From<$error> for CudaError {
            fn from(error: $error) -> Self {
                Self { name: format!("{:?}", error.0), driver_code: None, description: None }
            }
        }
    )*};
}
from_status!(CublasError, CufftError, CusparseError, NvrtcError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_address_kills_the_context_and_a_full_memory_does_not() {
        let error = |code| CudaError { name: "X".into(), driver_code: Some(code), description: None };
        assert!(error(700).is_sticky() && error(719).is_sticky());
        assert!(!error(2).is_sticky() && error(2).is_out_of_memory() && !error(1).is_sticky());
    }
}
