//! Start, changes of assignment, failures and the end of a worker.

use crate::support::{
    FakeNode, Knobs, assignment, collect, enrol, expected_tokens, generate, request, start,
    start_in, until,
};
use ollamamax_worker::agent::Dismissed;
use ollamamax_worker::credentials::CredentialError;
use ollamamax_worker::{Ended, StartError, WorkerConfig, WorkerNode};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_registers_with_its_device_and_again_when_it_is_not_known() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let worker = start(&[&node], &knobs).await;
    until("registered", || node.registrations() == 1).await;
    until("heard", || node.heartbeats() > 2).await;
    let first = node.script.registered.lock().expect("a lock")[0].clone();
    assert_eq!(first.worker, worker.running.worker().to_string());
    assert_eq!(first.address, worker.running.address().to_string());
    let device = first.device.expect("a device");
    assert_eq!((device.kind.as_str(), device.memory_bytes), ("cpu", 1 << 30));
    node.script.unknown.store(true, SeqCst);
    until("registered again", || node.registrations() == 2).await;
    let second = node.script.registered.lock().expect("a lock")[1].clone();
    assert_eq!((second.worker, second.incarnation), (first.worker, first.incarnation));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_life_of_the_same_worker_ends_this_one() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let mut worker = start(&[&node], &knobs).await;
    until("registered", || node.registrations() == 1).await;
    node.script.fenced.store(true, SeqCst);
    let ended = tokio::time::timeout(Duration::from_secs(5), worker.running.ended()).await;
    assert!(matches!(ended, Ok(Ended::Dismissed(Dismissed::Fenced))), "{ended:?}");
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_replaces_the_old_one_whose_streams_finish() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    knobs.step_ms.store(1, SeqCst);
    node.put_blob(b"one");
    node.put_blob(b"two");
    let (old, new) = (assignment(1, 1, b"one"), assignment(1, 2, b"two"));
    node.assign(5, std::slice::from_ref(&old));
    let worker = start(&[&node], &knobs).await;
    until("ready", || node.phase(&old).as_deref() == Some("ready")).await;
    let mut client = worker.client().await;
    let stream = client.generate(request(&old, &[1], 200)).await.expect("accepted").into_inner();
    node.assign(6, std::slice::from_ref(&new));
    let answer = collect(stream).await.expect("the running stream finishes");
    assert_eq!(answer.tokens, expected_tokens(&[1], 200));
    until("the new generation is ready", || node.phase(&new).as_deref() == Some("ready")).await;
    let status = generate(&mut client, request(&old, &[1], 2)).await.expect_err("stale");
    assert_eq!(status.code(), Code::FailedPrecondition);
    generate(&mut client, request(&new, &[1], 2)).await.expect("an answer");

    // A node that lags behind shows the old set: nothing happens. A newer empty one unloads.
    node.assign(5, &[old]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(node.phase(&new).as_deref(), Some("ready"));
    node.assign(7, &[]);
    until("unloaded", || node.report(new.id).is_none()).await;
    let status = generate(&mut client, request(&new, &[1], 2)).await.expect_err("gone");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_loaded_is_reported_with_the_reason() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    for blob in [&b"unloadable"[..], b"poison", b"good"] {
        node.put_blob(blob);
    }
    let bad = assignment(1, 1, b"unloadable");
    let poison = assignment(2, 1, b"poison");
    let good = assignment(3, 1, b"good");
    node.assign(2, &[bad.clone(), poison.clone(), good.clone()]);
    let worker = start(&[&node], &knobs).await;
    for (failed, words) in [(&bad, "no model"), (&poison, "the blob is poison")] {
        until("failed", || node.phase(failed).as_deref() == Some("failed")).await;
        let detail = node.report(failed.id).expect("a report").detail;
        assert!(detail.contains(words), "{detail}");
    }
    until("ready", || node.phase(&good).as_deref() == Some("ready")).await;
    let mut client = worker.client().await;
    generate(&mut client, request(&good, &[1], 2)).await.expect("an answer");
    let status = generate(&mut client, request(&bad, &[1], 2)).await.expect_err("not there");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_fails_or_panics_breaks_its_streams_and_is_reported() {
    for panics in [false, true] {
        let (node, knobs) = (FakeNode::start(), Knobs::default());
        knobs.step_ms.store(1, SeqCst);
        node.put_blob(b"one");
        let held = assignment(1, 1, b"one");
        node.assign(2, std::slice::from_ref(&held));
        let worker = start(&[&node], &knobs).await;
        until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
        let mut client = worker.client().await;
        let mut stream =
            client.generate(request(&held, &[1], 100_000)).await.expect("accepted").into_inner();
        stream.message().await.expect("no error").expect("a chunk");
        if panics { &knobs.panic } else { &knobs.fail }.store(true, SeqCst);
        let status = loop {
            match stream.message().await {
                Ok(chunk) => assert!(chunk.is_some(), "a broken stream must not look complete"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "so that it is resumed elsewhere");
        until("failed", || node.phase(&held).as_deref() == Some("failed")).await;
        let detail = node.report(held.id).expect("a report").detail;
        assert!(detail.contains(if panics { "told to panic" } else { "told to fail" }), "{detail}");
        let status = generate(&mut client, request(&held, &[1], 2)).await.expect_err("failed");
        assert_eq!(status.code(), Code::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_control_plane_it_goes_on_serving() {
    let (mut node, knobs) = (FakeNode::start(), Knobs::default());
    knobs.step_ms.store(1, SeqCst);
    node.put_blob(b"one");
    let held = assignment(1, 1, b"one");
    node.assign(2, std::slice::from_ref(&held));
    let worker = start(&[&node], &knobs).await;
    until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
    let mut client = worker.client().await;
    let stream = client.generate(request(&held, &[1], 300)).await.expect("accepted").into_inner();
    node.die();
    assert_eq!(collect(stream).await.expect("an answer").tokens.len(), 300);
    tokio::time::sleep(Duration::from_millis(500)).await;
    generate(&mut client, request(&held, &[1], 5)).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_or_hangs_is_left_for_another_within_two_seconds() {
    for hangs in [false, true] {
        let (mut first, second, knobs) = (FakeNode::start(), FakeNode::start(), Knobs::default());
        first.script.others.lock().expect("a lock").push(second.address.clone());
        second.put_blob(b"one");
        let held = assignment(1, 1, b"one");
        // The second node is not configured: its address is learned.
        let worker = start(&[&first], &knobs).await;
        until("heard", || first.heartbeats() > 0).await;
        until("watched", || first.script.watchers.load(SeqCst) > 0).await;
        assert_eq!(second.heartbeats(), 0);
        let begun = Instant::now();
        if hangs {
            first.script.silent.store(true, SeqCst);
        } else {
            first.die();
        }
        until("the other node hears", || second.heartbeats() > 0).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        second.assign(3, std::slice::from_ref(&held));
        until("it follows the other node", || second.phase(&held).as_deref() == Some("ready"))
            .await;
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    knobs.step_ms.store(1, SeqCst);
    node.put_blob(b"one");
    let held = assignment(1, 1, b"one");
    node.assign(2, std::slice::from_ref(&held));
    let worker = start(&[&node], &knobs).await;
    until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
    let address = worker.running.address();
    let mut client = worker.client().await;
    let stream = client.generate(request(&held, &[1], 400)).await.expect("accepted").into_inner();
    let stopping = tokio::spawn(worker.running.stop());
    until("the node hears of it", || {
        node.script.heartbeats.lock().expect("a lock").iter().any(|beat| beat.draining)
    })
    .await;
    let status = client.generate(request(&held, &[1], 2)).await.expect_err("draining");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(collect(stream).await.expect("an answer").tokens.len(), 400);
    stopping.await.expect("it stops");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_at_its_deadline() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    knobs.held.store(true, SeqCst);
    node.put_blob(b"one");
    let held = assignment(1, 1, b"one");
    node.assign(2, std::slice::from_ref(&held));
    let dir = tempfile::tempdir().expect("a directory");
    let worker = start_in(dir, &[&node], &knobs, |config| config.drain_ms = 300).await;
    until("ready", || node.phase(&held).as_deref() == Some("ready")).await;
    let mut client = worker.client().await;
    let stream = client.generate(request(&held, &[1], 2)).await.expect("accepted").into_inner();
    let begun = Instant::now();
    let collected = tokio::spawn(collect(stream));
    worker.running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let status = collected.await.expect("no panic").expect_err("it was broken off");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_it_from_starting_is_said_plainly() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let worker = start(&[&node], &knobs).await;
    let taken = worker.running.address();
    let other = tempfile::tempdir().expect("a directory");
    let nodes = vec![node.address.clone()];
    let error = WorkerNode::start(WorkerConfig::new(other.path(), taken, nodes.clone())).await;
    let error = error.expect_err("the port is taken");
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    let free = "127.0.0.1:0".parse().expect("an address");
    let error = WorkerNode::start(WorkerConfig::new(worker.dir.path(), free, nodes)).await;
    let error = error.expect_err("the directory is taken");
    assert!(error.to_string().contains("another worker process"), "{error}");
    let error = WorkerNode::start(WorkerConfig::new(other.path(), free, vec![])).await;
    let error = error.expect_err("nobody has let it in");
    assert!(matches!(error, StartError::Credentials(CredentialError::NoIdentity { .. })));
    assert!(error.to_string().contains("join-token create"), "{error}");
    std::fs::remove_file(other.path().join("worker.json")).expect("removed");
    enrol(other.path());
    let error = WorkerNode::start(WorkerConfig::new(other.path(), free, vec![])).await;
    assert!(matches!(error, Err(StartError::NoControlPlane)));
}
