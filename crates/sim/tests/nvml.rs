//! The library as others see it: `nvml-wrapper` in processes of their own, on the built shared object.
//!
//! A process has one machine, so each test starts this same program again in a role (see [`role`]) with an environment of
//! its own, and talks to it over its standard streams.

// All of this file is tests; clippy's own exception for them ends at the functions marked so.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use nvml_wrapper::{
    Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{Brand, Clock, PcieUtilCounter, TemperatureSensor, TopologyLevel},
    enums::device::{DeviceArchitecture, UsedGpuMemory},
    error::NvmlError,
    sys_exports::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
};
use weft_sim::{
    layout,
    profile::Profile,
    state::{Isolation, Machine},
};

const ROLE: &str = "WEFT_SIM_TEST_ROLE";

/// A process of this test program in a role.
struct Actor {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Actor {
    fn start(role: &str, environment: &[(&str, &Path)]) -> Actor {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "role", "--nocapture", "--quiet"]);
        for name in ["WEFT_SIM_STATE", "WEFT_SIM_PROFILE", "WEFT_SIM_DEV", "CUDA_VISIBLE_DEVICES"] {
            command.env_remove(name);
        }
        command.env(ROLE, role).envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Actor { child, output }
    }

    /// Waits until it says `word`.
    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended without saying {word}");
            if line.trim() == word {
                return;
            }
        }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    fn succeeds(mut self) {
        drop(self.child.stdin.take());
        std::io::copy(&mut self.output, &mut std::io::stderr()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Tells the parent something; the harness's own output does not disturb.
fn say(word: &str) {
    println!("\n{word}");
}

fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn state(profile: &str, isolation: Isolation) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine");
    Machine::create(&path, Profile::load(profile).unwrap(), "node-1", isolation).unwrap();
    (folder, path)
}

fn weft_sim(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_weft-sim")).args(arguments).output().unwrap()
}

fn fault(state: &Path, gpu: usize, what: &[&str]) {
    let gpu = gpu.to_string();
    let output = weft_sim(&[&["fault", "--state", state.to_str().unwrap(), "--gpu", &gpu], what].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn nvml() -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(layout::built_library().unwrap().as_os_str()).init()
}

#[test]
#[ignore = "a role in the other tests"]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("h100x8") => an_hgx_board(),
        Ok("a100x4") => bridged_pairs(),
        Ok("l40sx8") => no_nvlink(),
        Ok("no driver") => assert!(matches!(nvml().err(), Some(NvmlError::DriverNotLoaded))),
        Ok("other version") => assert!(matches!(nvml().err(), Some(NvmlError::LibRmVersionMismatch))),
        Ok("broken") => assert!(matches!(nvml().err(), Some(NvmlError::Unknown))),
        Ok("holder") => hold_memory(),
        Ok("watcher of memory") => watch_memory(),
        Ok("waiter") => wait_for_faults(),
        Ok("prisoner") => see_two_gpus(),
        role => panic!("no role: {role:?}"),
    }
}

/// `NVML_NVLINK_DEVICE_TYPE_GPU` and `_SWITCH`.
const GPU: u32 = 0;
const SWITCH: u32 = 2;

/// `nvml-wrapper` 0.13 has a method for this that drops the answer.
fn remote_kind(gpu: &nvml_wrapper::Device<'_>, link: u32) -> u32 {
    let mut kind = u32::MAX;
    // SAFETY: the handle is good, and `kind` outlives the call.
    let answer = unsafe { gpu.nvml().lib().nvmlDeviceGetNvLinkRemoteDeviceType(gpu.handle(), link, &mut kind) };
    assert_eq!(answer, 0);
    kind
}

