//! `push`: has a node give a model to the registry that its name says.

use crate::client::Client;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::pull;
use serde_json::json;

/// Which model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, named as the registry knows it: [HOST/]NAMESPACE/MODEL[:TAG]; `cp` gives it that name
    model: String,
    /// Use a registry without TLS, where the node allows its host (`--pull-allow`)
    #[arg(long)]
    insecure: bool,
}

/// Pushes it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let request = json!({"model": args.model, "insecure": args.insecure, "stream": true});
    pull::transfer(client, "/api/push", &request, &Progress::new()).await
}
