//! A model from a URL onto this machine, resumed where an earlier try broke off. `#sha256=<hex>` at the end of the URL names the
//! digest the file must have.

use super::Fetched;
use crate::exit::Failure;
use crate::progress::Progress;
use ollamamax_proto::limits;
use ollamamax_sources::download::{Wanted, fetch as download};
use ollamamax_sources::http::system_lookup;
use ollamamax_sources::registry::File;
use ollamamax_sources::{Credentials, Guard, Http, Reference, Source, SourceError};
use std::path::Path;

/// Downloads what a URL names. Whoever started this program reaches what it reaches, so it may ask everywhere.
pub async fn fetch(url: &str, cache_dir: &Path, progress: &Progress) -> Result<Fetched, Failure> {
    let reference = Reference::parse(url).map_err(|error| Failure::Usage(error.to_string()))?;
    let Source::File { url, digest } = reference.source else {
        return Err(Failure::Usage(format!(
            "`{url}` is a name at a registry, which a node fetches from; leave out `--here`"
        )));
    };
    let http = Http::new(Guard::open(), Vec::new(), system_lookup()).map_err(failed)?;
    let insecure = url.scheme() == "http";
    let file = File::new(&http, &Credentials::default(), url, insecure);
    let wanted = Wanted { digest, bytes: None, limit: limits::BLOB_BYTES };
    let tell = |done, total, _| progress.bytes("downloading the model", done, total);
    let staged = download(&file, &wanted, cache_dir, &tell).await.map_err(failed)?;
    let digest = staged.digest;
    let path = cache_dir.join(format!("sha256-{}.gguf", digest.hex()));
    std::fs::rename(staged.path(), &path).map_err(Failure::file("write", &path))?;
    staged.forget();
    let name = reference.name.to_string();
    let name = name.strip_suffix(":latest").unwrap_or(&name).to_owned();
    Ok(Fetched { path, digest, name, licenses: Vec::new() })
}

fn failed(error: SourceError) -> Failure {
    match error {
        SourceError::NotFound(message) => Failure::Refused { status: 404, message },
        error if error.may_pass() => {
            Failure::Other(format!("{error}; what came is kept, the next try goes on from there"))
        }
        error => Failure::Other(error.to_string()),
    }
}
