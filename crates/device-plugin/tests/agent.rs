//! The agent's binary between a simulated machine and kubelet's sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod support;

use std::os::unix::net::UnixListener;

use support::kubelet::{Devices, Holdings, Kubelet, Plugin};
use support::{Agent, Node, PATIENCE, exists, get};
use weft_sim::state::Fault;

/// The CDI specification's names of its devices.
fn described(node: &Node) -> Vec<String> {
    let devices = node.cdi()["devices"].as_array().unwrap().clone();
    devices.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn gpus_are_described_registered_listed_and_allocated() {
    let node = Node::new("h100x8");
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&["--extra-mount", "/run/weft-sim"]);
    let mut plugin = kubelet.plugin().await;
    assert_eq!(plugin.request.resource_name, "nvidia.com/gpu");
    assert_eq!(plugin.request.version, "v1beta1");
    assert_eq!(plugin.request.endpoint, "nvidia-gpu.sock");
    assert!(plugin.request.options.unwrap().get_preferred_allocation_available);

    let all = node.uuids(&[0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(described(&node), all, "described before they are advertised");
    let mut devices = plugin.watch().await;
    let list = devices.next().await;
    let ids: Vec<String> = list.devices.iter().map(|device| device.id.clone()).collect();
    assert_eq!(ids, all);
    assert!(list.devices.iter().all(|device| device.health == "Healthy"));
    let numa: Vec<i64> = list.devices.iter().map(|device| device.topology.as_ref().unwrap().nodes[0].id).collect();
    assert_eq!(numa, [0, 0, 0, 0, 1, 1, 1, 1]);

    let two = node.uuids(&[4, 5]);
    let answer = plugin.allocate(&two).await.unwrap();
    let container = &answer.container_responses[0];
    assert_eq!(container.envs["NVIDIA_VISIBLE_DEVICES"], two.join(","));
    let names: Vec<&str> = container.cdi_devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, two.iter().map(|id| format!("k8s.device-plugin.nvidia.com/gpu={id}")).collect::<Vec<_>>());

    let refusal = plugin.allocate(&["GPU-unknown".to_owned()]).await.unwrap_err();
    assert!(refusal.message().contains("GPU-unknown is not on node node-1"), "{refusal}");
}

#[tokio::test]
async fn containers_get_the_drivers_libraries_under_the_names_that_programs_load() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&["--extra-mount", "/run/weft-sim"]);
    kubelet.plugin().await;
    let spec = node.cdi();
    let mounts = spec["containerEdits"]["mounts"].as_array().unwrap();
    let has = |container: &str| {
        mounts.iter().find(|mount| mount["containerPath"] == container).map(|mount| mount["hostPath"].as_str().unwrap())
    };
    // The stand-in is one file under many names; a real driver's libraries are found the same way.
    for name in ["libnvidia-ml.so.1", "libcuda.so.1", "libcublas.so.13"] {
        for folder in ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"] {
            let host = has(&format!("{folder}/{name}")).unwrap_or_else(|| panic!("{name} is not mounted in {folder}"));
            assert!(host.starts_with("/opt/driver/usr/lib"), "{host}");
        }
    }
    assert_eq!(has("/run/weft-sim"), Some("/run/weft-sim"));
    assert_eq!(spec["devices"][3]["containerEdits"]["deviceNodes"][0]["path"], "/dev/nvidia3");
}

#[tokio::test]
async fn the_best_wired_gpus_are_recommended() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let all = node.uuids(&[0, 1, 2, 3]);
    assert_eq!(plugin.preferred(&node.uuids(&[0, 2, 3]), &[], 2).await, node.uuids(&[2, 3]));
    assert_eq!(plugin.preferred(&all, &node.uuids(&[1]), 2).await, node.uuids(&[0, 1]));
    let mut stale = all.clone();
    stale.push("GPU-of-an-earlier-machine".into());
    assert_eq!(plugin.preferred(&stale, &[], 4).await, all);
}

