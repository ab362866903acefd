//! The exporter: what dcgm-exporter publishes, under its names, and the agent's own counters.
//!
//! The text is written here and not by a metrics library, because libraries end every counter's name in `_total` as
//! OpenMetrics demands, while dashboards and alerts in the field ask for `DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION`. It is the
//! Prometheus text format 0.0.4, which every scraper reads.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use weft_nvml::Sample;
use weft_topology::{Gpu, GpuUuid};

use crate::holders::Holders;
use crate::samples::Measured;
use crate::snapshot::Snapshot;
use crate::status::{Counters, Status};

/// The content type of what [`render`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const MIB: u64 = 1 << 20;

/// A metric with one value per GPU: its name, whether it is a counter, its help, and where the value comes from.
type Field = (&'static str, &'static str, &'static str, fn(&Sample) -> Option<f64>);

/// Names, types and units are those of dcgm-exporter's default list.
const FIELDS: [Field; 21] = [
    ("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", |s| s.sm_clock_mhz.map(f64::from)),
    ("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz).", |s| s.memory_clock_mhz.map(f64::from)),
    ("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C).", |s| s.memory_temperature_celsius.map(f64::from)),
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", |s| s.temperature_celsius.map(f64::from)),
    ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", |s| s.power_watts),
    ("DCGM_FI_DEV_POWER_MGMT_LIMIT", "gauge", "Power limit in force (in W).", |s| s.power_limit_watts),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Energy used since the driver was loaded (in mJ).", |s| {
        s.energy_millijoules.map(|value| value as f64)
    }),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "PCIe packets sent again.", |s| s.pcie_replays.map(f64::from)),
    ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", |s| s.gpu_utilization_percent.map(f64::from)),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Memory utilization (in %).", |s| {
        s.memory_utilization_percent.map(f64::from)
    }),
    ("DCGM_FI_DEV_ENC_UTIL", "gauge", "Encoder utilization (in %).", |s| s.encoder_utilization_percent.map(f64::from)),
    ("DCGM_FI_DEV_DEC_UTIL", "gauge", "Decoder utilization (in %).", |s| s.decoder_utilization_percent.map(f64::from)),
    ("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).", |s| Some((s.memory?.free / MIB) as f64)),
    ("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).", |s| Some((s.memory?.used / MIB) as f64)),
    ("DCGM_FI_DEV_FB_RESERVED", "gauge", "Framebuffer memory reserved (in MiB).", |s| {
        Some((s.memory?.reserved / MIB) as f64)
    }),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "counter", "Corrected memory errors since the driver was loaded.", |s| {
        s.ecc_corrected.map(|value| value as f64)
    }),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Uncorrected memory errors since the driver was loaded.", |s| {
        s.ecc_uncorrected.map(|value| value as f64)
    }),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for correctable errors.", |s| {
        Some(f64::from(s.remapped_rows?.correctable))
    }),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped for uncorrectable errors.", |s| {
        Some(f64::from(s.remapped_rows?.uncorrectable))
    }),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed.", |s| {
        Some(f64::from(u8::from(s.remapped_rows?.failed)))
    }),
    ("DCGM_FI_DEV_ROW_REMAP_PENDING", "gauge", "Whether remapping of rows waits for a reset.", |s| {
        Some(f64::from(u8::from(s.remapped_rows?.pending)))
    }),
];

/// A counter of the agent: its name, its help, where it is.
type Count = (&'static str, &'static str, fn(&Counters) -> &AtomicU64);

const COUNTS: [Count; 11] = [
    ("weft_agent_allocations_total", "Containers that were given GPUs.", |c| &c.allocations),
    ("weft_agent_allocations_refused_total", "Containers that were refused GPUs.", |c| &c.allocations_refused),
    ("weft_agent_preferred_planned_total", "Recommendations to kubelet that followed the operator's plan.", |c| {
        &c.preferred_planned
    }),
    ("weft_agent_preferred_solved_total", "Recommendations to kubelet that were solved on the node.", |c| {
        &c.preferred_solved
    }),
    ("weft_agent_registrations_total", "Registrations with kubelet.", |c| &c.registrations),
    ("weft_agent_registration_errors_total", "Registrations with kubelet that failed.", |c| &c.registration_errors),
    ("weft_agent_pod_resources_errors_total", "Failed questions to kubelet's pod resources socket.", |c| {
        &c.pod_resources_errors
    }),
    ("weft_agent_publications_total", "Writes of the GpuNode.", |c| &c.publications),
    ("weft_agent_publication_errors_total", "Failed writes of the GpuNode.", |c| &c.publication_errors),
    ("weft_agent_cdi_errors_total", "Failed writes of the CDI specification.", |c| &c.cdi_errors),
    ("weft_agent_watch_errors_total", "Interruptions of the watch on this node's pods.", |c| &c.watch_errors),
];

