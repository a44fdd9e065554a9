//! `cp`: gives a model a second name.

use crate::client::Client;
use crate::exit::Failure;
use crate::out;
use serde_json::json;

/// From what to what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model there is
    source: String,
    /// Its further name
    destination: String,
}

/// Copies it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let Args { source, destination } = args;
    client.post("/api/copy", &json!({"source": source, "destination": destination})).await?;
    out::line(&format!("copied '{source}' to '{destination}'"));
    Ok(())
}
