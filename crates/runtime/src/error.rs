//! What can go wrong, as sentences for the person who reads them.

use crate::driver::{CudaError, Library};

/// Any failure of the runtime.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// `libcuda.so.1` cannot be loaded.
    #[error(
        "no NVIDIA driver: libcuda.so.1 cannot be loaded; in Kubernetes the device plugin mounts it into containers \
         that ask for nvidia.com/gpu, elsewhere install the driver or set LD_LIBRARY_PATH"
    )]
    NoDriver,
    /// The driver is there and sees no GPU.
    #[error(
        "the NVIDIA driver sees no GPU ({0}): ask for one with resources.limits nvidia.com/gpu, and see nvidia-smi on the node"
    )]
    NoGpu(String),
    /// A GPU index that does not exist.
    #[error("there is no GPU {asked}: this runtime has {count}, counted from 0")]
    NoSuchGpu {
        /// The index asked for.
        asked: u32,
        /// How many there are.
        count: usize,
    },
    /// A CUDA library is not installed.
    #[error("{} cannot be loaded, and {} needs it: use the Weft runtime image, or put its folder on LD_LIBRARY_PATH", .0.soname(), .0.purpose())]
    MissingLibrary(Library),
    /// A CUDA library is older than a function that is called.
    #[error("{0}: the installed CUDA library or driver lacks a function, install a newer one")]
    MissingSymbol(String),
    /// CUDA C++ that does not compile. One diagnostic a line.
    #[error("{source_name}: {}", .diagnostics.join("; "))]
    Compile {
        /// `program.sources[0] "saxpy"`.
        source_name: String,
        /// `line 3: identifier "foo" is undefined`.
        diagnostics: Vec<String>,
    },
    /// An argument that cannot be right.
    #[error("{argument}: {message}")]
    Argument {
        /// The argument or field.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
    /// A handle that this connection does not hold.
    #[error("{kind} {handle} is not known to this connection")]
    UnknownHandle {
        /// `buffer`, `region` or `module`.
        kind: &'static str,
        /// The number given.
        handle: u64,
    },
    /// A call into CUDA failed.
    #[error("{what}: {error}")]
    Cuda {
        /// What was being done.
        what: String,
        /// CUDA's answer.
        error: CudaError,
    },
    /// An operation took longer than it may.
    #[error(
        "GPU {gpu}: the operation did not end within {} s, and CUDA cannot stop it: the runtime starts again, connect again; \
         give it less work at a time, or more time (spec.runtime.operationTimeoutSeconds, or --operation-timeout)",
        .limit.as_secs_f64()
    )]
    Stuck {
        /// Index of the GPU.
        gpu: usize,
        /// How long it may take.
        limit: std::time::Duration,
    },
    /// The GPU serves no more in this process.
    #[error("GPU {gpu} is out of service: {reason}")]
    OutOfService {
        /// Index of the GPU.
        gpu: usize,
        /// Why.
        reason: String,
    },
    /// A file could not be read or written, or holds something else.
    #[error("{path}: {message}")]
    File {
        /// The path as the user wrote it.
        path: String,
        /// What is wrong.
        message: String,
    },
}

impl Error {
    /// An [`Error::Argument`].
    pub fn argument(argument: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Argument { argument: argument.into(), message: message.into() }
    }

    /// An [`Error::File`].
    pub fn file(path: impl Into<String>, message: impl ToString) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }

    /// Whether CUDA is unusable in this process after this error.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Cuda { error, .. } if error.is_sticky())
    }
}

/// Says what was being done when a call into CUDA failed.
pub trait Doing<T> {
    /// Turns the library's code into an [`Error`] that begins with `what`.
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<CudaError>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|error| Error::Cuda { what: what.into(), error: error.into() })
    }
}
