//! Comparing arrays on the GPU: two arrays of gigabytes need not travel to be found equal.

use weft_program::{DType, Tolerance};

use super::{Device, Operand};
use crate::Error;
use crate::driver::{Argument, Launch};

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Elements compared.
    pub elements: usize,
    /// How many differ by more than allowed; not-a-number always does.
    pub differing: u64,
    /// The first of them.
    pub first: Option<usize>,
    /// The greatest difference found, in absolute terms.
    pub worst: f64,
}

const BLOCKS: u32 = 128;
const THREADS: u32 = 256;

/// Each block leaves one partial result, so that no atomics are needed and the answer does not depend on the order of blocks.
///
/// Half-precision values are decoded by hand: NVRTC brings no `cuda_fp16.h`.
const SOURCE: &str = r#"
typedef unsigned long long u64;
struct Partial { u64 differing; u64 first; double worst; };

#if DTYPE == 0
typedef double T;  static __device__ double value(T x) { return x; }
#elif DTYPE == 1
typedef float T;   static __device__ double value(T x) { return x; }
#elif DTYPE == 2
typedef unsigned short T;
static __device__ double value(T x) {
    int exponent = (x >> 10) & 31, mantissa = x & 1023;
    double magnitude = exponent == 0 ? mantissa * 5.9604644775390625e-08
        : exponent == 31 ? (mantissa ? __longlong_as_double(0x7ff8000000000000ll) : __longlong_as_double(0x7ff0000000000000ll))
        : (mantissa + 1024) * __longlong_as_double((long long)(exponent - 25 + 1023) << 52);
    return x & 0x8000 ? -magnitude : magnitude;
}
#elif DTYPE == 3
typedef unsigned short T;  static __device__ double value(T x) { return __int_as_float((int)((unsigned)x << 16)); }
#elif DTYPE == 4
typedef long long T;
#elif DTYPE == 5
typedef int T;
#elif DTYPE == 6
typedef signed char T;
#elif DTYPE == 7
typedef unsigned long long T;
#elif DTYPE == 8
typedef unsigned int T;
#elif DTYPE == 9
typedef unsigned char T;
#elif DTYPE == 10
typedef float T;   static __device__ double value(T x) { return x; }
#else
typedef double T;  static __device__ double value(T x) { return x; }
#endif

static __device__ double magnitude(double x) { return x < 0 ? -x : x; }

extern "C" __global__ void weft_compare(
    const T *got, const T *want, u64 elements, double constant, double relative, double absolute, Partial *partials)
{
    __shared__ Partial shared[256];
    Partial mine = {0, ~0ull, 0.0};
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += stride) {
        double difference, scale;
#if DTYPE >= 10
        double gr = value(got[2 * i]), gi = value(got[2 * i + 1]);
        double wr = want ? value(want[2 * i]) : constant, wi = want ? value(want[2 * i + 1]) : 0.0;
        bool same = gr == wr && gi == wi;
        difference = same ? 0.0 : sqrt((gr - wr) * (gr - wr) + (gi - wi) * (gi - wi));
        scale = sqrt(wr * wr + wi * wi);
#elif DTYPE >= 4
        T g = got[i], w = want ? want[i] : (T)constant;
        difference = g > w ? (double)((u64)g - (u64)w) : (double)((u64)w - (u64)g);
        scale = magnitude((double)w);
#else
        double g = value(got[i]), w = want ? value(want[i]) : constant;
        difference = g == w ? 0.0 : magnitude(g - w);
        scale = magnitude(w);
#endif
        if (!(difference <= absolute + relative * scale)) {
            mine.differing += 1;
            if (i < mine.first) mine.first = i;
        }
        if (!(difference <= mine.worst)) mine.worst = difference;
    }
    shared[threadIdx.x] = mine;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            Partial a = shared[threadIdx.x], b = shared[threadIdx.x + half];
            a.differing += b.differing;
            if (b.first < a.first) a.first = b.first;
            if (!(b.worst <= a.worst)) a.worst = b.worst;
            shared[threadIdx.x] = a;
        }
    }
    if (threadIdx.x == 0) partials[blockIdx.x] = shared[0];
}
"#;

impl Device {
    /// Compares `got` with `want`, or with `constant` where there is none, element by element: different is what is further
    /// away than `tolerance.absolute + tolerance.relative·|want|`.
    ///
    /// # Errors
    /// What compiler or driver answer.
    pub fn compare(
        &mut self,
        dtype: DType,
        got: Operand,
        want: Option<Operand>,
        constant: f64,
        tolerance: Tolerance,
    ) -> Result<Comparison, Error> {
        let elements = got.bytes / dtype.size_bytes();
        let number = DType::ALL.iter().position(|&other| other == dtype).unwrap_or_default();
        let module = self.load_cuda("the comparison kernel", SOURCE, &[format!("-DDTYPE={number}")])?;
        let partials = self.context().alloc(BLOCKS as usize * 24)?;
        let arguments = [
            Argument::Pointer(got.kernel_address()),
            Argument::Pointer(want.map_or(0, |want| want.kernel_address())),
            Argument::U64(elements as u64),
            Argument::F64(constant),
            Argument::F64(tolerance.relative),
            Argument::F64(tolerance.absolute),
            Argument::Pointer(partials.pointer()),
        ];
        let launch = Launch { grid: [BLOCKS, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0 };
        self.launch(&module, "weft_compare", launch, &arguments)?;
        let bytes = self.context().read(&partials)?;
        let (words, _) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let mut total = Comparison { elements, differing: 0, first: None, worst: 0.0 };
        for partial in words.chunks_exact(3) {
            total.differing += partial[0];
            if let Ok(first) = usize::try_from(partial[1])
                && first < elements
            {
                total.first = Some(total.first.map_or(first, |other| other.min(first)));
            }
            let worst = f64::from_bits(partial[2]);
            if worst.is_nan() || worst > total.worst {
                total.worst = worst;
            }
        }
        Ok(total)
    }
}