#[tokio::test]
async fn a_restarted_kubelet_is_registered_with_again() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let address = agent.listens();
    let mut plugin = kubelet.plugin().await;
    // A stream that ended would be a reason of its own.
    let mut streams = vec![plugin.watch().await];
    for _ in 0..2 {
        kubelet.restart();
        let mut plugin = kubelet.plugin().await;
        let mut devices = plugin.watch().await;
        assert_eq!(devices.next().await.devices.len(), 4);
        streams.push(devices);
    }
    let (_, metrics) = get(&address, "/metrics").await;
    assert!(metrics.contains("\nweft_agent_registrations_total 3\n"), "{metrics}");
}

// The test waits for the log while its connections are at work: on threads of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_devices_that_ends_is_a_reason_to_register_again() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    for _ in 0..2 {
        drop(plugin.watch().await);
        agent.logged("kubelet ended its stream of devices");
        plugin = kubelet.plugin().await;
    }
    let mut devices = plugin.watch().await;
    assert_eq!(devices.next().await.devices.len(), 4);
    plugin.allocate(&node.uuids(&[0])).await.unwrap();
}

#[tokio::test]
async fn of_two_agents_on_one_node_the_earlier_serves_and_the_later_says_so_and_waits() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let (first, mut plugin, _devices) = registered(&node, &mut kubelet).await;
    let second = node.agent(&[]);
    let address = second.listens();
    second.logged("another device plugin offers nvidia.com/gpu on this node: remove one of the two");
    assert!(!kubelet.has_registration(), "they fight");
    plugin.allocate(&node.uuids(&[0])).await.unwrap();
    let (code, why) = get(&address, "/readyz").await;
    assert!(code == 503 && why.contains("another device plugin"), "{code} {why}");
    let (_, metrics) = get(&address, "/metrics").await;
    assert!(metrics.contains("\nweft_agent_standing_by 1\n"), "{metrics}");

    assert_eq!(first.stop(), Some(0));
    second.logged("the other device plugin is gone");
    let mut plugin = kubelet.plugin().await;
    plugin.allocate(&node.uuids(&[0])).await.unwrap();
    let (_, metrics) = get(&address, "/metrics").await;
    assert!(metrics.contains("\nweft_agent_standing_by 0\n"), "{metrics}");
}

#[tokio::test]
async fn an_agent_whose_socket_another_plugin_takes_waits_and_serves_again_when_that_is_gone() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let (agent, _plugin, _devices) = registered(&node, &mut kubelet).await;
    let other = take_socket(&node);
    agent.logged("another device plugin offers nvidia.com/gpu on this node: remove one of the two");
    assert!(!kubelet.has_registration(), "they fight");
    drop(other);
    agent.logged("the other device plugin is gone");
    let mut plugin = kubelet.plugin().await;
    plugin.allocate(&node.uuids(&[0])).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_ends_leaves_the_socket_of_another_plugin() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let (agent, _plugin, _devices) = registered(&node, &mut kubelet).await;
    let _other = take_socket(&node);
    assert_eq!(agent.stop(), Some(0));
    assert!(exists(&node.plugin_socket()));
}

#[tokio::test]
async fn the_socket_of_a_plugin_that_is_dead_or_hangs_is_taken() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    drop(take_socket(&node));
    let (agent, ..) = registered(&node, &mut kubelet).await;
    assert_eq!(agent.stop(), Some(0));
    // Connected to by the system, and never heard by the plugin.
    let _hangs = take_socket(&node);
    let (_agent, mut plugin, _devices) = registered(&node, &mut kubelet).await;
    plugin.allocate(&node.uuids(&[0])).await.unwrap();
}

/// An agent that kubelet knows and watches.
async fn registered(node: &Node, kubelet: &mut Kubelet) -> (Agent, Plugin, Devices) {
    let agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let devices = plugin.watch().await;
    (agent, plugin, devices)
}

/// Listens under the plugin's name without asking who is there, as NVIDIA's plugin does.
fn take_socket(node: &Node) -> UnixListener {
    let _gone_already = std::fs::remove_file(node.plugin_socket());
    UnixListener::bind(node.plugin_socket()).unwrap()
}

