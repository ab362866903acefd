//! The unsafe edge: the CUDA driver and its libraries behind types that cannot be misused from outside this folder.
//!
//! cudarc looks a symbol up at its first call and panics when the library or the symbol is missing. So each library is asked
//! for with [`Library::require`] before anything of it is called, and the device thread turns what remains, a symbol that an
//! old library lacks, from a panic into [`Error::MissingSymbol`].

mod blas;
mod context;
mod cuda_error;
mod fft;
mod nvrtc;
mod pinned;
mod sparse;

use std::sync::OnceLock;

use cudarc::driver::sys as cuda;
use cudarc::driver::{CudaContext, result};

pub use blas::{Blas, GemmShape};
pub use context::{Address, Argument, Context, Launch, Memory, Module};
pub use cuda_error::CudaError;
pub use fft::{FftPlan, FftShape};
pub use nvrtc::{Compiled, compile, version as nvrtc_version};
pub use pinned::Pinned;
pub use sparse::{CsrMatrix, Sparse};

use crate::Error;
use crate::error::Doing;

/// The CUDA libraries that the runtime uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// Comes with the driver, from the node.
    Driver,
    /// Compiles CUDA C++.
    Nvrtc,
    /// Dense products.
    Cublas,
    /// Fourier transforms.
    Cufft,
    /// Sparse products.
    Cusparse,
}

impl Library {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Driver, Self::Nvrtc, Self::Cublas, Self::Cufft, Self::Cusparse];

    /// The file that is looked for.
    pub fn soname(self) -> &'static str {
        match self {
            Self::Driver => "libcuda.so.1",
            Self::Nvrtc => "libnvrtc.so.13",
            Self::Cublas => "libcublas.so.13",
            Self::Cufft => "libcufft.so.12",
            Self::Cusparse => "libcusparse.so.12",
        }
    }

    /// What cannot be done without it.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Driver => "every use of a GPU",
            Self::Nvrtc => "CUDA C++ source",
            Self::Cublas => "gemm",
            Self::Cufft => "fft",
            Self::Cusparse => "spmv",
        }
    }

    /// Whether it can be loaded. Looked up once.
    pub fn is_present(self) -> bool {
        static PRESENT: [OnceLock<bool>; 5] = [const { OnceLock::new() }; 5];
        *PRESENT[self as usize].get_or_init(|| {
            // SAFETY: loading NVIDIA's libraries runs their initialisers, which is what using them means.
            unsafe {
                match self {
                    Self::Driver => cudarc::driver::sys::is_culib_present(),
                    Self::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
                    Self::Cublas => cudarc::cublas::sys::is_culib_present(),
                    Self::Cufft => cudarc::cufft::sys::is_culib_present(),
                    Self::Cusparse => cudarc::cusparse::sys::is_culib_present(),
                }
            }
        })
    }

    /// # Errors
    /// [`Error::NoDriver`] or [`Error::MissingLibrary`] when it cannot be loaded.
    pub fn require(self) -> Result<(), Error> {
        match (self.is_present(), self) {
            (true, _) => Ok(()),
            (false, Self::Driver) => Err(Error::NoDriver),
            (false, library) => Err(Error::MissingLibrary(library)),
        }
    }
}

/// A GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Position among the visible GPUs.
    pub index: usize,
    /// `GPU-` and the UUID, as NVML writes it.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub compute: (u32, u32),
    /// Device memory.
    pub memory_bytes: u64,
}

/// The newest CUDA version that the driver serves, as it counts: 13000 is 13.0.
///
/// # Errors
/// [`Error::NoDriver`]; [`Error::Cuda`] if the driver refuses.
pub fn driver_cuda_version() -> Result<u32, Error> {
    Library::Driver.require()?;
    let mut version = 0;
    // SAFETY: the pointer is valid for the call; this function needs no initialisation.
    unsafe { cuda::cuDriverGetVersion(&mut version) }.result().doing("asking the driver for its version")?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// How many GPUs this process may use.
///
/// # Errors
/// [`Error::NoDriver`] or [`Error::NoGpu`]: the count is never 0.
pub fn gpu_count() -> Result<usize, Error> {
    Library::Driver.require()?;
    match CudaContext::device_count() {
        Ok(count) if count > 0 => Ok(count as usize),
        Ok(_) => Err(Error::NoGpu("its count is 0".into())),
        Err(error) => Err(Error::NoGpu(CudaError::from(error).to_string())),
    }
}

/// UUIDs of the visible GPUs, without taking a context.
///
/// # Errors
/// As [`gpu_count`].
pub fn gpu_uuids() -> Result<Vec<String>, Error> {
    let count = gpu_count()?;
    (0..count)
        .map(|index| {
            let what = format!("describing GPU {index}");
            let device = result::device::get(i32::try_from(index).unwrap_or(i32::MAX)).doing(&what)?;
            Ok(context::uuid_text(&result::device::get_uuid(device).doing(&what)?.bytes))
        })
        .collect()
}
