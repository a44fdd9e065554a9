//! Blobs by range, for workers and other nodes. Who does not read what it asked for holds no thread, so many places of its own, and
//! those not for long.

use super::members::known;
use crate::blobs::NodeBlobs;
use futures_util::stream::BoxStream;
use ollamamax_gateway::ports::Blobs as _;
use ollamamax_proto::wire::blobs_server::Blobs;
use ollamamax_proto::wire::{BlobChunk, BlobFetchRequest, BlobStatReply, BlobStatRequest};
use ollamamax_proto::{Digest, limits};
use ollamamax_tls::{Peer, Role};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Chunks read before the wire takes them.
const CHUNKS_AHEAD: usize = 4;

/// The service of one node.
pub struct BlobServer {
    blobs: Arc<NodeBlobs>,
    /// Files are read outside the runtime that carries Raft.
    runtime: Handle,
    places: Arc<Places>,
}

/// How many fetches of each member are under way.
#[derive(Default)]
struct Places(Mutex<HashMap<Role, usize>>);

impl Places {
    fn take(self: &Arc<Self>, role: Role) -> Result<Place, Status> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(role).or_default();
        let most = limits::BLOB_FETCHES_PER_MEMBER_COUNT;
        if *count >= most {
            let text = format!("{role} fetches {most} blobs already; read those first");
            return Err(Status::resource_exhausted(text));
        }
        *count += 1;
        Ok(Place { of: Arc::clone(self), role })
    }
}

struct Place {
    of: Arc<Places>,
    role: Role,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.role) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.role);
            }
        }
    }
}

impl BlobServer {
    /// Serves `blobs`, reading on `runtime`.
    pub fn new(blobs: Arc<NodeBlobs>, runtime: Handle) -> Self {
        Self { blobs, runtime, places: Arc::default() }
    }
}

fn parse(digest: &str) -> Result<Digest, Status> {
    digest
        .parse()
        .map_err(|error: ollamamax_proto::InvalidId| Status::invalid_argument(error.to_string()))
}

type Chunks = mpsc::Sender<Result<BlobChunk, Status>>;

/// Sends `[offset, end)` of a file, until whoever asked has gone or reads no more.
async fn send(path: PathBuf, mut offset: u64, end: u64, chunks: Chunks) {
    let mut file: Option<Arc<File>> = None;
    while offset < end {
        let length = (end - offset).min(limits::TRANSFER_CHUNK_BYTES as u64);
        let (opened, path) = (file.clone(), path.clone());
        let read = tokio::task::spawn_blocking(move || -> io::Result<(Arc<File>, Vec<u8>)> {
            let file = opened.map_or_else(|| File::open(&path).map(Arc::new), Ok)?;
            let bytes = usize::try_from(length).unwrap_or(limits::TRANSFER_CHUNK_BYTES);
            let mut data = vec![0; bytes];
            file.read_exact_at(&mut data, offset)?;
            Ok((file, data))
        });
        let chunk = match read.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok((opened, data)) => {
                file = Some(opened);
                Ok(BlobChunk { offset, data: data.into() })
            }
            Err(error) => {
                Err(Status::data_loss(format!("cannot read the blob at {offset}: {error}")))
            }
        };
        let failed = chunk.is_err();
        let patience = Duration::from_millis(limits::BLOB_UNREAD_MS);
        if chunks.send_timeout(chunk, patience).await.is_err() || failed {
            return;
        }
        offset += length;
    }
}

#[tonic::async_trait]
impl Blobs for BlobServer {
    async fn stat(
        &self,
        request: Request<BlobStatRequest>,
    ) -> Result<Response<BlobStatReply>, Status> {
        known(&request, self.blobs.published())?;
        let bytes = self.blobs.stat(parse(&request.get_ref().digest)?);
        Ok(Response::new(BlobStatReply { present: bytes.is_some(), bytes: bytes.unwrap_or(0) }))
    }

    type FetchStream = BoxStream<'static, Result<BlobChunk, Status>>;

    async fn fetch(
        &self,
        request: Request<BlobFetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        known(&request, self.blobs.published())?;
        let peer = request.extensions().get::<Peer>().map(|peer| peer.role);
        let peer = peer.ok_or_else(|| Status::unauthenticated("blobs are for members"))?;
        let place = self.places.take(peer)?;
        let request = request.into_inner();
        let digest = parse(&request.digest)?;
        let bytes = self
            .blobs
            .stat(digest)
            .ok_or_else(|| Status::not_found(format!("blob \"{digest}\" is not on this node")))?;
        if request.offset > bytes {
            let text =
                format!("the blob has {bytes} bytes, offset {} lies behind them", request.offset);
            return Err(Status::out_of_range(text));
        }
        let end = match request.length {
            0 => bytes,
            length => bytes.min(request.offset.saturating_add(length)),
        };
        let path = self.blobs.files().path(&digest);
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        self.runtime.spawn(async move {
            send(path, request.offset, end, sender).await;
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
