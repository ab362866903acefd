//! What the operator needs to know of the cluster's objects, and nothing else of them: small enough to keep for every pod of
//! a large cluster, and comparable, so that an event that changes nothing that matters is dropped.

mod node;
mod pod;

pub use node::{NodeFacts, NodeRules};
pub use pod::{Exit, Failure, PodFacts, PodKey, PodLife, WorkerRef, requests_of};