fn an_hgx_board() {
    let nvml = nvml().unwrap();
    assert_eq!(nvml.sys_driver_version().unwrap(), "580.95.05");
    // The second version of this call asks libcuda.so.1, which the loader of this process does not find.
    assert!(matches!(nvml.sys_cuda_driver_version(), Err(NvmlError::NotFound)));
    let mut cuda = 0;
    // SAFETY: `cuda` outlives the call.
    let answer = unsafe { nvml.lib().nvmlSystemGetCudaDriverVersion(&mut cuda) };
    assert_eq!((answer, cuda), (0, 13000));
    assert_eq!(nvml.sys_nvml_version().unwrap(), "13.580.95.05");
    assert_eq!(nvml.device_count().unwrap(), 8);

    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!((gpu.index().unwrap(), gpu.minor_number().unwrap()), (0, 0));
    assert_eq!(gpu.architecture().unwrap(), DeviceArchitecture::Hopper);
    assert_eq!(gpu.brand().unwrap(), Brand::Nvidia);
    let capability = gpu.cuda_compute_capability().unwrap();
    assert_eq!((capability.major, capability.minor), (9, 0));
    assert_eq!(gpu.num_cores().unwrap(), 16896);
    assert!(!gpu.serial().unwrap().is_empty() && !gpu.vbios_version().unwrap().is_empty());

    let pci = gpu.pci_info().unwrap();
    assert_eq!(pci.bus_id, "00000000:1B:00.0");
    assert_eq!((pci.domain, pci.bus, pci.device, pci.pci_device_id), (0, 0x1b, 0, 0x2330_10de));
    let uuid = gpu.uuid().unwrap();
    assert_eq!(nvml.device_by_uuid(uuid.as_str()).unwrap().index().unwrap(), 0);
    for text in ["0000:1c:00.0", "00000000:1C:00.0", "1c:00.0"] {
        assert_eq!(nvml.device_by_pci_bus_id(text).unwrap().index().unwrap(), 1, "{text}");
    }
    assert!(matches!(nvml.device_by_uuid("GPU-unknown").err(), Some(NvmlError::NotFound)));
    assert!(matches!(nvml.device_by_index(8).err(), Some(NvmlError::InvalidArg)));

    let memory = gpu.memory_info().unwrap();
    assert_eq!(memory.total, 81559 << 20);
    assert_eq!(memory.total, memory.used + memory.free + memory.reserved);
    let load = gpu.utilization_rates().unwrap();
    assert_eq!((load.gpu, load.memory), (0, 0));
    assert_eq!(gpu.encoder_utilization().unwrap().utilization, 0);
    assert_eq!(gpu.power_usage().unwrap(), 70_000);
    assert_eq!(gpu.enforced_power_limit().unwrap(), 700_000);
    assert!((20..40).contains(&gpu.temperature(TemperatureSensor::Gpu).unwrap()));
    assert_eq!(gpu.clock_info(Clock::SM).unwrap(), 345);
    assert_eq!(gpu.max_clock_info(Clock::SM).unwrap(), 1980);
    let energy = gpu.total_energy_consumption().unwrap();
    assert!(gpu.total_energy_consumption().unwrap() >= energy);
    assert_eq!((gpu.current_pcie_link_gen().unwrap(), gpu.current_pcie_link_width().unwrap()), (5, 16));
    assert_eq!(gpu.pcie_throughput(PcieUtilCounter::Send).unwrap(), 0);
    assert_eq!(gpu.pcie_replay_counter().unwrap(), 0);
    assert!(gpu.is_ecc_enabled().unwrap().currently_enabled);
    assert_eq!(gpu.mig_mode().unwrap().current, 0);
    assert!(gpu.running_compute_processes().unwrap().is_empty());

    let level =
        |a, b| nvml.device_by_index(a).unwrap().topology_common_ancestor(nvml.device_by_index(b).unwrap()).unwrap();
    assert_eq!(level(0, 1), TopologyLevel::Single);
    assert_eq!(level(0, 2), TopologyLevel::Node);
    assert_eq!(level(0, 4), TopologyLevel::System);
    assert_eq!(gpu.memory_affinity(1, 0).unwrap(), [1]);
    let last = nvml.device_by_index(7).unwrap();
    assert_eq!(last.memory_affinity(1, 0).unwrap(), [2]);
    assert_eq!(last.cpu_affinity(2).unwrap(), [0xffff << 48, 0xffff_ffff]);
    assert!(matches!(gpu.numa_node_id().err(), Some(NvmlError::NotSupported)));

    let link = gpu.link_wrapper_for(17);
    assert!(link.is_active().unwrap());
    assert_eq!(remote_kind(&gpu, 17), SWITCH);
    assert_eq!(link.remote_pci_info().unwrap().bus_id, "00000000:06:00.0");
    assert!(gpu.link_wrapper_for(18).is_active().is_err());

    // Both versions of the fabric's structure; no other.
    type Fabric = nvml_wrapper_sys::bindings::nvmlGpuFabricInfoV_t;
    for (size, number, answer) in [(36_usize, 2, 0), (size_of::<Fabric>(), 3, 0), (size_of::<Fabric>(), 2, 25)] {
        // SAFETY: plain old data.
        let mut fabric: Fabric = unsafe { std::mem::zeroed() };
        fabric.version = size as u32 | number << 24;
        // SAFETY: the handle is good, and `fabric` is as long as the longest version.
        assert_eq!(unsafe { nvml.lib().nvmlDeviceGetGpuFabricInfoV(gpu.handle(), &mut fabric) }, answer, "{number}");
        assert_eq!(fabric.state, if answer == 0 { 3 } else { 0 });
        assert_eq!(fabric.healthSummary, u8::from(number == 3 && answer == 0), "nothing beyond version 2's end");
    }

    // A handle that NVML never gave out.
    let mut minor = 0;
    // SAFETY: the function is resolved, `minor` outlives the call, and the wrong handle is what is being tried.
    let answer = unsafe { nvml.lib().nvmlDeviceGetMinorNumber(0xdead_beef_usize as _, &mut minor) };
    assert_eq!(answer, 2);
}

