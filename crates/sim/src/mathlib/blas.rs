//! `libcublas.so.13`: handles and matrix products.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use super::elements::{Element, Scalar, Space};
use super::product::{Activation, Matrix, Product};
use crate::cuda::error::Error;
use crate::cuda::ffi::{Code, In, Out, c_api};
use crate::cuda::registry::{Handle, Registry};

/// `cublasStatus_t`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    NotInitialized = 1,
    AllocFailed = 3,
    InvalidValue = 7,
    ExecutionFailed = 13,
    InternalError = 14,
    NotSupported = 15,
}

impl Code for Status {
    const INTERNAL: c_int = Self::InternalError as c_int;
    fn code(self) -> c_int {
        self as c_int
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidValue => Self::InvalidValue,
            Error::OutOfMemory => Self::AllocFailed,
            Error::NotInitialized | Error::InvalidContext | Error::NoDevice => Self::NotInitialized,
            _ => Self::ExecutionFailed,
        }
    }
}

/// What a cuBLAS handle remembers.
pub struct Blas {
    pub space: Space,
    pub stream: AtomicU64,
    /// 0: factors lie on the host, 1: on the device.
    pub pointer_mode: AtomicI32,
    math_mode: AtomicI32,
    atomics_mode: AtomicI32,
}

static HANDLES: LazyLock<Registry<Blas>> = LazyLock::new(|| Registry::new(0x5b01_0000_0000));

/// The handle's object.
///
/// # Errors
/// [`Status::NotInitialized`]
pub fn blas(handle: Handle) -> Result<Arc<Blas>, Status> {
    HANDLES.get(handle).ok_or(Status::NotInitialized)
}

impl Blas {
    /// A factor, read as the pointer mode says.
    ///
    /// # Errors
    /// [`Status::InvalidValue`] for a null pointer.
    pub fn scalar(&self, pointer: In<u8>, element: Element) -> Result<Scalar, Status> {
        Ok(Scalar::new(pointer, element, self.pointer_mode.load(Relaxed) == 1)?)
    }

    /// Queues work on the handle's stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn submit(&self, work: impl FnOnce(&Space) -> Result<(), Error> + Send + 'static) -> Result<(), Status> {
        Ok(self.space.submit(self.stream.load(Relaxed), work)?)
    }
}

/// A size given as a C integer.
///
/// # Errors
/// [`Status::InvalidValue`] when negative.
pub fn size(value: c_int) -> Result<usize, Status> {
    usize::try_from(value).map_err(|_| Status::InvalidValue)
}

/// `cublasOperation_t`; conjugation changes nothing for real numbers.
fn transposed(operation: c_int) -> Result<bool, Status> {
    match operation {
        0 => Ok(false),
        1 | 2 => Ok(true),
        _ => Err(Status::InvalidValue),
    }
}

fn element(number: c_int) -> Result<Element, Status> {
    Element::of_data_type(number).ok_or(Status::NotSupported)
}

/// Type of alpha and beta for a `cublasComputeType_t`.
pub fn scale_element(compute: c_int) -> Option<Element> {
    Some(match compute {
        64 | 65 => Element::F16,
        68 | 69 | 74..=79 => Element::F32,
        70 | 71 => Element::F64,
        72 | 73 => Element::I32,
        _ => return None,
    })
}

/// Operand as the functions name it: address, type, leading dimension, stride.
type Operand = (u64, Element, c_int, i64);

/// Sizes, operations and operands of a product, as every gemm function has them.
struct Call {
    operations: [c_int; 2],
    sizes: [c_int; 3],
    alpha: In<u8>,
    beta: In<u8>,
    scale: Element,
    a: Operand,
    b: Operand,
    c: Operand,
    batches: c_int,
}

impl Call {
    fn product(&self, handle: &Blas) -> Result<Product, Status> {
        let matrix = |(address, element, leading, stride): Operand| {
            Ok::<_, Status>(Matrix { address, element, leading: size(leading)?, stride })
        };
        let [m, n, k] = self.sizes;
        let product = Product {
            transpose_a: transposed(self.operations[0])?,
            transpose_b: transposed(self.operations[1])?,
            m: size(m)?,
            n: size(n)?,
            k: size(k)?,
            alpha: handle.scalar(self.alpha, self.scale)?,
            beta: handle.scalar(self.beta, self.scale)?,
            a: matrix(self.a)?,
            b: matrix(self.b)?,
            c: matrix(self.c)?,
            d: matrix(self.c)?,
            bias: None,
            bias_element: Element::F32,
            activation: Activation::None,
            batches: size(self.batches)?,
        };
        if product.fits() { Ok(product) } else { Err(Status::InvalidValue) }
    }

