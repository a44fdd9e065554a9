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
    let looks_like_path = reference.contains(std::path::MAIN_SEPARATOR)
        || reference.to_lowercase().ends_with(".gguf");
    if let Some(entry) = catalogue::find(reference).filter(|_| !looks_like_path) {
        return catalogue::fetch(entry, cache_dir, progress).await;
    }
    if !looks_like_path && !path.exists() {
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

/// A model name made from a file name: lower case, whatever a name cannot hold becomes `-`.
fn name_of_file(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(ollamamax_proto::limits::NAME_PART_CHARS)
        .collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}