fn bridged_pairs() {
    let nvml = nvml().unwrap();
    let gpus: Vec<_> = (0..4).map(|index| nvml.device_by_index(index).unwrap()).collect();
    for (one, other) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        let other = gpus[other].pci_info().unwrap().bus_id;
        for link in 0..12 {
            let link = gpus[one].link_wrapper_for(link);
            assert!(link.is_active().unwrap());
            assert_eq!(link.remote_pci_info().unwrap().bus_id, other);
        }
        assert!(!gpus[one].link_wrapper_for(12).is_active().unwrap());
    }
    assert_eq!(remote_kind(&gpus[0], 0), GPU);
    let level = |one: usize, other| gpus[one].topology_common_ancestor(nvml.device_by_index(other).unwrap()).unwrap();
    assert_eq!([level(0, 1), level(1, 2)], [TopologyLevel::Node, TopologyLevel::System]);
}

fn no_nvlink() {
    let nvml = nvml().unwrap();
    assert_eq!(nvml.device_count().unwrap(), 8);
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.architecture().unwrap(), DeviceArchitecture::Ada);
    assert!(matches!(gpu.link_wrapper_for(0).is_active().err(), Some(NvmlError::NotSupported)));
    assert!(matches!(gpu.mig_mode().err(), Some(NvmlError::NotSupported)));
}

fn hold_memory() {
    let machine = weft_sim::state::machine().unwrap();
    let process = machine.process().unwrap();
    process.context_created(1);
    process.allocate(1, 4 << 30).unwrap();
    let _busy = process.busy(1);
    say("holding");
    listen();
    panic!("it was to be killed");
}

fn watch_memory() {
    let nvml = nvml().unwrap();
    let gpu = nvml.device_by_index(1).unwrap();
    let before = gpu.memory_info().unwrap();
    say("ready");
    let holder: u32 = listen().parse().unwrap();
    let processes = gpu.running_compute_processes().unwrap();
    assert_eq!(processes.len(), 1);
    assert_eq!(processes[0].pid, holder);
    assert_eq!(processes[0].used_gpu_memory, UsedGpuMemory::Used(4 << 30));
    assert_eq!(gpu.memory_info().unwrap().used - before.used, 4 << 30);
    assert_eq!(gpu.clock_info(Clock::SM).unwrap(), gpu.max_clock_info(Clock::SM).unwrap());
    assert_eq!(nvml.device_by_index(0).unwrap().memory_info().unwrap().used, before.used);
    say("seen");
    listen();
    assert!(gpu.running_compute_processes().unwrap().is_empty());
    assert_eq!(gpu.memory_info().unwrap().used, before.used);
}

