//! Operations as they reach the world, and how it begins.

use super::World;
use super::event::{Event, Then};
use super::model::CONTEXT_TOKENS;
use crate::op::{MODELS, NODES, Op, WORKERS};
use ollamamax_core::Command;
use ollamamax_core::access::{AccessCommand, Quota, QuotaOf};
use ollamamax_core::deployment::{Deployment, Strategy};
use ollamamax_core::record::{ClusterRecord, Demand, Lifetime};
use ollamamax_proto::model::{ModelFacts, ModelVersion};
use ollamamax_proto::{Digest, Millis, ModelName, WorkerId};
use std::collections::BTreeMap;

/// The names of the models.
pub(super) fn names() -> Result<Vec<ModelName>, String> {
    (0..MODELS).map(|nth| format!("m{nth}").parse().map_err(|_| format!("m{nth}"))).collect()
}

/// A version of `size` hundred bytes, which can be cut between its two layers and its two key-value heads.
fn version(size: u64) -> Box<ModelVersion> {
    let weights = size * 100;
    Box::new(ModelVersion {
        digest: Digest::of(&weights.to_le_bytes()),
        blob: Digest::of(&weights.to_be_bytes()),
        blob_bytes: weights,
        facts: ModelFacts {
            architecture: "llama".into(),
            quantization: "F32".into(),
            embedding_length: 4,
            layers: 2,
            layer_bytes: vec![weights / 2, weights - weights / 2],
            context_length: CONTEXT_TOKENS,
            kv_bytes_per_token: 1 + size % 2,
            metadata_json: r#"{"llama.attention.head_count":4,"llama.attention.head_count_kv":2,
            "llama.embedding_length":4,"llama.feed_forward_length":4}"#
                .into(),
            ..ModelFacts::default()
        },
        template: None,
        system: None,
        parameters: BTreeMap::new(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: None,
    })
}

fn demand(model: ModelName, replicas: u64, keep_alive_ms: i64) -> Demand {
    let forever = keep_alive_ms < 0;
    let lifetime = if forever { Lifetime::Forever } else { Lifetime::Until(Millis(0)) };
    let (replicas, context_length) = (replicas as u32, CONTEXT_TOKENS);
    Demand { model, replicas, lifetime, context_length, keep_alive_ms }
}

impl World {
    /// The beginning: a cluster of its nodes, workers on most machines, most models.
    pub(super) fn found(&mut self) {
        self.elect();
        let Some(node) = self.log.leader else { return };
        let address = |node: u64, port: u64| format!("10.1.0.{node}:{port}");
        let cluster =
            ClusterRecord { id: "ab".repeat(16), name: "sim".into(), created_at: Millis(1) };
        let bootstrap = Command::Bootstrap { cluster, http: address(0, 80), raft: address(0, 70) };
        let admit = |nth: u64| Command::AdmitNode {
            http: address(nth, 80),
            raft: address(nth, 70),
            voter: true,
        };
        let wanted = [(0, 2, -1), (1, 1, -1), (2, 1, 30_000)];
        let commands = [bootstrap]
            .into_iter()
            .chain((1..NODES).map(admit))
            .chain((0..MODELS - 1).map(|nth| Command::PutModel {
                name: self.names[nth as usize].clone(),
                version: version(1 + (nth * 2) % 6),
            }))
            .chain(wanted.map(|(nth, replicas, keep): (usize, u64, i64)| {
                let demand = demand(self.names[nth].clone(), replicas, keep);
                Command::DemandModel { demand }
            }));
        let commands: Vec<Command> = commands.collect();
        for command in commands {
            let (from, term, then) = (node, Some(self.log.term), Then::Nobody);
            self.commit(super::log::Proposal { from, term, command, then });
        }
        for nth in 0..WORKERS as usize - 2 {
            self.start_worker(nth);
        }
        for node in 0..NODES as usize {
            self.gossip_later(node);
        }
    }

    /// An operator asks a node that lives; without one, nobody hears it.
    fn order(&mut self, command: Command) {
        let nodes = self.log.nodes.len();
        let first = self.coin.below(&[10, self.now], nodes as u64) as usize;
        let node = (0..nodes).map(|nth| (first + nth) % nodes).find(|&n| self.log.nodes[n].up);
        if let Some(node) = node {
            self.propose(node, command, Then::Nobody);
        }
    }

