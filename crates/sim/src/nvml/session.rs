//! Initialisation, versions, and finding GPUs.

use std::{
    ffi::{c_char, c_int, c_uint},
    sync::{Once, PoisonError, RwLock},
};

use nvml_wrapper_sys::bindings::{nvmlReturn_t, nvmlSystemDriverBranchInfo_t};

use super::ffi::{Answer, Code, Device, Pointer, chars, version};
use crate::{
    profile::PciAddress,
    state::{self, Gpu, Health, Machine, OpenError},
};

/// Between the first `nvmlInit` and the last `nvmlShutdown`.
struct Session {
    machine: &'static Machine,
    /// The GPUs that this process saw when it initialised; their place here is NVML's index.
    visible: Vec<usize>,
    users: u32,
}

static SESSION: RwLock<Option<Session>> = RwLock::new(None);

/// The machine and the GPUs that this process sees of it.
pub fn current() -> Result<(&'static Machine, Vec<usize>), Code> {
    let session = SESSION.read().unwrap_or_else(PoisonError::into_inner);
    session.as_ref().map(|session| (session.machine, session.visible.clone())).ok_or(Code::Uninitialized)
}

fn init() -> Answer {
    let mut session = SESSION.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = session.as_mut() {
        session.users += 1;
        return Ok(());
    }
    let machine = state::machine().map_err(|error| {
        // NVML has no place for the sentence, and without it nobody could know what is wrong.
        static SAID: Once = Once::new();
        if !matches!(error, OpenError::NoMachine) {
            SAID.call_once(|| eprintln!("weft-sim: {error}"));
        }
        match error {
            OpenError::NoMachine => Code::DriverNotLoaded,
            OpenError::Format { .. } => Code::VersionOfDriver,
            _ => Code::Unknown,
        }
    })?;
    if !machine.reachable() {
        return Err(Code::DriverNotLoaded);
    }
    *session = Some(Session { machine, visible: machine.visible(), users: 1 });
    Ok(())
}

fn found(gpu: Option<Gpu<'_>>, device: Pointer<Device>) -> Answer {
    let gpu = gpu.ok_or(Code::NotFound)?;
    if gpu.health() == Health::Lost {
        return Err(Code::GpuIsLost);
    }
    device.put(Device::of(gpu.facts().index))
}

