//! What a worker's pod was made of, so that a job which was changed since is told by its pods.
//!
//! Groups and runtime change only while a job is suspended and has no workers. But of a job that is suspended, changed and
//! resumed within a moment an operator sees the last state only, and its workers are those of before. So every pod carries a
//! [`Revision`] of its job, and a pod of other groups is told by it.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use weft_api::GpuJob;

/// The generation of a job, and a digest of what its pods are made of.
///
/// As text `<generation>-<digest>`, the digest in 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    generation: i64,
    digest: u64,
}

impl Revision {
    /// The revision of a job as it is now.
    pub fn of(job: &GpuJob) -> Self {
        let spec = &job.spec;
        let mut digest = Sha256::new();
        for part in [json(&spec.groups), json(&spec.runtime)] {
            digest.update(part.to_string());
            digest.update([0]);
        }
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(digest.finalize());
        Self { generation: generation(job), digest: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
    }

    /// Whether a pod of this revision has another generation than the job: only then can its groups be others. It costs
    /// nothing to ask, and while nobody changes the job no digest is believed, not even that of an operator which makes it
    /// of other fields.
    pub fn may_differ(self, job: &GpuJob) -> bool {
        self.generation != generation(job)
    }

    /// Whether it is made of the same groups and runtime, whatever else of the job changed.
    pub fn is_made_as(self, other: Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.generation, self.digest)
    }
}

/// The text is no revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no revision: it is <generation>-<digest>, as in 3-9f86d081884c7d65")]
pub struct NoRevision(String);

impl FromStr for Revision {
    type Err = NoRevision;

    fn from_str(text: &str) -> Result<Self, NoRevision> {
        let read = || {
            let (generation, digest) = text.split_once('-').filter(|(_, digest)| digest.len() == 16)?;
            Some(Self { generation: generation.parse().ok()?, digest: u64::from_str_radix(digest, 16).ok()? })
        };
        read().ok_or_else(|| NoRevision(text.to_owned()))
    }
}

fn generation(job: &GpuJob) -> i64 {
    job.metadata.generation.unwrap_or_default()
}

/// The value with the keys of every object in order, however it was read.
fn json(value: &impl Serialize) -> Value {
    // Groups and runtime have text as keys, so this does not fail. If it did, all digests would be alike, and no worker restarted.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    value.sort_all_objects();
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(generation: i64, change: impl FnOnce(&mut Value)) -> GpuJob {
        let template = json!({
            "metadata": {"labels": {"team": "ml"}, "annotations": {"a": "b"}},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "app", "image": "i:1"}]},
        });
        let mut value = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob",
            "metadata": {"name": "g", "namespace": "default", "generation": generation},
            "spec": {
                "groups": [
                    {"name": "w", "replicas": 4, "minReplicas": 2, "gpus": 8, "product": "H100", "template": template},
                    {"name": "cpu", "replicas": 4, "slices": [{"level": "rack", "size": 2}], "template": template},
                ],
                "runtime": {
                    "enabled": true, "image": "r:1", "operationTimeoutSeconds": 60, "resources": {"limits": {"cpu": "1"}},
                },
            },
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    /// When this fails, the next version of the operator would start every changed job's workers anew at its upgrade: a new
    /// field of groups or runtime must not be written (`skip_serializing_if`) unless it is used.
    #[test]
    fn the_revision_of_a_job_is_the_same_in_every_version_of_the_operator() {
        assert_eq!(Revision::of(&job(7, |_| {})).to_string(), "7-176f02a4a30f1de9");
        let smallest = job(1, |job| {
            job["spec"] = json!({"groups": [{"name": "w", "replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}}]});
        });
        assert_eq!(Revision::of(&smallest).to_string(), "1-61cc771115a1cee6");
    }

    #[test]
    fn it_tells_changes_of_groups_and_runtime_and_no_others() {
        let first = job(1, |_| {});
        let made_as = |change: fn(&mut Value)| Revision::of(&first).is_made_as(Revision::of(&job(2, change)));
        assert!(made_as(|job| job["spec"]["suspend"] = json!(true)));
        assert!(made_as(|job| job["spec"]["ttlSecondsAfterFinished"] = json!(5)));
        assert!(!made_as(|job| job["spec"]["groups"][1]["replicas"] = json!(2)));
        assert!(!made_as(|job| job["spec"]["groups"][0]["template"]["spec"]["containers"][0]["image"] = json!("i:2")));
        assert!(!made_as(|job| job["spec"]["groups"][0]["template"]["metadata"]["labels"]["team"] = json!("infra")));
        assert!(!made_as(|job| job["spec"]["runtime"]["enabled"] = json!(false)));
        assert!(!made_as(|job| drop(job["spec"].as_object_mut().unwrap().remove("runtime"))));
    }

    #[test]
    fn it_is_read_as_it_was_written_and_what_is_none_is_none() {
        let revision = Revision::of(&job(3, |_| {}));
        assert_eq!(revision.to_string().parse(), Ok(revision));
        for text in ["", "3", "3-", "3-12", "x-0000000000000000", "3-000000000000000g"] {
            assert_eq!(text.parse::<Revision>(), Err(NoRevision(text.to_owned())));
        }
    }
}
