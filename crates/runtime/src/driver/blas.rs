//! Dense products with cuBLAS.
//!
//! cuBLAS is column-major. A row-major m×n array is, read column-major, its n×m transpose; and (a·b)ᵀ = bᵀ·aᵀ. So the row-major
//! product is asked for as b·a with the sizes exchanged, and nothing is transposed in memory.

use std::ffi::{c_int, c_void};

use cudarc::cublas::result;
use cudarc::cublas::sys::{
    self, cublasComputeType_t as Compute, cublasOperation_t as Operation, cudaDataType_t as Type,
};
use weft_program::DType;

use super::{Context, Library};
use crate::Error;
use crate::error::Doing;

/// Sizes and options of a row-major product `c = alpha·op(a)·op(b) + beta·c`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmShape {
    /// f32, f64, f16 or bf16, for all three.
    pub dtype: DType,
    /// Rows of `c`.
    pub m: usize,
    /// Columns of `c`.
    pub n: usize,
    /// Inner dimension.
    pub k: usize,
    /// Whether `a` is stored k×m.
    pub transpose_a: bool,
    /// Whether `b` is stored n×k.
    pub transpose_b: bool,
    /// Factor of the product.
    pub alpha: f64,
    /// Factor of the old `c`.
    pub beta: f64,
}

/// A cuBLAS handle on a context's stream.
pub struct Blas {
    handle: sys::cublasHandle_t,
}

impl Blas {
    /// # Errors
    /// A missing library, or what cuBLAS answers.
    pub fn new(context: &Context) -> Result<Self, Error> {
        Library::Cublas.require()?;
        let this = Self { handle: result::create_handle().doing("starting cuBLAS")? };
        // SAFETY: handle and stream are valid; the device drops the handle before the context.
        unsafe { result::set_stream(this.handle, context.stream().cast()) }.doing("starting cuBLAS")?;
        Ok(this)
    }

    /// The library's version, as it counts: 130000 is 13.0.
    ///
    /// # Errors
    /// What cuBLAS answers.
    pub fn version(&self) -> Result<u32, Error> {
        let mut version = 0;
        // SAFETY: the handle is valid, and the pointer for the call.
        unsafe { sys::cublasGetVersion_v2(self.handle, &mut version) }
            .result()
            .doing("asking cuBLAS for its version")?;
        Ok(version.unsigned_abs())
    }

    /// Starts the product. Sums of f16 and bf16 are kept in f32.
    ///
    /// # Errors
    /// A type or size that cuBLAS does not take, or what it answers.
    ///
    /// # Safety
    /// The addresses lie on the GPU, are valid for the sizes in `shape`, and stay so until the stream has been synchronised.
    pub unsafe fn gemm(&self, shape: &GemmShape, a: u64, b: u64, c: u64) -> Result<(), Error> {
        let (data, compute) = match shape.dtype {
            DType::F32 => (Type::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F),
            DType::F64 => (Type::CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F),
            DType::F16 => (Type::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F),
            DType::Bf16 => (Type::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F),
            other => return Err(Error::argument("dtype", format!("gemm takes f32, f64, f16 and bf16, not {other}"))),
        };
        let size = |value: usize| {
            c_int::try_from(value).map_err(|_| Error::argument("shape", format!("{value} is more than cuBLAS takes")))
        };
        let (m, n, k) = (size(shape.m)?, size(shape.n)?, size(shape.k)?);
        let (ld_a, ld_b) = (if shape.transpose_a { m } else { k }, if shape.transpose_b { k } else { n });
        let op = |transpose| if transpose { Operation::CUBLAS_OP_T } else { Operation::CUBLAS_OP_N };
        // The factors have the type of the computation.
        let (alpha64, beta64) = (shape.alpha, shape.beta);
        let (alpha32, beta32) = (shape.alpha as f32, shape.beta as f32);
        let (alpha, beta): (*const c_void, *const c_void) = if shape.dtype == DType::F64 {
            ((&raw const alpha64).cast(), (&raw const beta64).cast())
        } else {
            ((&raw const alpha32).cast(), (&raw const beta32).cast())
        };
        // SAFETY: the caller's promise for the addresses; the factors are read before the call returns (host pointer mode).
        unsafe {
            result::gemm_ex(
                self.handle,
                op(shape.transpose_b),
                op(shape.transpose_a),
                n,
                m,
                k,
                alpha,
                b as *const c_void,
                data,
                ld_b,
                a as *const c_void,
                data,
                ld_a,
                beta,
                c as *mut c_void,
                data,
                n,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .doing("gemm")
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `create_handle` and destroyed nowhere else.
        if let Err(error) = unsafe { result::destroy_handle(self.handle) } {
            tracing::debug!(?error, "cuBLAS did not take its handle back");
        }
    }
}