fn find(device: Pointer<Device>, wanted: impl Fn(Gpu<'_>) -> bool) -> Answer {
    let (machine, visible) = current()?;
    machine.poll();
    found(visible.into_iter().map(|index| machine.gpu(index)).find(|gpu| wanted(*gpu)), device)
}

fn by_index(index: c_uint, device: Pointer<Device>) -> Answer {
    let (machine, visible) = current()?;
    machine.poll();
    let index = visible.get(index as usize).ok_or(Code::InvalidArgument)?;
    found(Some(machine.gpu(*index)), device)
}

fn by_pci(text: Pointer<c_char>, device: Pointer<Device>) -> Answer {
    let text = text.text()?;
    // The domain may be left out.
    let address = PciAddress::parse(text).or_else(|| PciAddress::parse(&format!("0:{text}")));
    let address = address.ok_or(Code::InvalidArgument)?;
    find(device, |gpu| gpu.facts().pci == address)
}

fn count(to: Pointer<c_uint>) -> Answer {
    to.put(current()?.1.len() as c_uint)
}

fn cuda_version(to: Pointer<c_int>) -> Answer {
    // Answered without initialisation, too, as the real library does.
    let machine = state::machine().map_err(|_| Code::DriverNotLoaded)?;
    to.put(machine.cuda_version())
}

/// As the real library, which asks `libcuda.so.1` and says so where the loader does not find it: in a container that sees the
/// driver under a root of its own (read on an H100, driver 580.159).
fn cuda_version_of_library(to: Pointer<c_int>) -> Answer {
    // SAFETY: the name is a C string, and what may be loaded is the driver that this library stands in for.
    let found = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    if found.is_null() { Err(Code::NotFound) } else { cuda_version(to) }
}

exports! {
    /// Opens the library; calls nest.
    fn nvmlInit() { init() }

    /// As `nvmlInit`.
    fn nvmlInit_v2() { init() }

    /// As `nvmlInit`; its flags excuse a machine without GPUs, which is no error here.
    fn nvmlInitWithFlags(_flags: c_uint) { init() }

    /// Ends one `nvmlInit`.
    fn nvmlShutdown() {
        let mut session = SESSION.write().unwrap_or_else(PoisonError::into_inner);
        let users = &mut session.as_mut().ok_or(Code::Uninitialized)?.users;
        *users -= 1;
        if *users == 0 {
            *session = None;
        }
        Ok(())
    }

    /// Driver version, as `580.95.05`.
    fn nvmlSystemGetDriverVersion(text: Pointer<c_char>, length: c_uint) {
        text.put_text(length, current()?.0.driver_version())
    }

    /// Driver branch, as `r580_95`.
    fn nvmlSystemGetDriverBranch(info: Pointer<nvmlSystemDriverBranchInfo_t>, length: c_uint) {
        let mut branch = info.get()?;
        if branch.version != version::<nvmlSystemDriverBranchInfo_t>(1) {
            return Err(Code::VersionOfArgument);
        }
        let (machine, _) = current()?;
        let mut parts = machine.driver_version().split('.');
        let text = format!("r{}_{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if text.len() >= length as usize {
            return Err(Code::InsufficientSize);
        }
        branch.branch = chars(&text);
        info.put(branch)
    }

    /// Version of the library: that of CUDA and of the driver, as `13.580.95.05`.
    fn nvmlSystemGetNVMLVersion(text: Pointer<c_char>, length: c_uint) {
        let (machine, _) = current()?;
        text.put_text(length, &format!("{}.{}", machine.cuda_version() / 1000, machine.driver_version()))
    }

    /// Newest CUDA version: 13.0 is 13000.
    fn nvmlSystemGetCudaDriverVersion(to: Pointer<c_int>) { cuda_version(to) }

    /// The same, of the `libcuda.so.1` that the loader finds.
    fn nvmlSystemGetCudaDriverVersion_v2(to: Pointer<c_int>) { cuda_version_of_library(to) }

    /// GPUs that this process sees.
    fn nvmlDeviceGetCount(to: Pointer<c_uint>) { count(to) }

    /// As `nvmlDeviceGetCount`.
    fn nvmlDeviceGetCount_v2(to: Pointer<c_uint>) { count(to) }

    /// The GPU at an index below the count.
    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: Pointer<Device>) { by_index(index, device) }

    /// As `nvmlDeviceGetHandleByIndex`.
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: Pointer<Device>) { by_index(index, device) }

    /// The GPU with this UUID.
    fn nvmlDeviceGetHandleByUUID(uuid: Pointer<c_char>, device: Pointer<Device>) {
        let uuid = uuid.text()?;
        find(device, |gpu| gpu.facts().uuid == uuid)
    }

    /// The GPU with this serial number.
    fn nvmlDeviceGetHandleBySerial(serial: Pointer<c_char>, device: Pointer<Device>) {
        let serial = serial.text()?;
        find(device, |gpu| gpu.facts().serial == serial)
    }

    /// The GPU at this PCI address.
    fn nvmlDeviceGetHandleByPciBusId(address: Pointer<c_char>, device: Pointer<Device>) { by_pci(address, device) }

    /// As `nvmlDeviceGetHandleByPciBusId`.
    fn nvmlDeviceGetHandleByPciBusId_v2(address: Pointer<c_char>, device: Pointer<Device>) { by_pci(address, device) }

    /// No GPU is excluded.
    fn nvmlGetExcludedDeviceCount(to: Pointer<c_uint>) {
        current()?;
        to.put(0)
    }

    /// The command of a process that uses a GPU.
    fn nvmlSystemGetProcessName(pid: c_uint, name: Pointer<c_char>, length: c_uint) {
        let (machine, visible) = current()?;
        let command = visible
            .iter()
            .flat_map(|gpu| machine.processes(*gpu))
            .find(|process| process.pid as c_uint == pid)
            .ok_or(Code::NotFound)?
            .command;
        name.put_text(length, &command)
    }

    /// The GPUs next to a processor.
    fn nvmlSystemGetTopologyGpuSet(cpu: c_uint, count: Pointer<c_uint>, devices: Pointer<Device>) {
        let (machine, visible) = current()?;
        let near = |index: &usize| {
            let numa = machine.facts()[*index].numa as usize;
            let cpus = machine.profile().numa.get(numa).and_then(|numa| crate::profile::parse_cpu_list(&numa.cpus));
            cpus.is_some_and(|cpus| cpus.contains(&(cpu as usize)))
        };
        let devices_near = visible.into_iter().filter(near).map(Device::of).collect();
        super::ffi::put_list_or_count(count, devices, devices_near)
    }
}

/// The sentence of a return value.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    let text = match result {
        0 => c"The operation was successful",
        1 => c"NVML was not first initialized with nvmlInit()",
        2 => c"A supplied argument is invalid",
        3 => c"The requested operation is not available on the target device",
        4 => c"The current user does not have permission for the operation",
        6 => c"A query to find an object was unsuccessful",
        7 => c"An input argument is not large enough",
        9 => c"The NVIDIA driver is not loaded",
        10 => c"The provided timeout passed",
        13 => c"The local version of NVML does not implement this function",
        15 => c"The GPU has fallen off the bus or has otherwise become inaccessible",
        16 => c"The GPU requires a reset before it can be used again",
        18 => c"The driver and the library have different versions",
        21 => c"There is no data",
        23 => c"Resources are insufficient for the operation",
        25 => c"The version of the argument is not supported",
        _ => c"An internal driver error occurred",
    };
    text.as_ptr()
}
