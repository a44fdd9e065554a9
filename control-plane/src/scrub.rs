//! Finds blobs that have rotted on the disk of this node, and has them fetched again from another.
//!
//! Each blob is read again once in a while, slowly: nobody who loads a model shall notice. What has other bytes than its name says
//! is put aside at once, since a missing blob is fetched again and a wrong one is believed; it goes when a sound one is there.

use crate::blobs::NodeBlobs;
use ollamamax_gateway::ports::Blobs as _;
use ollamamax_proto::{Digest, limits};
use ollamamax_storage::StorageError;
use ollamamax_storage::check::{Check, Checked};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads every blob again at the start and then once in `period`; until cancelled.
pub async fn run(blobs: Arc<NodeBlobs>, period: Duration) {
    let mut checked: HashMap<Digest, Option<Instant>> = HashMap::new();
    let mut at_start = true;
    loop {
        let store = blobs.files().clone();
        let held = match tokio::task::spawn_blocking(move || store.list()).await {
            Ok(Ok(held)) => held,
            _ => Vec::new(),
        };
        checked.retain(|digest, _| held.iter().any(|(there, _)| there == digest));
        for (digest, _) in held {
            // What is new was hashed when it came; of what was here before, nobody knows what became meanwhile.
            let new = (!at_start).then(Instant::now);
            let last = *checked.entry(digest).or_insert(new);
            if last.is_some_and(|last| last.elapsed() < period) {
                continue;
            }
            match look(&blobs, digest).await {
                Ok(()) => {
                    checked.insert(digest, Some(Instant::now()));
                }
                Err(error) => tracing::warn!(%digest, %error, "cannot check a blob"),
            }
        }
        at_start = false;
        tokio::time::sleep(period.min(Duration::from_millis(limits::BLOB_SWEEP_MS))).await;
    }
}

async fn look(blobs: &NodeBlobs, digest: Digest) -> Result<(), StorageError> {
    let store = blobs.files().clone();
    let opened = tokio::task::spawn_blocking(move || store.check(&digest)).await;
    let Some(mut check) = opened.unwrap_or(Ok(None))? else { return Ok(()) };
    loop {
        let (found, read) = match more(check).await {
            Some(done) => done,
            None => return Ok(()),
        };
        check = read;
        match found {
            Checked::More => {}
            Checked::Sound => return Ok(()),
            Checked::Rotten => break,
        }
        tokio::time::sleep(Duration::from_millis(limits::SCRUB_PAUSE_MS)).await;
    }
    tracing::error!(%digest, "a blob has rotted on this disk; it is fetched again");
    let aside = tokio::task::spawn_blocking(move || check.put_aside()).await;
    aside.unwrap_or(Ok(()))?;
    match blobs.open(digest).await {
        Ok(_) => tracing::info!(%digest, "a blob that had rotted is whole again"),
        Err(error) => {
            tracing::error!(%digest, %error, "no other node has it yet; it is asked for again")
        }
    }
    Ok(())
}

/// One piece, where it blocks nobody. `None` when this process ends.
async fn more(mut check: Check) -> Option<(Checked, Check)> {
    let piece = tokio::task::spawn_blocking(move || {
        let found = check.more(limits::SCRUB_PIECE_BYTES);
        (found, check)
    });
    piece.await.ok()
}
