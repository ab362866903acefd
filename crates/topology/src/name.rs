//! The names that pass between parts: each its own type, cheap to clone, serialised as a plain string.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl From<Arc<str>> for $name {
            fn from(name: Arc<str>) -> Self {
                Self(name)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The identity of a GPU or MIG device as NVML gives it: `GPU-…` or `MIG-…`. Also the device id towards kubelet.
    GpuUuid
}
name! {
    /// The name of a Kubernetes node.
    NodeName
}
name! {
    /// The name of a topology level as people write it in a job: `zone`, `rack`, …, and always last [`Level::host`].
    Level
}
name! {
    /// One domain of a level: the value of the level's node label, such as `rack-a`.
    DomainName
}
name! {
    /// Who holds or plans GPUs: by convention `namespace/pod`. Opaque here, compared for equality only.
    Owner
}

impl Level {
    /// The level below all others: the node itself.
    pub fn host() -> Self {
        Self::from("host")
    }

    /// Whether this is the node level.
    pub fn is_host(&self) -> bool {
        self.as_str() == "host"
    }
}