    /// Does what a script says.
    pub(super) fn operate(&mut self, op: Op) {
        let id = |worker: u64| WorkerId(u128::from(worker) + 1);
        match op {
            Op::Ask { node, model, user, count } => {
                for nth in 0..count {
                    let after_us = self.coin.below(&[11, self.now, nth], 200_000);
                    self.ask(node as usize, model as usize, user, after_us);
                }
            }
            Op::Start { worker } => self.start_worker(worker as usize),
            Op::Kill { worker } => self.kill_worker(worker as usize),
            Op::Hang { worker, ms } => {
                let worker = &mut self.workers[worker as usize];
                worker.hung_until_us = worker.hung_until_us.max(self.now + ms * 1_000);
            }
            Op::Slow { worker, times } => self.workers[worker as usize].slow = times.max(1),
            Op::Stop { worker } => self.workers[worker as usize].draining = true,
            Op::BadDisk { worker, loads } => self.workers[worker as usize].bad_loads = loads,
            Op::Cut { worker } => self.workers[worker as usize].cut = true,
            Op::Join { worker } => self.workers[worker as usize].cut = false,
            Op::Crash { node, ms } => {
                if self.log.nodes[node as usize].up {
                    self.crash(node as usize);
                    self.later(ms * 1_000, Event::Restart { node: node as usize });
                }
            }
            Op::Part { one, other } => {
                self.log.part(one as usize, other as usize);
                self.elect_later();
            }
            Op::Heal => {
                self.log.heal();
                self.elect_later();
            }
            Op::Lag { node, ms } => self.log.nodes[node as usize].lag_us = ms * 1_000,
            Op::Clock { node, off_ms } => self.log.nodes[node as usize].off_ms = off_ms,
            Op::HandOver => self.depose(),
            Op::Checkpoint { name, value } => {
                let name = format!("job-{name}");
                let known = self.log.committed();
                let known = known.checkpoints.get(&name).map(|known| known.revision);
                let expected = if value % 3 == 0 { None } else { known };
                let value = vec![value as u8];
                self.order(Command::PutCheckpoint { name, value, expected });
            }
            Op::Quota { user, per_minute } => {
                let quota = (per_minute > 0).then(|| Quota {
                    requests_per_minute: Some(per_minute as u32),
                    streams: Some(per_minute as u32 / 10),
                    ..Quota::default()
                });
                let of = QuotaOf::User(format!("u{user}"));
                let set = AccessCommand::SetQuotas { of, quota, making: None };
                self.order(Command::Access(Box::new(set)));
            }
            Op::Drain { worker } => {
                self.order(Command::DrainWorker { id: id(worker), reason: "repair".into() });
            }
            Op::Resume { worker } => self.order(Command::ResumeWorker { id: id(worker) }),
            Op::Remove { worker } => self.order(Command::RemoveWorker { id: id(worker) }),
            Op::Label { worker, zone } => {
                let value = (zone > 0).then(|| format!("z{zone}"));
                let labels = BTreeMap::from([("zone".to_owned(), value)]);
                self.order(Command::LabelWorker { id: id(worker), labels });
            }
            _ => self.operate_on_model(op),
        }
    }

    fn operate_on_model(&mut self, op: Op) {
        let name = |model: u64| self.names[model as usize].clone();
        let id = |worker: u64| WorkerId(u128::from(worker) + 1);
        let command = match op {
            Op::Put { model, size } => {
                Command::PutModel { name: name(model), version: version(size) }
            }
            Op::Copy { model, to } => {
                Command::CopyModel { source: name(model), destination: name(to) }
            }
            Op::Delete { model } => Command::DeleteModel { name: name(model) },
            Op::Demand { model, replicas, keep_ms } => {
                Command::DemandModel { demand: demand(name(model), replicas, keep_ms) }
            }
            Op::Release { model } => Command::ReleaseModel { name: name(model) },
            Op::Deploy { model, strategy, min, more } => {
                let labels = (more == 2 && strategy == 0)
                    .then(|| ("zone".to_owned(), "z1".to_owned()))
                    .into_iter()
                    .collect();
                let deployment = Deployment {
                    strategy: Strategy::ALL[strategy as usize % Strategy::ALL.len()],
                    replicas_min: min as u32,
                    replicas_max: (min + more) as u32,
                    labels,
                    ..Deployment::of(name(model))
                };
                let demand = demand(name(model), min, -1);
                Command::Deploy { deployment: Box::new(deployment), demand }
            }
            Op::Clear { model } => Command::ClearDeployment { name: name(model) },
            Op::RollOut { model, size, weight } => {
                let (name, version) = (name(model), version(size));
                Command::RollOut { name, version, weight: weight as u32 }
            }
            Op::Shift { model, weight } => {
                Command::ShiftTraffic { name: name(model), version: None, weight: weight as u32 }
            }
            Op::Revert { model } => {
                let name = name(model);
                let known = self.log.committed();
                let Some(rollout) = known.rollouts.get(&name) else { return };
                Command::RevertRollout { name, began: rollout.began, reason: "asked".into() }
            }
            Op::Migrate { model, from, to } => {
                Command::MigrateModel { name: name(model), from: id(from), to: id(to) }
            }
            _ => return,
        };
        self.order(command);
    }
}
