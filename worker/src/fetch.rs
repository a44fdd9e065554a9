//! Blobs by digest: from this disk, from a directory beside it, or from any node that has them.
//!
//! A blob is complete when it has its final name: bytes go to a `.partial` file, are hashed while they come, synced and
//! renamed only when the digest fits. A transfer that breaks off is continued from what is there, from whichever node
//! answers next; what turns out to be wrong is deleted and fetched anew from another node.

mod part;
mod partial;

use self::partial::Partial;
use crate::peers::{Peer, Peers};
use crate::telemetry;
use ollamamax_proto::wire::blobs_client::BlobsClient;
use ollamamax_proto::wire::{BlobFetchRequest, BlobStatRequest};
use ollamamax_proto::{Digest, backoff, limits};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Why a blob could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No node gave it, however often asked.
    #[error("blob `{digest}` could not be fetched in {rounds} rounds: {last}")]
    Nowhere {
        /// Which one.
        digest: Digest,
        /// How often all nodes were asked.
        rounds: u32,
        /// What went wrong last.
        last: String,
    },
    /// This disk refused.
    #[error("blob `{digest}` cannot be kept in `{}`: {source}", .path.display())]
    Disk {
        /// Which one.
        digest: Digest,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Fetches blobs into one directory and keeps it within bounds.
#[derive(Debug)]
pub struct Fetcher {
    dir: PathBuf,
    hints: Vec<PathBuf>,
    cache_bytes: u64,
    peers: Arc<Peers>,
    busy: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// How one attempt with one node ended.
enum Attempt {
    Complete,
    /// What is in the partial file stays useful.
    Broken(String),
    /// The bytes were wrong; they are gone.
    Wrong(String),
    Disk(io::Error),
}

impl Fetcher {
    /// Keeps blobs in `dir`, looks into `hints` first, and keeps at most `cache_bytes` of what nobody needs.
    pub fn new(
        dir: PathBuf,
        hints: Vec<PathBuf>,
        cache_bytes: u64,
        peers: Arc<Peers>,
    ) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, hints, cache_bytes, peers, busy: Mutex::default() })
    }

    /// The path of the complete blob; waits while another task fetches the same one. Dropping the future leaves what
    /// came so far for the next attempt.
    pub async fn fetch(&self, digest: Digest, bytes: u64) -> Result<PathBuf, FetchError> {
        let lock = self.lock(digest);
        let _one = lock.lock().await;
        let path = self.dir.join(file_name(&digest));
        if let Ok(meta) = fs::metadata(&path) {
            if bytes == 0 || meta.len() == bytes {
                touch(&path);
                return Ok(path);
            }
            tracing::warn!(%digest, held = meta.len(), expected = bytes, "a blob has the wrong size");
            let _ = fs::remove_file(&path);
        }
        if self.take_hint(digest, &path).await {
            return Ok(path);
        }
        self.fetch_over_network(digest, bytes, &path).await?;
        Ok(path)
    }

    fn lock(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(busy.entry(digest).or_default())
    }

    async fn take_hint(&self, digest: Digest, path: &Path) -> bool {
        // As a node of the control plane names its blobs, and as Ollama does.
        let names = [digest.hex(), format!("sha256-{}", digest.hex())];
        let hints = self.hints.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
        let hints: Vec<PathBuf> = hints.collect();
        for hint in hints {
            let (from, to) = (hint.clone(), path.to_owned());
            let linked = tokio::task::spawn_blocking(move || link_verified(&from, &to, digest));
            match linked.await {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%digest, hint = %hint.display(), %error, "no hint");
                }
            }
        }
        false
    }

    async fn fetch_over_network(
        &self,
        digest: Digest,
        bytes: u64,
        path: &Path,
    ) -> Result<(), FetchError> {
        let mut last = "no control-plane node is known".to_owned();
        // Nodes that served wrong bytes, with how often: they are asked last.
        let mut wrong: BTreeMap<String, u32> = BTreeMap::new();
        for round in 0..limits::WORKER_FETCH_ROUNDS {
            let mut peers = self.peers.ordered();
            peers.sort_by_key(|peer| wrong.get(&peer.address).copied().unwrap_or(0));
            for peer in peers {
                match self.attempt(&peer, digest, bytes, path).await {
                    Attempt::Complete => return Ok(()),
                    Attempt::Broken(reason) => {
                        last = format!("`{}`: {reason}", peer.address);
                    }
                    Attempt::Wrong(reason) => {
                        tracing::warn!(%digest, peer = peer.address, reason, "blob refused");
                        last = format!("`{}`: {reason}", peer.address);
                        *wrong.entry(peer.address).or_default() += 1;
                    }
                    Attempt::Disk(source) => {
                        return Err(FetchError::Disk { digest, path: path.to_owned(), source });
                    }
                }
            }
            let (first, max) = (limits::WORKER_RETRY_FIRST_MS, limits::WORKER_RETRY_MAX_MS);
            let wait = backoff::delay_ms(round, first, max, rand::random());
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Err(FetchError::Nowhere { digest, rounds: limits::WORKER_FETCH_ROUNDS, last })
    }

    async fn attempt(&self, peer: &Peer, digest: Digest, bytes: u64, path: &Path) -> Attempt {
        let mut client = BlobsClient::new(peer.channel.clone())
            .max_decoding_message_size(limits::RPC_MESSAGE_BYTES);
        let stat = client.stat(BlobStatRequest { digest: digest.to_string() });
        let total = match within(limits::WORKER_CALL_TIMEOUT_MS, stat).await {
            Ok(stat) if !stat.get_ref().present => return Attempt::Broken("not there".to_owned()),
            Ok(stat) => stat.get_ref().bytes,
            Err(reason) => return Attempt::Broken(reason),
        };
        if (bytes != 0 && total != bytes) || total > limits::BLOB_BYTES {
            return Attempt::Wrong(format!("offers {total} bytes, expected {bytes}"));
        }
        let aside = path.with_extension("partial");
        let opened = tokio::task::spawn_blocking(move || Partial::open(aside, total)).await;
        let mut partial = match opened {
            Ok(Ok(partial)) => partial,
            Ok(Err(error)) => return Attempt::Disk(error),
            Err(error) => return Attempt::Broken(error.to_string()),
        };
        if let Err(end) = stream_into(&mut client, digest, total, &mut partial).await {
            return end;
        }
        let path = path.to_owned();
        match tokio::task::spawn_blocking(move || partial.finish(&path, digest)).await {
            Ok(Ok(true)) => Attempt::Complete,
            Ok(Ok(false)) => Attempt::Wrong("the bytes have another digest".to_owned()),
            Ok(Err(error)) => Attempt::Disk(error),
            Err(error) => Attempt::Broken(error.to_string()),
        }
    }

    /// Deletes the blobs that were unused for longest until those not in `needed` fit the bound.
    pub fn prune(&self, needed: &BTreeSet<Digest>) -> io::Result<()> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        drop(busy);
        let mut unneeded: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let stem = name.strip_suffix(".partial").or_else(|| name.strip_suffix(".part"));
            let stem = stem.unwrap_or(&name);
            let Ok(digest) = stem.parse::<Digest>() else { continue };
            if !needed.contains(&digest) {
                let meta = entry.metadata()?;
                unneeded.push((meta.modified()?, entry.path(), meta.len()));
            }
        }
        unneeded.sort();
        let mut total: u64 = unneeded.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, path, bytes) in unneeded {
            if total <= self.cache_bytes {
                break;
            }
            fs::remove_file(&path)?;
            total -= bytes;
            tracing::info!(path = %path.display(), bytes, "an unneeded blob was deleted");
        }
        Ok(())
    }
}

