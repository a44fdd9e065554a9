//! Who is let in, and what each may do: strangers, workers, nodes, and those who were removed.

use crate::support::{Cluster, eventually};
use ollamamax_core::access::JoinRole;
use ollamamax_core::{Command, Rejection};
use ollamamax_proto::wire::blobs_client::BlobsClient;
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::join_client::JoinClient;
use ollamamax_proto::wire::join_request::Member;
use ollamamax_proto::wire::raft_client::RaftClient;
use ollamamax_proto::wire::{
    BlobStatRequest, Device, HeartbeatRequest, JoinRequest, JoiningWorker, ProposeRequest,
    RaftRequest, ReadIndexRequest, RegisterRequest, RenewRequest, WatchAssignmentsRequest,
    WatchStateRequest,
};
use ollamamax_proto::{Digest, WorkerId};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{
    Credential, Expect, JoinError, JoinToken, Joining, Kind, dial_pinned, join, says_removed,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

fn worker_role() -> JoinRole {
    JoinRole::Worker { labels: BTreeMap::new() }
}

async fn comes(token: &JoinToken, id: u128) -> Result<ollamamax_tls::Joined, JoinError> {
    join(token, &Joining::Worker(WorkerId(id)), || 0.5).await
}

fn register(id: u128) -> RegisterRequest {
    let device = Device {
        kind: "cpu".to_owned(),
        name: "test".to_owned(),
        memory_bytes: 1 << 30,
        threads: 1,
    };
    RegisterRequest {
        worker: WorkerId(id).to_string(),
        incarnation: 1,
        name: format!("w{id}"),
        address: "127.0.0.1:9".to_owned(),
        device: Some(device),
        pid: 1,
        forwarded: false,
    }
}

fn beat(id: u128) -> HeartbeatRequest {
    HeartbeatRequest {
        worker: WorkerId(id).to_string(),
        incarnation: 1,
        ..HeartbeatRequest::default()
    }
}

/// What is answered to a call of each kind, by name.
async fn calls(channel: &Channel, id: u128) -> BTreeMap<&'static str, Result<(), Status>> {
    let mut control = ControlClient::new(channel.clone());
    let worker = WorkerId(id).to_string();
    let raft = RaftRequest { from: 1, to: 1, ..RaftRequest::default() };
    let watch = WatchAssignmentsRequest { worker: worker.clone(), incarnation: 1 };
    let request = ollamamax_tls::Request::new().expect("a key").der().to_vec().into();
    let digest = BlobStatRequest { digest: Digest::of(b"x").to_string() };
    let command = ProposeRequest::default();
    BTreeMap::from([
        ("append", RaftClient::new(channel.clone()).append(raft).await.map(drop)),
        ("propose", control.propose(command).await.map(drop)),
        ("read", control.read_index(ReadIndexRequest::default()).await.map(drop)),
        ("state", control.watch_state(WatchStateRequest::default()).await.map(drop)),
        ("register", control.register(register(id)).await.map(drop)),
        ("heartbeat", control.heartbeat(beat(id)).await.map(drop)),
        ("assignments", control.watch_assignments(watch).await.map(drop)),
        ("renew", control.renew(RenewRequest { worker, request }).await.map(drop)),
        ("stat", BlobsClient::new(channel.clone()).stat(digest).await.map(drop)),
    ])
}