/// Writes the whole page.
pub fn render(
    snapshot: &Snapshot,
    samples: &BTreeMap<GpuUuid, Measured>,
    holders: &Holders,
    status: &Status,
) -> String {
    let mut page = Page::default();
    let gpus: Vec<(&Gpu, String, Option<&Measured>)> =
        snapshot.node.gpus().iter().map(|gpu| (gpu, labels(snapshot, gpu, holders), samples.get(&gpu.uuid))).collect();
    for (name, kind, help, value) in FIELDS {
        let values = gpus.iter().filter_map(|(_, labels, measured)| {
            let value = value(measured.as_ref()?.sample.as_ref()?)?;
            Some((labels.as_str(), value))
        });
        page.family(name, kind, help, values);
    }
    let last_xid = |measured: &Option<&Measured>| measured.and_then(|measured| measured.last_xid).unwrap_or(0);
    page.family(
        "DCGM_FI_DEV_XID_ERRORS",
        "gauge",
        "The last XID since the agent started; 0 for none. weft_agent_xids_total counts each.",
        gpus.iter().map(|(_, labels, measured)| (labels.as_str(), last_xid(measured))),
    );
    let xids: Vec<(String, u64)> = gpus
        .iter()
        .flat_map(|(_, labels, measured)| {
            let counts = measured.iter().flat_map(|measured| &measured.xids);
            counts.map(move |(xid, count)| (format!("{labels},xid=\"{xid}\""), *count))
        })
        .collect();
    page.family(
        "weft_agent_xids_total",
        "counter",
        "XIDs that the driver reported since the agent started.",
        xids.iter().map(|(labels, count)| (labels.as_str(), *count)),
    );
    page.family(
        "weft_agent_gpu_healthy",
        "gauge",
        "Whether pods may get the GPU.",
        gpus.iter().map(|(gpu, labels, _)| (labels.as_str(), u8::from(gpu.health.is_healthy()))),
    );
    let registered = u8::from(status.registered.load(Ordering::Relaxed));
    page.family("weft_agent_registered", "gauge", "Whether kubelet knows the plugin.", [("", registered)]);
    let standing_by = u8::from(status.standing_by.load(Ordering::Relaxed));
    page.family(
        "weft_agent_standing_by",
        "gauge",
        "Whether another device plugin serves this node's GPUs, and this one waits.",
        [("", standing_by)],
    );
    page.family(
        "weft_agent_driver_usable",
        "gauge",
        "Whether there is a driver with GPUs.",
        [("", u8::from(snapshot.problem.is_none()))],
    );
    for (name, help, counter) in COUNTS {
        page.family(name, "counter", help, [("", counter(&status.counters).load(Ordering::Relaxed))]);
    }
    page.text
}

/// The labels of one GPU, as dcgm-exporter has them.
fn labels(snapshot: &Snapshot, gpu: &Gpu, holders: &Holders) -> String {
    let mut labels = Labels::default();
    labels.add("gpu", gpu.index);
    labels.add("UUID", &gpu.uuid);
    labels.add("pci_bus_id", &gpu.pci_bus_id);
    if let Some(board) = snapshot.boards.get(&gpu.uuid) {
        labels.add("device", format_args!("nvidia{}", board.minor));
    }
    labels.add("modelName", &gpu.product);
    labels.add("hostname", snapshot.node.name());
    if let Some(holder) = holders.of(gpu.uuid.as_str()) {
        labels.add("container", &holder.container);
        labels.add("namespace", &holder.namespace);
        labels.add("pod", &holder.pod);
    }
    labels.0
}

#[derive(Default)]
struct Labels(String);

