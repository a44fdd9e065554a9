//! `rm`: takes models out of the catalogue.

use crate::client::Client;
use crate::exit::Failure;
use crate::out;
use serde_json::json;

/// Which models.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The models
    #[arg(required = true)]
    models: Vec<String>,
}

/// Removes them in order; stops at the first that cannot be removed.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    for model in &args.models {
        client.delete("/api/delete", Some(&json!({"model": model}))).await?;
        out::line(&format!("deleted '{model}'"));
    }
    Ok(())
}
