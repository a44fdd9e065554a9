//! Blobs by range, for workers and other nodes.

use super::members::known;
use crate::blobs::NodeBlobs;
use futures_util::stream::BoxStream;
use ollamamax_gateway::ports::Blobs as _;
use ollamamax_proto::wire::blobs_server::Blobs;
use ollamamax_proto::wire::{BlobChunk, BlobFetchRequest, BlobStatReply, BlobStatRequest};
use ollamamax_proto::{Digest, limits};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
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
}

impl BlobServer {
    /// Serves `blobs`, reading on `runtime`.
    pub fn new(blobs: Arc<NodeBlobs>, runtime: Handle) -> Self {
        Self { blobs, runtime }
    }
}

fn parse(digest: &str) -> Result<Digest, Status> {
    digest
        .parse()
        .map_err(|error: ollamamax_proto::InvalidId| Status::invalid_argument(error.to_string()))
}

type Chunks = mpsc::Sender<Result<BlobChunk, Status>>;

/// Sends `[offset, end)` of the file.
fn read(file: &File, mut offset: u64, end: u64, chunks: &Chunks) {
    while offset < end {
        let length = (end - offset).min(limits::TRANSFER_CHUNK_BYTES as u64);
        let mut data = vec![0; usize::try_from(length).unwrap_or(limits::TRANSFER_CHUNK_BYTES)];
        let chunk = match file.read_exact_at(&mut data, offset) {
            Ok(()) => Ok(BlobChunk { offset, data: data.into() }),
            Err(error) => {
                Err(Status::data_loss(format!("cannot read the blob at {offset}: {error}")))
            }
        };
        let failed = chunk.is_err();
        if chunks.blocking_send(chunk).is_err() || failed {
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
        self.runtime.spawn_blocking(move || match File::open(&path) {
            Ok(file) => read(&file, request.offset, end, &sender),
            Err(error) => {
                let _ = sender.blocking_send(Err(Status::not_found(format!(
                    "cannot open the blob: {error}"
                ))));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