async fn stream_into(
    client: &mut BlobsClient<tonic::transport::Channel>,
    digest: Digest,
    total: u64,
    partial: &mut Partial,
) -> Result<(), Attempt> {
    if partial.length == total {
        return Ok(());
    }
    let request =
        BlobFetchRequest { digest: digest.to_string(), offset: partial.length, length: 0 };
    let fetched = within(limits::WORKER_FETCH_STALL_MS, client.fetch(request)).await;
    let mut chunks = fetched.map_err(Attempt::Broken)?.into_inner();
    while partial.length < total {
        let next = within(limits::WORKER_FETCH_STALL_MS, chunks.message()).await;
        let Some(chunk) = next.map_err(Attempt::Broken)? else {
            let at = partial.length;
            return Err(Attempt::Broken(format!("ended at {at} of {total} bytes")));
        };
        let end = partial.length + chunk.data.len() as u64;
        if chunk.offset != partial.length || end > total {
            let (at, from) = (partial.length, chunk.offset);
            return Err(Attempt::Broken(format!("sent bytes {from}..{end}, expected from {at}")));
        }
        // A chunk is small and the page cache takes it: no detour over another thread.
        partial.append(&chunk.data).map_err(Attempt::Disk)?;
        telemetry::fetched(chunk.data.len());
    }
    Ok(())
}

