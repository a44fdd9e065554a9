//! Whole processes, driven as a user drives them.

mod access;
mod adopt;
mod chaos;
mod chat;
mod cli;
mod clients;
mod cluster;
mod deploy;
mod dumps;
mod embed;
mod export;
mod fuzz;
mod members;
mod openapi;
mod operate;
mod placement;
mod pull;
mod rollout;
mod rotation;
mod sandbox;
mod split;
mod streams;
mod terminal;
mod tutorial;
mod up;

use ollamamax_tests::Cluster;
use std::path::Path;
use std::process::Command;

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ollamamax"))
}

/// Runs the binary as a user of the cluster's first node; what it printed, or its error.
fn run_cli(cluster: &Cluster, args: &[&str]) -> Result<String, String> {
    let output = Command::new(binary())
        .args(args)
        .env("OLLAMA_HOST", cluster.url(0))
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}
