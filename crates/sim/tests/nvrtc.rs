//! Every kernel of `tests/kernels`, compiled afresh by the real NVRTC for every architecture, is read and linked.
//!
//! The compiler is proprietary and in no repository: `cargo xtask test` puts it into the cache. Without it this says so and ends.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;

use weft_sim::ptx::Parsed;

/// Architectures of both code generators: up to 90 from one, from 100 from the other.
const ARCHITECTURES: [&str; 9] = ["75", "80", "86", "89", "90", "90a", "100", "103", "120"];

fn folder() -> PathBuf {
    let cache = std::env::var_os("WEFT_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/weft");
    cache.unwrap_or_else(home).join("nvrtc-13.0.88")
}

/// Opens a library; None when it is not there.
fn open(path: &std::path::Path) -> Option<*mut c_void> {
    let name = CString::new(path.to_str()?).ok()?;
    // SAFETY: the name ends in NUL; the library's own initialisers run.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    (!library.is_null()).then_some(library)
}

struct Nvrtc(*mut c_void);

impl Nvrtc {
    fn load() -> Option<Self> {
        let folder = folder();
        // The compiler looks for this one by its bare name: what is loaded already is found.
        open(&folder.join("libnvrtc-builtins.so.13.0"))?;
        open(&folder.join("libnvrtc.so.13")).map(Self)
    }

    fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: an open library and a name that ends in NUL.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    }

    fn compile(&self, source: &str, architecture: &str) -> Result<String, String> {
        type Program = *mut c_void;
        type Create =
            extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const c_void, *const c_void) -> c_int;
        type Compile = extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Size = extern "C" fn(Program, *mut usize) -> c_int;
        type Get = extern "C" fn(Program, *mut c_char) -> c_int;
        // SAFETY: these are the signatures of NVRTC's functions.
        let (create, compile) = unsafe {
            (
                std::mem::transmute::<*mut c_void, Create>(self.symbol(c"nvrtcCreateProgram")),
                std::mem::transmute::<*mut c_void, Compile>(self.symbol(c"nvrtcCompileProgram")),
            )
        };
        let text = |size: &CStr, get: &CStr, program: Program| {
            // SAFETY: as above.
            let (size, get) = unsafe {
                (
                    std::mem::transmute::<*mut c_void, Size>(self.symbol(size)),
                    std::mem::transmute::<*mut c_void, Get>(self.symbol(get)),
                )
            };
            let mut bytes = 0;
            assert_eq!(size(program, &mut bytes), 0);
            let mut buffer = vec![0u8; bytes + 1];
            assert_eq!(get(program, buffer.as_mut_ptr().cast()), 0);
            CStr::from_bytes_until_nul(&buffer).unwrap().to_str().unwrap().to_owned()
        };
        let source = CString::new(source).unwrap();
        let mut program = std::ptr::null_mut();
        assert_eq!(create(&mut program, source.as_ptr(), c"k.cu".as_ptr(), 0, std::ptr::null(), std::ptr::null()), 0);
        let option = CString::new(format!("--gpu-architecture=compute_{architecture}")).unwrap();
        match compile(program, 1, [option.as_ptr()].as_ptr()) {
            0 => Ok(text(c"nvrtcGetPTXSize", c"nvrtcGetPTX", program)),
            _ => Err(text(c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog", program)),
        }
    }
}

#[test]
fn what_the_real_compiler_emits_is_understood() {
    let Some(nvrtc) = Nvrtc::load() else {
        println!("SKIPPED: no NVRTC in {}: `cargo xtask test` fetches it", folder().display());
        return;
    };
    let kernels = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels")).unwrap();
    let sources = kernels.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "cu"));
    let mut read = 0;
    for path in sources {
        let source = std::fs::read_to_string(&path).unwrap();
        // Headers come in a package of their own.
        if source.contains("#include <cuda") {
            continue;
        }
        let source = source.replace("#include <assert.h>", "");
        for architecture in ARCHITECTURES {
            // Compute capability 7.5 knows no reductions across a warp.
            if architecture == "75" && source.contains("__reduce_add_sync") {
                continue;
            }
            let name = format!("{} for compute_{architecture}", path.display());
            let ptx = nvrtc.compile(&source, architecture).unwrap_or_else(|log| panic!("{name}: {log}"));
            let parsed = Parsed::new(&ptx).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(parsed.target().unwrap().0.to_string(), architecture.trim_end_matches('a'), "{name}");
            let addresses = vec![0x1000; parsed.globals().len()];
            parsed.link(&addresses).unwrap_or_else(|error| panic!("{name}: {error}"));
            read += 1;
        }
    }
    assert!(read >= 100, "only {read} compilations");
}
