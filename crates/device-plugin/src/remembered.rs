//! The XIDs that an agent before this one saw, from the stored `GpuNode`.
//!
//! Everything else about a GPU's health is found again by looking. An XID is told once, and only drivers from 570 say
//! afterwards what it left behind; under an older one an agent that restarts would offer a GPU that needs a reset.
//!
//! A stored XID counts only for the same GPU (by UUID: a board that was replaced is another one), in the same boot, and under
//! the same driver version: a reboot and a reload of the driver both begin the GPU anew.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use weft_api::node::{GpuNodeStatus, Health};
use weft_nvml::{Fault, HealthPolicy};
use weft_topology::GpuUuid;

/// Where the kernel names the present boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The present boot's name.
pub fn boot_id() -> Option<String> {
    Some(std::fs::read_to_string(BOOT_ID).ok()?.trim().to_owned()).filter(|id| !id.is_empty())
}

/// What the agent before this one left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    driver_version: Option<String>,
    faults: BTreeMap<GpuUuid, (Fault, SystemTime)>,
}

impl Remembered {
    /// Of a stored report, if it is of this boot.
    pub fn of(stored: &GpuNodeStatus, boot_id: Option<&str>) -> Self {
        if boot_id.is_none() || stored.boot_id.as_deref() != boot_id {
            return Self::default();
        }
        let unhealthy = stored.gpus.iter().filter(|gpu| gpu.health == Health::Unhealthy);
        let fault = |gpu: &weft_api::node::GpuReport| {
            let xid = gpu.fault.as_deref()?.strip_prefix("Xid")?.parse().ok()?;
            let since = gpu.since.as_ref().map_or_else(SystemTime::now, |time| time.0.into());
            Some((GpuUuid::from(gpu.uuid.as_str()), (Fault::Xid(xid), since)))
        };
        Remembered { driver_version: stored.driver_version.clone(), faults: unhealthy.filter_map(fault).collect() }
    }

    /// The faults that still count under this driver and these rules.
    pub fn faults(self, driver_version: &str, policy: &HealthPolicy) -> BTreeMap<GpuUuid, (Fault, SystemTime)> {
        if self.driver_version.as_deref() != Some(driver_version) {
            return BTreeMap::new();
        }
        // Someone may have restarted the agent to have it ignore an XID.
        let counts = |fault: &Fault| !matches!(fault, Fault::Xid(xid) if policy.ignored_xids.contains(xid));
        self.faults.into_iter().filter(|(_, (fault, _))| counts(fault)).collect()
    }
}

/// The inventory's end of the hand-over.
pub struct Inbox {
    /// Answered once, by whoever reads the stored object; closed where there is none.
    pub stored: oneshot::Receiver<Remembered>,
    /// Cancelled, that is fulfilled, once the snapshot shows it: the stored object may then be written over.
    pub taken: CancellationToken,
}

/// The publisher's end.
pub struct Outbox {
    /// See [`Inbox::stored`].
    pub stored: oneshot::Sender<Remembered>,
    /// See [`Inbox::taken`].
    pub taken: CancellationToken,
}

/// Both ends.
pub fn hand_over() -> (Outbox, Inbox) {
    let (sender, receiver) = oneshot::channel();
    let taken = CancellationToken::new();
    (Outbox { stored: sender, taken: taken.clone() }, Inbox { stored: receiver, taken })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use weft_api::node::GpuReport;

    use super::*;

    fn stored(fault: &str) -> GpuNodeStatus {
        let gpu = |uuid: &str, fault: Option<&str>| GpuReport {
            uuid: uuid.into(),
            health: if fault.is_some() { Health::Unhealthy } else { Health::Healthy },
            fault: fault.map(ToOwned::to_owned),
            since: Some(Time(Timestamp::from_second(5).unwrap())),
            ..GpuReport::default()
        };
        GpuNodeStatus {
            driver_version: Some("550.1".into()),
            boot_id: Some("this".into()),
            gpus: vec![gpu("GPU-a", None), gpu("GPU-b", Some(fault))],
            ..GpuNodeStatus::default()
        }
    }

    fn faults(stored: &GpuNodeStatus, boot: Option<&str>, driver: &str) -> Vec<(GpuUuid, Fault)> {
        let found = Remembered::of(stored, boot).faults(driver, &HealthPolicy::default());
        found.into_iter().map(|(uuid, (fault, _))| (uuid, fault)).collect()
    }

    #[test]
    fn an_xid_is_remembered_with_its_time() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let found = Remembered::of(&stored("Xid48"), Some("this")).faults("550.1", &HealthPolicy::default());
        assert_eq!(found, BTreeMap::from([("GPU-b".into(), (Fault::Xid(48), since))]));
    }

    #[test]
    fn a_reboot_and_another_driver_forget_it() {
        assert_eq!(faults(&stored("Xid48"), Some("another"), "550.1"), []);
        assert_eq!(faults(&stored("Xid48"), None, "550.1"), []);
        assert_eq!(faults(&GpuNodeStatus { boot_id: None, ..stored("Xid48") }, None, "550.1"), []);
        assert_eq!(faults(&stored("Xid48"), Some("this"), "550.2"), []);
    }

    #[test]
    fn what_is_found_by_looking_is_not_remembered() {
        for fault in ["GpuLost", "NotResponding", "ResetRequired", "DrainRequired", "Xid", "Xidx"] {
            assert_eq!(faults(&stored(fault), Some("this"), "550.1"), [], "{fault}");
        }
    }

    #[test]
    fn an_xid_that_is_ignored_now_is_not_remembered() {
        let policy = HealthPolicy { ignored_xids: [48].into(), ..HealthPolicy::default() };
        assert!(Remembered::of(&stored("Xid48"), Some("this")).faults("550.1", &policy).is_empty());
    }

    #[test]
    fn the_kernel_names_the_boot() {
        assert!(boot_id().is_some_and(|id| id.len() >= 32));
    }
}
