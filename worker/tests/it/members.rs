//! Who belongs to the cluster, as a worker sees it: nodes that were removed, its own removal, renewed certificates, strangers at
//! its port.

use crate::support::node::FakeNode;
use crate::support::{CLUSTER, Knobs, assignment, request, start, start_in, until};
use ollamamax_proto::wire::Membership;
use ollamamax_proto::wire::inference_client::InferenceClient;
use ollamamax_proto::{NodeId, limits};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Credential, Expect, Identity, JoinToken, Kind, Protocol, Tls, says_removed};
use ollamamax_worker::agent::Dismissed;
use ollamamax_worker::{Ended, WorkerConfig};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tonic::Code;
use tonic::transport::Endpoint;

fn membership(nodes: &[u64], trust: &[u8]) -> Option<Membership> {
    let last_node = nodes.iter().copied().max().unwrap_or(0).max(3);
    Some(Membership { nodes: nodes.to_vec(), last_node, trust: trust.to_vec().into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_nodes_of_the_cluster_get_an_answer_at_the_port_of_a_worker() {
    let (node, knobs) = (FakeNode::start_as(1), Knobs::default());
    *node.script.membership.lock().expect("a lock") = membership(&[1, 3], b"");
    let worker = start(&[&node], &knobs).await;
    until("it has heard of the members", || node.heartbeats() > 2).await;
    let url = format!("http://{}", worker.running.address());
    let endpoint = Endpoint::from_shared(url).expect("a url");
    let expect = Expect::Worker(worker.running.worker());
    let asked = request(&assignment(1, 1, b"blob"), &[1], 1);
    let ask = async |tls: &Tls| {
        let mut client = InferenceClient::new(tls.channel(&endpoint, expect));
        client.generate(asked.clone()).await.expect_err("there is no such assignment")
    };
    assert_eq!(ask(&CLUSTER.node(3)).await.code(), Code::NotFound, "a member is answered");
    assert_eq!(ask(&CLUSTER.node(4)).await.code(), Code::NotFound, "so is one that is new");
    let removed = ask(&CLUSTER.node(2)).await;
    assert!(says_removed(&removed), "{removed}");
    let other = ask(&CLUSTER.worker(900)).await;
    assert_eq!(other.code(), Code::PermissionDenied, "{other}");
    let stranger = ask(&TestCluster::new("test").node(3)).await;
    assert!(!matches!(stranger.code(), Code::NotFound), "{stranger}");
    let mut plain = InferenceClient::new(endpoint.connect_lazy());
    plain.generate(asked.clone()).await.expect_err("there is no answer without TLS");
    // It does not call one either.
    let gone = FakeNode::start_as(2);
    *node.script.others.lock().expect("a lock") = vec![gone.address.clone()];
    let tls = CLUSTER.node(2);
    assert_eq!(tls.identity().role(), ollamamax_tls::Role::Node(NodeId(2)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gone.heartbeats(), 0);
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_comes_only_from_a_worker_of_the_same_replica() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let worker = start(&[&node], &knobs).await;
    let address = worker.running.address().to_string();
    let expect = Expect::Worker(worker.running.worker());
    for tls in [CLUSTER.worker(901), CLUSTER.node(1)] {
        let stream = tls.dial(&address, expect, Protocol::Stage).await.expect("it greets");
        let mut stream = stream.into_blocking().expect("blocking");
        let told = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let wait = Some(Duration::from_secs(10));
            stream.tcp().set_read_timeout(wait).expect("set");
            // No greeting at all, which is what a stranger's is worth.
            let _ = stream.write_all(&[0; 4]).and_then(|()| stream.flush());
            stream.read(&mut [0; 64])
        });
        let told = told.await.expect("no panic");
        assert!(told.is_err() || told.is_ok_and(|read| read == 0), "a stranger was answered");
    }
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_worker_ends_with_what_to_do_and_forgets_its_certificate() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let mut worker = start(&[&node], &knobs).await;
    until("it beats", || node.heartbeats() > 0).await;
    node.script.removed.store(true, SeqCst);
    let ended = tokio::time::timeout(Duration::from_secs(10), worker.running.ended());
    let ended = ended.await.expect("it ends");
    assert!(matches!(ended, Ended::Dismissed(Dismissed::Removed)), "{ended:?}");
    assert!(ended.to_string().contains("join-token create"), "{ended}");
    let identity = Identity::load(&worker.dir.path().join("identity")).expect("readable");
    assert!(identity.is_none(), "it would be refused again");
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_in_time_and_when_the_nodes_trust_another_authority() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let dir = tempfile::tempdir().expect("a directory");
    let role = ollamamax_tls::Role::Worker(ollamamax_proto::WorkerId(902));
    // Two thirds of its day are over.
    let past = ollamamax_proto::Millis::now().0 - limits::TLS_LIFETIME_MS * 3 / 4;
    let old = CLUSTER.identity_at(role, ollamamax_proto::Millis(past));
    old.save(&dir.path().join("identity")).expect("saved");
    let worker = start_in(dir, &[&node], &knobs, |_| {}).await;
    let kept = || {
        let kept = Identity::load(&worker.dir.path().join("identity"));
        kept.expect("readable").expect("there").certificate().fingerprint()
    };
    until("it is renewed", || kept() != old.certificate().fingerprint()).await;
    tokio::time::sleep(Duration::from_millis(3 * limits::RENEW_RETRY_MS)).await;
    assert_eq!(node.script.renewed.load(SeqCst), 1, "once is enough");
    let renewed = kept();
    *node.script.membership.lock().expect("a lock") = membership(&[1], &[7; 32]);
    until("it is renewed again", || kept() != renewed).await;
    let own = Identity::load(&worker.dir.path().join("identity")).expect("readable").expect("one");
    let mark = own.trust_mark().0;
    *node.script.membership.lock().expect("a lock") = membership(&[1], &mark);
    tokio::time::sleep(Duration::from_millis(2 * limits::RENEW_RETRY_MS)).await;
    let times = node.script.renewed.load(SeqCst);
    tokio::time::sleep(Duration::from_millis(3 * limits::RENEW_RETRY_MS)).await;
    assert_eq!(node.script.renewed.load(SeqCst), times, "it trusts what the nodes trust");
    worker.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_belongs_to_a_cluster_starts_whatever_its_join_token_is() {
    let (node, knobs) = (FakeNode::start(), Knobs::default());
    let own = CLUSTER.0.fingerprint();
    for authority in [own, ollamamax_proto::Digest::of(b"another")] {
        let token = JoinToken {
            kind: Kind::Worker,
            credential: Credential::generate().expect("random bytes"),
            authority,
            addresses: vec![],
        };
        let dir = tempfile::tempdir().expect("a directory");
        let change = |config: &mut WorkerConfig| config.join = Some(token);
        let worker = start_in(dir, &[&node], &knobs, change).await;
        worker.running.stop().await;
    }
}
