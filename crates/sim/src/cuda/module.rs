//! Modules and their functions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::context::Context;
use super::driver::Driver;
use super::error::{Answer, Error};
use super::memory::{Allocation, Kind};
use super::registry::Handle;
use crate::ptx::{Kernel, Module, Parsed};

/// Shared memory that a block may use without asking, bytes.
pub const DEFAULT_SHARED_BYTES: i32 = 48 << 10;

/// A module in a context.
pub struct LoadedModule {
    pub context: Handle,
    module: Module,
    /// Address and bytes of its variables.
    pub variables: HashMap<String, (u64, usize)>,
    pub ptx_version: i32,
}

/// A kernel of a module.
pub struct Function {
    pub context: Handle,
    pub module: Handle,
    pub kernel: Arc<Kernel>,
    pub ptx_version: i32,
    /// Dynamic shared memory that launches may ask for, bytes.
    pub max_dynamic_shared: AtomicI32,
    /// Shared memory that the caller prefers, percent; only remembered.
    pub carveout: AtomicI32,
}

/// Newest PTX version that a driver of this CUDA version takes (PTX ISA, "Release Notes").
pub fn newest_ptx(cuda_version: i32) -> (u32, u32) {
    let (major, minor) = (cuda_version / 1000, cuda_version % 1000 / 10);
    match major {
        ..=10 => (6, 3),
        11 => (7, minor.clamp(0, 8) as u32),
        12 => (
            8,
            match minor {
                0 => 0,
                1 => 1,
                2 => 2,
                3 => 3,
                4 => 4,
                5 => 5,
                6 | 7 => 6,
                8 => 7,
                _ => 8,
            },
        ),
        _ => (9, minor.max(0) as u32),
    }
}

/// Loads PTX text.
///
/// # Errors
/// [`Error::UnsupportedPtxVersion`], [`Error::NoBinaryForGpu`], [`Error::InvalidPtx`] or [`Error::OutOfMemory`], each with a message.
pub fn load(driver: &'static Driver, context: &Context, text: &str) -> Result<Handle, (Error, String)> {
    let invalid = |error: crate::ptx::PtxError| (Error::InvalidPtx, format!("ptxas application ptx input, {error}"));
    let parsed = Parsed::new(text).map_err(invalid)?;
    let newest = newest_ptx(driver.machine.cuda_version());
    let version = parsed.version();
    if version > newest {
        let message =
            format!("Unsupported .version {}.{}; current version is '{}.{}'", version.0, version.1, newest.0, newest.1);
        return Err((Error::UnsupportedPtxVersion, message));
    }
    let (major, minor) = driver.machine.gpu(context.gpu).facts().compute_capability;
    let (target, suffix) = parsed.target().map_err(invalid)?;
    let ours = major * 10 + minor;
    let runs = match suffix {
        "" => target <= ours,
        // Family features run within the same major capability, architecture features on one capability only.
        "f" => target <= ours && target / 10 == ours / 10,
        _ => target == ours,
    };
    if !runs {
        return Err((Error::NoBinaryForGpu, format!("target sm_{target}{suffix} does not run on a GPU of sm_{ours}")));
    }
    let out_of_memory = |error: Error| (error, "no memory for the module's variables".to_owned());
    let mut variables = HashMap::new();
    let mut addresses = Vec::new();
    let mut homes = Vec::new();
    for global in parsed.globals() {
        let home = Allocation::new(Kind::Device, global.bytes, driver.process, context.gpu, context.handle)
            .map_err(out_of_memory)?;
        addresses.push(home.base);
        variables.insert(global.name, (home.base, global.bytes));
        homes.push(home);
    }
    let (module, images) = parsed.link(&addresses).map_err(invalid)?;
    for (home, image) in homes.into_iter().zip(images) {
        // SAFETY: the allocation is new and has the variable's size, which is that of its image.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), home.host(home.base), image.len()) };
        driver.memory.insert(home);
    }
    let ptx_version = (version.0 * 10 + version.1) as i32;
    Ok(driver.modules.insert(Arc::new(LoadedModule { context: context.handle, module, variables, ptx_version })))
}

/// Unloads a module.
///
/// # Errors
/// [`Error::InvalidHandle`]
pub fn unload(driver: &Driver, handle: Handle) -> Answer {
    let module = driver.modules.remove(handle).ok_or(Error::InvalidHandle)?;
    driver.functions.remove_where(|function| function.module == handle);
    for (address, _) in module.variables.values() {
        driver.memory.remove(*address, &[Kind::Device]);
    }
    Ok(())
}

impl LoadedModule {
    /// The handle of a kernel; asking twice gives two handles of one kernel.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub fn function(&self, driver: &Driver, module: Handle, name: &str) -> Answer<Handle> {
        let kernel = self.module.kernels.get(name).ok_or(Error::NotFound)?.clone();
        let function = Function {
            context: self.context,
            module,
            kernel,
            ptx_version: self.ptx_version,
            max_dynamic_shared: AtomicI32::new(DEFAULT_SHARED_BYTES),
            carveout: AtomicI32::new(-1),
        };
        Ok(driver.functions.insert(Arc::new(function)))
    }

    /// Names of its kernels, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.module.kernels.keys().cloned().collect();
        names.sort();
        names
    }
}

impl Function {
    /// Registers a thread, as a compiler might have allocated them: an estimate, since none ran.
    pub fn registers(&self) -> i32 {
        let [_, words, wides] = self.kernel.counts;
        let constants = self.kernel.constants.len() as u32;
        ((words + 2 * wides).saturating_sub(constants) / 2).clamp(16, 64) as i32
    }

    /// Most threads in a block.
    pub fn max_threads(&self) -> i32 {
        if self.kernel.max_threads == 0 { 1024 } else { self.kernel.max_threads.min(1024) as i32 }
    }

    /// Dynamic shared memory that a launch may ask for now, bytes.
    pub fn dynamic_limit(&self) -> i32 {
        let asked = self.max_dynamic_shared.load(Ordering::Relaxed);
        asked.max(DEFAULT_SHARED_BYTES - self.kernel.shared_bytes as i32)
    }
}