fn wait_for_faults() {
    let nvml = nvml().unwrap();
    let gpu = nvml.device_by_index(3).unwrap();
    let uuid = gpu.uuid().unwrap();
    let set = nvml.create_event_set().unwrap();
    let set = gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    assert!(matches!(set.wait(0).err(), Some(NvmlError::Timeout)));
    say("waiting");

    let event = set.wait(60_000).unwrap();
    assert_eq!(event.event_type, EventTypes::CRITICAL_XID_ERROR);
    assert_eq!(event.event_data, Some(nvml_wrapper::enums::event::XidError::Value(79)));
    // The library remembers who it was, and knows nothing more.
    assert_eq!((event.device.index().unwrap(), event.device.uuid().unwrap()), (3, uuid.clone()));
    assert!(matches!(gpu.memory_info().err(), Some(NvmlError::GpuLost)));
    assert!(matches!(gpu.temperature(TemperatureSensor::Gpu).err(), Some(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(3).err(), Some(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_uuid(uuid).err(), Some(NvmlError::GpuLost)));
    let action = |gpu: &nvml_wrapper::Device<'_>| {
        let value =
            gpu.field_values_for(&[nvml_wrapper::structs::device::FieldId(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)]);
        format!("{:?}", value.unwrap()[0].as_ref().unwrap().value.as_ref().unwrap())
    };
    assert!(action(&gpu).contains('2'), "{}", action(&gpu));
    let other = nvml.device_by_index(2).unwrap();
    assert!(other.memory_info().is_ok());
    say("lost");
    listen();
    assert!(gpu.memory_info().is_ok());
    assert!(action(&gpu).contains('0'), "{}", action(&gpu));
    assert!(matches!(set.wait(0).err(), Some(NvmlError::Timeout)));
    say("well");
    // Now by the control file, and one of another GPU first, which this set does not hear.
    let event = set.wait(60_000).unwrap();
    assert_eq!(event.event_data, Some(nvml_wrapper::enums::event::XidError::Value(31)));
    assert!(gpu.memory_info().is_ok());
    say("application error");
    assert!(matches!(set.wait(60_000).err(), Some(NvmlError::GpuLost)));
    assert!(matches!(set.wait(0).err(), Some(NvmlError::Timeout)));
}

fn see_two_gpus() {
    let nvml = nvml().unwrap();
    assert_eq!(nvml.device_count().unwrap(), 2);
    let minors = [0, 1].map(|index| nvml.device_by_index(index).unwrap().minor_number().unwrap());
    assert_eq!(minors, [2, 5]);
    let hidden = Profile::load("h100x8").unwrap().facts("node-1").unwrap().remove(0);
    assert!(matches!(nvml.device_by_uuid(hidden.uuid).err(), Some(NvmlError::NotFound)));
    assert!(matches!(nvml.device_by_pci_bus_id(hidden.pci.to_string()).err(), Some(NvmlError::NotFound)));
}

#[test]
fn each_profile_reads_as_the_machine_it_is() {
    for profile in ["h100x8", "a100x4", "l40sx8"] {
        Actor::start(profile, &[("WEFT_SIM_PROFILE", Path::new(profile))]).succeeds();
    }
}

#[test]
fn without_a_machine_there_is_no_driver() {
    Actor::start("no driver", &[]).succeeds();
}

#[test]
fn a_state_that_cannot_be_read_is_an_error_not_another_machine() {
    let (_folder, path) = state("a100x4", Isolation::Off);
    let mut bytes = std::fs::read(&path).unwrap();
    let environment = [("WEFT_SIM_STATE", path.as_path()), ("WEFT_SIM_PROFILE", Path::new("h100x8"))];
    bytes[8] += 1;
    std::fs::write(&path, &bytes).unwrap();
    Actor::start("other version", &environment).succeeds();
    std::fs::write(&path, "garbage").unwrap();
    Actor::start("broken", &environment).succeeds();
    std::fs::remove_file(&path).unwrap();
    Actor::start("broken", &environment).succeeds();
}

#[test]
fn memory_of_one_process_is_seen_by_another_until_it_is_killed() {
    let (_folder, path) = state("a100x4", Isolation::Off);
    let environment = [("WEFT_SIM_STATE", path.as_path())];
    let mut watcher = Actor::start("watcher of memory", &environment);
    watcher.hear("ready");
    let mut holder = Actor::start("holder", &environment);
    holder.hear("holding");
    watcher.tell(&holder.child.id().to_string());
    watcher.hear("seen");
    holder.child.kill().unwrap();
    holder.child.wait().unwrap();
    watcher.tell("killed");
    watcher.succeeds();
}

#[test]
fn faults_reach_a_waiter_in_another_process_and_recovery_ends_them() {
    let (_folder, path) = state("h100x8", Isolation::Off);
    let mut waiter = Actor::start("waiter", &[("WEFT_SIM_STATE", path.as_path())]);
    waiter.hear("waiting");
    fault(&path, 5, &["xid", "48"]);
    fault(&path, 3, &["xid", "79"]);
    waiter.hear("lost");
    fault(&path, 3, &["recover"]);
    waiter.tell("recovered");
    waiter.hear("well");
    let mut control = File::options().create(true).append(true).open(path.with_file_name("machine.control")).unwrap();
    control.write_all(b"4 xid 74\n3 xid 31\n").unwrap();
    waiter.hear("application error");
    control.write_all(b"3 lost\n").unwrap();
    waiter.succeeds();
}

#[test]
fn a_process_sees_only_the_gpus_whose_device_nodes_it_has() {
    let (folder, path) = state("h100x8", Isolation::Exists);
    let dev = folder.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    let environment = [("WEFT_SIM_STATE", path.as_path()), ("WEFT_SIM_DEV", dev.as_path())];
    Actor::start("no driver", &environment).succeeds();
    for node in ["nvidiactl", "nvidia2", "nvidia5"] {
        File::create(dev.join(node)).unwrap();
    }
    Actor::start("prisoner", &environment).succeeds();
}

#[test]
fn a_node_is_made_once_and_shown_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (state, dev) = (at("run/machine"), at("dev"));
    let init =
        |profile: &str| weft_sim(&["init", "--profile", profile, "--state", &state, "--seed", "node-1", "--dev", &dev]);
    let made = init("h100x8");
    if !made.status.success() {
        let error = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(error.contains("CAP_MKNOD"), "{error}");
        eprintln!("not allowed to make device nodes here: the rest is not tried");
        return;
    }
    fault(Path::new(&state), 6, &["xid", "79"]);
    // Again: the fault and the nodes stay.
    assert!(init("h100x8").status.success());
    let other = init("a100x4");
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("give --replace"));

    let status = weft_sim(&["status", "--state", &state, "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["isolated"], true);
    assert_eq!(status["gpus"].as_array().unwrap().len(), 8);
    assert_eq!((&status["gpus"][6]["health"], &status["gpus"][6]["xid"]), (&"lost".into(), &79.into()));
    assert_eq!(status["gpus"][5]["health"], "healthy");
    let expected = Profile::load("h100x8").unwrap().facts("node-1").unwrap();
    assert_eq!(status["gpus"][0]["uuid"], expected[0].uuid);
}

#[test]
fn all_library_names_are_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let library = layout::built_library().unwrap();
    let (out, root) = (folder.path().join("out"), folder.path().join("root"));
    let arguments = |flag: &'static str, path: &Path| [flag.to_owned(), path.to_str().unwrap().to_owned()];
    for _again in 0..2 {
        let arguments =
            [arguments("--library", &library), arguments("--out", &out), arguments("--root", &root)].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_weft-sim")).arg("layout").args(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for place in [out.join("lib"), root.join(layout::LIBRARY_FOLDER)] {
        let whole = place.join(layout::LIBRARY).canonicalize().unwrap();
        for name in layout::NAMES {
            assert_eq!(place.join(name).canonicalize().unwrap(), whole);
        }
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), layout::NAMES.len() + 1);
    }
}
