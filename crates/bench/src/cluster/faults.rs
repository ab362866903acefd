//! Nodes and GPUs that fail and are repaired.
//!
//! How often: unless told otherwise 6.5 times in a thousand node-days, as Meta measured on its 16,000-GPU cluster RSC-1
//! (*Revisiting Reliability in Large-Scale Machine Learning Research Clusters*, Kokolis et al., HPCA 2025). Half of them
//! take a GPU and leave the node: an assumption. A GPU is back after four hours (drain and reset), a node after a day.

use super::site::Site;
use crate::random::Random;

/// As measured on RSC-1.
pub const PER_THOUSAND_NODE_DAYS: f64 = 6.5;
const DAY_SECONDS: f64 = 86_400.0;
const GPU_REPAIR_SECONDS: u64 = 4 * 3_600;
const NODE_REPAIR_SECONDS: u64 = 24 * 3_600;

/// Something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub at_seconds: u64,
    pub repaired_seconds: u64,
    pub host: usize,
    /// The one GPU that fails, or none if the node does.
    pub gpu: Option<usize>,
}

/// What fails within so many seconds, in the order of time, at so many failures in a thousand node-days.
pub fn draw(site: &Site, per_thousand_node_days: f64, seconds: u64, seed: u64) -> Vec<Fault> {
    // Another sequence than that of the jobs.
    let mut random = Random::new(seed ^ 0xfa17);
    let rate = per_thousand_node_days / 1_000.0 * site.hosts.len() as f64 / DAY_SECONDS;
    let mut faults = Vec::new();
    let mut at = random.until_next(rate);
    while at < seconds as f64 {
        let host = random.below(site.hosts.len());
        let gpu = (random.unit() < 0.5).then(|| random.below(site.view.hosts[host].gpus as usize));
        let at_seconds = at as u64;
        let repair = if gpu.is_some() { GPU_REPAIR_SECONDS } else { NODE_REPAIR_SECONDS };
        faults.push(Fault { at_seconds, repaired_seconds: at_seconds + repair, host, gpu });
        at += random.until_next(rate);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_as_often_as_measured_and_in_the_order_of_time() {
        let site = Site::new(1_000).unwrap();
        let faults = draw(&site, PER_THOUSAND_NODE_DAYS, 100 * 86_400, 1);
        assert!((600..700).contains(&faults.len()), "{}", faults.len());
        assert!(faults.is_sorted());
        let twice = draw(&site, 2.0 * PER_THOUSAND_NODE_DAYS, 100 * 86_400, 1);
        assert!((1_200..1_400).contains(&twice.len()), "{}", twice.len());
        assert_eq!(draw(&site, 0.0, 100 * 86_400, 1), []);
    }
}
