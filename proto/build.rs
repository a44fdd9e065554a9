//! Compiles the `.proto` files with protox, so that no system `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["types", "raft", "control", "join", "usage", "inference", "stage", "stream"]
        .map(|name| format!("proto/ollamamax/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure().bytes(".ollamamax.v1").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
