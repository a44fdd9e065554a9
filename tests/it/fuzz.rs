//! What arrives at the ports between machines and was never meant: mutants of what members really say, as a stranger, as a worker and
//! as a node, at a node and at a worker. Nothing panics, hangs or grows without bound, and the cluster serves as before.
//!
//! `OLLAMAMAX_FUZZ=1000000 cargo test --test it fuzz` makes more of them; the seed is printed (`OLLAMAMAX_FUZZ_SEED`).

mod corpus;
mod mutants;
mod sender;

use crate::binary;
use corpus::{Names, Recorder};
use mutants::Chance;
use ollamamax_proto::{Digest, Millis, NodeId};
use ollamamax_tests::{Cluster, ClusterOptions, Member, model};
use ollamamax_tls::{Identity, Role, Tls};
use sender::{Kept, Sender, Target, node_id};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
const MODEL: &str = "smollm2:135m";
const PROMPT: &str = "Count from one to ten in words.";
const TOKENS: u32 = 24;
/// Mutants under way at once.
const SENDERS: usize = 8;
/// What a process may take more than when it had seen a tenth of the mutants.
const GROWTH_KIB: u64 = 192 * 1024;
/// Descriptors it may have more than before, once all is over.
const DESCRIPTORS: usize = 24;

fn number(name: &str, else_: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(else_)
}

fn tls(cluster: &Cluster, member: Member) -> Tls {
    let identity = Identity::load(&cluster.data_dir(member).join("identity"));
    Tls::new(identity.expect("readable").expect("there is one")).expect("usable")
}

/// Resident memory of a process.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// A cluster with a node and a worker that have died, and whose certificates are in wrong hands.
struct Attacked {
    cluster: Cluster,
    node: Tls,
    worker: Tls,
}

impl Attacked {
    async fn start() -> Self {
        let mut options = ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
        // What they hold open is counted, by whoever runs this.
        options.env = vec![("OLLAMAMAX_ALLOW_DUMPS".into(), "1".into())];
        let mut cluster = Cluster::start(options.size(3, 1)).await.expect("a cluster");
        cluster.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
        let second = cluster.add_worker_with(64 << 20).expect("a second worker");
        cluster.wait_for_workers(2, PATIENCE).await.expect("it comes");
        cluster.kill9(Member::Worker(second));
        cluster.kill9(Member::Node(2));
        let (node, worker) =
            (tls(&cluster, Member::Node(2)), tls(&cluster, Member::Worker(second)));
        Self { cluster, node, worker }
    }

    /// What the others say to the dead node: as leader, and when they want to be one.
    async fn recorded(&mut self) -> Recorder {
        let status = self.cluster.api(0).status().await.expect("a status");
        let dead = node_id(&self.node).0;
        let dead = status.nodes.iter().find(|node| node.id == dead).expect("a member");
        let recorder = Recorder::start(&self.node, dead.raft.parse().expect("an address")).await;
        let heard = |what: &str, count: usize| match count {
            0 => Err(format!("no {what} yet")),
            _ => Ok(()),
        };
        let appended = async || heard("append", recorder.appends());
        self.cluster.wait("an append", PATIENCE, appended).await.expect("the leader tries");
        let leader = self.cluster.leader(PATIENCE).await.expect("a leader");
        self.cluster.kill9(Member::Node(leader));
        let voted = async || heard("vote", recorder.votes());
        self.cluster.wait("a vote", PATIENCE, voted).await.expect("the follower tries");
        self.cluster.restart(Member::Node(leader)).expect("restarted");
        let put = async || {
            let put = self.cluster.api(leader).put_checkpoint("before", b"1", None).await;
            put.map_err(|error| error.to_string())
        };
        self.cluster.wait("a quorum", PATIENCE, put).await.expect("two of three");
        recorder
    }

    async fn sender(&self, recorder: &Recorder) -> Sender {
        let status = self.cluster.api(0).get("/admin/v1/cluster").await.expect("a status");
        let heard = recorder.heard.lock().expect("a lock").clone();
        let Role::Worker(worker) = self.worker.identity().role() else {
            unreachable!("it is a worker's")
        };
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let number = |value: &Value| value.as_u64().expect("a number");
        let bytes = std::fs::read(model::smollm2()).expect("the model");
        let placed = &status["placements"][0];
        let mut names = Names {
            cluster: text(&status["cluster"]),
            from: node_id(&self.node).0,
            to: 0,
            worker: worker.to_string(),
            incarnation: Millis::now().0,
            blob: Digest::of(&bytes).to_string(),
            assignment: number(&placed["id"]),
            generation: number(&placed["generation"]),
            model: MODEL.to_owned(),
        };
        let mut targets = Vec::new();
        for node in status["nodes"].as_array().expect("nodes") {
            let id = number(&node["id"]);
            if id != names.from {
                names.to = id;
                let cases = corpus::for_node(&names, &heard);
                let (address, node) = (text(&node["raft"]), Some(NodeId(id)));
                targets.push(Target { address, node, cases, greeting: Vec::new() });
            }
        }
        let workers = status["workers"].as_array().expect("workers");
        let serving = workers.iter().find(|worker| worker["name"] == "worker-1").expect("there");
        targets.push(Target {
            address: text(&serving["address"]),
            node: None,
            cases: corpus::for_worker(&names),
            greeting: corpus::greeting(&names),
        });
        let (http2, client_hello) = (corpus::http2().await, corpus::client_hello(&self.node).await);
        let authority = self.node.identity().trusted()[0].fingerprint();
        let (worker, node) = (self.worker.clone(), self.node.clone());
        Sender { targets, worker, node, authority, http2, client_hello }
    }

