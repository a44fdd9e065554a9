//! `version`: ours, and what the server says of itself.

use crate::client::Client;
use crate::exit::Failure;
use crate::out;
use serde_json::{Value, json};

const OURS: &str = env!("CARGO_PKG_VERSION");

/// How to print it.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints both; a server that is not there is no failure.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let server = client.get("/api/version").await;
    if let Err(failure) = &server {
        tracing::debug!(%failure, "the server's version is not known");
    }
    let server = server.unwrap_or(Value::Null);
    let (api, theirs) = (server["version"].as_str(), server["ollamamax"].as_str());
    if args.json {
        out::json(&json!({"client": OURS, "server": theirs, "api": api}));
        return Ok(());
    }
    match api {
        Some(api) => out::line(&format!("ollama version is {}", out::printable(api))),
        None => out::say("Warning: could not connect to a running OllamaMax instance"),
    }
    out::line(&format!("ollamamax version is {OURS}"));
    if let Some(theirs) = theirs.filter(|theirs| *theirs != OURS) {
        let theirs = out::printable(theirs);
        out::say(&format!("Warning: the server is ollamamax {theirs}, this client is {OURS}"));
    }
    Ok(())
}
