//! A cluster's life on this machine. Needs root, and builds Kubernetes if it is not in the cache: `cargo xtask test
//! --tier cluster` runs it, or `cargo xtask images pause && cargo test -p weft-cluster -- --ignored`.

// `allow-unwrap-in-tests` does not reach the functions beside the tests.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use weft_cluster::{Cluster, Component, NodeSpec, Options, Silent, down, state_folder};

fn options(name: &str, nodes: usize) -> Options {
    let pause = state_folder().with_file_name("images").join("pause.tar");
    assert!(pause.exists(), "{} is missing: run `cargo xtask images pause`", pause.display());
    Options {
        nodes: (1..=nodes)
            .map(|index| NodeSpec::new(format!("node-{index}")).label("topology.weft.dev/rack", "rack-a"))
            .collect(),
        images: vec![pause],
        helper: Some(env!("CARGO_BIN_EXE_weft-cluster-helper").into()),
        ..Options::new(name)
    }
}

/// Network namespaces, control groups, processes, mounts and files that bear the cluster's name.
fn leftovers(name: &str) -> Vec<String> {
    let prefix = format!("weft-{name}-");
    let folder = state_folder().join(name);
    let mut found = Vec::new();
    let names = |folder: &Path| -> Vec<String> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()).collect()
    };
    let hierarchies = names(Path::new("/sys/fs/cgroup")).into_iter().flat_map(|hierarchy| names(Path::new(&hierarchy)));
    found.extend(names(Path::new("/run/netns")).into_iter().chain(hierarchies).filter(|path| path.contains(&prefix)));
    for pid in names(Path::new("/proc")).into_iter().filter(|path| path[6..].parse::<u32>().is_ok()) {
        let line = fs::read_to_string(format!("{pid}/cmdline")).unwrap_or_default();
        if line.contains(&format!("{}/", folder.display())) {
            found.push(format!("{pid}: {}", line.replace('\0', " ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&*folder.to_string_lossy())).map(str::to_owned));
    found.extend(folder.exists().then(|| folder.display().to_string()));
    // A lock file without a cluster; with one, it waits for the next command.
    let lock = folder.with_extension("lock");
    found.extend((!folder.exists() && lock.exists()).then(|| lock.display().to_string()));
    found
}

/// Takes the cluster away even if the test fails.
struct Guard(&'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        down(self.0, &Silent).unwrap();
    }
}

fn wait_until(what: &str, look: impl Fn() -> bool) {
    let begin = Instant::now();
    while !look() {
        assert!(begin.elapsed() < Duration::from_secs(90), "{what} did not come true");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn node_ready(cluster: &Cluster, node: &str) -> String {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    cluster.kubectl(&["get", "node", node, "-o", path]).unwrap_or_default()
}

fn pod(name: &str, node: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, terminationGracePeriodSeconds: 0, containers: [{{name: p, \
         image: '{}'}}]}}}}",
        weft_cluster::PAUSE_IMAGE
    )
}