    fn members(&self) -> [Member; 3] {
        [Member::Node(0), Member::Node(1), Member::Worker(0)]
    }

    fn pids(&self) -> Vec<u32> {
        let pid = |member| self.cluster.process(member).pid().expect("it runs");
        self.members().into_iter().map(pid).collect()
    }

    /// Everything as before: the same text, writes, and nothing that panicked or died.
    async fn serves(&mut self, expected: &str) {
        for node in 0..2 {
            let cluster = &self.cluster;
            let told = async || {
                let text = cluster.api(node).chat(MODEL, PROMPT, TOKENS).await;
                let text = text.map_err(|error| error.to_string())?;
                if text == expected { Ok(()) } else { Err(format!("another text: {text:?}")) }
            };
            cluster.wait("the same answer", PATIENCE, told).await.expect("it serves");
            let put = async || {
                let put = cluster.api(node).put_checkpoint("after", b"1", None).await;
                put.map_err(|error| error.to_string())
            };
            cluster.wait("a write", PATIENCE, put).await.expect("it takes writes");
        }
        self.unharmed();
    }

    /// No process has ended, and no part of one has panicked.
    fn unharmed(&mut self) {
        for member in self.members() {
            let process = self.cluster.process_mut(member);
            let log = std::fs::read_to_string(process.log_path()).expect("a log");
            let lines: Vec<&str> = log.lines().collect();
            let panicked = lines.iter().position(|line| line.contains("panicked at"));
            let around = panicked.map(|at| lines[at..lines.len().min(at + 6)].join("\n"));
            assert_eq!(around, None, "{member:?} has panicked");
            process.check().expect("it has not ended");
        }
    }
}

/// Sends `count` mutants, the first being number `first`; what came of how many.
async fn attack(sender: &Arc<Sender>, seed: u64, first: u64, count: u64) -> BTreeMap<String, u64> {
    let next = Arc::new(AtomicU64::new(first));
    let outcomes = Arc::new(Mutex::new(BTreeMap::new()));
    let tasks = (0..SENDERS).map(|_| {
        let (sender, next, outcomes) =
            (Arc::clone(sender), Arc::clone(&next), Arc::clone(&outcomes));
        tokio::spawn(async move {
            let mut kept = Kept::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= first + count {
                    return;
                }
                let outcome = sender.send(&mut Chance::new(seed, index), &mut kept).await;
                *outcomes.lock().expect("a lock").entry(outcome).or_default() += 1;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("every mutant is answered");
    }
    let outcomes = outcomes.lock().expect("a lock");
    outcomes.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_to_the_ports_between_machines_they_live_and_serve() {
    let (count, seed) = (number("OLLAMAMAX_FUZZ", 3_000), number("OLLAMAMAX_FUZZ_SEED", 0x5eed));
    eprintln!("OLLAMAMAX_FUZZ={count} OLLAMAMAX_FUZZ_SEED={seed}");
    let mut attacked = Attacked::start().await;
    let recorder = attacked.recorded().await;
    let sender = Arc::new(attacked.sender(&recorder).await);
    drop(recorder);
    let expected = attacked.cluster.api(0).chat(MODEL, PROMPT, TOKENS).await.expect("an answer");
    let pids = attacked.pids();
    let open: Vec<usize> = pids.iter().map(|pid| descriptors(*pid)).collect();
    let first = attack(&sender, seed, 0, count / 10).await;
    attacked.unharmed();
    let small: Vec<u64> = pids.iter().map(|pid| resident_kib(*pid)).collect();
    let outcomes = attack(&sender, seed, count / 10, count - count / 10).await;
    eprintln!("{outcomes:#?}");
    attacked.unharmed();
    let codes = outcomes.keys().chain(first.keys()).filter(|outcome| outcome.contains(": 200"));
    assert!(codes.count() >= 12, "the mutants are too much alike: {outcomes:?}");
    let large: Vec<u64> = pids.iter().map(|pid| resident_kib(*pid)).collect();
    eprintln!("resident KiB: {small:?} -> {large:?}");
    for (before, after) in small.iter().zip(&large) {
        assert!(*after < before + GROWTH_KIB, "memory grew from {small:?} to {large:?} KiB");
    }
    drop(sender);
    let closed = async || {
        let now: Vec<usize> = pids.iter().map(|pid| descriptors(*pid)).collect();
        let few = now.iter().zip(&open).all(|(now, open)| *now <= open + DESCRIPTORS);
        if few { Ok(()) } else { Err(format!("{open:?} -> {now:?}")) }
    };
    attacked.cluster.wait("connections end", PATIENCE, closed).await.expect("they are closed");
    attacked.serves(&expected).await;
}
