//! Workers as the leader sees them: silent, dead, back again.

use crate::support::{Cluster, PATIENCE, eventually, model, within};
use ollamamax_core::Command;
use ollamamax_core::record::{Demand, Lifetime};
use ollamamax_proto::placement::{Phase, WorkerStatus};
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::{
    Assignment, AssignmentReport, AssignmentSet, Device, DeviceHealth, HeartbeatReply,
    HeartbeatRequest, RegisterRequest, WatchAssignmentsRequest,
};
use ollamamax_proto::{WorkerId, limits};
use std::net::TcpListener;
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// A worker reduced to its talk with the control plane.
struct Fake {
    id: WorkerId,
    port: Option<TcpListener>,
    beating: JoinHandle<()>,
    client: ControlClient<Channel>,
}

impl Fake {
    async fn start(cluster: &Cluster, id: u128, node: u64) -> Self {
        let tls = cluster.enrol(id).await;
        let id = WorkerId(id);
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = port.local_addr().expect("an address").to_string();
        let mut client = ControlClient::new(cluster.channel(&tls, node));
        let device = Device {
            kind: "cpu".to_owned(),
            name: "test".to_owned(),
            memory_bytes: 1 << 30,
            threads: 1,
        };
        let request = RegisterRequest {
            worker: id.to_string(),
            incarnation: 1,
            name: format!("fake {id}"),
            address,
            device: Some(device),
            pid: 1,
            forwarded: false,
        };
        let reply = client.register(request).await.expect("registered").into_inner();
        assert_eq!(reply.heartbeat_ms, limits::WORKER_HEARTBEAT_MS as u32);
        let beating = tokio::spawn(beat(id, client.clone()));
        Self { id, port: Some(port), beating, client }
    }

    /// Its process dies: no heartbeats, and its port refuses.
    fn die(&mut self) {
        self.beating.abort();
        self.port = None;
    }
}

/// Holds whatever it is assigned, at once.
async fn beat(id: WorkerId, mut client: ControlClient<Channel>) {
    let worker = id.to_string();
    let request = WatchAssignmentsRequest { worker: worker.clone(), incarnation: 1 };
    let mut sets = client.watch_assignments(request).await.expect("watched").into_inner();
    let mut held: Vec<Assignment> = Vec::new();
    loop {
        let wait = Duration::from_millis(100);
        if let Ok(Ok(Some(AssignmentSet { assignments, .. }))) =
            tokio::time::timeout(wait, sets.message()).await
        {
            held = assignments;
        }
        let _ = heartbeat(&mut client, &worker, 1, &held).await;
    }
}

async fn heartbeat(
    client: &mut ControlClient<Channel>,
    worker: &str,
    incarnation: u64,
    held: &[Assignment],
) -> Result<HeartbeatReply, tonic::Status> {
    let report = |assignment: &Assignment| AssignmentReport {
        id: assignment.id,
        generation: assignment.generation,
        phase: "ready".to_owned(),
        resident_bytes: 3_000,
        load_ns: 5,
        ..AssignmentReport::default()
    };
    let request = HeartbeatRequest {
        worker: worker.to_owned(),
        incarnation,
        reports: held.iter().map(report).collect(),
        health: Some(DeviceHealth { celsius: Some(61), ..DeviceHealth::default() }),
        ..HeartbeatRequest::default()
    };
    client.heartbeat(request).await.map(tonic::Response::into_inner)
}

fn status(cluster: &Cluster, id: WorkerId) -> Option<WorkerStatus> {
    let node = cluster.nodes.values().next().expect("a node");
    node.control().state().workers.get(&id).map(|worker| worker.status)
}

