//! The Python client's copy of the protocol is the protocol.

use std::path::Path;

use prost::Message;

#[test]
fn the_python_client_speaks_the_same_protocol() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let proto = root.join("proto");
    let mut compiler = protox::Compiler::new([&proto]).unwrap();
    compiler.include_source_info(false).open_file("weft/runtime.proto").unwrap();
    let descriptor = compiler.file_descriptor_set().encode_to_vec();
    let path = root.join("clients/python/weft/runtime.binpb");
    if std::env::var_os("WEFT_UPDATE").is_some() {
        std::fs::write(&path, &descriptor).unwrap();
    }
    let kept = std::fs::read(&path).unwrap_or_default();
    assert!(
        kept == descriptor,
        "clients/python/weft/runtime.binpb is stale: run WEFT_UPDATE=1 cargo test -p weft-client"
    );
}
