//! What a GPU does for requests and programs. Lives on the owner thread.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use memmap2::MmapRaw;
use sha2::{Digest, Sha256};
use weft_program::Direction;

use crate::Error;
use crate::driver::{
    Address, Argument, Blas, Context, CsrMatrix, FftPlan, FftShape, GemmShape, GpuInfo, Launch, Memory, Module, Pinned,
    Sparse, compile,
};

/// Compiled modules that are kept for the next session with the same source.
const MODULE_CACHE: usize = 256;
/// cuFFT plans that are kept: each holds work space on the GPU.
const PLAN_CACHE: usize = 16;

/// Where an operand lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the GPU.
    Device(u64),
    /// In a region: its addresses for copies and for kernels.
    Pinned {
        /// For the host side of copies.
        host: usize,
        /// For kernels.
        device: u64,
    },
}

/// A range of memory, already checked to lie inside what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where it starts.
    pub place: Place,
    /// Its length.
    pub bytes: usize,
}

impl Operand {
    /// Memory on the GPU.
    pub fn device(memory: &Memory) -> Self {
        Self { place: Place::Device(memory.pointer()), bytes: memory.bytes() }
    }

    fn address(&self) -> Address {
        match self.place {
            Place::Device(pointer) => Address::Device(pointer),
            Place::Pinned { host, .. } => Address::Pinned(host),
        }
    }

    /// The address that a kernel takes.
    pub fn kernel_address(&self) -> u64 {
        match self.place {
            Place::Device(pointer) | Place::Pinned { device: pointer, .. } => pointer,
        }
    }
}

/// What one session holds on this GPU.
#[derive(Default)]
struct Holdings {
    buffers: HashMap<u64, Memory>,
    modules: HashMap<u64, Rc<Module>>,
}

/// One GPU with its context, caches and the sessions' objects.
pub struct Device {
    holdings: HashMap<u64, Holdings>,
    regions: HashMap<u64, Pinned>,
    modules: HashMap<[u8; 32], Rc<Module>>,
    plans: HashMap<FftShape, FftPlan>,
    blas: Option<Blas>,
    sparse: Option<Sparse>,
    // Last, so that it is dropped after everything that lives in it.
    context: Context,
}

impl Device {
    pub(super) fn new(index: usize) -> Result<Self, Error> {
        Ok(Self {
            holdings: HashMap::new(),
            regions: HashMap::new(),
            modules: HashMap::new(),
            plans: HashMap::new(),
            blas: None,
            sparse: None,
            context: Context::new(index)?,
        })
    }

    /// The context, for memory and time.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What the driver says of this GPU.
    pub fn info(&self) -> &GpuInfo {
        self.context.info()
    }

    /// Compiles CUDA C++ for this GPU, or finds that it was compiled before, and loads it.
    ///
    /// # Errors
    /// [`Error::Compile`] with the user's lines; what the driver answers.
    pub fn load_cuda(&mut self, name: &str, source: &str, options: &[String]) -> Result<Rc<Module>, Error> {
        let compute = self.info().compute;
        let key = key(&["cuda", source, &options.join("\0")]);
        self.cached(key, |context| context.load(name, &compile(name, source, options, compute)?.ptx))
    }

