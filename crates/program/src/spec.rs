//! The fields that a person writes. Shapes are row-major, outermost dimension first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DType;

/// Named arrays, kernels and a list of steps that run on one GPU, in order, without a container image of the user's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Program {
    /// Dense arrays: filled in place, or read from files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub arrays: Vec<Array>,
    /// Sparse matrices in compressed rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matrices: Vec<Matrix>,
    /// Kernels in CUDA C++ or PTX.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub sources: Vec<Source>,
    /// What to do, in order.
    #[schemars(length(min = 1, max = 256))]
    pub steps: Vec<Step>,
    /// Arrays to report at the end (shape, SHA-256, first values), and files to write them to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub save: Vec<Save>,
}

/// A dense array. Without `fill` and `file` it starts as zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Array {
    /// The name by which steps call it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape, outermost dimension first.
    #[schemars(length(min = 1, max = 8))]
    pub shape: Vec<u64>,
    /// The values at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
    /// A file that holds the values at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<DataFile>,
}

/// The values of an array at the start: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fill {
    /// The same number everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<f64>,
    /// `start + i·step` for the i-th element in row-major order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iota: Option<Iota>,
    /// Uniform random numbers, the same ones for the same seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<Random>,
    /// Every value, row-major; a complex element is two numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub values: Option<Vec<f64>>,
}

/// An arithmetic sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Iota {
    /// The first value (0).
    #[serde(default)]
    pub start: f64,
    /// The difference of neighbours (1).
    #[serde(default = "one")]
    pub step: f64,
}

/// Uniform random numbers in `[low, high)`. Without bounds: `[-1, 1)`, for integers `[0, 100)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Random {
    /// The same seed gives the same values everywhere.
    #[serde(default)]
    pub seed: u64,
    /// The least value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The bound that no value reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// A file on a mounted volume. A relative path starts at the program file's own folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataFile {
    /// Where the file is.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// How it is written. Without it, by the path's ending: `.npy`, `.mtx`, anything else raw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FileFormat>,
}

/// File formats: NumPy's `npy`, Matrix Market's `mtx`, `raw` little-endian elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    Npy,
    Mtx,
    Raw,
}

/// A sparse matrix: exactly one of `laplace2d`, `csr` and `file`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Matrix {
    /// The name by which steps call it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Type of the values: f32 or f64.
    pub dtype: DType,
    /// `[rows, columns]`: needed with `csr` and `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2))]
    pub shape: Option<Vec<u64>>,
    /// The five-point Laplacian of a square grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub laplace2d: Option<Laplace2d>,
    /// The matrix itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<Csr>,
    /// A Matrix Market file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<DataFile>,
}

/// The five-point Laplacian of a `side`×`side` grid with zero outside: 4 on the diagonal, −1 for each neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Laplace2d {
    /// Points on a side; the matrix has `side²` rows.
    #[schemars(range(min = 1, max = 16384))]
    pub side: u64,
}

/// Compressed sparse rows: row `r` has the entries `rowOffsets[r]..rowOffsets[r+1]` of `columns` and `values`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Csr {
    /// One more than there are rows; starts at 0, never falls.
    #[schemars(length(max = 65536))]
    pub row_offsets: Vec<u64>,
    /// The column of each entry.
    #[schemars(length(max = 65536))]
    pub columns: Vec<u64>,
    /// The value of each entry.
    #[schemars(length(max = 65536))]
    pub values: Vec<f64>,
}

/// A kernel's text: exactly one of `cuda` and `ptx`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// The name by which `launch` calls it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// CUDA C++, compiled by NVRTC for the GPU at hand. Kernels are `extern "C" __global__`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub cuda: Option<String>,
    /// PTX, loaded as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 524288))]
    pub ptx: Option<String>,
    /// NVRTC options, such as `--use_fast_math` or `-DN=16`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub options: Vec<String>,
}

