//! The same binary on a machine with an NVIDIA GPU: `cargo test -p weft-device-plugin --test real -- --ignored`.
//! Built elsewhere, it finds the agent by `WEFT_AGENT`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod support;

use support::kubelet::Kubelet;
use support::{Node, PATIENCE, get};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_machine_is_read() {
    let document = Node::real().discover();
    let node: weft_topology::Node = serde_json::from_value(document["node"].clone()).unwrap();
    assert!(!node.gpus().is_empty());
    assert!(node.assumptions().is_empty(), "{:?}", node.assumptions());
    assert!(node.gpus().iter().all(|gpu| gpu.memory_bytes > 0 && gpu.uuid.as_str().starts_with("GPU-")));
    assert_eq!(document["unreadable"].as_array().unwrap().len(), 0);
}

#[tokio::test]
#[ignore = "needs an NVIDIA GPU"]
async fn the_gpus_are_offered_to_kubelet_and_measured() {
    let node = Node::real();
    let mut kubelet = Kubelet::start(&node);
    let agent = node.agent(&[]);
    let address = agent.listens();
    let mut plugin = kubelet.plugin().await;
    let list = plugin.watch().await.next().await;
    let ids: Vec<String> = list.devices.iter().map(|device| device.id.clone()).collect();
    assert!(!ids.is_empty() && list.devices.iter().all(|device| device.health == "Healthy"), "{list:?}");
    assert_eq!(plugin.preferred(&ids, &[], ids.len() as i32).await, ids);
    let answer = plugin.allocate(&ids[..1]).await.unwrap();
    println!("{answer:#?}");

    let spec = node.cdi();
    println!("{}", serde_json::to_string_pretty(&spec).unwrap());
    for mount in spec["containerEdits"]["mounts"].as_array().unwrap() {
        let host = mount["hostPath"].as_str().unwrap();
        assert!(std::path::Path::new(host).is_file(), "{host}");
    }
    for device in spec["devices"].as_array().unwrap() {
        let path = device["containerEdits"]["deviceNodes"][0]["path"].as_str().unwrap();
        assert!(std::path::Path::new(path).exists(), "{path}");
    }

    let measured = async {
        loop {
            let (_, metrics) = get(&address, "/metrics").await;
            if ids.iter().all(|id| metrics.lines().any(|l| l.starts_with("DCGM_FI_DEV_POWER_USAGE") && l.contains(id)))
            {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    };
    let metrics = tokio::time::timeout(PATIENCE, measured).await.expect("no measurements came");
    println!("{metrics}");
    for name in ["GPU_UTIL", "FB_USED", "FB_FREE", "FB_RESERVED", "GPU_TEMP", "SM_CLOCK", "TOTAL_ENERGY_CONSUMPTION"] {
        assert!(metrics.contains(&format!("\nDCGM_FI_DEV_{name}{{")), "{name}");
    }
    assert_eq!(agent.stop(), Some(0));
}
