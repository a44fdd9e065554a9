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

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_lost_or_rots_on_one_node_comes_back_from_another() {
    let cluster = Cluster::start_with(3, |config| config.timings.blob_scrub_ms = 100).await;
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    let bytes = bytes::Bytes::from(vec![7; 3 << 20]);
    let digest = Digest::of(&bytes);
    let body = Box::pin(tokio_stream::iter([Ok(bytes.clone())]));
    cluster.nodes[&ids[0]].blobs().put(digest, body).await.expect("kept");
    cluster.control(ids[0]).propose(model("m", &bytes)).await.expect("named");
    let path = |id: u64| cluster.data_dir(id).join("blobs").join(digest.hex());
    let sound = |id: u64| std::fs::read(path(id)).is_ok_and(|read| read == bytes);
    eventually("all have it", || ids.iter().all(|id| sound(*id))).await;

    std::fs::remove_file(path(ids[1])).expect("lost");
    cluster.control(ids[0]).propose(checkpoint("a", "wakes")).await.expect("accepted");
    eventually("what was lost comes back", || sound(ids[1])).await;

    let mut rotten = bytes.to_vec();
    rotten[2 << 20] ^= 1;
    std::fs::write(path(ids[2]), rotten).expect("rots");
    assert!(!sound(ids[2]));
    eventually("what has rotted comes back", || sound(ids[2])).await;
    assert!(sound(ids[0]) && sound(ids[1]));
}
