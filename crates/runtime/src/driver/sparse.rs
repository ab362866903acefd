//! Sparse matrix times vector with cuSPARSE.

use std::ffi::c_void;
use std::ptr;

use cudarc::cusparse::{result, sys};
use weft_program::DType;

use super::{Context, Library, Memory};
use crate::Error;
use crate::error::Doing;

/// A cuSPARSE handle on a context's stream.
pub struct Sparse {
    handle: sys::cusparseHandle_t,
}

/// A matrix in compressed sparse rows on the GPU, with 32-bit offsets and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsrMatrix {
    /// f32 or f64.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Stored entries.
    pub entries: usize,
    /// Address of `rows + 1` offsets.
    pub row_offsets: u64,
    /// Address of the column of each entry.
    pub column_indices: u64,
    /// Address of the value of each entry.
    pub values: u64,
}

impl Sparse {
    /// # Errors
    /// A missing library, or what cuSPARSE answers.
    pub fn new(context: &Context) -> Result<Self, Error> {
        Library::Cusparse.require()?;
        let this = Self { handle: result::create().doing("starting cuSPARSE")? };
        // SAFETY: handle and stream are valid; the device drops the handle before the context.
        unsafe { sys::cusparseSetStream(this.handle, context.stream().cast()) }.result().doing("starting cuSPARSE")?;
        Ok(this)
    }

    /// The library's version, as it counts: 12600 is 12.6.
    ///
    /// # Errors
    /// What cuSPARSE answers.
    pub fn version(&self) -> Result<u32, Error> {
        let mut version = 0;
        // SAFETY: the handle is valid, and the pointer for the call.
        unsafe { sys::cusparseGetVersion(self.handle, &mut version) }
            .result()
            .doing("asking cuSPARSE for its version")?;
        Ok(version.unsigned_abs())
    }

    /// Makes `y = alpha·matrix·x + beta·y` ready, calls `run` to time or start it, and keeps the work space until it returns.
    ///
    /// # Errors
    /// A type that is not taken, those of `run`, or what cuSPARSE answers.
    ///
    /// # Safety
    /// All addresses lie on the GPU and are valid for the sizes in `matrix` until `run` returns; `run` synchronises the stream
    /// after calling what it is given.
    pub unsafe fn spmv(
        &self,
        context: &Context,
        matrix: &CsrMatrix,
        x: u64,
        y: u64,
        (alpha, beta): (f64, f64),
        run: impl FnOnce(&dyn Fn() -> Result<(), Error>) -> Result<f64, Error>,
    ) -> Result<f64, Error> {
        use sys::{cudaDataType_t as Type, cusparseOperation_t as Operation, cusparseSpMVAlg_t as Algorithm};
        let data = match matrix.dtype {
            DType::F32 => Type::CUDA_R_32F,
            DType::F64 => Type::CUDA_R_64F,
            other => return Err(Error::argument("dtype", format!("spmv takes f32 and f64, not {other}"))),
        };
        let (alpha32, beta32) = (alpha as f32, beta as f32);
        let (alpha, beta): (*const c_void, *const c_void) = if matrix.dtype == DType::F64 {
            ((&raw const alpha).cast(), (&raw const beta).cast())
        } else {
            ((&raw const alpha32).cast(), (&raw const beta32).cast())
        };
        let described = Described::csr(matrix, data)?;
        let (vector_x, vector_y) = (Vector::new(matrix.columns, x, data)?, Vector::new(matrix.rows, y, data)?);
        let (operation, algorithm) =
            (Operation::CUSPARSE_OPERATION_NON_TRANSPOSE, Algorithm::CUSPARSE_SPMV_ALG_DEFAULT);
        let mut bytes = 0usize;
        // SAFETY: the descriptors live to the end of this function, and the factors are on the host (pointer mode host).
        unsafe {
            sys::cusparseSpMV_bufferSize(
                self.handle,
                operation,
                alpha,
                described.0.cast_const(),
                vector_x.0.cast_const(),
                beta,
                vector_y.0,
                data,
                algorithm,
                &mut bytes,
            )
        }
        .result()
        .doing("planning spmv")?;
        let work: Memory = context.alloc(bytes)?;
        run(&|| {
            // SAFETY: as above, with work space of the size asked for; the caller's promise for the addresses.
            unsafe {
                sys::cusparseSpMV(
                    self.handle,
                    operation,
                    alpha,
                    described.0.cast_const(),
                    vector_x.0.cast_const(),
                    beta,
                    vector_y.0,
                    data,
                    algorithm,
                    work.pointer() as *mut c_void,
                )
            }
            .result()
            .doing("spmv")
        })
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        // SAFETY: made by `create` and destroyed nowhere else.
        if let Err(error) = unsafe { result::destroy(self.handle) } {
            tracing::debug!(?error, "cuSPARSE did not take its handle back");
        }
    }
}

struct Described(sys::cusparseSpMatDescr_t);

impl Described {
    fn csr(matrix: &CsrMatrix, data: sys::cudaDataType) -> Result<Self, Error> {
        let index = sys::cusparseIndexType_t::CUSPARSE_INDEX_32I;
        let mut descriptor = ptr::null_mut();
        // SAFETY: the descriptor keeps the addresses and reads nothing through them here.
        unsafe {
            sys::cusparseCreateCsr(
                &mut descriptor,
                matrix.rows as i64,
                matrix.columns as i64,
                matrix.entries as i64,
                matrix.row_offsets as *mut c_void,
                matrix.column_indices as *mut c_void,
                matrix.values as *mut c_void,
                index,
                index,
                sys::cusparseIndexBase_t::CUSPARSE_INDEX_BASE_ZERO,
                data,
            )
        }
        .result()
        .doing("describing a sparse matrix")?;
        Ok(Self(descriptor))
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: made above and destroyed nowhere else. It holds host memory only, so a failure loses nothing on the GPU.
        let _status = unsafe { sys::cusparseDestroySpMat(self.0.cast_const()) };
    }
}

struct Vector(sys::cusparseDnVecDescr_t);

impl Vector {
    fn new(length: usize, address: u64, data: sys::cudaDataType) -> Result<Self, Error> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: the descriptor keeps the address and reads nothing through it here.
        unsafe { sys::cusparseCreateDnVec(&mut descriptor, length as i64, address as *mut c_void, data) }
            .result()
            .doing("describing a vector")?;
        Ok(Self(descriptor))
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: as for matrices.
        let _status = unsafe { sys::cusparseDestroyDnVec(self.0.cast_const()) };
    }
}