#[test]
#[ignore = "needs root and minutes of building"]
fn a_cluster_runs_pods_through_kills_power_cuts_and_growth_and_leaves_nothing() {
    let _guard = Guard("life");
    let mut cluster = Cluster::up(options("life", 1), &Silent).unwrap();
    cluster.apply(&pod("first", "node-1")).unwrap();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/first", "--timeout=60s"]).unwrap();
    assert_eq!(cluster.exec_in_node(1, "hostname", &[]).unwrap().trim(), "node-1");
    let rack = "jsonpath={.metadata.labels.topology\\.weft\\.dev/rack}";
    assert_eq!(cluster.kubectl(&["get", "node", "node-1", "-o", rack]).unwrap(), "rack-a");

    // A container outlives its kubelet, its runtime and the API server.
    let started = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let before = cluster.kubectl(&["get", "pod", "first", "-o", started]).unwrap();
    for component in [Component::Containerd(1), Component::Kubelet(1), Component::ApiServer, Component::Etcd] {
        cluster.kill(component).unwrap();
        assert!(cluster.kill(component).unwrap_err().to_string().contains("does not run"));
        cluster.start(component).unwrap();
        assert!(cluster.start(component).unwrap_err().to_string().contains("runs already"));
    }
    wait_until("the API server answers again", || cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok());
    wait_until("node-1 is ready again", || node_ready(&cluster, "node-1") == "True");
    assert_eq!(cluster.kubectl(&["get", "pod", "first", "-o", started]).unwrap(), before);

    let images = options("life", 0).images;
    assert_eq!(cluster.add_node(NodeSpec::new("node-2"), &images, None, &Silent).unwrap(), 2);
    assert!(
        cluster
            .add_node(NodeSpec::new("node-2"), &images, None, &Silent)
            .unwrap_err()
            .to_string()
            .contains("two nodes")
    );
    // A node that cannot be made leaves nothing, and the next one gets its place.
    let bad = cluster.folder().join("bad.tar");
    fs::write(&bad, "no archive").unwrap();
    let said = cluster.add_node(NodeSpec::new("node-3"), &[bad], None, &Silent).unwrap_err().to_string();
    assert!(said.contains("bad.tar"), "{said}");
    assert_eq!(Cluster::open("life").unwrap().nodes().len(), 2);
    let named = leftovers("life").into_iter().filter(|path| path.ends_with("-node-3")).collect::<Vec<_>>();
    assert_eq!(named, Vec::<String>::new());
    // Nor does another node's trouble keep it from coming.
    cluster.kill(Component::Kubelet(1)).unwrap();
    assert_eq!(cluster.add_node(NodeSpec::new("node-3"), &images, None, &Silent).unwrap(), 3);
    cluster.start(Component::Kubelet(1)).unwrap();
    cluster.apply(&pod("second", "node-2")).unwrap();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/second", "--timeout=60s"]).unwrap();
    // The new node's pods are reached from the old node: the routes were added on both sides.
    let address = cluster.kubectl(&["get", "pod", "second", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let route = cluster.exec_in_node(1, "ip", &["route", "get", &address]).unwrap();
    assert!(route.contains("via 10.90.0.12"), "{route}");

    cluster.power_off(2).unwrap();
    assert!(cluster.exec_in_node(2, "true", &[]).unwrap_err().to_string().contains("is off"));
    wait_until("node-2 is seen to be off", || node_ready(&cluster, "node-2") == "Unknown");
    cluster.power_on(2).unwrap();
    wait_until("node-2 is back", || node_ready(&cluster, "node-2") == "True");

    // Another command finds the same cluster, and sees that it is up.
    let again = Cluster::open("life").unwrap();
    assert!(again.status().components.iter().all(|(_, pid)| pid.is_some()), "{:?}", again.status());
    assert!(Cluster::up(options("life", 1), &Silent).unwrap_err().to_string().contains("is up already"));

    assert!(!leftovers("life").is_empty());
    assert!(down("life", &Silent).unwrap());
    assert_eq!(leftovers("life"), Vec::<String>::new());
    assert!(!down("life", &Silent).unwrap());
}

#[test]
#[ignore = "needs root and minutes of building"]
fn two_clusters_do_not_meet_and_one_that_was_killed_is_cleared_away() {
    let (_one, _two) = (Guard("one"), Guard("two"));
    let one = Cluster::up(options("one", 1), &Silent).unwrap();
    let two = Cluster::up(options("two", 1), &Silent).unwrap();
    one.kubectl(&["create", "namespace", "only-here"]).unwrap();
    assert!(two.kubectl(&["get", "namespace", "only-here"]).is_err());

    for component in Component::CONTROL_PLANE {
        if let Some(process) = one.process(component) {
            process.kill().unwrap();
        }
    }
    one.power_off(1).unwrap();
    // Even the memory of what it was may be lost.
    fs::remove_dir_all(state_folder().join("one").join("pid")).unwrap();
    down("one", &Silent).unwrap();
    assert_eq!(leftovers("one"), Vec::<String>::new());
    assert_eq!(node_ready(&two, "node-1"), "True");
}

#[test]
#[ignore = "needs root and minutes of building"]
fn a_failed_up_leaves_its_logs_and_nothing_else() {
    let _guard = Guard("broken");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.tar");
    fs::write(&bad, "no archive").unwrap();
    let mut wrong = options("broken", 1);
    wrong.images.push(bad);
    let said = Cluster::up(wrong, &Silent).unwrap_err().to_string();
    assert!(said.contains("bad.tar"), "{said}");
    let logs = state_folder().join("broken");
    assert_eq!(leftovers("broken"), [logs.display().to_string()]);
    assert_eq!(names(&logs), ["log"]);

    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let said = Cluster::up(Options { api_port: Some(port), ..options("broken", 1) }, &Silent).unwrap_err().to_string();
    assert!(said.contains(&format!("port {port} of 127.0.0.1 is in use")), "{said}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.collect()
}

#[test]
fn a_cluster_that_is_not_there_is_named_with_the_next_step() {
    let said = Cluster::open("nowhere").unwrap_err().to_string();
    assert!(said.contains("cargo xtask cluster up --name nowhere"), "{said}");
    assert!(Cluster::open("No/where").unwrap_err().to_string().contains("cannot name a cluster"));
    let missing = Options { images: vec![PathBuf::from("/no/such.tar")], ..Options::new("nowhere") };
    if weft_cluster::preflight::is_root() {
        assert!(Cluster::up(missing, &Silent).unwrap_err().to_string().contains("/no/such.tar"));
    }
}
