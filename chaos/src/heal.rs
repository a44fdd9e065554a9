//! When faults are over: what has to be well again, each thing waited for by itself from the same moment on.

use crate::history::{Heal, Outcome, Trail};
use crate::load::{MODEL, read_reference};
use crate::recorder::Recorder;
use crate::scenario::Scenario;
use crate::world::World;
use ollamamax_proto::limits;
use ollamamax_tests::{Api, HarnessError, Member, wait_until};
use serde_json::Value;
use std::time::Duration;

/// How much longer than its bar anything is waited for: how late it is says more than that it is late.
const MORE: Duration = Duration::from_secs(30);
/// How long the exported trail may take to hold still.
const STILL: Duration = Duration::from_secs(30);

/// Waits for everything.
pub async fn wait(world: &World, scenario: &Scenario, since_us: u64) -> Vec<Heal> {
    let nodes = world.nodes();
    let apis: Vec<(usize, Api)> =
        nodes.iter().map(|node| (*node, world.cluster.api(*node).clone())).collect();
    let (workers, bars) = (scenario.cluster.workers, &scenario.bars);
    let recorder = &world.recorder;
    let write = async || {
        for (node, api) in &apis {
            let put = api.put_checkpoint(&format!("chaos/heal-{node}"), b"well", None).await;
            put.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    let agree = async || {
        let mut seen = Vec::new();
        for (node, api) in &apis {
            let status = api.status().await.map_err(|error| error.to_string())?;
            let voters = status.nodes.iter().filter(|node| node.voter).count();
            let life = world.watched.life(Member::Node(*node)).pid;
            if status.leader.is_none() || voters != apis.len() || life.is_none() {
                return Err(format!("node {}: {:?}, {voters} voters", node + 1, status.leader));
            }
            seen.push((status.leader, status.term));
        }
        seen.dedup();
        if seen.len() == 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    };
    let caught_up = async || {
        let goal = apis[0].1.status().await.map_err(|error| error.to_string())?.applied;
        for (node, api) in &apis {
            let wait = wait_until(MORE, "it catches up", async || {
                let applied = api.status().await.map_err(|error| error.to_string())?.applied;
                if applied >= goal { Ok(()) } else { Err(format!("{applied} of {goal}")) }
            });
            wait.await.map_err(|error| format!("node {}: {error}", node + 1))?;
        }
        Ok(())
    };
    let served = async || {
        for (node, api) in &apis {
            let status = api.status().await.map_err(|error| error.to_string())?;
            let ready = status.workers.iter().filter(|worker| worker.status == "ready").count();
            let replicas = status.ready_replicas(MODEL);
            if ready < workers || workers > 0 && replicas == 0 {
                return Err(format!(
                    "node {}: {ready} of {workers} workers are ready, {replicas} replicas",
                    node + 1
                ));
            }
        }
        Ok(())
    };
    let stream = async || {
        if workers > 0 {
            for (_, api) in &apis {
                read_reference(api, 0, 8).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    };
    let heal_s = bars.heal_s;
    // All at once: each has its own clock from the same begin.
    let (a, b, c, d, e) = tokio::join!(
        one(recorder, since_us, "writes through every node", bars.writes_heal_s, write),
        one(recorder, since_us, "all nodes agree on a leader", heal_s, agree),
        one(recorder, since_us, "every node has caught up", heal_s, caught_up),
        one(recorder, since_us, "workers are ready and the model is served", heal_s, served),
        one(recorder, since_us, "a stream through every node", heal_s, stream),
    );
    vec![a, b, c, d, e]
}

async fn one(
    recorder: &Recorder,
    since_us: u64,
    what: &str,
    bar_s: f64,
    condition: impl AsyncFnMut() -> Result<(), String>,
) -> Heal {
    let deadline = Duration::from_secs_f64(bar_s) + MORE;
    let waited = wait_until(deadline, what, condition).await;
    let took_us = recorder.now_us().saturating_sub(since_us);
    Heal {
        what: what.to_owned(),
        took_us: waited.is_ok().then_some(took_us),
        bar_us: (bar_s * 1e6) as u64,
        seen: waited.err().map(|error| error.to_string()).unwrap_or_default(),
    }
}

/// The whole audit trail as the first node has it, once all nodes have the same end of it.
///
/// # Errors
/// When nodes do not come to the same end, or one does not answer.
pub async fn export(apis: &[(usize, Api)], recorder: &Recorder) -> Result<Trail, HarnessError> {
    let writes = recorder.note(|history| {
        let written = |outcome: &Outcome| matches!(outcome, Outcome::Written(_));
        history.operations.iter().filter(|operation| written(&operation.outcome)).count()
    });
    let exported = wait_until(STILL, "all nodes have the same end of the trail", async || {
        let mut heads = Vec::new();
        for (_, api) in apis {
            let page = api.get("/admin/v1/audit?last=1").await;
            heads.push(head(&page.map_err(|error| error.to_string())?)?);
        }
        if heads.windows(2).any(|two| two[0] != two[1]) {
            return Err(format!("{heads:?}"));
        }
        let lines = lines(&apis[0].1).await.map_err(|error| error.to_string())?;
        Ok(Trail { lines, heads, writes })
    });
    exported.await
}

fn head(page: &Value) -> Result<(u64, String), String> {
    let head = page["last"].as_u64().zip(page["head"].as_str().map(str::to_owned));
    head.ok_or_else(|| format!("no end in {page}"))
}

async fn lines(api: &Api) -> Result<Vec<String>, HarnessError> {
    let (mut lines, mut after) = (Vec::new(), 0);
    loop {
        let limit = limits::AUDIT_PAGE_COUNT;
        let page = api.get(&format!("/admin/v1/audit?after={after}&limit={limit}")).await?;
        let records = page["records"].as_array().cloned().unwrap_or_default();
        let Some(last) = records.last().and_then(|record| record["number"].as_u64()) else {
            return Ok(lines);
        };
        after = last;
        lines.extend(records.iter().map(Value::to_string));
    }
}
