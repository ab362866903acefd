//! Generates the gRPC code from `proto/`. `protox` parses in Rust, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["kubelet/deviceplugin.proto", "kubelet/podresources.proto", "weft/runtime.proto"];
    let descriptors = protox::compile(files.map(|f| root.join(f)), [&root])?;
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(descriptors)?;
    Ok(())
}
