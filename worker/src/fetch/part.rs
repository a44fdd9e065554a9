//! A part of a blob: a file as long as the whole, with holes where nobody will look.
//!
//! A stage needs its own tensors and the header, which tells where these are. The header is fetched first, in pieces that
//! double until it can be read, then the ranges that it names. The digest covers the whole only, so that of a part cannot be
//! checked: nodes answer for what they verified when they took it in.

use super::{FetchError, Fetcher, file_name, sync_parent, touch, within};
use crate::peers::Peer;
use crate::telemetry;
use ollamamax_proto::wire::BlobFetchRequest;
use ollamamax_proto::wire::blobs_client::BlobsClient;
use ollamamax_proto::{Digest, backoff, limits};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What of the header is fetched at first; twice as much each time it turns out to be longer.
const HEADER_FIRST_BYTES: u64 = 1024 * 1024;

impl Fetcher {
    /// The path of a file that has at least the ranges that `ranges` finds in a file whose beginning is there; it finds none
    /// while too little is. The whole blob, if that is here already or cannot be had in parts.
    pub async fn fetch_part(
        &self,
        digest: Digest,
        bytes: u64,
        ranges: impl Fn(&Path) -> Option<Vec<Range<u64>>> + Send + Sync + 'static,
    ) -> Result<PathBuf, FetchError> {
        let whole = self.dir.join(file_name(&digest));
        if fs::metadata(&whole).is_ok_and(|meta| meta.len() == bytes) {
            touch(&whole);
            return Ok(whole);
        }
        let lock = self.lock(digest);
        let _one = lock.lock().await;
        if self.take_hint(digest, &whole).await {
            return Ok(whole);
        }
        let path = self.dir.join(format!("{}.part", file_name(&digest)));
        let disk = |source| FetchError::Disk { digest, path: path.clone(), source };
        let file = open(&path, bytes).map_err(disk)?;
        let (file, ranges) = (Arc::new(file), Arc::new(ranges));
        let mut header = HEADER_FIRST_BYTES.min(bytes);
        let mut here = 0;
        let wanted = loop {
            self.fetch_ranges(digest, &file, &path, std::slice::from_ref(&(here..header))).await?;
            here = header;
            let (ranges, at) = (Arc::clone(&ranges), path.clone());
            let found = tokio::task::spawn_blocking(move || ranges(&at)).await;
            // The first range is the header itself.
            let found = found
                .ok()
                .flatten()
                .filter(|ranges| ranges.first().is_some_and(|r| r.end <= header));
            match found {
                Some(ranges) => break ranges,
                None if header == bytes => break vec![Range { start: 0, end: bytes }],
                None => header = header.saturating_mul(2).min(bytes),
            }
        };
        self.fetch_ranges(digest, &file, &path, &beyond(here, &wanted)).await?;
        file.sync_all().and_then(|()| sync_parent(&path)).map_err(disk)?;
        let got: u64 = wanted.iter().map(|range| range.end - range.start).sum();
        tracing::info!(%digest, got, of = bytes, "a part of a blob was fetched");
        Ok(path)
    }

    async fn fetch_ranges(
        &self,
        digest: Digest,
        file: &Arc<File>,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<(), FetchError> {
        let mut last = "no control-plane node is known".to_owned();
        let mut left: Vec<Range<u64>> = ranges.to_vec();
        for round in 0..limits::WORKER_FETCH_ROUNDS {
            for peer in self.peers.ordered() {
                while let Some(range) = left.last_mut() {
                    match fetch_range(&peer, digest, file, range).await {
                        Ok(()) => {
                            left.pop();
                        }
                        Err(Broken::Disk(source)) => {
                            let path = path.to_owned();
                            return Err(FetchError::Disk { digest, path, source });
                        }
                        Err(Broken::Peer(reason)) => {
                            last = format!("`{}`: {reason}", peer.address);
                            break;
                        }
                    }
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            let (first, max) = (limits::WORKER_RETRY_FIRST_MS, limits::WORKER_RETRY_MAX_MS);
            let wait = backoff::delay_ms(round, first, max, rand::random());
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Err(FetchError::Nowhere { digest, rounds: limits::WORKER_FETCH_ROUNDS, last })
    }
}

enum Broken {
    Peer(String),
    Disk(io::Error),
}

/// Fetches a range; what came moves its start, so that another node goes on from there.
async fn fetch_range(
    peer: &Peer,
    digest: Digest,
    file: &Arc<File>,
    range: &mut Range<u64>,
) -> Result<(), Broken> {
    let mut client =
        BlobsClient::new(peer.channel.clone()).max_decoding_message_size(limits::RPC_MESSAGE_BYTES);
    let (offset, length) = (range.start, range.end - range.start);
    let request = BlobFetchRequest { digest: digest.to_string(), offset, length };
    let fetched = within(limits::WORKER_FETCH_STALL_MS, client.fetch(request)).await;
    let mut chunks = fetched.map_err(Broken::Peer)?.into_inner();
    while range.start < range.end {
        let next = within(limits::WORKER_FETCH_STALL_MS, chunks.message()).await;
        let Some(chunk) = next.map_err(Broken::Peer)? else {
            return Err(Broken::Peer(format!("ended at {} of {}", range.start, range.end)));
        };
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if chunk.offset != range.start || end > range.end {
            let words = format!("sent bytes {}..{end}, expected {range:?}", chunk.offset);
            return Err(Broken::Peer(words));
        }
        file.write_all_at(&chunk.data, chunk.offset).map_err(Broken::Disk)?;
        range.start = end;
        telemetry::fetched(chunk.data.len());
    }
    Ok(())
}

/// A file of `bytes`, holes at first. What an earlier assignment left in it is as good as what comes.
fn open(path: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() != bytes {
        file.set_len(0)?;
        file.set_len(bytes)?;
    }
    Ok(file)
}

/// What of `wanted` lies beyond `here`.
fn beyond(here: u64, wanted: &[Range<u64>]) -> Vec<Range<u64>> {
    let cut = |range: &Range<u64>| range.start.max(here)..range.end;
    wanted.iter().map(cut).filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_here_is_fetched() {
        assert_eq!(beyond(0, &[3..5, 7..9]), [3..5, 7..9]);
        assert_eq!(beyond(4, &[0..2, 3..5, 7..9]), [4..5, 7..9]);
        assert!(beyond(9, &[0..2, 3..9]).is_empty());
    }
}
