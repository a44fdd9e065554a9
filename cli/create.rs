//! `create`: a model from a Modelfile. The server never reads this machine's paths: a file is hashed and uploaded here.

use crate::client::Client;
use crate::exit::Failure;
use crate::modelfile::{self, Modelfile};
use crate::progress::Progress;
use crate::upload;
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
    match local_file(&file, &directory)? {
        Some(path) => {
            let digest = upload::ensure(client, &path, &progress).await?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            request.insert("files".to_owned(), json!({name: digest.to_string()}));
        }
        None => {
            request.insert("from".to_owned(), json!(file.from));
        }
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

/// The file that FROM names, if it names one: an existing path, or something that can only be a path.
fn local_file(file: &Modelfile, directory: &Path) -> Result<Option<PathBuf>, Failure> {
    let from = Path::new(&file.from);
    let path = match (from.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(below), Some(home)) => Path::new(&home).join(below),
        _ => directory.join(from),
    };
    if path.is_dir() && (looks_like_path(&file.from) || path.join("config.json").exists()) {
        return only_gguf(&path).map(Some);
    }
    if path.is_file() {
        return Ok(Some(path));
    }
    if looks_like_path(&file.from) {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(Failure::File { action: "read", path, source });
    }
    Ok(None)
}

fn looks_like_path(from: &str) -> bool {
    let starts = ["/", "./", "../", "~/"].iter().any(|start| from.starts_with(start));
    starts || from == "." || from == ".." || from.to_lowercase().ends_with(".gguf")
}

fn only_gguf(directory: &Path) -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(directory).map_err(Failure::file("read", directory))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => Err(Failure::Usage(format!(
            "`{}` holds no .gguf file; convert the model to GGUF first",
            directory.display()
        ))),
        (Some(_), false) => Err(Failure::Usage(format!(
            "`{}` holds {} .gguf files; name one of them in FROM",
            directory.display(),
            found.len() + 1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Modelfile {
        Modelfile { from: text.to_owned(), ..Modelfile::default() }
    }

    #[test]
    fn from_is_a_file_where_there_is_one_and_a_name_otherwise() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("m.gguf");
        let at = |text: &str| local_file(&from(text), directory.path());
        assert!(matches!(at("smollm2:135m"), Ok(None)));
        assert!(matches!(at("./m.gguf"), Err(Failure::File { .. })));
        assert!(matches!(at("."), Err(Failure::Usage(_))));
        std::fs::write(&model, b"x").expect("written");
        for text in ["m.gguf", "./m.gguf", ".", model.to_str().expect("utf-8")] {
            let found = at(text).expect("found").expect("a file");
            assert_eq!(found.file_name(), model.file_name(), "{text}");
        }
        std::fs::write(directory.path().join("n.gguf"), b"x").expect("written");
        assert!(matches!(at("."), Err(Failure::Usage(_))));
    }
}