async fn within<T>(
    ms: u64,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(Duration::from_millis(ms), call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(format!("{}: {}", status.code(), status.message())),
        Err(_) => Err(format!("silent for {ms} ms")),
    }
}

fn link_verified(from: &Path, to: &Path, digest: Digest) -> io::Result<bool> {
    // A link to a link would end with its target's name.
    let from = &from.canonicalize()?;
    let mut file = File::open(from)?;
    let mut hash = Sha256::new();
    hash_all(&mut file, &mut hash)?;
    if Digest(hash.finalize().into()) != digest {
        return Ok(false);
    }
    if fs::symlink_metadata(to).is_ok() {
        // A link to what has gone.
        fs::remove_file(to)?;
    }
    if fs::hard_link(from, to).is_err() {
        // Another file system, or one that may only be read: it is read where it is, for as long as it is there.
        std::os::unix::fs::symlink(from, to)?;
    }
    sync_parent(to)?;
    Ok(true)
}

fn hash_all(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; limits::TRANSFER_CHUNK_BYTES];
    let mut length = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(length),
            read => {
                hash.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

fn file_name(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

fn touch(path: &Path) {
    // Only the order of deletion depends on it.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hint_is_taken_only_when_its_bytes_are_right() {
        let (dir, hint) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let digest = Digest::of(b"the blob");
        fs::write(hint.path().join(digest.hex()), b"the blub").expect("written");
        let peers = Arc::new(Peers::new(crate::peers::test_tls(), &[]).expect("no addresses"));
        let fetcher =
            Fetcher::new(dir.path().join("blobs"), vec![hint.path().to_owned()], 0, peers)
                .expect("a directory");
        let path = fetcher.dir.join(file_name(&digest));
        assert!(!fetcher.take_hint(digest, &path).await);
        for name in [digest.hex(), format!("sha256-{}", digest.hex())] {
            let beside = hint.path().join(name);
            fs::write(&beside, b"the blob").expect("written");
            let path = fetcher.fetch(digest, 8).await.expect("found beside");
            assert_eq!(fs::read(&path).expect("there"), b"the blob");
            fs::remove_file(&beside).expect("there");
            fs::remove_file(&path).expect("there");
        }
    }

    #[tokio::test]
    async fn the_longest_unused_blob_goes_first_and_needed_ones_stay() {
        let dir = tempfile::tempdir().expect("dir");
        let peers = Arc::new(Peers::new(crate::peers::test_tls(), &[]).expect("no addresses"));
        let fetcher = Fetcher::new(dir.path().to_owned(), vec![], 10, peers).expect("a directory");
        let put = |age_s: u64, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            let path = dir.path().join(file_name(&digest));
            fs::write(&path, bytes).expect("written");
            let at = SystemTime::now() - Duration::from_secs(age_s);
            File::open(&path).expect("there").set_modified(at).expect("a time");
            (digest, path)
        };
        let (needed, kept) = put(900, b"needed....");
        let (_, oldest) = put(90, b"oldest..");
        let (_, newest) = put(9, b"newest..");
        fetcher.prune(&BTreeSet::from([needed])).expect("pruned");
        assert!(kept.exists() && newest.exists() && !oldest.exists());
    }
}
