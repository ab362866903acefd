//! Writes the custom resource definitions, the same bytes for the same types.

use crate::{GpuJob, GpuNode, GpuTopology};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_yaml_ng::Value;

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
    let mut crd_value = serde_yaml_ng::to_value(&crd)?;
    drop_unsigned_formats(&mut crd_value);
    let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
    let text = format!(
        "# Generated from crates/api by `cargo run -p weft-api --bin crdgen`: change the types, not this file.\n{}",
        quote_booleans_of_yaml_1_1(&serde_yaml_ng::to_string(&crd_value)?)
    );
    Ok(CrdFile { name, text })
}

/// kubectl and Helm read YAML 1.1, where a bare `y` is a boolean, as key, as value and in lists; serde_yaml_ng writes 1.2.
fn quote_booleans_of_yaml_1_1(text: &str) -> String {
    let is_boolean = |word: &str| matches!(word.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off");
    let quote = |line: &str| {
        let bare = line.trim_start().trim_start_matches("- ");
        let (start, rest) = line.split_at(line.len() - bare.len());
        match rest.split_once(':') {
            _ if is_boolean(rest) => format!("{start}\"{rest}\"\n"),
            Some((key, value)) if is_boolean(key) && !is_boolean(value.trim()) => format!("{start}\"{key}\":{value}\n"),
            Some((key, value)) if is_boolean(value.trim()) => format!("{start}{key}: \"{}\"\n", value.trim()),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(quote).collect()
}

/// Rust's unsigned integers are `format: uint32` to schemars, which the API server does not know and warns about at every
/// apply. Their `minimum: 0` says the same.
fn drop_unsigned_formats(value: &mut Value) {
    match value {
        Value::Mapping(map) => {
            let unsigned = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
            if map.get("format").is_some_and(unsigned) {
                map.remove("format");
            }
            map.values_mut().for_each(drop_unsigned_formats);
        }
        Value::Sequence(list) => list.iter_mut().for_each(drop_unsigned_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::quote_booleans_of_yaml_1_1;

    #[test]
    fn what_yaml_1_1_takes_for_a_boolean_is_quoted_and_nothing_else() {
        let text = "required:\n- x\n- y\nproperties:\n  y:\n    default: n\n    nullable: true\n  yes: why: y\n";
        let quoted = "required:\n- x\n- \"y\"\nproperties:\n  \"y\":\n    default: \"n\"\n    nullable: true\n  \"yes\": why: y\n";
        assert_eq!(quote_booleans_of_yaml_1_1(text), quoted);
    }
}
