//! Model files on this node and its peers.
//!
//! Blobs never go through Raft. Each node fetches in the background what the models in the state refer to and it lacks;
//! whoever opens a blob sooner fetches it then. What no model refers to any more goes after a grace period.

use crate::config::Timings;
use crate::raft::peers::{Lane, Peers};
use crate::watch::Published;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use ollamamax_core::record::NodeRecord;
use ollamamax_gateway::ports::{BlobError, Blobs, Hold, Maker};
use ollamamax_proto::wire::blobs_client::BlobsClient;
use ollamamax_proto::wire::{BlobFetchRequest, BlobStatRequest};
use ollamamax_proto::{Digest, limits};
use ollamamax_sources::staging;
use ollamamax_storage::blobs::Writer;
use ollamamax_storage::{BlobStore, StorageError};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// Chunks on their way between the network and the disk.
const CHUNKS_AHEAD: usize = 4;

type Held = Arc<Mutex<HashMap<Digest, usize>>>;

/// The blobs of one node.
pub struct NodeBlobs {
    store: BlobStore,
    node: u64,
    published: Arc<Published>,
    peers: Arc<Peers>,
    grace: Duration,
    /// Blobs that must stay though nothing in the state names them yet, and how many want that.
    held: Held,
    /// One fetch at a time per blob; whoever else wants it waits for that one.
    fetching: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl NodeBlobs {
    /// The blobs of node `node` in `store`.
    pub fn new(
        store: BlobStore,
        node: u64,
        published: Arc<Published>,
        peers: Arc<Peers>,
        timings: &Timings,
    ) -> Arc<Self> {
        let grace = Duration::from_millis(timings.blob_grace_ms);
        let (held, fetching) = (Held::default(), Mutex::default());
        Arc::new(Self { store, node, published, peers, grace, held, fetching })
    }

    /// The state that says which are wanted.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The files.
    pub fn files(&self) -> &BlobStore {
        &self.store
    }

    /// Fetches what is wanted and lacking, removes what is not wanted any more; until cancelled.
    pub async fn replicate(self: Arc<Self>) {
        let mut revisions = self.published.revisions();
        let mut unwanted: HashMap<Digest, Instant> = HashMap::new();
        loop {
            let period = Duration::from_millis(limits::BLOB_SWEEP_MS);
            let _ = tokio::time::timeout(period, revisions.changed()).await;
            let wanted = wanted(&self.published);
            for digest in &wanted {
                if self.stat(*digest).is_none()
                    && let Err(error) = self.fetch(*digest).await
                {
                    tracing::debug!(%digest, %error, "not replicated yet");
                }
            }
            if let Err(error) = self.sweep(&wanted, &mut unwanted).await {
                tracing::warn!(%error, "cannot tidy the blob store");
            }
        }
    }

    async fn sweep(
        &self,
        wanted: &BTreeSet<Digest>,
        unwanted: &mut HashMap<Digest, Instant>,
    ) -> Result<(), BlobError> {
        let (store, grace) = (self.store.clone(), self.grace);
        let held = blocking(move || {
            let begun = staging::sweep(&store.incoming(), grace);
            begun.map_err(|error| StorageError::Invalid { reason: error.to_string() })?;
            store.sweep(grace)?;
            store.list()
        })
        .await?;
        unwanted.retain(|digest, _| !wanted.contains(digest));
        for (digest, bytes) in held {
            if wanted.contains(&digest) {
                continue;
            }
            let since = *unwanted.entry(digest).or_insert_with(Instant::now);
            if since.elapsed() >= self.grace {
                let (store, held) = (self.store.clone(), Arc::clone(&self.held));
                let published = Arc::clone(&self.published);
                let removed = blocking(move || remove_unwanted(&store, &held, &published, digest));
                if removed.await? {
                    tracing::info!(%digest, bytes, "removed a blob that no model needs");
                }
                unwanted.remove(&digest);
            }
        }
        Ok(())
    }

    async fn fetch(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        if self.stat(digest).is_some() {
            return Ok(self.store.path(&digest));
        }
        let state = self.published.state();
        let others = state.nodes.values().filter(|node| node.id.0 != self.node);
        let mut last = BlobError::NotFound(digest);
        for node in others {
            match self.fetch_from(digest, node).await {
                Ok(Some(path)) => {
                    tracing::info!(%digest, from = %node.id, "fetched a blob");
                    return Ok(path);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%digest, from = %node.id, %error, "a peer did not deliver a blob");
                    last = error;
                }
            }
        }
        Err(last)
    }

    fn turn(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let turn = fetching.get(&digest).and_then(Weak::upgrade).unwrap_or_default();
        fetching.insert(digest, Arc::downgrade(&turn));
        turn
    }

