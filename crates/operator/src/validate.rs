//! What is wrong with a job beyond what its definition can say: each answer a sentence that names the field.

use crate::worker_pod::{self, RuntimeImage};
use weft_api::{GpuJob, GpuTopologySpec};

/// Longest list of host names that a container's environment holds: Linux limits one variable to 128 KiB.
const LONGEST_HOSTS_BYTES: usize = 120 << 10;

/// What is wrong with the job by itself: of a program all, else the first.
pub fn job(job: &GpuJob, runtime: &RuntimeImage) -> Option<String> {
    if let Some(program) = &job.spec.program
        && let Err(problems) = weft_program::validate(program)
    {
        let all: Vec<String> = problems.iter().map(|problem| format!("spec.{problem}")).collect();
        return Some(all.join("; "));
    }
    for group in 0..job.spec.groups.len() {
        if let Err(error) = worker_pod::base_spec(job, group, runtime) {
            return Some(error.to_string());
        }
    }
    let name = job.metadata.name.as_deref().unwrap_or_default().len();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default().len();
    let group = |group: &weft_api::job::Group| (2 * name + namespace + group.name.len() + 16) * group.replicas as usize;
    let hosts: usize = job.spec.groups.iter().map(group).sum();
    (hosts > LONGEST_HOSTS_BYTES).then(|| {
        let workers = job.spec.workers();
        format!("spec.groups: the host names of {workers} workers do not fit into WEFT_HOSTS; use fewer workers with more GPUs each, or shorter names")
    })
}

/// The first level that the job names and that there is not: the job waits for it.
pub fn levels(job: &GpuJob, known: &GpuTopologySpec) -> Option<String> {
    let topology = job.spec.topology.as_ref();
    let whole = [
        ("spec.topology.required".to_owned(), topology.and_then(|topology| topology.required.as_deref())),
        ("spec.topology.preferred".to_owned(), topology.and_then(|topology| topology.preferred.as_deref())),
    ];
    let slices = job.spec.groups.iter().enumerate().flat_map(|(g, group)| {
        let slices = group.slices.iter().enumerate();
        slices.map(move |(s, slice)| (format!("spec.groups[{g}].slices[{s}].level"), Some(slice.level.as_str())))
    });
    let names = known.level_names();
    let unknown =
        whole.into_iter().chain(slices).find_map(|(field, level)| Some((field, level.filter(|l| !names.contains(l))?)));
    unknown.map(|(field, level)| {
        format!("{field}: there is no level {level:?}; the levels of GpuTopology \"default\" are {}", names.join(", "))
    })
}
