//! `pull`: gets a model from the catalogue, a file or a URL onto this machine, then gives it to the cluster.

use crate::client::Client;
use crate::exit::Failure;
use crate::known_nodes::cache_directory;
use crate::progress::Progress;
use crate::{create, out, source, upload};
use serde_json::{Map, json};
use std::path::PathBuf;

/// What to get.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A catalogue name, a path to a .gguf file, or a URL of one
    model: String,
    /// The name it gets; the catalogue's, or the file's, when absent
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    insecure: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Gets it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let name = pull(client, &args.model, args.name.as_deref(), &Progress::new()).await?;
    if args.json {
        out::json(&json!({"model": name, "status": "success"}));
    }
    Ok(())
}

/// Gets a model and returns the name the cluster knows it by.
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
