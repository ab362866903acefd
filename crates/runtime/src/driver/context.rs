//! A context on its thread: memory, copies, modules, launches, time.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys as cuda;
use cudarc::driver::{CudaContext, CudaModule, CudaSlice, CudaStream, DevicePtr, result};
use cudarc::nvrtc::Ptx;

use super::{GpuInfo, Library};
use crate::Error;
use crate::error::Doing;
use crate::ptx::{self, Kernel};

/// Above this a kernel has to be told that it may take so much dynamic shared memory (CUDA C++ guide, "Shared Memory").
const SHARED_BYTES_WITHOUT_OPT_IN: u32 = 48 * 1024;

/// The primary context of one GPU and the one stream on which all its work goes, in order.
pub struct Context {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    info: GpuInfo,
}

/// Device memory; freed when dropped, in stream order.
pub struct Memory {
    // Held for its Drop.
    _slice: CudaSlice<u8>,
    pointer: u64,
    bytes: usize,
}

impl Memory {
    /// Address on the device.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Where one side of a copy lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// On the GPU.
    Device(u64),
    /// In host memory that is pinned.
    Pinned(usize),
}

/// Loaded code and what kernels it holds.
pub struct Module {
    module: Arc<CudaModule>,
    kernels: Vec<Kernel>,
}

impl Module {
    /// The kernels, in the order of the code.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }
}

/// A kernel argument as the hardware takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// Device address.
    Pointer(u64),
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

impl Argument {
    fn bytes(self) -> usize {
        match self {
            Self::F32(_) | Self::I32(_) | Self::U32(_) => 4,
            Self::Pointer(_) | Self::F64(_) | Self::I64(_) | Self::U64(_) => 8,
        }
    }

    /// The value's bytes in the low end of a word, as a little-endian machine passes them.
    fn word(self) -> u64 {
        match self {
            Self::F32(value) => u64::from(value.to_bits()),
            Self::I32(value) => u64::from(value as u32),
            Self::U32(value) => u64::from(value),
            Self::F64(value) => value.to_bits(),
            Self::I64(value) => value as u64,
            Self::Pointer(value) | Self::U64(value) => value,
        }
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Context {
    /// Takes the primary context of a GPU and makes it current on the calling thread.
    ///
    /// # Errors
    /// [`Error::NoDriver`], or what the driver answers.
    pub fn new(index: usize) -> Result<Self, Error> {
        Library::Driver.require()?;
        let doing = |what: &str| format!("{what} GPU {index}");
        let context = CudaContext::new(index).doing(doing("taking the context of"))?;
        // SAFETY: all work of this context goes on the one stream below, so no slice needs events to order its use.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().doing(doing("making a stream on"))?;
        let (major, minor) = context.compute_capability().doing(doing("describing"))?;
        let info = GpuInfo {
            index,
            uuid: uuid_text(&context.uuid().doing(doing("describing"))?.bytes),
            name: context.name().doing(doing("describing"))?,
            compute: (major.unsigned_abs(), minor.unsigned_abs()),
            memory_bytes: context.total_mem().doing(doing("describing"))? as u64,
        };
        let this = Self { context, stream, info };
        this.keep_freed_memory();
        Ok(this)
    }

    /// What the driver says of this GPU.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    pub(super) fn stream(&self) -> cuda::CUstream {
        self.stream.cu_stream()
    }

    /// Lets the pool keep what is freed. By default it returns everything to the system at each synchronisation, and each
    /// later allocation then costs a system call: too much for scratch memory that every request takes and gives back.
    fn keep_freed_memory(&self) {
        if !self.context.has_async_alloc() || !has_symbol(b"cuMemPoolSetAttribute\0") {
            return;
        }
        let mut keep = u64::MAX;
        let attribute = cuda::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is valid, the pool is the device's own, and the attribute's value is a 64-bit number.
        let set = unsafe {
            result::device::get_default_mem_pool(self.context.cu_device())
                .and_then(|pool| result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()))
        };
        if let Err(error) = set {
            tracing::debug!(gpu = self.info.index, ?error, "the memory pool keeps its default release threshold");
        }
    }