/// The next set of assignments of a worker that `wanted` accepts.
async fn assigned(
    sets: &mut tonic::Streaming<AssignmentSet>,
    wanted: impl Fn(&[Assignment]) -> bool,
) -> Vec<Assignment> {
    let next = async {
        loop {
            let set = sets.message().await.expect("watched").expect("it goes on");
            if wanted(&set.assignments) {
                return set.assignments;
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a set that is wanted")
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_replica_hear_of_each_other_and_of_each_restart() {
    let cluster = Cluster::start(1).await;
    let first = Fake::start(&cluster, 1, 1).await;
    let second = Fake::start(&cluster, 2, 1).await;
    let Command::PutModel { name, mut version } = model("big", b"weights") else {
        unreachable!("it is put")
    };
    // Each layer fits on a worker of a gigabyte, both do not.
    version.facts.layer_bytes = vec![700 << 20; 2];
    version.digest = version.compute_digest();
    let control = cluster.control(1);
    control.propose(Command::PutModel { name: name.clone(), version }).await.expect("accepted");
    let lifetime = Lifetime::Forever;
    let demand =
        Demand { model: name, replicas: 1, lifetime, context_length: 64, keep_alive_ms: -1 };
    control.propose(Command::DemandModel { demand }).await.expect("accepted");

    let watch = WatchAssignmentsRequest { worker: first.id.to_string(), incarnation: 1 };
    let mut client = first.client.clone();
    let mut sets = client.watch_assignments(watch).await.expect("watched").into_inner();
    let held = assigned(&mut sets, |held| held.len() == 1).await;
    let ring = held[0].ring.clone().expect("it is a part");
    assert_eq!((ring.peers.len(), ring.activations.as_str(), ring.steps_in_flight), (2, "f32", 2));
    let ids = [first.id, second.id];
    let state = cluster.control(1).state();
    for (peer, id) in ring.peers.iter().zip(ids) {
        assert_eq!(peer.address, state.workers[&id].address);
        assert!(peer.end_head > peer.first_head);
    }
    eventually("both hold their part", || served_by(&cluster).len() == 2).await;

    second.beating.abort();
    let device = Device {
        kind: "cpu".to_owned(),
        name: "test".to_owned(),
        memory_bytes: 1 << 30,
        threads: 1,
    };
    let again = RegisterRequest {
        worker: second.id.to_string(),
        incarnation: 2,
        name: "fake".to_owned(),
        address: "127.0.0.1:9".to_owned(),
        device: Some(device),
        pid: 2,
        forwarded: false,
    };
    second.client.clone().register(again).await.expect("registered");
    let moved = |held: &[Assignment]| {
        let ring = held.first().and_then(|assignment| assignment.ring.as_ref());
        ring.is_some_and(|ring| ring.peers[1].address == "127.0.0.1:9")
    };
    let held = assigned(&mut sets, moved).await;
    let peers = held[0].ring.clone().expect("it still is").peers;
    assert_eq!(peers[0].generation, ring.peers[0].generation);
    assert!(peers[1].generation > ring.peers[1].generation, "what it held is gone");
    first.beating.abort();
    cluster.stop().await;
}

fn served_by(cluster: &Cluster) -> Vec<WorkerId> {
    let node = cluster.nodes.values().next().expect("a node");
    let state = node.control().state();
    let ready = state.placements.values().filter(|placement| placement.phase == Phase::Ready);
    ready.map(|placement| placement.worker).collect()
}

async fn demand(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let control = cluster.control(leader);
    control.propose(model("tiny", b"weights")).await.expect("accepted");
    let demand = Demand {
        model: "tiny".parse().expect("a name"),
        replicas: 1,
        lifetime: Lifetime::Forever,
        context_length: 0,
        keep_alive_ms: -1,
    };
    control.propose(Command::DemandModel { demand }).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_is_down_soon_and_its_model_moves() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let mut first = Fake::start(&cluster, 1, follower).await;
    demand(&cluster).await;
    eventually("the model is served", || served_by(&cluster) == [first.id]).await;
    let second = Fake::start(&cluster, 2, follower).await;
    eventually("both are ready", || status(&cluster, second.id) == Some(WorkerStatus::Ready)).await;
    first.die();
    within("it is down", Duration::from_secs(3), || {
        status(&cluster, first.id) == Some(WorkerStatus::Down)
    })
    .await;
    within("the model is served elsewhere", Duration::from_secs(2), || {
        served_by(&cluster) == [second.id]
    })
    .await;
    second.beating.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_is_suspect_then_down_and_ready_when_heard_again() {
    let cluster = Cluster::start(1).await;
    let mut worker = Fake::start(&cluster, 7, 1).await;
    let control = cluster.control(1);
    let celsius = || control.observed().health.get(&worker.id).and_then(|health| health.celsius);
    eventually("how its GPU is has been heard", || celsius() == Some(61)).await;
    let id = worker.id.to_string();
    eventually("it is ready", || status(&cluster, worker.id) == Some(WorkerStatus::Ready)).await;
    // Its process lives on, mute: the port still accepts.
    tokio::time::timeout(PATIENCE, async {
        // The grace of the young leader must be over, or it judges nobody.
        tokio::time::sleep(Duration::from_millis(limits::WORKER_GRACE_MS)).await;
    })
    .await
    .expect("a short wait");
    worker.beating.abort();
    let mut seen = Vec::new();
    within("it is down", Duration::from_secs(5), || {
        let now = status(&cluster, worker.id).expect("known");
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        now == WorkerStatus::Down
    })
    .await;
    assert_eq!(seen, [WorkerStatus::Ready, WorkerStatus::Suspect, WorkerStatus::Down]);
    let reply = heartbeat(&mut worker.client, &id, 1, &[]).await.expect("answered");
    assert!(reply.known && !reply.fenced);
    eventually("it is ready again", || status(&cluster, worker.id) == Some(WorkerStatus::Ready))
        .await;

    let older = heartbeat(&mut worker.client, &id, 0, &[]).await.expect("answered");
    assert!(older.fenced, "an older life is told to stop");
    let stranger = cluster.enrol(99).await;
    let mut client = ControlClient::new(cluster.channel(&stranger, 1));
    let stranger = WorkerId(99).to_string();
    let unknown = heartbeat(&mut client, &stranger, 1, &[]).await.expect("answered");
    assert!(!unknown.known, "a stranger is told to register");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_does_not_bury_the_living() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let worker = Fake::start(&cluster, 3, follower).await;
    demand(&cluster).await;
    eventually("the model is served", || served_by(&cluster) == [worker.id]).await;
    cluster.nodes.remove(&leader).expect("it runs").kill().await;
    let mut statuses = Vec::new();
    let watched = std::time::Instant::now();
    let long = Duration::from_millis(limits::WORKER_GRACE_MS + limits::WORKER_DOWN_MS);
    while watched.elapsed() < long {
        statuses.push(status(&cluster, worker.id).expect("known"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(statuses.iter().all(|status| *status == WorkerStatus::Ready), "{statuses:?}");
    assert_eq!(served_by(&cluster), [worker.id]);
    worker.beating.abort();
    cluster.stop().await;
}
