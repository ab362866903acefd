//! Start, versions, error texts, and the ways to ask for other functions.

use std::ffi::{CString, c_char, c_int, c_void};

use crate::cuda::driver::{driver, start};
use crate::cuda::error::Error;
use crate::cuda::ffi::{In, Out, driver_api};

/// CUDA version that is reported where there is no machine to ask.
const DEFAULT_CUDA_VERSION: c_int = 13_000;

driver_api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Error::InvalidValue);
        }
        start().map(drop)
    }

    fn cuDriverGetVersion(version: Out<c_int>) {
        let known = crate::state::machine().map_or(DEFAULT_CUDA_VERSION, |machine| machine.cuda_version());
        version.set(known)
    }

    fn cuGetErrorName(error: c_int, name: Out<*const c_char>) {
        if error == 0 {
            return name.set(c"CUDA_SUCCESS".as_ptr());
        }
        name.set(Error::from_code(error).ok_or(Error::InvalidValue)?.name().as_ptr())
    }

    fn cuGetErrorString(error: c_int, text: Out<*const c_char>) {
        if error == 0 {
            return text.set(c"no error".as_ptr());
        }
        text.set(Error::from_code(error).ok_or(Error::InvalidValue)?.text().as_ptr())
    }

    // NVRTC asks here for the driver's compile cache, and falls over where the function is missing.
    fn cuGetExportTable(_table: Out<*const c_void>, _id: In<[u8; 16]>) {
        Err(Error::NotFound)
    }

    fn cuGetProcAddress_v2(symbol: In<c_char>, function: Out<*mut c_void>, _version: c_int, _flags: u64, status: Out<c_int>) {
        let name = symbol.text()?;
        // The newest variant of a function is the one that present headers mean by its bare name.
        let found = ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| own_symbol(&format!("{name}{suffix}")));
        // CU_GET_PROC_ADDRESS_SUCCESS and _SYMBOL_NOT_FOUND
        status.set_if_wanted(if found.is_some() { 0 } else { 1 });
        function.set(found.unwrap_or(std::ptr::null_mut()))
    }

    fn cuGetProcAddress(symbol: In<c_char>, function: Out<*mut c_void>, _version: c_int, _flags: u64) {
        let name = symbol.text()?;
        let found = ["_v4", "_v3", "_v2", ""].iter().find_map(|suffix| own_symbol(&format!("{name}{suffix}")));
        function.set(found.ok_or(Error::NotFound)?)
    }

    fn cuProfilerStart() {
        driver().map(drop)
    }

    fn cuProfilerStop() {
        driver().map(drop)
    }
}

/// A function that this library exports.
fn own_symbol(name: &str) -> Option<*mut c_void> {
    let name = CString::new(name).ok()?;
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is that of a function of this library, and `info` is valid to write to.
    if unsafe { libc::dladdr(cuInit as *const c_void, &mut info) } == 0 {
        return None;
    }
    // SAFETY: `dladdr` gave the name of a loaded object; NOLOAD only finds it again, so no initialiser runs. The handle is kept: the
    // library lives as long as the process.
    let library = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: a valid handle and a string that ends in NUL.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}