    fn run(self, handle: Handle) -> Result<(), Status> {
        let handle = blas(handle)?;
        let product = self.product(&handle)?;
        handle.submit(move |space| product.run(space))
    }

    /// A batch whose matrices are found through arrays of addresses in device memory.
    fn run_pointers(self, handle: Handle) -> Result<(), Status> {
        let handle = blas(handle)?;
        let product = self.product(&handle)?;
        handle.submit(move |space| {
            let list = |matrix: &Matrix| space.load::<u64>(matrix.address, product.batches);
            let (a, b, c) = (list(&product.a)?, list(&product.b)?, list(&product.c)?);
            for batch in 0..product.batches {
                let mut one = Product { batches: 1, ..product.clone() };
                (one.a.address, one.b.address) = (a[batch], b[batch]);
                (one.c.address, one.d.address) = (c[batch], c[batch]);
                one.run(space)?;
            }
            Ok(())
        })
    }
}

c_api! { Status;
    fn cublasCreate_v2(handle: Out<Handle>) {
        let space = Space::current().map_err(|_| Status::NotInitialized)?;
        let blas = Blas {
            space,
            stream: AtomicU64::new(0),
            pointer_mode: AtomicI32::new(0),
            math_mode: AtomicI32::new(0),
            atomics_mode: AtomicI32::new(0),
        };
        Ok(handle.set(HANDLES.insert(Arc::new(blas)))?)
    }

    fn cublasDestroy_v2(handle: Handle) {
        HANDLES.remove(handle).map(drop).ok_or(Status::NotInitialized)
    }

    fn cublasGetVersion_v2(_handle: Handle, version: Out<c_int>) {
        Ok(version.set(130_000)?)
    }

    fn cublasSetStream_v2(handle: Handle, stream: Handle) {
        blas(handle)?.stream.store(stream, Relaxed);
        Ok(())
    }

    fn cublasGetStream_v2(handle: Handle, stream: Out<Handle>) {
        Ok(stream.set(blas(handle)?.stream.load(Relaxed))?)
    }

    fn cublasSetPointerMode_v2(handle: Handle, mode: c_int) {
        if !(0..=1).contains(&mode) {
            return Err(Status::InvalidValue);
        }
        blas(handle)?.pointer_mode.store(mode, Relaxed);
        Ok(())
    }

    fn cublasGetPointerMode_v2(handle: Handle, mode: Out<c_int>) {
        Ok(mode.set(blas(handle)?.pointer_mode.load(Relaxed))?)
    }

    fn cublasSetMathMode(handle: Handle, mode: c_int) {
        blas(handle)?.math_mode.store(mode, Relaxed);
        Ok(())
    }

    fn cublasGetMathMode(handle: Handle, mode: Out<c_int>) {
        Ok(mode.set(blas(handle)?.math_mode.load(Relaxed))?)
    }

    fn cublasSetAtomicsMode(handle: Handle, mode: c_int) {
        blas(handle)?.atomics_mode.store(mode, Relaxed);
        Ok(())
    }

    fn cublasGetAtomicsMode(handle: Handle, mode: Out<c_int>) {
        Ok(mode.set(blas(handle)?.atomics_mode.load(Relaxed))?)
    }

    fn cublasSetWorkspace_v2(handle: Handle, _workspace: u64, _bytes: usize) {
        blas(handle).map(drop)
    }

    fn cublasGemmEx(
        handle: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: In<u8>,
        a: u64, a_type: c_int, lda: c_int, b: u64, b_type: c_int, ldb: c_int,
        beta: In<u8>, c: u64, c_type: c_int, ldc: c_int, compute: c_int, _algorithm: c_int,
    ) {
        let scale = scale_element(compute).ok_or(Status::NotSupported)?;
        let (a, b) = ((a, element(a_type)?, lda, 0), (b, element(b_type)?, ldb, 0));
        let c = (c, element(c_type)?, ldc, 0);
        Call { operations: [ta, tb], sizes: [m, n, k], alpha, beta, scale, a, b, c, batches: 1 }.run(handle)
    }

    fn cublasGemmStridedBatchedEx(
        handle: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: In<u8>,
        a: u64, a_type: c_int, lda: c_int, stride_a: i64, b: u64, b_type: c_int, ldb: c_int, stride_b: i64,
        beta: In<u8>, c: u64, c_type: c_int, ldc: c_int, stride_c: i64, batches: c_int, compute: c_int, _algorithm: c_int,
    ) {
        let scale = scale_element(compute).ok_or(Status::NotSupported)?;
        let (a, b) = ((a, element(a_type)?, lda, stride_a), (b, element(b_type)?, ldb, stride_b));
        let c = (c, element(c_type)?, ldc, stride_c);
        Call { operations: [ta, tb], sizes: [m, n, k], alpha, beta, scale, a, b, c, batches }.run(handle)
    }

    fn cublasGemmBatchedEx(
        handle: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: In<u8>,
        a: u64, a_type: c_int, lda: c_int, b: u64, b_type: c_int, ldb: c_int,
        beta: In<u8>, c: u64, c_type: c_int, ldc: c_int, batches: c_int, compute: c_int, _algorithm: c_int,
    ) {
        let scale = scale_element(compute).ok_or(Status::NotSupported)?;
        let (a, b) = ((a, element(a_type)?, lda, 0), (b, element(b_type)?, ldb, 0));
        let c = (c, element(c_type)?, ldc, 0);
        Call { operations: [ta, tb], sizes: [m, n, k], alpha, beta, scale, a, b, c, batches }.run_pointers(handle)
    }
}

