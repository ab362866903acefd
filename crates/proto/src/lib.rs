//! gRPC code generated from `proto/`: what kubelet speaks, and what the Weft runtime speaks.
//!
//! prost spells `devicesIDs` as `devices_i_ds`; callers meet those names only in this crate's users that talk to kubelet.

/// kubelet's device plugin API, v1beta1.
#[allow(clippy::all, missing_docs)]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// kubelet's pod resources API, v1.
#[allow(clippy::all, missing_docs)]
pub mod podresources {
    tonic::include_proto!("v1");
}

/// The Weft runtime's control interface, v1.
#[allow(clippy::all, missing_docs)]
pub mod runtime {
    tonic::include_proto!("weft.runtime.v1");
}
