//! `create`: a model from a Modelfile. The server never reads this machine's paths: files are hashed and uploaded here.

use crate::client::Client;
use crate::exit::Failure;
use crate::modelfile;
use crate::progress::Progress;
use crate::upload;
use crate::weights;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Largest Modelfile read.
const MODELFILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What to make of what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the new model
    model: String,
    /// The Modelfile; `-` reads stdin
    #[arg(short, long, default_value = "Modelfile")]
    file: PathBuf,
    /// Quantise to this level, e.g. q4_K_M
    #[arg(short, long)]
    quantize: Option<String>,
}

/// Makes it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let wrong = |error| Failure::Usage(format!("{}: {error}", args.file.display()));
    let file = modelfile::parse(&text).map_err(wrong)?;
    let mut request = file.to_request(&args.model).map_err(wrong)?;
    let progress = Progress::new();
    progress.status("gathering model components");
    let directory = args.file.parent().unwrap_or(Path::new("")).to_owned();
    let from = local_files(&file.from, &directory)?;
    let adapter = file.adapter.as_ref().map(|path| adapter_files(path, &directory)).transpose()?;
    if from.is_empty() {
        request.insert("from".to_owned(), json!(file.from));
    } else {
        request.insert("files".to_owned(), uploaded(client, &from, &progress).await?);
    }
    if let Some(adapter) = adapter {
        request.insert("adapters".to_owned(), uploaded(client, &adapter, &progress).await?);
    }
    if let Some(level) = &args.quantize {
        request.insert("quantize".to_owned(), json!(level));
    }
    send(client, request, &progress).await
}

/// Sends a create request and shows its progress to the end.
pub async fn send(
    client: &Client,
    mut request: Map<String, Value>,
    progress: &Progress,
) -> Result<(), Failure> {
    request.insert("stream".to_owned(), json!(true));
    let mut records = client.stream("/api/create", &Value::Object(request)).await?;
    let mut last = String::new();
    while let Some(record) = records.next().await? {
        progress.record(&record);
        last = record["status"].as_str().unwrap_or_default().to_owned();
    }
    progress.finish();
    if last == "success" {
        return Ok(());
    }
    Err(Failure::Other(format!("the server stopped after `{last}` without success")))
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(Failure::file("read", path))?)
    };
    let mut text = String::new();
    reader
        .take(MODELFILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(Failure::file("read", path))?;
    Ok(text)
}

/// Makes sure the cluster has files; their digests by name.
async fn uploaded(
    client: &Client,
    files: &[PathBuf],
    progress: &Progress,
) -> Result<Value, Failure> {
    let mut digests = Map::new();
    for path in files {
        let digest = upload::ensure(client, path, progress).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        digests.insert(name, json!(digest.to_string()));
    }
    Ok(Value::Object(digests))
}

/// The files that FROM names, if it names any: an existing path, or something that can only be a path.
fn local_files(from: &str, directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let path = resolved(from, directory);
    if path.is_dir() && (looks_like_path(from) || path.join("config.json").exists()) {
        return weights::of_folder(&path);
    }
    if path.is_file() {
        return Ok(vec![path]);
    }
    if looks_like_path(from) {
        return Err(missing(path));
    }
    Ok(Vec::new())
}

/// The files of an adapter: always on this machine.
fn adapter_files(adapter: &str, directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let path = resolved(adapter, directory);
    match (path.is_dir(), path.is_file()) {
        (true, _) => weights::of_folder(&path),
        (false, true) => Ok(vec![path]),
        (false, false) => Err(missing(path)),
    }
}

fn missing(path: PathBuf) -> Failure {
    let source = std::io::ErrorKind::NotFound.into();
    Failure::File { action: "read", path, source }
}

fn resolved(path: &str, directory: &Path) -> PathBuf {
    match (Path::new(path).strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(below), Some(home)) => Path::new(&home).join(below),
        _ => directory.join(path),
    }
}

fn looks_like_path(from: &str) -> bool {
    let starts = ["/", "./", "../", "~/"].iter().any(|start| from.starts_with(start));
    starts || from == "." || from == ".." || from.to_lowercase().ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_is_a_file_where_there_is_one_and_a_name_otherwise() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("m.gguf");
        let at = |text: &str| local_files(text, directory.path());
        assert!(at("smollm2:135m").expect("a name").is_empty());
        assert!(matches!(at("./m.gguf"), Err(Failure::File { .. })));
        assert!(matches!(at("."), Err(Failure::Usage(_))));
        std::fs::write(&model, b"x").expect("written");
        for text in ["m.gguf", "./m.gguf", ".", model.to_str().expect("utf-8")] {
            let found = at(text).expect("found").remove(0);
            assert_eq!(found.file_name(), model.file_name(), "{text}");
        }
        std::fs::write(directory.path().join("n.gguf"), b"x").expect("written");
        assert!(matches!(at("."), Err(Failure::Usage(_))));
        assert!(matches!(adapter_files("lora", directory.path()), Err(Failure::File { .. })));
        assert_eq!(adapter_files("n.gguf", directory.path()).expect("found").len(), 1);
    }
}
