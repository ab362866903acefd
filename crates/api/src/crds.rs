//! Writes the custom resource definitions, the same bytes for the same types.

use crate::{GpuJob, GpuNode, GpuTopology};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// One file of `crds/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrdFile {
    /// Name of the file: `weft.dev_gpujobs.yaml`.
    pub name: String,
    /// Its text, with a first line that says where it comes from.
    pub text: String,
}

/// All definitions, by file name.
///
/// # Errors
/// When a definition cannot be written as YAML, which no input decides: it is a mistake in the types.
pub fn crds() -> Result<Vec<CrdFile>, serde_yaml_ng::Error> {
    [GpuJob::crd(), GpuNode::crd(), GpuTopology::crd()].into_iter().map(file).collect()
}

fn file(crd: CustomResourceDefinition) -> Result<CrdFile, serde_yaml_ng::Error> {
    let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
    let text = format!(
        "# Generated from crates/api by `cargo run -p weft-api --bin crdgen`: change the types, not this file.\n{}",
        serde_yaml_ng::to_string(&crd)?
    );
    Ok(CrdFile { name, text })
}
