//! Blobs for those who do not read them: what they hold is theirs, and nothing of anybody else's.

use crate::support::{Cluster, PATIENCE, eventually};
use ollamamax_core::Command;
use ollamamax_proto::wire::BlobFetchRequest;
use ollamamax_proto::wire::blobs_client::BlobsClient;
use ollamamax_proto::{Digest, limits};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

/// As many as fit on a connection, each with its first chunk.
async fn open(channel: &Channel, digest: Digest, count: usize) -> Vec<impl Sized + use<>> {
    let mut held = Vec::new();
    for _ in 0..count {
        let ask = BlobFetchRequest { digest: digest.to_string(), offset: 0, length: 0 };
        let fetched = BlobsClient::new(channel.clone()).fetch(ask).await.expect("a place");
        held.push(fetched.into_inner());
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_of_what_it_fetches_holds_up_nobody_else() {
    let cluster = Cluster::start(1).await;
    let bytes = vec![7; 40 * limits::TRANSFER_CHUNK_BYTES];
    let digest = Digest::of(&bytes);
    let body = Box::pin(tokio_stream::iter([Ok(bytes::Bytes::from(bytes.clone()))]));
    cluster.nodes[&1].blobs().put(digest, body).await.expect("kept");
    let (greedy, other) = (cluster.enrol(7).await, cluster.enrol(8).await);
    let known = || cluster.control(1).state().access.enrolments.len() == 2;
    eventually("both are known", known).await;
    let most = limits::BLOB_FETCHES_PER_MEMBER_COUNT;
    let channels: Vec<Channel> = (0..2).map(|_| cluster.channel(&greedy, 1)).collect();
    let mut held = open(&channels[0], digest, most / 2).await;
    held.extend(open(&channels[1], digest, most - most / 2).await);
    let ask = || BlobFetchRequest { digest: digest.to_string(), offset: 0, length: 0 };
    let refused = BlobsClient::new(channels[0].clone()).fetch(ask()).await;
    let refused = refused.expect_err("it has all its places");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // Others read, and the node works.
    let whole = async {
        let fetched = BlobsClient::new(cluster.channel(&other, 1)).fetch(ask()).await;
        let (mut stream, mut read) = (fetched.expect("a place").into_inner(), 0);
        while let Some(chunk) = stream.message().await.expect("bytes") {
            read += chunk.data.len();
        }
        read
    };
    assert_eq!(timeout(PATIENCE, whole).await.expect("it is served"), bytes.len());
    let put = Command::PutCheckpoint { name: "a".to_owned(), value: vec![1], expected: None };
    cluster.control(1).propose(put).await.expect("accepted");
    // Whoever goes gives its places back.
    drop(held);
    let again = async || BlobsClient::new(channels[0].clone()).fetch(ask()).await.is_ok();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !again().await {
        assert!(std::time::Instant::now() < deadline, "places stay taken");
    }
}