/// The gemm functions of one type.
macro_rules! gemm_functions {
    ($element:expr, $plain:ident, $strided:ident, $pointers:ident) => {
        c_api! { Status;
            fn $plain(
                handle: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: In<u8>,
                a: u64, lda: c_int, b: u64, ldb: c_int, beta: In<u8>, c: u64, ldc: c_int,
            ) {
                let (a, b, c) = ((a, $element, lda, 0), (b, $element, ldb, 0), (c, $element, ldc, 0));
                let (operations, sizes) = ([ta, tb], [m, n, k]);
                Call { operations, sizes, alpha, beta, scale: $element, a, b, c, batches: 1 }.run(handle)
            }

            fn $strided(
                handle: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: In<u8>,
                a: u64, lda: c_int, stride_a: i64, b: u64, ldb: c_int, stride_b: i64,
                beta: In<u8>, c: u64, ldc: c_int, stride_c: i64, batches: c_int,
            ) {
                let (a, b) = ((a, $element, lda, stride_a), (b, $element, ldb, stride_b));
                let (c, operations, sizes) = ((c, $element, ldc, stride_c), [ta, tb], [m, n, k]);
                Call { operations, sizes, alpha, beta, scale: $element, a, b, c, batches }.run(handle)
            }

            fn $pointers(
                handle: Handle, ta: c_int, tb: c_int, m: c_int, n: c_int, k: c_int, alpha: In<u8>,
                a: u64, lda: c_int, b: u64, ldb: c_int, beta: In<u8>, c: u64, ldc: c_int, batches: c_int,
            ) {
                let (a, b, c) = ((a, $element, lda, 0), (b, $element, ldb, 0), (c, $element, ldc, 0));
                let (operations, sizes) = ([ta, tb], [m, n, k]);
                Call { operations, sizes, alpha, beta, scale: $element, a, b, c, batches }.run_pointers(handle)
            }
        }
    };
}
gemm_functions!(Element::F32, cublasSgemm_v2, cublasSgemmStridedBatched, cublasSgemmBatched);
gemm_functions!(Element::F64, cublasDgemm_v2, cublasDgemmStridedBatched, cublasDgemmBatched);
gemm_functions!(Element::F16, cublasHgemm, cublasHgemmStridedBatched, cublasHgemmBatched);

fn status_name(status: c_int) -> &'static std::ffi::CStr {
    match status {
        0 => c"CUBLAS_STATUS_SUCCESS",
        1 => c"CUBLAS_STATUS_NOT_INITIALIZED",
        3 => c"CUBLAS_STATUS_ALLOC_FAILED",
        7 => c"CUBLAS_STATUS_INVALID_VALUE",
        8 => c"CUBLAS_STATUS_ARCH_MISMATCH",
        11 => c"CUBLAS_STATUS_MAPPING_ERROR",
        13 => c"CUBLAS_STATUS_EXECUTION_FAILED",
        14 => c"CUBLAS_STATUS_INTERNAL_ERROR",
        15 => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS_UNKNOWN",
    }
}

// SAFETY: the name is cuBLAS's, whose place this library takes.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the library's name")]
pub extern "C" fn cublasGetStatusName(status: c_int) -> *const c_char {
    status_name(status).as_ptr()
}

// SAFETY: the name is cuBLAS's, whose place this library takes.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the library's name")]
pub extern "C" fn cublasGetStatusString(status: c_int) -> *const c_char {
    status_name(status).as_ptr()
}
