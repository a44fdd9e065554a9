//! Nodes that come back: from the log, from a snapshot, on other ports.

use crate::support::{Cluster, eventually, value};
use ollamamax_control_plane::error::EXIT_CONFIG;
use ollamamax_control_plane::{ControlPlaneNode, NodeConfig};
use ollamamax_core::Command;
use ollamamax_core::access::JoinRole;
use ollamamax_proto::NodeId;
use ollamamax_tls::JoinToken;
use std::net::TcpListener;
use std::time::Duration;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_catches_up_from_the_log() {
    let mut cluster = Cluster::start(3).await;
    let absent = cluster.follower().await;
    cluster.put(absent, "a", "1").await.expect("accepted");
    cluster.nodes.remove(&absent).expect("it runs").stop().await;
    let leader = cluster.leader().await;
    for n in 0..50 {
        cluster.put(leader, "a", &n.to_string()).await.expect("accepted");
    }
    cluster.restart(absent).await;
    let control = cluster.control(absent);
    eventually("it has caught up", || value(&control.state(), "a").as_deref() == Some("49")).await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    let mut cluster = Cluster::start_with(3, |config| config.timings.keep_entries = 0).await;
    let absent = cluster.follower().await;
    cluster.nodes.remove(&absent).expect("it runs").stop().await;
    let leader = cluster.leader().await;
    for n in 0..30 {
        cluster.put(leader, &format!("k/{n}"), "v").await.expect("accepted");
    }
    for node in cluster.nodes.values() {
        node.compact().await.expect("a snapshot is built");
    }
    cluster.put(leader, "last", "1").await.expect("accepted");
    assert_eq!(cluster.snapshots(absent), 0);
    cluster.restart(absent).await;
    let control = cluster.control(absent);
    eventually("it has caught up", || value(&control.state(), "last").is_some()).await;
    assert_eq!(cluster.snapshots(absent), 1, "it was sent a snapshot, not the log");
    let state = cluster.converge().await;
    assert_eq!(state.checkpoints.len(), 31);
    // What came by snapshot is also what the next start finds.
    cluster.nodes.remove(&absent).expect("it runs").kill().await;
    cluster.restart(absent).await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_cluster_can_be_killed_and_comes_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..20 {
        cluster.put(1 + n % 3, &format!("k/{n}"), "v").await.expect("accepted");
    }
    for node in std::mem::take(&mut cluster.nodes).into_values() {
        node.kill().await;
    }
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    cluster.settle(3).await;
    let state = cluster.control(2).linearizable().await.expect("a read is answered");
    assert_eq!(state.checkpoints.len(), 20);
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_on_other_ports_is_found() {
    let mut cluster = Cluster::start(3).await;
    let mover = cluster.follower().await;
    cluster.nodes.remove(&mover).expect("it runs").stop().await;
    cluster.forget_ports(mover);
    cluster.restart(mover).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "after", "1").await.expect("accepted");
    let control = cluster.control(mover);
    eventually("it is sent the log", || value(&control.state(), "after").is_some()).await;
    let address = cluster.nodes[&mover].raft_addr().to_string();
    eventually("everybody knows where it is", || {
        let state = cluster.control(leader).state();
        state.nodes.values().any(|node| node.id.0 == mover && node.raft == address)
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_at_the_address_of_a_peer_is_not_believed() {
    let hasty = |config: &mut NodeConfig| {
        config.timings.propose_ms = 500;
        config.timings.quorum_lost_ms = 300;
    };
    let mut cluster = Cluster::start_with(2, hasty).await;
    cluster.converge().await;
    let address = cluster.nodes[&1].raft_addr();
    for node in std::mem::take(&mut cluster.nodes).into_values() {
        node.kill().await;
    }
    let dir = TempDir::new().expect("a temporary directory");
    let config =
        NodeConfig { bootstrap: true, raft_listen: address, ..NodeConfig::new(dir.path()) };
    let stranger = ControlPlaneNode::start(config).await.expect("it starts");
    eventually("it leads", || stranger.control().quorum().leader.is_some()).await;

    // It knows no node 2, so it would call it removed.
    cluster.restart(2).await;
    let ours = cluster.nodes.remove(&2).expect("it runs");
    let failure = tokio::time::timeout(Duration::from_secs(3), ours.failed()).await;
    assert!(failure.is_err(), "{failure:?}");
    ours.kill().await;

    // It has a node 2 of its own, which is somewhere else.
    let place = || "127.0.0.1:1".to_owned();
    let admit = Command::AdmitNode { http: place(), raft: place(), voter: false };
    stranger.control().propose(admit).await.expect("accepted");
    cluster.restart(2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let theirs = stranger.control().state().nodes[&NodeId(2)].clone();
    assert_eq!(theirs.raft, place());
    cluster.nodes.remove(&2).expect("it runs").kill().await;
    stranger.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let dir = TempDir::new().expect("a temporary directory");
    let start = |config: NodeConfig| async {
        ControlPlaneNode::start(config).await.err().expect("it cannot start")
    };
    let empty = start(NodeConfig::new(dir.path())).await;
    assert_eq!(empty.exit_code(), EXIT_CONFIG);
    assert!(empty.to_string().contains("--bootstrap"), "{empty}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let config =
        NodeConfig { bootstrap: true, http_listen: address, ..NodeConfig::new(dir.path()) };
    let in_use = start(config).await.to_string();
    assert!(in_use.contains(&address.to_string()) && in_use.contains("in use"), "{in_use}");

    let config = NodeConfig { bootstrap: true, ..NodeConfig::new(dir.path()) };
    let node = ControlPlaneNode::start(config.clone()).await.expect("it starts");
    let twice = start(config).await.to_string();
    assert!(twice.contains("in use by another process"), "{twice}");
    node.stop().await;
    assert!(dir.path().join("highwater").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_in_a_cluster_looks_at_no_join_token() {
    let (ours, theirs) = (Cluster::start(1).await, Cluster::start(1).await);
    let dir = TempDir::new().expect("a temporary directory");
    let token = ours.token(JoinRole::Node { voter: true }).await;
    let join =
        |token: &JoinToken| NodeConfig { join: Some(token.clone()), ..NodeConfig::new(dir.path()) };
    let node = ControlPlaneNode::start(join(&token)).await.expect("it joins");
    let (id, cluster) = (node.node_id(), node.cluster().to_owned());
    node.stop().await;
    // The token is used up, the other one is for another cluster.
    let foreign = theirs.token(JoinRole::Node { voter: true }).await;
    for token in [token, foreign] {
        let node = ControlPlaneNode::start(join(&token)).await.expect("it goes on in its own");
        assert_eq!((node.node_id(), node.cluster()), (id, cluster.as_str()));
        node.stop().await;
    }
    assert_eq!(theirs.control(1).state().nodes.len(), 1);
    // With nobody there to ask, the directory is believed.
    ours.stop().await;
    let node = ControlPlaneNode::start(NodeConfig::new(dir.path())).await;
    node.expect("it waits for the others").kill().await;
    theirs.stop().await;
}