#[tokio::test]
async fn a_kubelet_that_restarts_in_the_middle_of_allocations_is_served_again() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let mut streams = vec![plugin.watch().await];
    let two = node.uuids(&[0, 1]);
    let (asked, mut client) = (two.clone(), plugin);
    let allocating = tokio::spawn(async move { while client.allocate(&asked).await.is_ok() {} });
    kubelet.restart();
    // The old one dies in the middle of a call.
    allocating.abort();
    let mut plugin = kubelet.plugin().await;
    streams.push(plugin.watch().await);
    plugin.allocate(&two).await.unwrap();
    assert_eq!(plugin.preferred(&node.uuids(&[0, 1, 2, 3]), &[], 4).await.len(), 4);
}

#[tokio::test]
async fn the_agent_waits_for_a_kubelet_that_is_not_there_yet() {
    let node = Node::new("a100x4");
    let agent = node.agent(&[]);
    let address = agent.listens();
    agent.logged("cannot register yet");
    assert_eq!(get(&address, "/readyz").await.0, 503);
    let mut kubelet = Kubelet::start(&node);
    kubelet.plugin().await;
    agent.logged("registered with kubelet");
    assert_eq!(get(&address, "/readyz").await.0, 200);
}

#[tokio::test]
async fn an_xid_makes_one_gpu_unhealthy_until_it_recovers() {
    let node = Node::new("h100x8");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let address = agent.listens();
    let mut plugin = kubelet.plugin().await;
    let mut devices = plugin.watch().await;
    devices.until_unhealthy(&[]).await;

    // Of these two, only the second is the GPU's fault: the next list must show exactly one.
    node.raise(1, Fault::Xid(31));
    node.raise(3, Fault::Xid(79));
    let list = devices.next().await;
    let unhealthy: Vec<&str> =
        list.devices.iter().filter(|device| device.health != "Healthy").map(|device| device.id.as_str()).collect();
    assert_eq!(unhealthy, node.uuids(&[3]));

    let refusal = plugin.allocate(&node.uuids(&[3])).await.unwrap_err();
    assert!(refusal.message().contains("fell off the bus (XID 79)"), "{refusal}");
    let (_, metrics) = get(&address, "/metrics").await;
    let line = |start: &str| metrics.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    assert!(line("DCGM_FI_DEV_XID_ERRORS{gpu=\"3\"").ends_with(" 79"), "{metrics}");
    assert!(line("weft_agent_gpu_healthy{gpu=\"3\"").ends_with(" 0"), "{metrics}");
    assert!(line("weft_agent_gpu_healthy{gpu=\"2\"").ends_with(" 1"), "{metrics}");

    node.raise(3, Fault::Recover);
    devices.until_unhealthy(&[]).await;
    plugin.allocate(&node.uuids(&[3])).await.unwrap();
}

#[tokio::test]
async fn a_lost_gpu_takes_no_other_with_it() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let mut devices = plugin.watch().await;
    devices.until_unhealthy(&[]).await;
    node.raise(1, Fault::Lost);
    devices.until_unhealthy(&node.uuids(&[1])).await;
    assert_eq!(plugin.preferred(&node.uuids(&[0, 2, 3]), &[], 2).await, node.uuids(&[2, 3]));
    plugin.allocate(&node.uuids(&[2, 3])).await.unwrap();
    node.raise(1, Fault::Recover);
    devices.until_unhealthy(&[]).await;
}

#[tokio::test]
async fn a_gpu_that_was_lost_before_the_agent_started_is_offered_once_it_is_back() {
    let node = Node::new("a100x4");
    node.raise(2, Fault::Lost);
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let mut devices = plugin.watch().await;
    assert_eq!(devices.next().await.devices.len(), 3);
    node.raise(2, Fault::Recover);
    while devices.next().await.devices.len() != 4 {}
    assert_eq!(described(&node), node.uuids(&[0, 1, 2, 3]));
}

