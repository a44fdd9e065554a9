//! Whole processes, driven as a user drives them.

mod cli;
mod clients;
mod cluster;
mod embed;
mod placement;
mod rollout;
mod split;
mod streams;
mod up;

use std::path::Path;

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ollamamax"))
}
