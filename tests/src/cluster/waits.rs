//! Waiting for a cluster to be as it should be, each time with a deadline.

use super::Cluster;
use crate::error::HarnessError;
use crate::wait::wait_until;
use std::time::Duration;

impl Cluster {
    /// The index of the leader, once a running node names one that runs.
    pub async fn leader(&self, deadline: Duration) -> Result<usize, HarnessError> {
        self.wait("a leader", deadline, async || {
            let status = self.status().await.map_err(|error| error.to_string())?;
            let id = status.leader.ok_or("no leader")?;
            let node = status.nodes.iter().find(|node| node.id == id).ok_or("an unknown leader")?;
            let index = self.http.iter().position(|port| node.http.ends_with(&format!(":{port}")));
            let running = index.filter(|index| self.nodes[*index].pid().is_some());
            running.ok_or_else(|| format!("leader {id} does not run"))
        })
        .await
    }

    /// Waits until every running node knows the leader and that many voters.
    pub async fn wait_for_quorum(
        &self,
        voters: usize,
        deadline: Duration,
    ) -> Result<(), HarnessError> {
        self.wait("a quorum", deadline, async || {
            for (api, node) in self.apis.iter().zip(&self.nodes) {
                if node.pid().is_none() {
                    continue;
                }
                let status = api.status().await.map_err(|error| error.to_string())?;
                let voting = status.nodes.iter().filter(|node| node.voter).count();
                if status.leader.is_none() || voting != voters {
                    return Err(format!(
                        "{}: leader {:?}, {voting} voters",
                        node.name, status.leader
                    ));
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until a key signs access tokens: the last that a new cluster does by itself.
    pub(super) async fn wait_for_signing_key(
        &self,
        deadline: Duration,
    ) -> Result<(), HarnessError> {
        self.wait("a signing key", deadline, async || {
            let keys = self.apis[0].get("/admin/v1/signing-keys").await;
            let keys = keys.map_err(|error| error.to_string())?;
            let some = keys["signing_keys"].as_array().is_some_and(|keys| !keys.is_empty());
            if some { Ok(()) } else { Err("none yet".to_owned()) }
        })
        .await
    }

    /// Waits until a node has applied everything another one has applied by now.
    pub async fn wait_caught_up(
        &self,
        node: usize,
        with: usize,
        deadline: Duration,
    ) -> Result<(), HarnessError> {
        let goal = self.apis[with].status().await?.applied;
        self.wait("a node catches up", deadline, async || {
            let status = self.apis[node].status().await.map_err(|error| error.to_string())?;
            let applied = status.applied;
            if applied >= goal { Ok(()) } else { Err(format!("{applied} of {goal} applied")) }
        })
        .await
    }

    /// Waits until that many workers are ready.
    pub async fn wait_for_workers(
        &self,
        count: usize,
        deadline: Duration,
    ) -> Result<(), HarnessError> {
        self.wait("ready workers", deadline, async || {
            let status = self.status().await.map_err(|error| error.to_string())?;
            let ready = status.workers.iter().filter(|worker| worker.status == "ready").count();
            if ready >= count { Ok(()) } else { Err(format!("{ready} of {count} ready")) }
        })
        .await
    }

    /// Waits until that many usable workers have the model ready.
    pub async fn wait_for_model(
        &self,
        model: &str,
        replicas: usize,
        deadline: Duration,
    ) -> Result<(), HarnessError> {
        self.wait(&format!("{model} ready"), deadline, async || {
            let status = self.status().await.map_err(|error| error.to_string())?;
            let ready = status.ready_replicas(model);
            if ready >= replicas { Ok(()) } else { Err(format!("{:?}", status.placements)) }
        })
        .await
    }

    /// Waits for anything; the ends of the logs are part of the failure.
    pub async fn wait<T>(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, HarnessError> {
        let waited = wait_until(deadline, what, condition).await;
        waited.map_err(|error| match error {
            HarnessError::Deadline { what, waited, seen } => {
                HarnessError::Deadline { what, waited, seen: format!("{seen}\n{}", self.logs()) }
            }
            other => other,
        })
    }
}