#[tokio::test]
async fn a_node_without_a_driver_is_ready_says_why_and_picks_the_driver_up() {
    let node = Node::without_driver("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let address = agent.listens();
    let line = agent.logged("no usable driver");
    assert!(line["error"].as_str().unwrap().contains("install the driver on this node"), "{line}");
    let (status, body) = get(&address, "/readyz").await;
    assert_eq!(status, 200);
    assert!(body.contains("no NVIDIA driver found"), "{body}");
    assert_eq!(get(&address, "/healthz").await.0, 200);
    assert!(!kubelet.has_registration(), "nothing is advertised");

    node.install_driver();
    let mut plugin = kubelet.plugin().await;
    assert_eq!(plugin.watch().await.next().await.devices.len(), 4);
}

#[tokio::test]
async fn a_driver_that_is_upgraded_is_opened_anew() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let mut devices = plugin.watch().await;
    devices.until_unhealthy(&[]).await;
    node.install_driver();
    agent.logged("the driver was replaced");
    agent.logged("read the machine");
    node.raise(0, Fault::Xid(48));
    devices.until_unhealthy(&node.uuids(&[0])).await;
}

#[tokio::test]
async fn a_driver_that_goes_and_comes_back_takes_the_gpus_out_and_brings_them_back() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let address = agent.listens();
    let mut plugin = kubelet.plugin().await;
    let mut devices = plugin.watch().await;
    devices.until_unhealthy(&[]).await;
    for _ in 0..2 {
        node.remove_driver();
        agent.logged("no usable driver");
        devices.until_unhealthy(&node.uuids(&[0, 1, 2, 3])).await;
        let refusal = plugin.allocate(&node.uuids(&[0])).await.unwrap_err();
        assert!(refusal.message().contains("the node's driver does not work"), "{refusal}");
        assert_eq!(get(&address, "/healthz").await.0, 200, "that is no fault of the agent");

        node.install_driver();
        devices.until_unhealthy(&[]).await;
        plugin.allocate(&node.uuids(&[0])).await.unwrap();
    }
}

#[tokio::test]
async fn sixteen_gpus_are_offered_and_the_best_wired_are_found() {
    let node = Node::new(sixteen().path().to_str().unwrap());
    let mut kubelet = Kubelet::start(&node);
    let _agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let mut devices = plugin.watch().await;
    let all = node.uuids(&(0..16).collect::<Vec<_>>());
    let list = devices.next().await;
    assert_eq!(list.devices.iter().map(|device| device.id.clone()).collect::<Vec<_>>(), all);
    assert_eq!(described(&node), all);
    // Two under one PCIe switch; and of a machine with one such pair broken, another one.
    assert_eq!(plugin.preferred(&node.uuids(&[1, 4, 5, 15]), &[], 2).await, node.uuids(&[4, 5]));
    assert_eq!(plugin.preferred(&all, &[], 16).await, all);
    node.raise(9, Fault::Xid(79));
    devices.until_unhealthy(&node.uuids(&[9])).await;
}

/// The profile of a machine with sixteen GPUs: that with eight, with as many again on its second socket.
fn sixteen() -> tempfile::NamedTempFile {
    let eight = include_str!("../../sim/profiles/l40sx8.yaml");
    let more =
        (0..8).map(|i| format!("  - {{ pci: \"0000:{:02x}:00.0\", at: 1/{}/{} }}\n", 0xb0 + i, 1 + i / 4, i / 2 % 2));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), eight.trim_end().to_owned() + "\n" + &more.collect::<String>()).unwrap();
    file
}

#[tokio::test]
async fn a_missing_uvm_node_is_made_by_the_drivers_own_program_before_gpus_are_offered() {
    let node = Node::new("a100x4");
    node.install_modprobe("echo made by nvidia-modprobe $* > /dev/nvidia-uvm");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    if !rustix::process::geteuid().is_root() {
        agent.logged("the agent must run as root");
        return;
    }
    agent.logged("made /dev/nvidia-uvm");
    kubelet.plugin().await;
    let made = std::fs::read_to_string(node.path("dev/nvidia-uvm")).unwrap();
    assert_eq!(made.trim(), "made by nvidia-modprobe -u -c 0");
    let control = node.cdi()["containerEdits"]["deviceNodes"].to_string();
    assert!(control.contains("\"/dev/nvidia-uvm\""), "{control}");
}

