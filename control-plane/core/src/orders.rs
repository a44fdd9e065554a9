//! What operators said of a worker and of who shall hold what: it stays until they say otherwise, whatever the worker
//! itself says.

use ollamamax_proto::{ModelName, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The orders for one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOrders {
    /// Which worker.
    pub worker: WorkerId,
    /// Labels by key: deployments pick workers by them.
    pub labels: BTreeMap<String, String>,
    /// Why it drains; `None`: it does not. Outlives heartbeats, registrations and restarts.
    pub drained: Option<String>,
}

impl WorkerOrders {
    /// Whether nothing is ordered.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.drained.is_none()
    }
}

/// A model moves from one worker to another. Ends by itself when the first holds nothing of it any more, or when the
/// other is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Which model.
    pub model: ModelName,
    /// Who shall hold it no longer.
    pub from: WorkerId,
    /// Who shall hold it instead.
    pub to: WorkerId,
}
