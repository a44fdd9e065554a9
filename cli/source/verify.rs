//! Digests of files, computed off the async threads, and files that appear only when they are right.

use crate::exit::Failure;
use crate::progress::Progress;
use ollamamax_proto::Digest;
use sha2::Digest as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What a file must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

const BUFFER_BYTES: usize = 1 << 20;

/// The SHA-256 of a file.
pub async fn digest_of(path: &Path, progress: &Progress) -> Result<Digest, Failure> {
    let path = path.to_owned();
    let progress = progress.clone();
    blocking(move || {
        let file = File::open(&path).map_err(Failure::file("read", &path))?;
        let total = file.metadata().map_err(Failure::file("read", &path))?.len();
        copy_hashing(file, &mut std::io::sink(), |done| {
            progress.bytes("verifying sha256 digest", done, total);
        })
        .map_err(Failure::file("read", &path))
    })
    .await
}

/// Runs blocking work where it hurts nobody.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::Other(format!("a background task failed: {error}"))))
}

/// Copies everything, telling how far it is, and returns the digest of what was copied.
pub fn copy_hashing(
    mut from: impl Read,
    to: &mut impl Write,
    mut tell: impl FnMut(u64),
) -> std::io::Result<Digest> {
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest(hash.finalize().into()));
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        done += read as u64;
        tell(done);
    }
}

/// A name beside `path` that no other process uses.
pub fn temporary_beside(path: &Path) -> PathBuf {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{file}.{}.{:08x}", std::process::id(), rand::random::<u32>()))
}

/// Makes a written file durable and gives it its name.
pub fn publish(file: &File, temporary: &Path, path: &Path) -> Result<(), Failure> {
    file.sync_all().map_err(Failure::file("write", temporary))?;
    fs::rename(temporary, path).map_err(Failure::file("write", path))
}
