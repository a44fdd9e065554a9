//! Brings a file on this machine to the cluster: hash it, ask whether it is there, send it if not.

use crate::client::Client;
use crate::exit::Failure;
use crate::progress::Progress;
use ollamamax_proto::Digest;
use sha2::Digest as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes hashed between two looks at the progress.
const PIECE_BYTES: usize = 1024 * 1024;

/// Hashes a file and makes sure the cluster has it.
pub async fn ensure(client: &Client, file: &Path, progress: &Progress) -> Result<Digest, Failure> {
    let bytes = std::fs::metadata(file).map_err(Failure::file("read", file))?.len();
    let digest = hash(file.to_owned(), bytes, progress.clone()).await?;
    ensure_known(client, file, digest, progress).await?;
    Ok(digest)
}

/// Makes sure the cluster has a file whose digest is known already.
pub async fn ensure_known(
    client: &Client,
    file: &Path,
    digest: Digest,
    progress: &Progress,
) -> Result<(), Failure> {
    let path = format!("/api/blobs/{digest}");
    if client.exists(&path).await? {
        return Ok(());
    }
    let bytes = std::fs::metadata(file).map_err(Failure::file("read", file))?.len();
    let title = format!("uploading {}", digest.short());
    let shown = progress.clone();
    let sent = Arc::new(move |done| shown.bytes(&title, done, bytes));
    client.upload(&path, file, bytes, sent).await?;
    progress.finish();
    Ok(())
}

async fn hash(file: PathBuf, bytes: u64, progress: Progress) -> Result<Digest, Failure> {
    let title = format!("hashing {}", file.file_name().unwrap_or_default().to_string_lossy());
    let work = move || {
        let mut opened = std::fs::File::open(&file).map_err(Failure::file("read", &file))?;
        let mut hasher = sha2::Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut done = 0;
        loop {
            let read = opened.read(&mut piece).map_err(Failure::file("read", &file))?;
            if read == 0 {
                return Ok(Digest(hasher.finalize().into()));
            }
            hasher.update(&piece[..read]);
            done += read as u64;
            progress.bytes(&title, done, bytes);
        }
    };
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| Failure::Other(format!("hashing failed: {error}")))?
}
