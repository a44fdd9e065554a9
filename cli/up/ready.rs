//! What has to be true before a local cluster may be called ready, asked of its nodes again and again.
//!
//! The questions are pure functions over the cluster status ([`leads`], [`worker_ready`], [`placed`]); [`until`] asks them.

use crate::client::Client;
use crate::cluster;
use crate::exit::Failure;
use serde_json::Value;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(100);

/// What a look at the cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is as it should be.
    Done,
    /// Not yet, and what is missing.
    Waiting(String),
    /// It will not be.
    Never(String),
}

/// Looks at the cluster through one node until it is as it should be. A node that does not answer yet is waited for.
pub async fn until(
    client: &Client,
    what: &str,
    deadline: Duration,
    told: &(dyn Fn(&str) + Sync),
    look: &(dyn Fn(&Value) -> Look + Sync),
) -> Result<Value, Failure> {
    let start = Instant::now();
    loop {
        let missing = match cluster::status(client).await {
            Ok(status) => match look(&status) {
                Look::Done => return Ok(status),
                Look::Waiting(missing) => missing,
                Look::Never(reason) => return Err(Failure::Other(reason)),
            },
            Err(Failure::Unreachable { .. } | Failure::BrokenOff { .. }) => what.to_owned(),
            // The first user and its key are made right after the start.
            Err(Failure::Refused { status: 401 | 429, .. }) => {
                format!("{what} and knows its first API key")
            }
            Err(failure) => return Err(failure),
        };
        told(&missing);
        if start.elapsed() > deadline {
            let seconds = deadline.as_secs();
            return Err(Failure::Timeout { what: missing, seconds });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn list<'a>(status: &'a Value, field: &str) -> &'a [Value] {
    status[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether the answering node knows a leader and at least `nodes` members that vote.
pub fn leads(status: &Value, nodes: usize) -> Look {
    if status["leader"].is_null() {
        return Look::Waiting("electing a leader".to_owned());
    }
    let voters = list(status, "nodes").iter().filter(|node| node["voter"] == true).count();
    if voters < nodes {
        return Look::Waiting(format!("{voters} of {nodes} nodes vote"));
    }
    Look::Done
}

/// Whether the worker of this name can be used.
pub fn worker_ready(status: &Value, name: &str) -> Look {
    let found = list(status, "workers").iter().find(|worker| worker["name"] == name);
    match found.and_then(|worker| worker["status"].as_str()) {
        Some("ready") => Look::Done,
        Some(other) => Look::Waiting(format!("{name} is {other}")),
        None => Look::Waiting(format!("{name} registers")),
    }
}

/// Whether a model is loaded on so many workers.
pub fn placed(status: &Value, model: &str, replicas: usize) -> Look {
    let all = list(status, "placements").iter().filter(|place| place["model"] == model);
    let (mut ready, mut failed) = (0, None);
    for place in all {
        match place["phase"].as_str() {
            Some("ready") => ready += 1,
            Some("failed") => failed = Some(place["reason"].as_str().unwrap_or("no reason given")),
            _ => {}
        }
    }
    match failed {
        _ if ready >= replicas => Look::Done,
        Some(reason) if ready == 0 => Look::Never(format!("{model} cannot be loaded: {reason}")),
        _ => Look::Waiting(format!("loading {model}: {ready} of {replicas} workers ready")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_leader_and_every_vote_are_waited_for() {
        let voter = json!({"voter": true});
        for (status, look) in [
            (json!({}), Look::Waiting("electing a leader".into())),
            (
                json!({"leader": 1, "nodes": [voter, {"voter": false}]}),
                Look::Waiting("1 of 2 nodes vote".into()),
            ),
            (json!({"leader": 1, "nodes": [voter, voter]}), Look::Done),
        ] {
            assert_eq!(leads(&status, 2), look);
        }
    }

    #[test]
    fn a_worker_is_known_by_its_name() {
        let status = json!({"workers": [{"name": "worker-1", "status": "down"},
                                        {"name": "worker-2", "status": "ready"}]});
        assert_eq!(worker_ready(&status, "worker-1"), Look::Waiting("worker-1 is down".into()));
        assert_eq!(worker_ready(&status, "worker-2"), Look::Done);
        assert_eq!(worker_ready(&status, "worker-3"), Look::Waiting("worker-3 registers".into()));
    }

    #[test]
    fn a_model_that_fails_everywhere_is_not_waited_for() {
        let place = |phase: &str| json!({"model": "m:latest", "phase": phase, "reason": "too big"});
        let status = |places: Vec<Value>| json!({"placements": places});
        let at = |places| placed(&status(places), "m:latest", 2);
        assert_eq!(at(vec![place("ready"), place("ready")]), Look::Done);
        assert!(matches!(at(vec![place("ready"), place("failed")]), Look::Waiting(_)));
        assert!(matches!(at(vec![]), Look::Waiting(_)));
        assert_eq!(
            at(vec![place("failed")]),
            Look::Never("m:latest cannot be loaded: too big".into())
        );
    }
}
