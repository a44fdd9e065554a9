//! `GET /admin/v1/cluster`, typed as far as tests look at it.

use serde::Deserialize;

/// What one node says about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ClusterStatus {
    /// The leader's id, when one with a quorum is known.
    pub leader: Option<u64>,
    /// The Raft term.
    pub term: u64,
    /// How many commands have changed something.
    pub revision: u64,
    /// The members.
    pub nodes: Vec<NodeStatus>,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Who runs what.
    #[serde(default)]
    pub placements: Vec<PlacementStatus>,
    /// The answering node.
    #[serde(default)]
    pub node: u64,
    /// What it has applied.
    #[serde(default)]
    pub applied: u64,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: u64,
    /// `leader`, `follower`, `candidate`, `learner` or `unreachable`.
    pub role: String,
    /// host:port of its API.
    pub http: String,
    /// host:port of its gRPC services.
    pub raft: String,
    /// Its process id.
    pub pid: u32,
    /// What it has applied or holds, where that is known.
    pub applied: Option<u64>,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct WorkerStatus {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// `ready`, `suspect`, `down` or `draining`.
    pub status: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// host:port of its gRPC service.
    pub address: String,
    /// Its process id.
    pub pid: u32,
    /// The models it holds.
    pub models: Vec<String>,
}

/// A model on a worker.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PlacementStatus {
    /// Which model.
    pub model: String,
    /// On which worker.
    pub worker: String,
    /// `pending`, `loading`, `ready` or `failed`.
    pub phase: String,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
}

impl ClusterStatus {
    /// How many workers have a model ready and can be used.
    pub fn ready_replicas(&self, model: &str) -> usize {
        let usable = |id: &str| self.workers.iter().any(|w| w.id == id && w.status == "ready");
        let ready = |place: &&PlacementStatus| {
            place.model == model && place.phase == "ready" && usable(&place.worker)
        };
        self.placements.iter().filter(ready).count()
    }

    /// The worker of this name.
    pub fn worker(&self, name: &str) -> Option<&WorkerStatus> {
        self.workers.iter().find(|worker| worker.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_on_lost_workers_do_not_count() {
        let status: ClusterStatus = serde_json::from_value(serde_json::json!({
            "leader": 1, "term": 2, "revision": 3,
            "nodes": [{"id": 1, "role": "leader", "http": "a:1", "raft": "a:2", "pid": 4, "applied": null}],
            "workers": [
                {"id": "x", "name": "worker-1", "status": "ready", "device": "cpu", "address": "a:3", "pid": 5,
                 "models": ["m:latest"]},
                {"id": "y", "name": "worker-2", "status": "down", "device": "cpu", "address": "a:4", "pid": 6,
                 "models": ["m:latest"]},
            ],
            "placements": [
                {"model": "m:latest", "worker": "x", "phase": "ready"},
                {"model": "m:latest", "worker": "y", "phase": "ready"},
            ],
        }))
        .expect("the documented shape");
        assert_eq!(status.ready_replicas("m:latest"), 1);
        assert_eq!(status.worker("worker-2").map(|worker| worker.status.as_str()), Some("down"));
    }
}