fn code(answer: &Result<(), Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |()| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_at_the_port_of_a_node_what_is_not_for_them() {
    let cluster = Cluster::start(1).await;
    let address = cluster.nodes[&1].raft_addr().to_string();
    let url = format!("http://{address}");
    let endpoint = Endpoint::from_shared(url).expect("an address");

    let plain = endpoint.connect_lazy();
    for (name, answer) in calls(&plain, 7).await {
        assert!(answer.is_err(), "{name} was answered without TLS");
    }

    let authority = cluster.node_tls(1).identity().trusted()[0].fingerprint();
    let nobody = dial_pinned(&address, authority).await.expect("it is the cluster");
    for (name, answer) in calls(&nobody, 7).await {
        assert_eq!(code(&answer), Code::Unauthenticated, "{name}: {answer:?}");
    }

    // The same name, and even the same authority shown: not its key.
    let other = TestCluster::new(cluster.nodes[&1].cluster());
    for (tls, expect) in
        [(other.node(1), Expect::Any(Kind::Node)), (other.worker(7), Expect::Any(Kind::Node))]
    {
        for (name, answer) in calls(&tls.channel(&endpoint, expect), 7).await {
            assert!(answer.is_err(), "{name} was answered to another cluster");
        }
    }

    let worker = cluster.enrol(7).await;
    let answers = calls(&cluster.channel(&worker, 1), 7).await;
    for name in ["append", "propose", "read", "state"] {
        let answer = &answers[name];
        assert_eq!(code(answer), Code::PermissionDenied, "{name}: {answer:?}");
        let words = answer.as_ref().expect_err("refused").message();
        assert!(words.contains(&WorkerId(7).to_string()), "{words}");
    }
    for name in ["register", "heartbeat", "assignments", "renew", "stat"] {
        assert_eq!(code(&answers[name]), Code::Ok, "{name}: {:?}", answers[name]);
    }
    // A node speaks in its own name.
    let node = cluster.node_tls(1);
    let mut raft = RaftClient::new(cluster.channel(&node, 1));
    let request = RaftRequest {
        cluster: cluster.nodes[&1].cluster().to_owned(),
        from: 2,
        to: 1,
        ..RaftRequest::default()
    };
    let error = raft.vote(request).await.expect_err("refused");
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert!(error.message().contains("node 1") && error.message().contains("node 2"), "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_speaks_for_itself_alone() {
    let cluster = Cluster::start(2).await;
    let (seven, eight) = (cluster.enrol(7).await, cluster.enrol(8).await);
    for node in [1, 2] {
        let answers = calls(&cluster.channel(&seven, node), 8).await;
        for name in ["register", "heartbeat", "assignments", "renew"] {
            let error = answers[name].as_ref().expect_err("refused");
            assert_eq!(error.code(), Code::PermissionDenied, "{name}: {error}");
            for id in [7, 8] {
                assert!(error.message().contains(&WorkerId(id).to_string()), "{name}: {error}");
            }
            assert!(!says_removed(error), "{name}: {error}");
        }
        let answers = calls(&cluster.channel(&eight, node), 8).await;
        assert_eq!(code(&answers["register"]), Code::Ok, "{:?}", answers["register"]);
    }
    assert!(!cluster.control(1).state().workers.contains_key(&WorkerId(7)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_lets_in_whom_it_is_for_so_often_and_in_time() {
    let cluster = Cluster::start(2).await;
    let words = Rejection::NotLetIn.to_string();
    let refused = |tried: Result<ollamamax_tls::Joined, JoinError>| match tried {
        Err(JoinError::Refused { words: said, .. }) => assert_eq!(said, words),
        other => unreachable!("{other:?}"),
    };
    let good = cluster.token(worker_role()).await;
    let mut wrong = good.clone();
    let mut bytes = good.credential.reveal().to_vec();
    bytes[30] ^= 1;
    wrong.credential = Credential::from_bytes(&bytes).expect("as long");
    refused(comes(&wrong, 7).await);
    // What cannot be signed uses nothing up.
    let channel = dial_pinned(&good.addresses[0], good.authority).await.expect("the cluster");
    let garbage = JoinRequest {
        credential: good.credential.reveal().to_vec().into(),
        request: b"no request".to_vec().into(),
        member: Some(Member::Worker(JoiningWorker { worker: WorkerId(7).to_string() })),
    };
    let error = JoinClient::new(channel).join(garbage).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let joined = comes(&good, 7).await.expect("it is let in");
    assert_eq!(joined.addresses.len(), 2);
    assert!(joined.sealing_key.is_none(), "a worker has no use for it");
    refused(comes(&good, 7).await);
    refused(comes(&good, 8).await);

    let twice = cluster.token_with(worker_role(), 2, 60_000).await;
    comes(&twice, 9).await.expect("the first");
    comes(&twice, 10).await.expect("the second");
    refused(comes(&twice, 11).await);

    let short = cluster.token_with(worker_role(), 1, 300).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    refused(comes(&short, 12).await);

    let for_a_node = cluster.token(JoinRole::Node { voter: true }).await;
    assert!(matches!(comes(&for_a_node, 13).await, Err(JoinError::OtherKind { .. })));
    refused(comes(&JoinToken { kind: Kind::Worker, ..for_a_node.clone() }, 13).await);
    let as_node = Joining::Node { http: "h:1".to_owned(), raft: "h:2".to_owned() };
    let for_a_worker = cluster.token(worker_role()).await;
    let disguised = JoinToken { kind: Kind::Node, ..for_a_worker };
    refused(join(&disguised, &as_node, || 0.5).await);
    let mut unknown = for_a_node;
    unknown.credential = Credential::generate().expect("random");
    refused(join(&unknown, &as_node, || 0.5).await);

    let control = cluster.control(1);
    eventually("the trail tells of both", || {
        let state = control.state();
        let trail = || state.access.trail.values().map(|record| &record.note);
        let actor = format!("join-token:{}", good.credential.id());
        trail().any(|note| note.action == "join" && note.actor == actor)
            && trail().any(|note| note.action == "join.refused" && note.actor == actor)
    })
    .await;
    assert_eq!(control.state().nodes.len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_worker_hears_of_it_from_every_node_and_comes_back_with_another_token() {
    let cluster = Cluster::start(2).await;
    let worker = cluster.enrol(7).await;
    let id = WorkerId(7);
    let standing = [cluster.channel(&worker, 1), cluster.channel(&worker, 2)];
    ControlClient::new(standing[0].clone()).register(register(7)).await.expect("registered");
    cluster.control(1).propose(Command::RemoveWorker { id }).await.expect("accepted");
    for channel in standing {
        let answers = calls(&channel, 7).await;
        for name in ["register", "heartbeat", "renew"] {
            let error = answers[name].as_ref().expect_err("refused");
            assert!(says_removed(error), "{name}: {error}");
        }
    }
    cluster.converge().await;
    for node in [1, 2] {
        let answers = calls(&cluster.channel(&worker, node), 7).await;
        for name in ["assignments", "stat"] {
            assert_eq!(code(&answers[name]), Code::Unavailable, "{name}: {:?}", answers[name]);
        }
    }
    let again = cluster.enrol(7).await;
    let answers = calls(&cluster.channel(&again, 2), 7).await;
    assert_eq!(code(&answers["register"]), Code::Ok, "{:?}", answers["register"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_a_join_token_are_those_of_its_worker() {
    let cluster = Cluster::start(1).await;
    let labels = BTreeMap::from([("rack".to_owned(), "a1".to_owned())]);
    let token = cluster.token(JoinRole::Worker { labels: labels.clone() }).await;
    let joined = comes(&token, 7).await.expect("it is let in");
    let tls = ollamamax_tls::Tls::new(joined.identity).expect("usable");
    let mut client = ControlClient::new(cluster.channel(&tls, 1));
    client.register(register(7)).await.expect("registered");
    let state = cluster.control(1).state();
    assert_eq!(state.orders[&WorkerId(7)].labels, labels);
    cluster.stop().await;
}
