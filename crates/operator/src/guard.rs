//! An object of ours that may not be readable: its definition is newer, or older, than this operator.
//!
//! Without it, one object with a word that the types do not know breaks the whole list and the watch of its kind, again and
//! again, and the operator with it: as soon as one agent, client or operator of a newer version has written to the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;

/// An object, or what can be said of it.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, Box<Unread>>);

/// What can be said of an object that cannot be read.
#[derive(Clone, Debug)]
pub struct Unread {
    pub metadata: ObjectMeta,
    pub why: Unreadable,
}

/// Why an object cannot be read, and what of its status can be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unreadable {
    /// The field, and what is wrong with it.
    pub error: String,
    pub resource_version: Option<String>,
    /// Whether there is a status.
    pub has_status: bool,
    pub conditions: Vec<Condition>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(object) => return Ok(Self(Ok(object))),
            Err(error) => error.to_string(),
        };
        let part = |name: &str| value.get(name).cloned().unwrap_or_default();
        let metadata: ObjectMeta = serde_json::from_value(part("metadata")).map_err(serde::de::Error::custom)?;
        let status = part("status");
        let conditions = status.get("conditions").cloned().unwrap_or_default();
        let why = Unreadable {
            error,
            resource_version: metadata.resource_version.clone(),
            has_status: status.is_object(),
            conditions: serde_json::from_value(conditions).unwrap_or_default(),
        };
        Ok(Self(Err(Box::new(Unread { metadata, why }))))
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unread| &unread.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(unread) => &mut unread.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_api::{GpuJob, GpuNode};

    #[test]
    fn a_word_of_a_newer_version_is_named_and_breaks_nothing_else() {
        let job = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuJob",
            "metadata": {"name": "g", "namespace": "n", "uid": "u", "resourceVersion": "7"},
            "spec": {"groups": [{"name": "w", "replicas": 1}], "failurePolicy": {"replace": "HalfOfThem"}},
            "status": {"phase": "Preempted", "conditions": [
                {"type": "Placed", "status": "True", "reason": "Placed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        });
        let read: Guarded<GpuJob> = serde_json::from_value(job).unwrap();
        let unread = read.0.unwrap_err();
        assert_eq!(unread.metadata.name.as_deref(), Some("g"));
        assert!(
            unread.why.error.starts_with("spec.failurePolicy.replace: unknown variant `HalfOfThem`"),
            "{}",
            unread.why.error
        );
        assert_eq!((unread.why.has_status, unread.why.conditions.len()), (true, 1));
        let node = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "node-1"}, "spec": {},
            "status": {"gpus": [{"index": 0, "uuid": "GPU-1", "health": "Tired"}]},
        });
        assert!(serde_json::from_value::<Guarded<GpuNode>>(node).unwrap().0.is_err());
    }
}
