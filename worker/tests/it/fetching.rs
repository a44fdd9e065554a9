//! Blobs come complete and right, whatever the nodes do.

use crate::support::node::Serving;
use crate::support::{FakeNode, Knobs, assignment, start, start_in, until};
use ollamamax_proto::Digest;
use std::path::{Path, PathBuf};

fn blob() -> Vec<u8> {
    (0..50_000u32).map(|i| (i % 251) as u8).collect()
}

fn path_of(dir: &Path, digest: Digest) -> PathBuf {
    dir.join("blobs").join(format!("sha256-{}", digest.hex()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_blob_is_continued_where_it_ended() {
    let (node, knobs, blob) = (FakeNode::start(), Knobs::default(), blob());
    let digest = node.put_blob(&blob);
    let dir = tempfile::tempdir().expect("a directory");
    let path = path_of(dir.path(), digest);
    std::fs::create_dir_all(dir.path().join("blobs")).expect("created");
    std::fs::write(path.with_extension("partial"), &blob[..20_000]).expect("written");
    let wanted = assignment(1, 1, &blob);
    node.assign(2, std::slice::from_ref(&wanted));
    let worker = start_in(dir, &[&node], &knobs, |_| {}).await;
    until("ready", || node.phase(&wanted).as_deref() == Some("ready")).await;
    assert_eq!(*node.script.fetched_from.lock().expect("a lock"), [20_000]);
    assert_eq!(std::fs::read(&path).expect("complete"), blob);
    assert!(!path.with_extension("partial").exists());
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_breaks_off_goes_on_at_another_node() {
    let (breaking, good, knobs, blob) =
        (FakeNode::start(), FakeNode::start(), Knobs::default(), blob());
    breaking.put_blob(&blob);
    let digest = good.put_blob(&blob);
    breaking.serve(Serving::BreaksAfter(30_000));
    let wanted = assignment(1, 1, &blob);
    breaking.assign(2, std::slice::from_ref(&wanted));
    let worker = start(&[&breaking, &good], &knobs).await;
    until("ready", || breaking.phase(&wanted).as_deref() == Some("ready")).await;
    assert_eq!(*breaking.script.fetched_from.lock().expect("a lock"), [0]);
    assert_eq!(*good.script.fetched_from.lock().expect("a lock"), [30_000]);
    assert_eq!(std::fs::read(path_of(worker.dir.path(), digest)).expect("complete"), blob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_thrown_away_and_fetched_from_another_node() {
    for serving in [Serving::WrongBytes, Serving::LyingSize] {
        let (lying, good, knobs, blob) =
            (FakeNode::start(), FakeNode::start(), Knobs::default(), blob());
        lying.put_blob(&blob);
        let digest = good.put_blob(&blob);
        lying.serve(serving);
        let wanted = assignment(1, 1, &blob);
        lying.assign(2, std::slice::from_ref(&wanted));
        let worker = start(&[&lying, &good], &knobs).await;
        until("ready", || lying.phase(&wanted).as_deref() == Some("ready")).await;
        assert_eq!(*good.script.fetched_from.lock().expect("a lock"), [0], "{serving:?}");
        assert_eq!(std::fs::read(path_of(worker.dir.path(), digest)).expect("complete"), blob);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_partial_costs_one_round_and_no_more() {
    let (node, knobs, blob) = (FakeNode::start(), Knobs::default(), blob());
    let digest = node.put_blob(&blob);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(dir.path().join("blobs")).expect("created");
    let path = path_of(dir.path(), digest);
    std::fs::write(path.with_extension("partial"), vec![9; 10_000]).expect("written");
    let wanted = assignment(1, 1, &blob);
    node.assign(2, std::slice::from_ref(&wanted));
    let _worker = start_in(dir, &[&node], &knobs, |_| {}).await;
    until("ready", || node.phase(&wanted).as_deref() == Some("ready")).await;
    assert_eq!(*node.script.fetched_from.lock().expect("a lock"), [10_000, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_beside_the_worker_is_not_fetched_and_one_held_is_kept_over_a_restart() {
    let (node, knobs, blob) = (FakeNode::start(), Knobs::default(), blob());
    let hints = tempfile::tempdir().expect("a directory");
    let name = format!("sha256-{}", Digest::of(&blob).hex());
    std::fs::write(hints.path().join(&name), &blob).expect("written");
    let wanted = assignment(1, 1, &blob);
    node.assign(2, std::slice::from_ref(&wanted));
    let dir = tempfile::tempdir().expect("a directory");
    let hint = hints.path().to_owned();
    let worker = start_in(dir, &[&node], &knobs, |config| config.blob_hints = vec![hint]).await;
    until("ready", || node.phase(&wanted).as_deref() == Some("ready")).await;
    let id = worker.running.worker();
    let incarnation = worker.running.incarnation();
    worker.running.stop().await;
    drop(hints);
    node.script.heartbeats.lock().expect("a lock").clear();
    let again = start_in(worker.dir, &[&node], &knobs, |_| {}).await;
    until("ready again", || node.phase(&wanted).as_deref() == Some("ready")).await;
    assert_eq!(again.running.worker(), id);
    assert!(again.running.incarnation() > incarnation);
    assert!(node.script.fetched_from.lock().expect("a lock").is_empty());
}