    /// Free device memory now.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn memory_free_bytes(&self) -> Result<u64, Error> {
        let (free, _total) = self.context.mem_get_info().doing("asking for free device memory")?;
        Ok(free as u64)
    }

    /// Allocates zeroed memory.
    ///
    /// # Errors
    /// Out of memory: the sentence has both sizes.
    pub fn alloc(&self, bytes: usize) -> Result<Memory, Error> {
        let slice = self.stream.alloc_zeros::<u8>(bytes.max(1)).map_err(|error| {
            let free = self.memory_free_bytes().map(|free| format!(", {free} are free")).unwrap_or_default();
            Error::Cuda {
                what: format!("allocating {bytes} bytes on GPU {}{free}", self.info.index),
                error: error.into(),
            }
        })?;
        let (pointer, _sync) = slice.device_ptr(&self.stream);
        drop(_sync);
        Ok(Memory { _slice: slice, pointer, bytes })
    }

    /// Allocates memory that holds `data`.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn upload(&self, data: &[u8]) -> Result<Memory, Error> {
        let memory = self.alloc(data.len())?;
        self.write(&memory, data)?;
        Ok(memory)
    }

    /// Copies `data` to the start of `memory` and waits.
    ///
    /// # Errors
    /// What the driver answers, or that `data` is longer than `memory`.
    pub fn write(&self, memory: &Memory, data: &[u8]) -> Result<(), Error> {
        if data.len() > memory.bytes {
            return Err(Error::argument("write", format!("{} bytes into {}", data.len(), memory.bytes)));
        }
        // SAFETY: the destination has room, and both sides outlive the call because it waits.
        unsafe { result::memcpy_htod_async(memory.pointer, data, self.stream()) }.doing("copying to the GPU")?;
        self.synchronize("copying to the GPU")
    }

    /// Copies all of `memory` to the host and waits.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn read(&self, memory: &Memory) -> Result<Vec<u8>, Error> {
        let mut data = vec![0u8; memory.bytes];
        // SAFETY: both sides have `bytes` bytes and outlive the call because it waits.
        unsafe { result::memcpy_dtoh_async(&mut data, memory.pointer, self.stream()) }.doing("copying from the GPU")?;
        self.synchronize("copying from the GPU")?;
        Ok(data)
    }

    /// Starts a copy between device memory and pinned host memory, in any direction.
    ///
    /// # Errors
    /// What the driver answers.
    ///
    /// # Safety
    /// Both ranges are valid for `bytes`, do not overlap, and stay so until the stream has been synchronised.
    pub unsafe fn copy_async(&self, to: Address, from: Address, bytes: usize) -> Result<(), Error> {
        // SAFETY: the caller's promise; host addresses are used on the host side of the call only.
        unsafe {
            match (to, from) {
                (Address::Device(to), Address::Device(from)) => {
                    cuda::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream())
                }
                (Address::Device(to), Address::Pinned(from)) => {
                    cuda::cuMemcpyHtoDAsync_v2(to, from as *const c_void, bytes, self.stream())
                }
                (Address::Pinned(to), Address::Device(from)) => {
                    cuda::cuMemcpyDtoHAsync_v2(to as *mut c_void, from, bytes, self.stream())
                }
                (Address::Pinned(to), Address::Pinned(from)) => {
                    let staging = self.alloc(bytes)?;
                    let up = cuda::cuMemcpyHtoDAsync_v2(staging.pointer, from as *const c_void, bytes, self.stream());
                    up.result().doing("copying")?;
                    cuda::cuMemcpyDtoHAsync_v2(to as *mut c_void, staging.pointer, bytes, self.stream())
                }
            }
        }
        .result()
        .doing("copying")
    }

    /// Waits for everything that was started. Errors of kernels appear here.
    ///
    /// # Errors
    /// What the driver answers, said of `what`.
    pub fn synchronize(&self, what: &str) -> Result<(), Error> {
        self.stream.synchronize().doing(what)
    }

    /// Errors of frees and other calls that had no one to answer to since the last look.
    ///
    /// # Errors
    /// The last such error.
    pub fn take_deferred_error(&self) -> Result<(), Error> {
        self.context.check_err().doing("releasing what an earlier request used")
    }

    /// Runs `work` between two events and waits. Returns the seconds that passed on the GPU.
    ///
    /// # Errors
    /// Those of `work`, and of whatever it started.
    pub fn timed(&self, what: &str, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        let flags = Some(cuda::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.context.new_event(flags).doing(what)?;
        let end = self.context.new_event(flags).doing(what)?;
        start.record(&self.stream).doing(what)?;
        work()?;
        end.record(&self.stream).doing(what)?;
        self.synchronize(what)?;
        let milliseconds = start.elapsed_ms(&end).doing(what)?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    /// Loads PTX text.
    ///
    /// # Errors
    /// PTX that the driver refuses, with its own words where it gives them.
    pub fn load(&self, source_name: &str, text: &str) -> Result<Module, Error> {
        let kernels = ptx::kernels(text);
        let module = self.context.load_module(Ptx::from_src(text)).map_err(|error| {
            let error = super::CudaError::from(error);
            match (error.driver_code, self.jit_log(text)) {
                (_, Some(log)) => Error::Compile { source_name: source_name.to_owned(), diagnostics: vec![log] },
                (Some(222), None) => Error::Compile {
                    source_name: source_name.to_owned(),
                    diagnostics: vec![format!(
                        "its PTX is newer than the driver reads ({}): update the driver, or use an older NVRTC",
                        ptx::version(text).unwrap_or("no .version")
                    )],
                },
                _ => Error::Cuda { what: format!("loading {source_name}"), error },
            }
        })?;
        Ok(Module { module, kernels })
    }

    /// Loads once more with a buffer for the JIT compiler's complaints.
    fn jit_log(&self, text: &str) -> Option<String> {
        if !has_symbol(b"cuModuleLoadDataEx\0") {
            return None;
        }
        let image = std::ffi::CString::new(text).ok()?;
        let mut log = vec![0u8; 4096];
        let mut options = [
            cuda::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
            cuda::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The driver reads the size from the pointer's own bits.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: image, log, options and values outlive the call; two options are given with two values.
        let code = unsafe {
            cuda::cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        if code == cuda::CUresult::CUDA_SUCCESS {
            // SAFETY: just loaded and not shared.
            let _unloaded = unsafe { result::module::unload(module) };
            return None;
        }
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        let log = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        (!log.is_empty()).then_some(log)
    }

    /// Starts a kernel after checking the arguments against its declaration.
    ///
    /// The check is not politeness: the driver reads as many arguments as the kernel has, wherever that leads.
    ///
    /// # Errors
    /// An unknown kernel, arguments that do not fit it, or what the driver answers.
    ///
    /// # Safety
    /// Every pointer among the arguments stays valid until the stream has been synchronised. What the kernel does with it is
    /// the kernel's affair: a wrong address is caught by the GPU and ends the context, not the process.
    pub unsafe fn launch(
        &self,
        module: &Module,
        function: &str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let kernel = ptx::find(&module.kernels, function)?;
        kernel.check_arguments(&arguments.iter().map(|argument| argument.bytes()).collect::<Vec<_>>())?;
        let what = format!("launching {function}");
        let handle = module.module.load_function(&kernel.name).doing(&what)?;
        if launch.shared_bytes > SHARED_BYTES_WITHOUT_OPT_IN {
            let attribute = cuda::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            handle.set_attribute(attribute, launch.shared_bytes.cast_signed()).doing(&what)?;
        }
        let mut words: Vec<u64> = arguments.iter().map(|argument| argument.word()).collect();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the function belongs to a module that `handle` keeps loaded, there are as many arguments of the right
        // sizes as it declares, and their words are copied during the call.
        unsafe {
            result::launch_kernel(
                handle.cu_function(),
                (gx, gy, gz),
                (bx, by, bz),
                launch.shared_bytes,
                self.stream(),
                &mut pointers,
            )
        }
        .doing(what)
    }
}

/// Whether the driver exports a symbol: for functions that only newer drivers have.
fn has_symbol(name: &[u8]) -> bool {
    // SAFETY: the symbol is looked up, not called.
    unsafe { cuda::culib().get::<*const c_void>(name).is_ok() }
}

pub(super) fn uuid_text<T: Copy>(bytes: &[T; 16]) -> String
where
    i64: From<T>,
{
    let hex: Vec<String> = bytes.iter().map(|&byte| format!("{:02x}", i64::from(byte) & 0xff)).collect();
    let part = |range: std::ops::Range<usize>| hex[range].concat();
    format!("GPU-{}-{}-{}-{}-{}", part(0..4), part(4..6), part(6..8), part(8..10), part(10..16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let bytes: [i8; 16] = std::array::from_fn(|i| (i as i8) - 8);
        assert_eq!(uuid_text(&bytes), "GPU-f8f9fafb-fcfd-feff-0001-020304050607");
    }

    #[test]
    fn small_arguments_lie_in_the_low_bytes() {
        assert_eq!(Argument::I32(-1).word(), 0xffff_ffff);
        assert_eq!(Argument::F32(1.0).word(), 0x3f80_0000);
        assert_eq!(Argument::I64(-1).word(), u64::MAX);
    }
}
