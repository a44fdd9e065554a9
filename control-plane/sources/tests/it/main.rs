//! Sources against servers that speak the protocols for real, and against such that misbehave.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod faults;
mod guard;
mod pip;
mod registry;
mod tokens;

use ollamamax_proto::{Digest, limits};
use ollamamax_sources::download::{Wanted, fetch};
use ollamamax_sources::{
    Credentials, Guard, Http, Kind, Reference, Registry, Source, SourceError, Staged,
};
use std::path::Path;
use std::sync::Arc;

/// A file of so many bytes, no two pieces alike.
pub fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut all = Vec::with_capacity(count + 8);
    while all.len() < count {
        all.extend(next());
    }
    all.truncate(count);
    all
}

/// Lets requests go to one host, and to public addresses.
pub fn http(allowed: &str) -> Http {
    let guard = Guard::new(vec![allowed.parse().unwrap()]);
    Http::new(guard, Vec::new(), ollamamax_sources::http::system_lookup()).unwrap()
}

pub fn at(http: &Http, text: &str, credentials: &str) -> Arc<Registry> {
    let Source::Registry(repository) = Reference::parse(text).unwrap().source else { panic!() };
    let credentials = Credentials::parse(credentials).unwrap();
    Arc::new(Registry::new(http, &Arc::new(credentials), repository, true))
}

/// A registry and nothing in the way.
pub fn plain(address: &str, name: &str) -> Arc<Registry> {
    at(&http(address), &format!("{address}/{name}"), "{}")
}

/// Fetches the model of a manifest into a directory.
pub async fn model(registry: &Arc<Registry>, dir: &Path) -> Result<Staged, SourceError> {
    let manifest = registry.manifest().await?;
    let layer = *manifest.of(Kind::Model).next().unwrap();
    let wanted =
        Wanted { digest: Some(layer.digest), bytes: Some(layer.bytes), limit: limits::BLOB_BYTES };
    let origin = registry.blob(layer.digest)?;
    fetch(&*origin, &wanted, dir, &|_, _, _| {}).await
}

pub fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

pub fn of(staged: &Staged) -> Digest {
    Digest::of(&std::fs::read(staged.path()).unwrap())
}