    /// `Ok(None)` when that peer has no such blob either.
    async fn fetch_from(
        &self,
        digest: Digest,
        node: &NodeRecord,
    ) -> Result<Option<PathBuf>, BlobError> {
        let stall = Duration::from_millis(limits::BLOB_STALL_MS);
        let mut client = self.client(node)?;
        let request = BlobStatRequest { digest: digest.to_string() };
        let stat =
            tokio::time::timeout(stall, client.stat(request)).await.map_err(|_| stalled())?;
        if !stat.map_err(upload)?.into_inner().present {
            return Ok(None);
        }
        let store = self.store.clone();
        let mut writer = blocking(move || store.writer(&digest)).await?;
        let offset = writer.offset();
        let request = BlobFetchRequest { digest: digest.to_string(), offset, length: 0 };
        let reply =
            tokio::time::timeout(stall, client.fetch(request)).await.map_err(|_| stalled())?;
        let mut chunks = reply.map_err(upload)?.into_inner();
        let (sender, mut receiver) = mpsc::channel::<(u64, Bytes)>(CHUNKS_AHEAD);
        let written = tokio::task::spawn_blocking(move || -> Result<Writer, StorageError> {
            while let Some((offset, data)) = receiver.blocking_recv() {
                if offset != writer.offset() {
                    return Err(StorageError::Invalid {
                        reason: format!("a chunk at {offset} is out of place"),
                    });
                }
                writer.write(&data)?;
            }
            Ok(writer)
        });
        let streamed = loop {
            match tokio::time::timeout(stall, chunks.message()).await {
                Err(_) => break Err(stalled()),
                Ok(Err(status)) => break Err(upload(status)),
                Ok(Ok(None)) => break Ok(()),
                Ok(Ok(Some(chunk))) => {
                    if sender.send((chunk.offset, chunk.data)).await.is_err() {
                        break Ok(());
                    }
                }
            }
        };
        drop(sender);
        let writer =
            written.await.map_err(io::Error::other)?.map_err(|error| failed(digest, error))?;
        streamed?;
        commit(digest, writer).await.map(Some)
    }

    fn client(&self, node: &NodeRecord) -> Result<BlobsClient<Channel>, BlobError> {
        let channel = self.peers.channel(node.id, &node.raft, Lane::Bulk).map_err(upload)?;
        Ok(BlobsClient::new(channel).max_decoding_message_size(limits::RPC_MESSAGE_BYTES))
    }

    async fn receive(
        &self,
        digest: Digest,
        mut body: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<bool, BlobError> {
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        if self.stat(digest).is_some() {
            return Ok(false);
        }
        let store = self.store.clone();
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let written = tokio::task::spawn_blocking(move || -> Result<Writer, StorageError> {
            let mut writer = store.writer(&digest)?;
            // A client sends from the first byte, whatever an earlier attempt left.
            writer.restart()?;
            while let Some(data) = receiver.blocking_recv() {
                writer.write(&data)?;
            }
            Ok(writer)
        });
        let mut bytes = 0u64;
        let streamed = loop {
            match body.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(BlobError::Upload(error.to_string())),
                Some(Ok(data)) => {
                    bytes += data.len() as u64;
                    if bytes > limits::BLOB_BYTES {
                        break Err(BlobError::TooLarge { limit: limits::BLOB_BYTES });
                    }
                    // The disk's side ended early: its error is the one to tell.
                    if sender.send(data).await.is_err() {
                        break Ok(());
                    }
                }
            }
        };
        drop(sender);
        let writer =
            written.await.map_err(io::Error::other)?.map_err(|error| failed(digest, error))?;
        streamed?;
        commit(digest, writer).await.map(|_| true)
    }
}

/// The blobs that models in the state refer to, or did and may again.
fn wanted(published: &Published) -> BTreeSet<Digest> {
    let state = published.state();
    let now = state.models.values().map(|model| model.version.blob);
    now.chain(state.versions.values().map(|kept| kept.version.blob)).collect()
}

/// Removes a blob that nothing names and nobody is about to name. Whoever is holds it until that is in the state of this node, so
/// that a look at the holds and then at the state misses nobody.
fn remove_unwanted(
    store: &BlobStore,
    held: &Held,
    published: &Published,
    digest: Digest,
) -> Result<bool, StorageError> {
    let held = held.lock().unwrap_or_else(PoisonError::into_inner);
    if held.contains_key(&digest) || wanted(published).contains(&digest) {
        return Ok(false);
    }
    store.remove(&digest)
}

impl Blobs for NodeBlobs {
    fn stat(&self, digest: Digest) -> Option<u64> {
        self.store.stat(&digest).unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "cannot look a blob up");
            None
        })
    }

    fn put(
        &self,
        digest: Digest,
        body: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        self.receive(digest, body).boxed()
    }

    fn make(&self, write: Maker) -> BoxFuture<'_, Result<(Digest, u64), BlobError>> {
        let store = self.store.clone();
        async move { Ok(blocking(move || store.make(write)).await?) }.boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<PathBuf, BlobError>> {
        async move {
            match self.stat(digest) {
                Some(_) => Ok(self.store.path(&digest)),
                None => self.fetch(digest).await,
            }
        }
        .boxed()
    }

    fn hold(&self, digest: Digest) -> Hold {
        let held = Arc::clone(&self.held);
        *held.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default() += 1;
        Hold::new(move || {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = held.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&digest);
                }
            }
        })
    }

    fn incoming(&self) -> PathBuf {
        self.store.incoming()
    }

    fn adopt(&self, file: PathBuf, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        let store = self.store.clone();
        async move { Ok(blocking(move || store.adopt(&file, &digest)).await?) }.boxed()
    }
}

async fn commit(digest: Digest, writer: Writer) -> Result<PathBuf, BlobError> {
    let committed = tokio::task::spawn_blocking(move || writer.commit()).await;
    committed.map_err(io::Error::other)?.map_err(|error| failed(digest, error))
}

fn stalled() -> BlobError {
    BlobError::Upload("the peer stopped sending".to_owned())
}

fn upload(status: tonic::Status) -> BlobError {
    BlobError::Upload(status.message().to_owned())
}

fn failed(digest: Digest, error: StorageError) -> BlobError {
    match error {
        StorageError::DigestMismatch { found, .. } => match found.parse() {
            Ok(got) => BlobError::Mismatch { expected: digest, got },
            Err(_) => BlobError::NotFound(digest),
        },
        StorageError::InUse { .. } => {
            BlobError::Upload("it is being uploaded by somebody else".to_owned())
        }
        error => BlobError::Io(error.into()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, io::Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
}
