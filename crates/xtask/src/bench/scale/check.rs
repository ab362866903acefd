//! Whether what the operator did is right, whatever it took: no GPU for two pods, every gang whole.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::Value;

use super::load::Size;

/// Looks at all pods of jobs. `gangs` names the jobs that run, with their sizes.
///
/// # Errors
/// The first pod or job that is not right, as a sentence.
pub fn all_is_right(pods: &[Value], gangs: &BTreeMap<String, Size>) -> Result<()> {
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    let mut ranks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
        let word = |value: &'_ Value| value.as_str().map(str::to_owned).unwrap_or_default();
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let labels = &pod["metadata"]["labels"];
        let Some(job) = labels["weft.dev/job"].as_str() else { continue };
        let planned = pod["metadata"]["annotations"]["weft.dev/gpus"].as_str().unwrap_or_default();
        let (node, chosen) =
            (word(&pod["spec"]["nodeName"]), word(&pod["spec"]["nodeSelector"]["kubernetes.io/hostname"]));
        let Some(size) = gangs.get(job) else { bail!("pod {name} is there, but its job {job} should have none") };
        if pod["status"]["phase"] != "Running" || node != chosen {
            bail!("pod {name} was to run on node {chosen:?}: it is {} on {node:?}", pod["status"]["phase"]);
        }
        let gpus: Vec<&str> = planned.split(',').filter(|gpu| !gpu.is_empty()).collect();
        if gpus.len() != size.gpus {
            bail!("pod {name} is planned on {} GPUs ({planned:?}) instead of {}", gpus.len(), size.gpus);
        }
        for gpu in gpus {
            if !gpu.starts_with(&format!("GPU-{chosen}-")) {
                bail!("pod {name} is on node {chosen}, but {gpu}, which is planned for it, is not there");
            }
            if let Some(other) = holders.insert(gpu, name) {
                bail!("{gpu} is planned for two pods, {other} and {name}");
            }
        }
        ranks.entry(job).or_default().insert(labels["weft.dev/rank"].as_str().unwrap_or_default());
    }
    for (job, size) in gangs {
        let there = ranks.get(job.as_str()).map_or(0, BTreeSet::len);
        if there != size.workers {
            bail!("the gang of job {job} is not whole: {there} of {} ranks run", size.workers);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::load::size, *};

    fn pod(job: &str, rank: usize, node: &str, gpus: &[usize]) -> Value {
        let gpus: Vec<String> = gpus.iter().map(|gpu| format!("GPU-{node}-{gpu}")).collect();
        json!({
            "metadata": {
                "name": format!("{job}-worker-{rank}"), "annotations": {"weft.dev/gpus": gpus.join(",")},
                "labels": {"weft.dev/job": job, "weft.dev/rank": rank.to_string()},
            },
            "spec": {"nodeName": node, "nodeSelector": {"kubernetes.io/hostname": node}},
            "status": {"phase": "Running"},
        })
    }

    fn said(pods: &[Value]) -> String {
        let gangs = BTreeMap::from([("a".to_owned(), size(2, 2)), ("b".to_owned(), size(1, 2))]);
        all_is_right(pods, &gangs).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn each_thing_that_is_wrong_is_said_in_a_sentence() {
        let (first, second) = (pod("a", 0, "n1", &[0, 1]), pod("a", 1, "n1", &[2, 3]));
        let good = pod("b", 0, "n2", &[0, 1]);
        assert_eq!(said(&[first.clone(), second.clone(), good.clone()]), "fine");
        let with = |pod: Value| said(&[first.clone(), second.clone(), pod]);
        assert_eq!(with(pod("b", 0, "n1", &[3, 4])), "GPU-n1-3 is planned for two pods, a-worker-1 and b-worker-0");
        assert_eq!(said(&[first.clone(), good.clone()]), "the gang of job a is not whole: 1 of 2 ranks run");
        assert_eq!(with(pod("b", 0, "n2", &[3])), "pod b-worker-0 is planned on 1 GPUs (\"GPU-n2-3\") instead of 2");
        assert_eq!(with(pod("c", 0, "n2", &[3])), "pod c-worker-0 is there, but its job c should have none");

        let mut elsewhere = good.clone();
        elsewhere["spec"]["nodeName"] = json!("n3");
        assert_eq!(with(elsewhere), "pod b-worker-0 was to run on node \"n2\": it is \"Running\" on \"n3\"");
        let mut foreign = good.clone();
        foreign["metadata"]["annotations"]["weft.dev/gpus"] = json!("GPU-n2-0,GPU-n3-1");
        assert!(with(foreign).contains("GPU-n3-1, which is planned for it, is not there"));
        let mut going = pod("b", 0, "n1", &[3, 4]);
        going["metadata"]["deletionTimestamp"] = json!("2026-11-25T00:00:00Z");
        assert_eq!(said(&[first.clone(), second.clone(), good, going]), "fine");
    }
}
