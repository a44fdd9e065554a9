//! `push`: gives a model to a registry, where the server can.

use crate::client::Client;
use crate::exit::Failure;
use crate::progress::Progress;
use serde_json::json;

/// Which model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, named as the registry knows it: [host/]namespace/model[:tag]
    model: String,
    /// Use a registry without TLS
    #[arg(long)]
    insecure: bool,
}

/// Pushes it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let request = json!({"model": args.model, "insecure": args.insecure, "stream": true});
    let mut records = match client.stream("/api/push", &request).await {
        Err(Failure::Refused { status: 404 | 405 | 501, message }) if no_such_route(&message) => {
            return Err(cannot(&args.model));
        }
        records => records?,
    };
    let progress = Progress::new();
    let mut last = String::new();
    while let Some(record) = records.next().await? {
        progress.record(&record);
        last = record["status"].as_str().unwrap_or_default().to_owned();
    }
    progress.finish();
    match last.as_str() {
        "success" => Ok(()),
        last => Err(Failure::Other(format!("the server stopped after `{last}` without success"))),
    }
}

/// A server that cannot push speaks of the path, one that does not know the model of the model.
fn no_such_route(message: &str) -> bool {
    !message.to_lowercase().contains("model")
}

fn cannot(model: &str) -> Failure {
    Failure::Other(format!(
        "this server cannot push to a registry; its models go to another cluster by file: save its Modelfile with \
         `ollamamax show --modelfile {model}` and run `ollamamax create` there with the GGUF it was made from"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_route_is_told_from_a_missing_model() {
        assert!(no_such_route("404 page not found"));
        assert!(!no_such_route("model 'x' not found"));
    }
}
