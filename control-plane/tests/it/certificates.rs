//! Certificates over time: renewed, replaced together with their authority, and back after a long rest.

use crate::support::{Cluster, eventually};
use ollamamax_control_plane::config::{SealingKey, SealingSource};
use ollamamax_control_plane::error::{EXIT_AMNESIA, EXIT_CONFIG, EXIT_DENIED};
use ollamamax_control_plane::{ControlPlaneNode, NodeConfig, NodeFailure};
use ollamamax_core::Command;
use ollamamax_core::access::{AccessCommand, JoinRole};
use ollamamax_gateway::seal_authority;
use ollamamax_proto::wire::ReadIndexRequest;
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::{Digest, Millis};
use ollamamax_tls::{Authority, Identity, Tls};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn shown(cluster: &Cluster, id: u64) -> Digest {
    cluster.node_tls(id).identity().certificate().fingerprint()
}

/// Writes through every node until `done`, and counts; no write may fail.
async fn write_until(cluster: &Cluster, done: impl Fn() -> bool) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut written = 0;
    while !done() {
        assert!(Instant::now() < deadline, "not done after {written} writes");
        for id in cluster.nodes.keys() {
            let wrote = cluster.put(*id, "load", &written.to_string()).await;
            wrote.expect("every write is accepted");
            written += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    written
}

/// Whether somebody who shows this is answered by node `id`.
async fn is_believed(cluster: &Cluster, tls: &Tls, id: u64) -> bool {
    let mut client = ControlClient::new(cluster.channel(tls, id));
    let cluster = cluster.nodes[&id].cluster().to_owned();
    client.read_index(ReadIndexRequest { forwarded: false, cluster }).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_seconds_are_renewed_and_no_write_fails() {
    let brief = |config: &mut NodeConfig| config.timings.certificate_ms = 4_000;
    let cluster = Cluster::start_with(3, brief).await;
    let first: Vec<Tls> = (1..=3).map(|id| cluster.node_tls(id)).collect();
    assert!(is_believed(&cluster, &first[0], 2).await);
    let ended = || first.iter().all(|tls| tls.identity().has_ended(Millis::now()));
    let since = Instant::now();
    write_until(&cluster, || ended() && since.elapsed() > Duration::from_secs(7)).await;
    for id in 1..=3 {
        let now = cluster.node_tls(id);
        assert!(!now.identity().has_ended(Millis::now()), "node {id} was not renewed");
        assert_ne!(
            shown(&cluster, id),
            first[id as usize - 1].identity().certificate().fingerprint()
        );
    }
    assert!(!is_believed(&cluster, &first[0], 2).await, "what has ended is believed no more");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_under_load_and_what_the_old_one_signed_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let (old_node, old_worker) = (cluster.node_tls(1), cluster.enrol(7).await);
    let old = old_node.identity().trusted()[0].fingerprint();
    let sealing = std::fs::read_to_string(cluster.data_dir(1).join("sealing.key")).expect("there");
    let sealing = SealingKey::parse(&sealing).expect("a key");
    let name = cluster.nodes[&1].cluster().parse().expect("a cluster");
    let authority = Authority::create(&name, Millis::now()).expect("made");
    let record = seal_authority(&sealing, &authority, Millis::now().plus(1_500));
    let put = AccessCommand::PutAuthority { authority: record, lifetime_ms: 2_500 };
    let put = Command::Access(Box::new(put));
    cluster.control(2).propose(put).await.expect("accepted");
    let control = cluster.control(3);
    let gone = || !control.state().access.authorities.contains_key(&old.0);
    let trusted = |id: u64| {
        let identity = cluster.node_tls(id).identity();
        identity.trusted().iter().map(|one| one.fingerprint()).collect::<BTreeSet<_>>()
    };
    let only_new = BTreeSet::from([authority.fingerprint()]);
    let since = Instant::now();
    let written =
        write_until(&cluster, || gone() && (1..=3).all(|id| trusted(id) == only_new)).await;
    assert!(since.elapsed() > Duration::from_secs(3), "{written} writes");
    for node in [2, 3] {
        assert!(is_believed(&cluster, &cluster.node_tls(1), node).await);
        assert!(!is_believed(&cluster, &old_node, node).await, "node {node} believes the old one");
    }
    let mut client = ControlClient::new(cluster.channel(&old_worker, 1));
    let renew = ollamamax_proto::wire::RenewRequest::default();
    client.renew(renew).await.expect_err("the old authority is trusted no more");
    // Who joins now is of the new one, and who was off in between has the new one on its disk.
    let fourth = cluster.add().await;
    cluster.settle(4).await;
    cluster.nodes.remove(&fourth).expect("it runs").kill().await;
    cluster.restart(fourth).await;
    cluster.settle(4).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_off_for_longer_than_its_certificates_last_comes_back_by_itself() {
    let brief = |config: &mut NodeConfig| config.timings.certificate_ms = 1_500;
    let mut cluster = Cluster::start_with(3, brief).await;
    cluster.put(1, "before", "1").await.expect("accepted");
    for node in std::mem::take(&mut cluster.nodes).into_values() {
        node.kill().await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for id in 1..=3 {
        assert!(cluster.node_tls(id).identity().has_ended(Millis::now()));
    }
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    cluster.settle(3).await;
    cluster.put(2, "after", "1").await.expect("accepted");
    cluster.stop().await;
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_user_and_key_are_made_once_and_their_file_is_private() {
    let mut cluster = Cluster::start(1).await;
    let keys = |cluster: &Cluster| cluster.control(1).state().access.keys.clone();
    let first = keys(&cluster);
    assert_eq!(first.len(), 1);
    let dir = cluster.data_dir(1).to_owned();
    let text = std::fs::read_to_string(dir.join("admin.key")).expect("there");
    for name in ["admin.key", "sealing.key", "identity/identity.pem"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    // A crash between the key and the word that it was made.
    for pending in [false, true] {
        cluster.nodes.remove(&1).expect("it runs").kill().await;
        if pending {
            std::fs::write(dir.join("identity/admin.pending"), "").expect("written");
        }
        cluster.restart(1).await;
        cluster.settle(1).await;
        eventually("all is settled", || !dir.join("identity/admin.pending").exists()).await;
        cluster.put(1, "alive", "1").await.expect("accepted");
        assert_eq!(keys(&cluster), first);
        assert_eq!(std::fs::read_to_string(dir.join("admin.key")).expect("there"), text);
    }
    let state = cluster.control(1).state();
    assert!(!state.access.authorities.is_empty());
    assert!(!dir.join("identity/authority.sealed").exists(), "the cluster has it");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_sealing_key_says_so_and_does_not_run() {
    let mut cluster = Cluster::start(1).await;
    let token = cluster.token(JoinRole::Node { voter: false }).await;
    let other = TempDir::new().expect("a directory");
    let config = NodeConfig {
        join: Some(token),
        sealing: SealingSource::Given(SealingKey::random()),
        ..NodeConfig::new(other.path())
    };
    let node = ControlPlaneNode::start(config).await.expect("it joins");
    let failure = tokio::time::timeout(Duration::from_secs(10), node.failed());
    let failure = failure.await.expect("it hears of the authority");
    assert!(matches!(failure, NodeFailure::Credentials(_)), "{failure}");
    assert_eq!(failure.exit_code(), EXIT_CONFIG);
    node.kill().await;
    assert!(!other.path().join("sealing.key").exists(), "it has one elsewhere");

    let dir = cluster.data_dir(1).to_owned();
    cluster.nodes.remove(&1).expect("it runs").stop().await;
    let path = dir.join("sealing.key");
    let right = std::fs::read_to_string(&path).expect("there");
    std::fs::write(&path, SealingKey::random().reveal().as_str()).expect("written");
    let start = |dir: &Path| ControlPlaneNode::start(NodeConfig::new(dir));
    let error = start(&dir).await.err().expect("it does not run");
    assert_eq!(error.exit_code(), EXIT_CONFIG, "{error}");
    assert!(error.to_string().contains("does not open the certificate authority"), "{error}");
    std::fs::write(&path, "nonsense").expect("written");
    let error = start(&dir).await.err().expect("it does not run");
    assert!(error.to_string().contains("sealing key") && !error.to_string().contains("nonsense"));
    std::fs::remove_file(&path).expect("removed");
    let error = start(&dir).await.err().expect("it does not run");
    assert!(error.to_string().contains("--sealing-key-file"), "{error}");
    // Elsewhere, and everybody may read it.
    let elsewhere = other.path().join("key");
    std::fs::write(&elsewhere, right.as_bytes()).expect("written");
    let with_file =
        || NodeConfig { sealing: SealingSource::File(elsewhere.clone()), ..NodeConfig::new(&dir) };
    std::fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o644)).expect("opened");
    let error = ControlPlaneNode::start(with_file()).await.err().expect("it does not run");
    assert!(error.to_string().contains("chmod 600"), "{error}");
    std::fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o640)).expect("closed");
    let node = ControlPlaneNode::start(with_file()).await.expect("it runs");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_log_is_no_node_nor_is_a_log_without_its_certificate() {
    let mut cluster = Cluster::start(3).await;
    let dir = cluster.data_dir(2).to_owned();
    cluster.nodes.remove(&2).expect("it runs").stop().await;
    let lost = TempDir::new().expect("a directory");
    let identity = Identity::load(&dir.join("identity")).expect("readable").expect("there");
    identity.save(&lost.path().join("identity")).expect("saved");
    let error = ControlPlaneNode::start(NodeConfig::new(lost.path())).await.err().expect("no log");
    assert_eq!(error.exit_code(), EXIT_AMNESIA, "{error}");

    std::fs::remove_dir_all(dir.join("identity")).expect("removed");
    let error = ControlPlaneNode::start(NodeConfig::new(&dir)).await.err().expect("nobody");
    assert_eq!(error.exit_code(), EXIT_CONFIG, "{error}");
    assert!(error.to_string().contains("cluster remove 2"), "{error}");
    // Nor does a token make anybody the node that is there already.
    let token = cluster.token(JoinRole::Node { voter: true }).await;
    let stranger = TempDir::new().expect("a directory");
    let address = cluster.address(2);
    let config = NodeConfig {
        join: Some(token),
        raft_listen: address,
        raft_advertise: Some(address.to_string()),
        ..NodeConfig::new(stranger.path())
    };
    let error = ControlPlaneNode::start(config).await.err().expect("it is refused");
    assert_eq!(error.exit_code(), EXIT_DENIED, "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_knows_for_how_long_it_has_heard_of_no_leader() {
    let mut cluster = Cluster::start(2).await;
    let control = cluster.control(1);
    eventually("there is a leader", || control.silence() == Duration::ZERO).await;
    cluster.nodes.remove(&2).expect("it runs").kill().await;
    eventually("there is none", || control.silence() > Duration::from_millis(500)).await;
    cluster.restart(2).await;
    eventually("there is one again", || control.silence() == Duration::ZERO).await;
    cluster.stop().await;
}
