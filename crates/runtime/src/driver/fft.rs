//! Batched Fourier transforms with cuFFT.

use std::ffi::c_int;

use cudarc::cufft::{result, sys};
use weft_program::{DType, Direction};

use super::{Context, Library};
use crate::Error;
use crate::error::Doing;

/// What a plan is for. Rows lie one after the other without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FftShape {
    /// Element type of the input.
    pub input: DType,
    /// Element type of the output.
    pub output: DType,
    /// Length of each transform: of the real side, if one side is real.
    pub length: usize,
    /// Number of transforms.
    pub batch: usize,
}

/// A cuFFT plan on a context's stream. It holds work space on the GPU.
pub struct FftPlan {
    handle: sys::cufftHandle,
    shape: FftShape,
}

impl FftPlan {
    /// # Errors
    /// A missing library, types that cannot be transformed, or what cuFFT answers.
    pub fn new(context: &Context, shape: FftShape) -> Result<Self, Error> {
        Library::Cufft.require()?;
        let kind = match (shape.input, shape.output) {
            (DType::C32, DType::C32) => sys::cufftType::CUFFT_C2C,
            (DType::C64, DType::C64) => sys::cufftType::CUFFT_Z2Z,
            (DType::F32, DType::C32) => sys::cufftType::CUFFT_R2C,
            (DType::F64, DType::C64) => sys::cufftType::CUFFT_D2Z,
            (DType::C32, DType::F32) => sys::cufftType::CUFFT_C2R,
            (DType::C64, DType::F64) => sys::cufftType::CUFFT_Z2D,
            (input, output) => {
                return Err(Error::argument("dtype", format!("no transform takes {input} to {output}")));
            }
        };
        let size = |value: usize, name: &str| {
            c_int::try_from(value).map_err(|_| Error::argument(name, format!("{value} is more than cuFFT takes")))
        };
        let (length, batch) = (size(shape.length, "length")?, size(shape.batch, "batch")?);
        let what = || format!("planning {} transforms of length {}", shape.batch, shape.length);
        let handle = result::plan_1d(length, kind, batch).doing(what())?;
        let plan = Self { handle, shape };
        // SAFETY: plan and stream are valid; the device drops its plans before the context.
        unsafe { result::set_stream(plan.handle, context.stream().cast()) }.doing(what())?;
        Ok(plan)
    }

    /// The library's version, as it counts: 12000 is 12.0.
    ///
    /// # Errors
    /// A missing library, or what cuFFT answers.
    pub fn library_version() -> Result<u32, Error> {
        Library::Cufft.require()?;
        Ok(result::get_version().doing("asking cuFFT for its version")?.unsigned_abs())
    }

    /// Starts the transforms. They are not scaled. A complex-to-real transform may overwrite its input.
    ///
    /// # Errors
    /// What cuFFT answers.
    ///
    /// # Safety
    /// The addresses lie on the GPU, are valid for the plan's shape, and stay so until the stream has been synchronised.
    pub unsafe fn execute(&self, input: u64, output: u64, direction: Direction) -> Result<(), Error> {
        let sign = match direction {
            Direction::Forward => -1,
            Direction::Inverse => 1,
        };
        // SAFETY: the caller's promise, and the types are those the plan was made for.
        unsafe {
            match (self.shape.input, self.shape.output) {
                (DType::C32, DType::C32) => result::exec_c2c(self.handle, input as *mut _, output as *mut _, sign),
                (DType::C64, DType::C64) => result::exec_z2z(self.handle, input as *mut _, output as *mut _, sign),
                (DType::F32, _) => result::exec_r2c(self.handle, input as *mut _, output as *mut _),
                (DType::F64, _) => result::exec_d2z(self.handle, input as *mut _, output as *mut _),
                (DType::C32, _) => result::exec_c2r(self.handle, input as *mut _, output as *mut _),
                _ => result::exec_z2d(self.handle, input as *mut _, output as *mut _),
            }
        }
        .doing("fft")
    }
}

impl Drop for FftPlan {
    fn drop(&mut self) {
        // SAFETY: made by `plan_1d` and destroyed nowhere else.
        if let Err(error) = unsafe { result::destroy(self.handle) } {
            tracing::debug!(?error, "cuFFT did not take its plan back");
        }
    }
}
