//! Which blobs a node keeps, and which go.

use crate::support::{Cluster, checkpoint, eventually, model};
use ollamamax_core::Command;
use ollamamax_proto::Digest;

#[tokio::test(flavor = "multi_thread")]
async fn no_blob_goes_that_somebody_is_about_to_name() {
    let cluster = Cluster::start_with(1, |config| config.timings.blob_grace_ms = 0).await;
    let (blobs, control) = (cluster.nodes[&1].blobs(), cluster.control(1));
    let bytes = bytes::Bytes::from_static(b"some model");
    let digest = Digest::of(&bytes);
    let hold = blobs.hold(digest);
    let put = async || {
        let body = Box::pin(tokio_stream::iter([Ok(bytes.clone())]));
        blobs.put(digest, body).await.expect("kept")
    };
    put().await;
    let left = cluster.data_dir(1).join("blobs").join("incoming");
    std::fs::create_dir_all(&left).expect("made");
    let orphan = left.join("0000.part");
    // Each change wakes the sweep; when what was left behind has gone, it has been by.
    let sweep = async |nth: u8| {
        std::fs::write(&orphan, b"left behind").expect("written");
        control.propose(checkpoint("a", &nth.to_string())).await.expect("accepted");
        eventually("a sweep", || !orphan.exists()).await;
    };
    for nth in 0..3 {
        sweep(nth).await;
        assert_eq!(blobs.stat(digest), Some(10), "it is held");
    }
    control.propose(model("m", &bytes)).await.expect("named");
    drop(hold);
    for nth in 3..6 {
        sweep(nth).await;
        assert_eq!(blobs.stat(digest), Some(10), "it is named");
    }
    let delete = Command::DeleteModel { name: "m".parse().expect("a name") };
    control.propose(delete).await.expect("accepted");
    eventually("it goes", || blobs.stat(digest).is_none()).await;
}
