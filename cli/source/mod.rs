//! Where models come from: the catalogue, files and URLs.

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
pub fn is_known(_reference: &str) -> bool {
    false
}

/// Gets what `reference` names; a path is used where it is, everything else is kept below `cache_dir`.
pub async fn fetch(
    reference: &str,
    _cache_dir: &Path,
    progress: &Progress,
) -> Result<Fetched, Failure> {
    progress.status("looking for the model");
    let path = PathBuf::from(reference);
    let bytes = std::fs::read(&path).map_err(Failure::file("read", &path))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    Ok(Fetched { digest: Digest::of(&bytes), path, name: stem, licenses: Vec::new() })
}