impl Labels {
    fn add(&mut self, name: &str, value: impl Display) {
        let value = value.to_string().replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let comma = if self.0.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{comma}{name}=\"{value}\"");
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// One metric with its values; nothing at all if there are none.
    fn family<'a, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = if labels.is_empty() {
                writeln!(self.text, "{name} {value}")
            } else {
                writeln!(self.text, "{name}{{{labels}}} {value}")
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_nvml::{Board, MemoryUse};
    use weft_proto::podresources::{ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources};
    use weft_topology::{Health, Node, NodeFacts};

    use super::*;

    fn snapshot() -> Snapshot {
        let gpu = Gpu {
            uuid: "GPU-a".into(),
            index: 0,
            product: "NVIDIA \"H100\"".into(),
            memory_bytes: 80 << 30,
            pci_bus_id: "00000000:1A:00.0".into(),
            numa: None,
            health: Health::Healthy,
            mig_profile: None,
        };
        let board = Board {
            uuid: "GPU-a".into(),
            minor: 2,
            compute_capability: None,
            architecture: None,
            serial: None,
            vbios: None,
        };
        let mut snapshot = Snapshot::empty("node-1", None).unwrap();
        snapshot.node =
            Node::new(NodeFacts { name: "node-1".into(), gpus: vec![gpu], ..NodeFacts::default() }).unwrap();
        snapshot.boards.insert("GPU-a".into(), board);
        snapshot
    }

    fn holders() -> Holders {
        let devices = ContainerDevices { resource_name: "nvidia.com/gpu".into(), device_ids: vec!["GPU-a".to_owned()] };
        let container = ContainerResources { name: "main".into(), devices: vec![devices] };
        let pod = PodResources { name: "train-0".into(), namespace: "team".into(), containers: vec![container] };
        Holders::from(ListPodResourcesResponse { pod_resources: vec![pod] })
    }

    fn page(sample: Option<Sample>, xids: &[u64]) -> String {
        let samples = crate::samples::Samples::default();
        let uuid = GpuUuid::from("GPU-a");
        match sample {
            Some(sample) => samples.set(&uuid, sample),
            None => samples.forget(&uuid),
        }
        for xid in xids {
            samples.xid(&uuid, *xid);
        }
        render(&snapshot(), &samples.all(), &holders(), &Status::new())
    }

    #[test]
    fn a_line_has_the_fields_names_labels_and_units() {
        let memory = MemoryUse { used: 3 * MIB, free: 5 * MIB, reserved: MIB };
        let text = page(Some(Sample { memory: Some(memory), power_watts: Some(87.5), ..Sample::default() }), &[]);
        let labels = r#"{gpu="0",UUID="GPU-a",pci_bus_id="00000000:1A:00.0",device="nvidia2",modelName="NVIDIA \"H100\"",hostname="node-1",container="main",namespace="team",pod="train-0"}"#;
        assert!(text.contains(&format!("\nDCGM_FI_DEV_FB_USED{labels} 3\n")), "{text}");
        assert!(text.contains(&format!("\nDCGM_FI_DEV_POWER_USAGE{labels} 87.5\n")), "{text}");
        assert!(!text.contains("DCGM_FI_DEV_GPU_TEMP"), "a value that the GPU does not have is left out");
    }

    #[test]
    fn a_gpu_that_does_not_answer_has_no_measurements_but_its_health() {
        let text = page(None, &[]);
        assert!(!text.contains("DCGM_FI_DEV_FB_USED"));
        assert!(text.contains("weft_agent_gpu_healthy{"));
    }

    #[test]
    fn every_xid_is_counted_and_the_last_one_shown() {
        let text = page(None, &[79, 31, 79, 48]);
        let line = |start: &str, end: &str| text.lines().any(|line| line.starts_with(start) && line.ends_with(end));
        assert!(line("DCGM_FI_DEV_XID_ERRORS{", "} 48"), "{text}");
        assert!(line("weft_agent_xids_total{", "xid=\"79\"} 2"), "{text}");
    }

    #[test]
    fn the_page_is_well_formed() {
        let text = page(Some(Sample { temperature_celsius: Some(40), ..Sample::default() }), &[79]);
        let mut families = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap();
                assert!(families.insert(name.to_owned()), "{name} twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(families.contains(name), "{line} before its TYPE");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }
}
