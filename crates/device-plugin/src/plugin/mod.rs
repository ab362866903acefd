//! The device plugin towards kubelet.
//!
//! [`service`] answers kubelet's calls, [`preferred`] decides which GPUs to recommend, and [`registration`] keeps kubelet
//! knowing the plugin across its restarts.

mod own_socket;
pub mod preferred;
pub mod registration;
pub mod service;
