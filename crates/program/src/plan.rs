//! A checked program: names resolved to indices, shapes to sizes, defaults filled in.

use crate::{DType, Direction, FileFormat, Iota};

/// Index into [`Plan::arrays`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrayId(pub usize);

/// Index into [`Plan::matrices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixId(pub usize);

/// Index into [`Plan::sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub usize);

/// Index into [`Plan::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepId(pub usize);

/// A program that [`crate::validate`] found right.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order of the program.
    pub arrays: Vec<ArrayPlan>,
    /// In the order of the program.
    pub matrices: Vec<MatrixPlan>,
    /// In the order of the program.
    pub sources: Vec<SourcePlan>,
    /// In the order of the program.
    pub steps: Vec<StepPlan>,
    /// In the order of the program.
    pub saves: Vec<SavePlan>,
}

impl Plan {
    /// The array of an id.
    pub fn array(&self, id: ArrayId) -> &ArrayPlan {
        &self.arrays[id.0]
    }

    /// The matrix of an id.
    pub fn matrix(&self, id: MatrixId) -> &MatrixPlan {
        &self.matrices[id.0]
    }

    /// Device memory of all dense arrays.
    pub fn array_bytes(&self) -> u64 {
        self.arrays.iter().map(|array| array.bytes() as u64).sum()
    }

    /// Whether a later check compares this step's result with the CPU's.
    pub fn is_checked_on_cpu(&self, id: StepId) -> bool {
        self.steps.iter().any(|step| matches!(step.op, Op::CheckStep { step, .. } if step == id))
    }
}

/// A dense array.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrayPlan {
    /// The user's name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Values at the start.
    pub content: Content,
}

impl ArrayPlan {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in memory.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size_bytes()
    }
}

/// The values of an array at the start.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Zeros.
    Zeros,
    /// One number everywhere.
    Constant(f64),
    /// An arithmetic sequence.
    Iota(Iota),
    /// Uniform in `[low, high)`.
    Random {
        /// Seed.
        seed: u64,
        /// Least value.
        low: f64,
        /// Bound not reached.
        high: f64,
    },
    /// All values; a complex element is two of them.
    Values(Vec<f64>),
    /// A file.
    File(FilePlan),
}

/// A file and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlan {
    /// As the user wrote it; relative to the program's folder.
    pub path: String,
    /// Format, from the field or the path's ending.
    pub format: FileFormat,
}

/// A sparse matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixPlan {
    /// The user's name.
    pub name: String,
    /// Type of the values.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Where the entries come from.
    pub entries: Entries,
}

/// Where a sparse matrix's entries come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Entries {
    /// The five-point Laplacian of a grid with this side.
    Laplace2d {
        /// Points on a side.
        side: usize,
    },
    /// Given in the program.
    Csr {
        /// `rows + 1` offsets.
        row_offsets: Vec<i32>,
        /// Column of each entry.
        columns: Vec<i32>,
        /// Value of each entry.
        values: Vec<f64>,
    },
    /// A Matrix Market file.
    File(FilePlan),
}

/// A kernel source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePlan {
    /// The user's name.
    pub name: String,
    /// The text.
    pub text: SourceText,
    /// NVRTC options.
    pub options: Vec<String>,
}

/// What language a source is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceText {
    /// CUDA C++.
    Cuda(String),
    /// PTX.
    Ptx(String),
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// The user's name, or kind and place.
    pub name: String,
    /// What it does.
    pub op: Op,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Runs a kernel.
    Launch {
        /// Source that holds it.
        source: SourceId,
        /// Kernel.
        function: String,
        /// Blocks in x, y, z.
        grid: [u32; 3],
        /// Threads of a block in x, y, z.
        block: [u32; 3],
        /// Dynamic shared memory of a block.
        shared_bytes: u32,
        /// Arguments in order.
        args: Vec<ArgPlan>,
    },
    /// `c = alpha·op(a)·op(b) + beta·c`.
    Gemm(GemmPlan),
    /// Batched one-dimensional Fourier transform.
    Fft(FftPlan),
    /// `y = alpha·matrix·x + beta·y`.
    Spmv {
        /// Matrix.
        matrix: MatrixId,
        /// Vector in.
        x: ArrayId,
        /// Vector out.
        y: ArrayId,
        /// Factor of the product.
        alpha: f64,
        /// Factor of the old `y`.
        beta: f64,
    },
    /// Copies an array.
    Copy {
        /// Source.
        from: ArrayId,
        /// Destination.
        to: ArrayId,
    },
    /// Compares an array on the GPU.
    CheckArray {
        /// The array.
        array: ArrayId,
        /// What it shall equal.
        expected: Expected,
        /// How near.
        tolerance: Tolerance,
    },
    /// Compares what a step computed with the CPU's result from the same inputs.
    CheckStep {
        /// The earlier step.
        step: StepId,
        /// How near.
        tolerance: Tolerance,
    },
}

impl Op {
    /// The word of the YAML field.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Launch { .. } => "launch",
            Self::Gemm(_) => "gemm",
            Self::Fft(_) => "fft",
            Self::Spmv { .. } => "spmv",
            Self::Copy { .. } => "copy",
            Self::CheckArray { .. } | Self::CheckStep { .. } => "check",
        }
    }
}

/// A kernel argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ArgPlan {
    /// Address of an array.
    Array(ArrayId),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
    /// `int`.
    I32(i32),
    /// `unsigned`.
    U32(u32),
    /// `long long`.
    I64(i64),
    /// `unsigned long long`.
    U64(u64),
}

/// A dense product with its sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmPlan {
    /// Left operand.
    pub a: ArrayId,
    /// Right operand.
    pub b: ArrayId,
    /// Result.
    pub c: ArrayId,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
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

/// Batched transforms with their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FftPlan {
    /// Input array.
    pub input: ArrayId,
    /// Output array.
    pub output: ArrayId,
    /// Length of each transform, in the real or complex elements of the longer side.
    pub length: usize,
    /// Number of transforms.
    pub batch: usize,
    /// Sign of the exponent.
    pub direction: Direction,
}

/// What an array is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// Another array, element by element.
    Array(ArrayId),
    /// One number.
    Constant(f64),
}

/// A difference is allowed up to `absolute + relative·scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// For each unit of the expected value.
    pub relative: f64,
    /// Besides.
    pub absolute: f64,
}

/// An array to report at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavePlan {
    /// The array.
    pub array: ArrayId,
    /// Where to write it.
    pub file: Option<FilePlan>,
}
