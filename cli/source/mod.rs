//! Where models come from: a file on this machine, a URL, or the catalogue of models known by name.
//!
//! ```text
//! reference -> path?      -> used where it is, hashed
//!           -> http(s)?   -> download (resumes)          -> cache
//!           -> catalogue? -> directory | wheel, verified -> cache
//! ```
//!
//! Whatever is downloaded appears under its final name by a rename, after its digest has been checked; an interrupted
//! download leaves a partial file behind and nothing else.

mod catalogue;
mod download;
#[cfg(test)]
mod tests;
mod verify;
mod wheel;

use crate::exit::Failure;
use crate::progress::Progress;
use ollamamax_proto::Digest;
use ollamamax_sources::reference::name_of_file;
use std::path::{Path, PathBuf};

/// A model file on this machine.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The GGUF.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// The name it should get.
    pub name: String,
    /// Its licences.
    pub licenses: Vec<String>,
}

/// Whether the catalogue has this name.
pub fn is_known(reference: &str) -> bool {
    catalogue::find(reference).is_some()
}

/// Whether this machine fetches it: what the catalogue knows, and files.
pub fn is_here(reference: &str) -> bool {
    let is_url = reference.contains("://");
    !is_url && (is_known(reference) || looks_like_path(reference) || Path::new(reference).is_file())
}

fn looks_like_path(reference: &str) -> bool {
    let starts = ["/", "./", "../", "~/"].iter().any(|start| reference.starts_with(start));
    starts || reference.to_lowercase().ends_with(".gguf")
}

/// Gets what `reference` names; a path is used where it is, everything else is kept below `cache_dir`.
pub async fn fetch(
    reference: &str,
    cache_dir: &Path,
    progress: &Progress,
) -> Result<Fetched, Failure> {
    progress.status("looking for the model");
    if reference.starts_with("http://") || reference.starts_with("https://") {
        return download::fetch(reference, cache_dir, progress).await;
    }
    let path = PathBuf::from(reference);
    let looks_like_path = looks_like_path(reference) || path.is_file();
    if let Some(entry) = catalogue::find(reference).filter(|_| !looks_like_path) {
        return catalogue::fetch(entry, cache_dir, progress).await;
    }
    if !looks_like_path {
        return Err(Failure::Refused {
            status: 404,
            message: format!(
                "model `{reference}` is neither a file, a URL, nor in the catalogue ({}); give a \
                 path to a .gguf file or a URL of one",
                catalogue::names().join(", ")
            ),
        });
    }
    let digest = verify::digest_of(&path, progress).await?;
    Ok(Fetched { digest, name: name_of_file(&path), path, licenses: Vec::new() })
}