/// One step: exactly one of `launch`, `gemm`, `fft`, `spmv`, `copy` and `check`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// What results call it. Without it: its kind and place, such as `gemm 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Run a kernel of a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// Dense product (cuBLAS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm: Option<Gemm>,
    /// Fourier transforms of the last dimension (cuFFT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fft: Option<Fft>,
    /// Sparse matrix times vector (cuSPARSE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spmv: Option<Spmv>,
    /// Copy one array into another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Copy>,
    /// Compare an array or a step's result; a difference fails the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// A kernel launch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Launch {
    /// The name of a source.
    pub source: String,
    /// The kernel in it.
    #[schemars(length(min = 1, max = 1024))]
    pub function: String,
    /// Blocks in x, y, z; missing ones are 1.
    #[schemars(length(min = 1, max = 3))]
    pub grid: Vec<u32>,
    /// Threads of a block in x, y, z; missing ones are 1. At most 1,024 together.
    #[schemars(length(min = 1, max = 3))]
    pub block: Vec<u32>,
    /// Dynamic shared memory of a block.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared_bytes: u32,
    /// Arguments in the kernel's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub args: Vec<Arg>,
}

/// A kernel argument: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arg {
    /// The address of an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// A `float`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f32: Option<f32>,
    /// A `double`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f64: Option<f64>,
    /// An `int`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub i32: Option<i32>,
    /// An `unsigned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub u32: Option<u32>,
    /// A `long long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub i64: Option<i64>,
    /// An `unsigned long long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub u64: Option<u64>,
}

/// `c = alpha·a·b + beta·c`, with `a` m×k, `b` k×n, `c` m×n, all f32, f64, f16 or bf16.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gemm {
    /// Left operand: m×k, or k×m with `transposeA`.
    pub a: String,
    /// Right operand: k×n, or n×k with `transposeB`.
    pub b: String,
    /// Result: m×n.
    pub c: String,
    /// Whether `a` is stored transposed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transpose_a: bool,
    /// Whether `b` is stored transposed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transpose_b: bool,
    /// Factor of the product (1).
    #[serde(default = "one")]
    pub alpha: f64,
    /// Factor of the old `c` (0).
    #[serde(default)]
    pub beta: f64,
}

/// Fourier transforms of the last dimension, one for each of the others. As cuFFT, without scaling: forward and back gives n·x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fft {
    /// Complex, or real (forward: the output then has n/2+1 complex elements in the last dimension).
    pub input: String,
    /// Complex; real for the inverse of a real transform. May be the input itself if both are complex.
    pub output: String,
    /// `forward` (exponent −2πi) or `inverse`.
    #[serde(default)]
    pub direction: Direction,
}

/// The sign of a Fourier transform's exponent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    #[default]
    Forward,
    Inverse,
}

/// `y = alpha·matrix·x + beta·y`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spmv {
    /// A sparse matrix of the program.
    pub matrix: String,
    /// As many elements as the matrix has columns.
    pub x: String,
    /// As many elements as the matrix has rows.
    pub y: String,
    /// Factor of the product (1).
    #[serde(default = "one")]
    pub alpha: f64,
    /// Factor of the old `y` (0).
    #[serde(default)]
    pub beta: f64,
}

/// Copies all elements of one array to another of the same type and number of elements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Copy {
    /// Source.
    pub from: String,
    /// Destination.
    pub to: String,
}

/// A comparison: either `array` with `equals`, or `step` with `against`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// An array as it is now, compared on the GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// What the array shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Equals>,
    /// The name of an earlier gemm, fft or spmv step, whose result is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What to compare the step's result with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
    /// Difference allowed for each unit of the expected value. For a step the unit is what its rounding grows with: the sum of
    /// the absolute products (gemm, spmv), the root mean square of the transform (fft).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_tolerance: Option<f64>,
    /// Difference allowed besides (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_tolerance: Option<f64>,
}

/// What an array is compared with: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Equals {
    /// Another array of the same type and shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// One number for all elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<f64>,
}

/// Where an expected result comes from: `cpu`, the runtime's own double-precision reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    Cpu,
}

/// An array to report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Save {
    /// The array.
    pub array: String,
    /// Where to write it, as `.npy` or raw, besides reporting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<DataFile>,
}

fn one() -> f64 {
    1.0
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}