    /// Loads PTX, or finds that it was loaded before.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn load_ptx(&mut self, name: &str, text: &str) -> Result<Rc<Module>, Error> {
        self.cached(key(&["ptx", text]), |context| context.load(name, text))
    }

    fn cached(
        &mut self,
        key: [u8; 32],
        load: impl FnOnce(&Context) -> Result<Module, Error>,
    ) -> Result<Rc<Module>, Error> {
        if let Some(module) = self.modules.get(&key) {
            return Ok(module.clone());
        }
        if self.modules.len() >= MODULE_CACHE {
            self.modules.retain(|_, module| Rc::strong_count(module) > 1);
        }
        let module = Rc::new(load(&self.context)?);
        self.modules.insert(key, module.clone());
        Ok(module)
    }

    /// Runs a kernel and waits. Returns seconds on the GPU.
    ///
    /// # Errors
    /// Arguments that do not fit the kernel, or what the driver answers.
    pub fn launch(
        &mut self,
        module: &Module,
        function: &str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<f64, Error> {
        let context = &self.context;
        context.timed(&format!("running {function}"), || {
            // SAFETY: addresses come from operands whose memory this device, or the caller's region, keeps until `timed`
            // has synchronised the stream.
            unsafe { context.launch(module, function, launch, arguments) }
        })
    }

    /// `c = alpha·op(a)·op(b) + beta·c`. Operands in regions travel by DMA. Returns seconds on the GPU without the travel.
    ///
    /// # Errors
    /// Missing cuBLAS, full memory, what cuBLAS answers.
    pub fn gemm(&mut self, shape: &GemmShape, a: Operand, b: Operand, c: Operand) -> Result<f64, Error> {
        if self.blas.is_none() {
            self.blas = Some(Blas::new(&self.context)?);
        }
        let Some(blas) = &self.blas else { return Err(Error::MissingLibrary(crate::driver::Library::Cublas)) };
        let context = &self.context;
        let (a, b) = (Staged::input(context, a)?, Staged::input(context, b)?);
        let c = if shape.beta == 0.0 { Staged::output(context, c)? } else { Staged::input(context, c)? };
        let seconds = context.timed("gemm", || {
            // SAFETY: staged operands lie on the GPU until after `timed` has synchronised, with the sizes that were checked.
            unsafe { blas.gemm(shape, a.pointer, b.pointer, c.pointer) }
        })?;
        c.write_back(context)?;
        Ok(seconds)
    }

    /// Batched transforms. Returns seconds on the GPU without the travel of regions.
    ///
    /// # Errors
    /// Missing cuFFT, full memory, what cuFFT answers.
    pub fn fft(
        &mut self,
        shape: FftShape,
        direction: Direction,
        input: Operand,
        output: Operand,
    ) -> Result<f64, Error> {
        if !self.plans.contains_key(&shape) {
            if self.plans.len() >= PLAN_CACHE {
                self.plans.clear();
            }
            self.plans.insert(shape, FftPlan::new(&self.context, shape)?);
        }
        let Some(plan) = self.plans.get(&shape) else {
            return Err(Error::MissingLibrary(crate::driver::Library::Cufft));
        };
        let context = &self.context;
        let in_place = input == output;
        // A complex-to-real transform uses its input as work space: it gets a copy, so that the user's array stays.
        let overwrites = shape.input.is_complex() && !shape.output.is_complex();
        let input = if overwrites { Staged::copy(context, input)? } else { Staged::input(context, input)? };
        let output = if in_place { None } else { Some(Staged::output(context, output)?) };
        let target = output.as_ref().unwrap_or(&input);
        let seconds = context.timed("fft", || {
            // SAFETY: as for gemm.
            unsafe { plan.execute(input.pointer, target.pointer, direction) }
        })?;
        target.write_back(context)?;
        Ok(seconds)
    }

    /// `y = alpha·A·x + beta·y` for a matrix in compressed rows. The addresses in `matrix` are taken from the operands.
    /// Returns seconds on the GPU without the travel of regions.
    ///
    /// # Errors
    /// Missing cuSPARSE, full memory, what cuSPARSE answers.
    pub fn spmv(
        &mut self,
        matrix: CsrMatrix,
        [row_offsets, column_indices, values]: [Operand; 3],
        x: Operand,
        y: Operand,
        factors: (f64, f64),
    ) -> Result<f64, Error> {
        if self.sparse.is_none() {
            self.sparse = Some(Sparse::new(&self.context)?);
        }
        let Some(sparse) = &self.sparse else { return Err(Error::MissingLibrary(crate::driver::Library::Cusparse)) };
        let context = &self.context;
        let row_offsets = Staged::input(context, row_offsets)?;
        let column_indices = Staged::input(context, column_indices)?;
        let (values, x) = (Staged::input(context, values)?, Staged::input(context, x)?);
        let y = if factors.1 == 0.0 { Staged::output(context, y)? } else { Staged::input(context, y)? };
        let matrix = CsrMatrix {
            row_offsets: row_offsets.pointer,
            column_indices: column_indices.pointer,
            values: values.pointer,
            ..matrix
        };
        // SAFETY: staged operands lie on the GPU with the sizes that were checked; `timed` synchronises before it returns.
        let seconds = unsafe {
            sparse.spmv(context, &matrix, x.pointer, y.pointer, factors, |start| context.timed("spmv", start))
        }?;
        y.write_back(context)?;
        Ok(seconds)
    }

    /// Copies `from.bytes` bytes and waits. Returns seconds.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn copy(&mut self, from: Operand, to: Operand) -> Result<f64, Error> {
        if from.bytes > to.bytes {
            return Err(Error::argument("to", format!("{} bytes do not fit into {}", from.bytes, to.bytes)));
        }
        // SAFETY: both ranges were checked, and `timed` synchronises before it returns.
        self.context.timed("copy", || unsafe { self.context.copy_async(to.address(), from.address(), from.bytes) })
    }

    // What sessions hold.

    /// Allocates zeroed memory under a session's handle.
    ///
    /// # Errors
    /// Out of memory.
    pub fn alloc(&mut self, session: u64, handle: u64, bytes: usize) -> Result<(), Error> {
        let memory = self.context.alloc(bytes)?;
        self.context.synchronize("clearing a buffer")?;
        self.holdings.entry(session).or_default().buffers.insert(handle, memory);
        Ok(())
    }

    /// The memory of a session's handle.
    ///
    /// # Errors
    /// [`Error::UnknownHandle`].
    pub fn buffer(&self, session: u64, handle: u64) -> Result<&Memory, Error> {
        let held = self.holdings.get(&session).and_then(|held| held.buffers.get(&handle));
        held.ok_or(Error::UnknownHandle { kind: "buffer", handle })
    }

    /// Keeps a module under a session's handle.
    pub fn keep_module(&mut self, session: u64, handle: u64, module: Rc<Module>) {
        self.holdings.entry(session).or_default().modules.insert(handle, module);
    }

    /// The module of a session's handle.
    ///
    /// # Errors
    /// [`Error::UnknownHandle`].
    pub fn module(&self, session: u64, handle: u64) -> Result<Rc<Module>, Error> {
        let held = self.holdings.get(&session).and_then(|held| held.modules.get(&handle));
        held.cloned().ok_or(Error::UnknownHandle { kind: "module", handle })
    }

    /// Frees a buffer or unloads a module.
    pub fn release(&mut self, session: u64, handle: u64) {
        if let Some(held) = self.holdings.get_mut(&session) {
            held.buffers.remove(&handle);
            held.modules.remove(&handle);
        }
    }

    /// Frees everything that a session holds here.
    pub fn end_session(&mut self, session: u64) {
        self.holdings.remove(&session);
    }

    /// Pins a mapped file. Returns its addresses.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn pin(&mut self, region: u64, map: Arc<MmapRaw>) -> Result<Place, Error> {
        let pinned = Pinned::new(&self.context, map)?;
        let place = Place::Pinned { host: pinned.host(), device: pinned.device() };
        self.regions.insert(region, pinned);
        Ok(place)
    }

    /// Lets a pinned file go.
    pub fn unpin(&mut self, region: u64) {
        if let Some(pinned) = self.regions.remove(&region)
            && let Err(error) = pinned.release(&self.context)
        {
            tracing::warn!(region, %error, "a region was not released cleanly");
        }
    }

    /// What is held: sessions' buffers (bytes), modules, regions.
    pub fn held(&self) -> (u64, usize, usize) {
        let buffers = self.holdings.values().flat_map(|held| held.buffers.values());
        let modules = self.holdings.values().map(|held| held.modules.len()).sum();
        (buffers.map(|memory| memory.bytes() as u64).sum(), modules, self.regions.len())
    }
}

