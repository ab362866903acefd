//! Can this machine run programs? Driver, GPUs, libraries, and a kernel compiled and checked on every GPU.

use serde::Serialize;

use crate::Error;
use crate::answer::say;
use crate::device::{Device, DeviceHandle};
use crate::driver::{self, Argument, Blas, FftPlan, Launch, Library, Sparse};

/// What was found. The field names are an interface: scripts read them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Whether everything that the runtime offers works here.
    pub ok: bool,
    /// The first thing that does not.
    pub error: Option<String>,
    /// The newest CUDA version that the driver serves, such as `13.0`.
    pub driver_cuda: Option<String>,
    /// Each library.
    pub libraries: Vec<LibraryProbe>,
    /// Each GPU.
    pub gpus: Vec<GpuProbe>,
}

/// A library.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LibraryProbe {
    /// The file that is looked for.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Whether it can be loaded.
    pub present: bool,
    /// Its version, where it says one.
    pub version: Option<String>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuProbe {
    /// Position among the visible GPUs.
    pub index: usize,
    /// Its UUID.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Compute capability, such as `9.0`.
    pub compute: String,
    /// Device memory.
    pub memory_bytes: u64,
    /// Free now.
    pub memory_free_bytes: u64,
    /// Whether a kernel ran and was right.
    pub ok: bool,
    /// What was tried, or what failed.
    pub message: String,
}

/// `weft-runtime probe`. Returns the exit code.
pub async fn main(json: bool) -> u8 {
    let probe = probe().await;
    let text = if json { serde_json::to_string(&probe).map(|line| line + "\n") } else { Ok(to_text(&probe)) };
    let said = text.map_err(|error| error.to_string()).and_then(|text| say(&text));
    let mut code = 0;
    for error in said.err().iter().chain(&probe.error) {
        eprintln!("weft-runtime: {error}");
        code = 1;
    }
    code
}

async fn probe() -> Probe {
    let mut probe = Probe::default();
    let mut note = |error: &Error| {
        probe.error.get_or_insert(error.to_string());
    };
    let driver_version = driver::driver_cuda_version().inspect_err(&mut note).ok();
    let count = if driver_version.is_some() { driver::gpu_count().inspect_err(&mut note).unwrap_or(0) } else { 0 };

    let mut versions = Versions::default();
    let mut gpus = Vec::new();
    for index in 0..count {
        match DeviceHandle::start(index, None).await {
            Ok(device) => {
                let info = device.info().clone();
                let (outcome, free) =
                    device.call(|device| Ok(check(device))).await.unwrap_or_else(|error| (Err(error), 0));
                match device.call(|device| Ok(Versions::of(device))).await {
                    Ok(found) => versions = found,
                    Err(error) => note(&error),
                }
                let (ok, message) = match outcome {
                    Ok(message) => (true, message),
                    Err(error) => {
                        note(&error);
                        (false, error.to_string())
                    }
                };
                gpus.push(GpuProbe {
                    index,
                    uuid: info.uuid,
                    name: info.name,
                    compute: format!("{}.{}", info.compute.0, info.compute.1),
                    memory_bytes: info.memory_bytes,
                    memory_free_bytes: free,
                    ok,
                    message,
                });
            }
            Err(error) => note(&error),
        }
    }
    for library in Library::ALL {
        if let Err(error) = library.require() {
            note(&error);
        }
        let version = match library {
            Library::Driver => driver_version.map(dotted_driver),
            Library::Nvrtc => driver::nvrtc_version().ok().map(|(major, minor)| format!("{major}.{minor}")),
            Library::Cublas => versions.cublas.clone(),
            Library::Cufft => versions.cufft.clone(),
            Library::Cusparse => versions.cusparse.clone(),
        };
        let (name, purpose, present) = (library.soname(), library.purpose(), library.is_present());
        probe.libraries.push(LibraryProbe { name, purpose, present, version });
    }
    probe.driver_cuda = driver_version.map(dotted_driver);
    probe.gpus = gpus;
    probe.ok = probe.error.is_none();
    probe
}

#[derive(Default)]
struct Versions {
    cublas: Option<String>,
    cufft: Option<String>,
    cusparse: Option<String>,
}

impl Versions {
    fn of(device: &mut Device) -> Self {
        let blas = Blas::new(device.context()).and_then(|blas| blas.version());
        let sparse = Sparse::new(device.context()).and_then(|sparse| sparse.version());
        Self {
            cublas: blas.ok().map(|v| dotted(v, if v >= 100_000 { 10_000 } else { 1000 })),
            cufft: FftPlan::library_version().ok().map(|v| dotted(v, 1000)),
            cusparse: sparse.ok().map(|v| dotted(v, 1000)),
        }
    }
}

/// Libraries count their version as major·unit + minor·100 + patch.
fn dotted(version: u32, unit: u32) -> String {
    format!("{}.{}.{}", version / unit, version % unit / 100, version % 100)
}

fn dotted_driver(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

const KERNEL: &str = r#"
extern "C" __global__ void probe(unsigned *out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = i * 3 + 1;
}
"#;

/// Compiles a kernel, runs it and looks at every value. Also returns how much device memory is free.
fn check(device: &mut Device) -> (Result<String, Error>, u64) {
    let free = device.context().memory_free_bytes().unwrap_or(0);
    let outcome = (|| {
        const COUNT: u32 = 10_000;
        let module = device.load_cuda("the probe kernel", KERNEL, &[])?;
        let memory = device.context().alloc(COUNT as usize * 4)?;
        let arguments = [Argument::Pointer(memory.pointer()), Argument::U32(COUNT)];
        let launch = Launch { grid: [COUNT.div_ceil(256), 1, 1], block: [256, 1, 1], shared_bytes: 0 };
        device.launch(&module, "probe", launch, &arguments)?;
        let bytes = device.context().read(&memory)?;
        let right = |(i, value): (usize, &[u8; 4])| u32::from_le_bytes(*value) as usize == i * 3 + 1;
        match bytes.as_chunks::<4>().0.iter().enumerate().position(|value| !right(value)) {
            None => Ok(format!("a kernel was compiled and its {COUNT} values are right")),
            Some(at) => Err(Error::argument(
                format!("GPU {}", device.info().index),
                format!("a kernel ran, but value {at} of its result is wrong: do not use this GPU"),
            )),
        }
    })();
    (outcome, free)
}

fn to_text(probe: &Probe) -> String {
    let driver = probe.driver_cuda.as_deref().map_or("none".into(), |v| format!("serves CUDA {v}"));
    let mut text = format!("driver   {driver}\n");
    for library in &probe.libraries {
        let version = library.version.as_deref().unwrap_or("");
        let state = if library.present { "found" } else { "missing" };
        text += &format!("library  {:<20} {state} {version:<8} for {}\n", library.name, library.purpose);
    }
    for gpu in &probe.gpus {
        let mark = if gpu.ok { "✓" } else { "✗" };
        text += &format!(
            "GPU {} {mark}  {} {} compute {} {:.1} GiB ({:.1} free): {}\n",
            gpu.index,
            gpu.name,
            gpu.uuid,
            gpu.compute,
            gpu.memory_bytes as f64 / f64::from(1 << 30),
            gpu.memory_free_bytes as f64 / f64::from(1 << 30),
            gpu.message
        );
    }
    text
}
