//! Modules, functions and their attributes.

use std::ffi::{c_char, c_int};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cuda::context::{Context, current};
use crate::cuda::device::limits;
use crate::cuda::driver::{Driver, driver};
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{In, Out, driver_api};
use crate::cuda::module::{Function, LoadedModule, load, unload};
use crate::cuda::registry::Handle;

/// First bytes of compiled code, which nothing here can run: an ELF file, and a fat binary.
const BINARIES: [[u8; 4]; 2] = [*b"\x7fELF", [0x50, 0xed, 0x55, 0xba]];
/// `CU_JIT_ERROR_LOG_BUFFER` and `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// Loads an image, which is PTX text; the message says what is wrong with it.
fn load_image(image: In<c_char>) -> Result<Handle, (Error, String)> {
    let plain = |error: Error| (error, String::new());
    let (driver, context) = current().map_err(plain)?;
    let bytes = In::<[u8; 4]>::from_address(image.address());
    if BINARIES.contains(&bytes.get().map_err(plain)?) {
        return Err((Error::NoBinaryForGpu, "compiled code does not run on a simulated GPU: load PTX".into()));
    }
    let text = image.text().map_err(|_| (Error::InvalidImage, "the image is neither PTX nor compiled code".into()))?;
    if !text.contains(".version") {
        return Err((Error::InvalidImage, "the image is not PTX".into()));
    }
    load(driver, &context, &text)
}

/// Reports a load that failed where the program listens, or where a person may look.
fn report(failed: (Error, String), log: Option<(u64, usize)>) -> Error {
    let (error, message) = failed;
    if std::env::var_os("WEFT_SIM_TRACE").is_some() && !message.is_empty() {
        eprintln!("weft-sim: {message}");
    }
    if let Some((buffer, room)) = log.filter(|(buffer, room)| *buffer != 0 && *room > 0) {
        let mut bytes: Vec<u8> = message.into_bytes();
        bytes.truncate(room - 1);
        bytes.push(0);
        let _not_null = Out::<u8>::from_address(buffer).set_all(&bytes);
    }
    error
}

fn function(handle: Handle) -> Answer<(&'static Driver, Arc<Function>)> {
    let driver = driver()?;
    Ok((driver, driver.functions.get(handle).ok_or(Error::InvalidHandle)?))
}

fn module(handle: Handle) -> Answer<(&'static Driver, Arc<Context>, Arc<LoadedModule>)> {
    let (driver, context) = current()?;
    Ok((driver, context, driver.modules.get(handle).ok_or(Error::InvalidHandle)?))
}

driver_api! {
    fn cuModuleLoadData(to: Out<Handle>, image: In<c_char>) {
        to.set(load_image(image).map_err(|failed| report(failed, None))?)
    }

    fn cuModuleLoadDataEx(to: Out<Handle>, image: In<c_char>, count: u32, options: In<c_int>, values: In<u64>) {
        let (names, values) = (options.list(count as usize)?, values.list(count as usize)?);
        let value = |wanted: c_int| names.iter().zip(&values).find(|(name, _)| **name == wanted).map(|(_, value)| *value);
        let log = value(ERROR_LOG).zip(value(ERROR_LOG_BYTES).map(|bytes| bytes as usize));
        to.set(load_image(image).map_err(|failed| report(failed, log))?)
    }

    fn cuModuleLoadFatBinary(_to: Out<Handle>, _image: In<c_char>) {
        current()?;
        Err(Error::NoBinaryForGpu)
    }

    fn cuModuleLoad(to: Out<Handle>, path: In<c_char>) {
        let (driver, context) = current()?;
        let text = std::fs::read_to_string(path.text()?).map_err(|_| Error::FileNotFound)?;
        to.set(load(driver, &context, &text).map_err(|failed| report(failed, None))?)
    }

    fn cuModuleUnload(handle: Handle) {
        let (driver, context, _) = module(handle)?;
        // Work that uses it may still be queued.
        let waited = context.synchronize(driver);
        unload(driver, handle)?;
        waited
    }

    fn cuModuleGetFunction(to: Out<Handle>, handle: Handle, name: In<c_char>) {
        let (driver, _, object) = module(handle)?;
        to.set(object.function(driver, handle, &name.text()?)?)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, handle: Handle) {
        count.set(module(handle)?.2.names().len() as u32)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, handle: Handle, name: In<c_char>) {
        let (_, _, object) = module(handle)?;
        let (at, size) = *object.variables.get(&name.text()?).ok_or(Error::NotFound)?;
        address.set_if_wanted(at);
        bytes.set_if_wanted(size);
        Ok(())
    }

    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, handle: Handle) {
        let (driver, function) = function(handle)?;
        let kernel = &function.kernel;
        let context = driver.contexts.get(function.context).ok_or(Error::ContextIsDestroyed)?;
        let (major, minor) = driver.machine.gpu(context.gpu).facts().compute_capability;
        value.set(match attribute {
            0 => function.max_threads(),
            // Static shared, constant and local memory, bytes.
            1 => kernel.shared_bytes as c_int,
            2 => 0,
            3 => kernel.local_bytes as c_int,
            4 => function.registers(),
            5 => function.ptx_version,
            // Binary version: as compiled for this GPU.
            6 => (major * 10 + minor) as c_int,
            7 => 0,
            8 => function.dynamic_limit(),
            9 => function.carveout.load(Ordering::Relaxed),
            // Clusters: none.
            10..=15 => 0,
            _ => return Err(Error::InvalidValue),
        })
    }

    fn cuFuncSetAttribute(handle: Handle, attribute: c_int, value: c_int) {
        let (driver, function) = function(handle)?;
        let context = driver.contexts.get(function.context).ok_or(Error::ContextIsDestroyed)?;
        let most = limits(driver.machine.gpu(context.gpu).facts()).shared_optin - function.kernel.shared_bytes as c_int;
        match attribute {
            8 if (0..=most).contains(&value) => function.max_dynamic_shared.store(value, Ordering::Relaxed),
            9 if (-1..=100).contains(&value) => function.carveout.store(value, Ordering::Relaxed),
            _ => return Err(Error::InvalidValue),
        }
        Ok(())
    }

    fn cuFuncSetCacheConfig(handle: Handle, _config: c_int) {
        function(handle).map(drop)
    }

    fn cuFuncGetModule(to: Out<Handle>, handle: Handle) {
        to.set(function(handle)?.1.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, handle: Handle) {
        let (_, function) = function(handle)?;
        let text = std::ffi::CString::new(function.kernel.name.as_str()).map_err(|_| Error::InvalidValue)?;
        // The driver's names live as long as their module; these live for ever, as they are few and short.
        name.set(text.into_raw().cast_const())
    }

    fn cuFuncGetParamInfo(handle: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let (_, function) = function(handle)?;
        let (at, size) = *function.kernel.params.get(index).ok_or(Error::InvalidValue)?;
        offset.set(at as usize)?;
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    fn cuFuncLoad(handle: Handle) {
        function(handle).map(drop)
    }

    fn cuFuncIsLoaded(state: Out<c_int>, handle: Handle) {
        function(handle)?;
        state.set(1)
    }
}