/// An operand on the GPU: itself, or a copy of a region's bytes. Library calls read their operands several times, which over
/// PCIe is far slower than one transfer and then device memory.
struct Staged {
    pointer: u64,
    copy: Option<Memory>,
    original: Operand,
}

impl Staged {
    fn input(context: &Context, operand: Operand) -> Result<Self, Error> {
        match operand.place {
            Place::Device(pointer) => Ok(Self { pointer, copy: None, original: operand }),
            Place::Pinned { .. } => Self::copy(context, operand),
        }
    }

    fn output(context: &Context, operand: Operand) -> Result<Self, Error> {
        match operand.place {
            Place::Device(pointer) => Ok(Self { pointer, copy: None, original: operand }),
            Place::Pinned { .. } => {
                let memory = context.alloc(operand.bytes)?;
                Ok(Self { pointer: memory.pointer(), copy: Some(memory), original: operand })
            }
        }
    }

    fn copy(context: &Context, operand: Operand) -> Result<Self, Error> {
        let memory = context.alloc(operand.bytes)?;
        // SAFETY: the copy has the operand's size; both live until the operation has synchronised the stream.
        unsafe { context.copy_async(Address::Device(memory.pointer()), operand.address(), operand.bytes) }?;
        Ok(Self { pointer: memory.pointer(), copy: Some(memory), original: operand })
    }

    fn write_back(&self, context: &Context) -> Result<(), Error> {
        let Some(copy) = &self.copy else { return Ok(()) };
        // SAFETY: as in `copy`; the synchronisation follows.
        unsafe { context.copy_async(self.original.address(), Address::Device(copy.pointer()), self.original.bytes) }?;
        context.synchronize("copying the result back")
    }
}

fn key(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