#[tokio::test]
async fn a_uvm_node_that_cannot_be_made_is_told_once_and_keeps_no_gpu_back() {
    let node = Node::new("a100x4");
    node.install_modprobe("echo modprobe: FATAL: Module nvidia-uvm not found >&2; exit 1");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let line = agent.logged("/dev/nvidia-uvm is missing");
    if rustix::process::geteuid().is_root() {
        let message = line["message"].as_str().unwrap();
        assert!(message.contains("exit status: 1; modprobe: FATAL: Module nvidia-uvm not found"), "{message}");
    }
    let mut plugin = kubelet.plugin().await;
    plugin.allocate(&node.uuids(&[0])).await.unwrap();
}

#[test]
fn told_to_fail_without_a_driver_it_fails_with_one_sentence() {
    let node = Node::without_driver("a100x4");
    let agent = node.agent(&["--fail-on-init-error"]);
    let line = agent.logged("weft-agent: no NVIDIA driver found");
    assert!(line.as_str().unwrap().contains("libnvidia-ml.so.1"), "{line}");
    assert_eq!(agent.ends(), Some(1));
}

#[tokio::test]
async fn metrics_name_the_pod_that_holds_a_gpu() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let holdings = Holdings::serve(&node);
    let agent = node.agent(&["--sample-interval-ms", "100"]);
    let address = agent.listens();
    let mut plugin = kubelet.plugin().await;
    let two = node.uuids(&[2, 3]);
    plugin.allocate(&two).await.unwrap();
    holdings.give("team", "train-0", "main", &two);

    let labels = format!(
        "{{gpu=\"2\",UUID=\"{}\",pci_bus_id=\"{}\",device=\"nvidia2\",modelName=\"{}\",hostname=\"node-1\",container=\"main\",namespace=\"team\",pod=\"train-0\"}}",
        node.uuid(2),
        node.discover()["node"]["gpus"][2]["pciBusId"].as_str().unwrap(),
        node.discover()["node"]["gpus"][2]["product"].as_str().unwrap(),
    );
    let names = ["FB_USED", "FB_FREE", "FB_RESERVED", "GPU_UTIL", "GPU_TEMP", "POWER_USAGE", "SM_CLOCK"];
    let complete = async {
        loop {
            let (_, metrics) = get(&address, "/metrics").await;
            if names.iter().all(|name| metrics.contains(&format!("\nDCGM_FI_DEV_{name}{labels} "))) {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    };
    let metrics = tokio::time::timeout(PATIENCE, complete).await.expect("the pod never showed");
    let free = metrics.lines().find(|line| line.starts_with("DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"")).unwrap();
    assert!(!free.contains("pod="), "a GPU that nobody holds names nobody: {free}");
}

#[tokio::test]
async fn told_to_stop_it_withdraws_its_socket_and_succeeds() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let mut plugin = kubelet.plugin().await;
    let _open_stream = plugin.watch().await;
    assert!(exists(&node.plugin_socket()));
    assert_eq!(agent.stop(), Some(0));
    assert!(!exists(&node.plugin_socket()));
    assert_eq!(described(&node).len(), 4, "running containers may restart, so the description stays");
}

// As above, on threads of its own.
#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_between_two_registrations_it_withdraws_its_socket_too() {
    let node = Node::new("a100x4");
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    // Each of these pauses is twice as long as the one before: it is told to stop in one of 1.6 s.
    for _ in 0..4 {
        drop(kubelet.plugin().await.watch().await);
        agent.logged("kubelet ended its stream of devices");
    }
    assert_eq!(agent.stop(), Some(0));
    assert!(!exists(&node.plugin_socket()));
}

#[test]
fn a_port_in_use_is_told_with_the_way_out() {
    let node = Node::new("a100x4");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = node.agent(&["--listen", &taken.local_addr().unwrap().to_string()]);
    let line = agent.logged("weft-agent: cannot serve metrics on");
    assert!(line.as_str().unwrap().contains("--listen"), "{line}");
    assert_eq!(agent.ends(), Some(1));
}
