//! `stop`: unloads a model once nobody uses it.

use crate::client::Client;
use crate::exit::Failure;
use serde_json::json;

/// Which model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model
    model: String,
}

/// Unloads it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let request = json!({"model": args.model, "keep_alive": 0, "stream": false});
    match client.post("/api/generate", &request).await {
        Err(Failure::Refused { status: 404, .. }) => Err(Failure::Refused {
            status: 404,
            message: format!("couldn't find model \"{}\" to stop", args.model),
        }),
        answer => answer.map(drop),
    }
}
