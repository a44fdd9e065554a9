//! One port for gRPC and for stages: the first bytes of a connection tell which of both it is.

use super::links::{Links, PREFACE};
use ollamamax_proto::limits;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// gRPC connections, as the server takes them.
pub type Accepted = ReceiverStream<io::Result<TcpStream>>;

/// Accepts until what it returns is dropped; connections between stages go to `links`.
pub fn accept(listener: TcpListener, links: Arc<Links>) -> Accepted {
    let (sender, connections) = mpsc::channel(16);
    let pending = Arc::new(Semaphore::new(limits::CONNECTION_PREFACES_COUNT));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&pending).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Mostly a lack of descriptors, which passes.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(limits::WORKER_RETRY_FIRST_MS)).await;
                    continue;
                }
            };
            let (sender, links) = (sender.clone(), Arc::clone(&links));
            tokio::spawn(async move {
                let wait = Duration::from_millis(limits::CONNECTION_PREFACE_MS);
                let Ok(Ok(stage)) = tokio::time::timeout(wait, is_stage(&stream)).await else {
                    return;
                };
                drop(permit);
                if !stage {
                    // Without TCP_NODELAY a token can wait 40 ms for an acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let _ = sender.send(Ok(stream)).await;
                    return;
                }
                let Ok(stream) = stream.into_std() else { return };
                let greeted = tokio::task::spawn_blocking(move || links.greet(stream));
                if let Ok(Err(error)) = greeted.await {
                    tracing::warn!(%error, "a stage was not let in");
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Whether the connection begins as those between stages do.
async fn is_stage(stream: &TcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut begin).await?;
        if begin[..seen] != PREFACE[..seen] || seen == 0 {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        // Bytes that were only looked at keep the connection readable: there is nothing to wait for but time.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
