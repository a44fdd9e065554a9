//! What is asked and looked at: each node by itself, the cluster as the first that answers sees it, and the disks of this machine.

use crate::ask::{CLUSTER, leader_of, node_endpoint};
use crate::client::Client;
use crate::host::Endpoint;
use crate::known_nodes::{cache_directory, data_directory};
use crate::list::{elements, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one node may take to answer.
const NODE_WAIT: Duration = Duration::from_secs(3);

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Where was asked, and why nobody answered, if so.
    pub unreachable: Option<String>,
    /// `/admin/v1/cluster`; null where one may not see it.
    pub cluster: Value,
    /// Why it could not be seen.
    pub refused: Option<String>,
    /// `/admin/v1/authorities`.
    pub authorities: Value,
    /// `/admin/v1/placement/plan`.
    pub plan: Value,
    /// Each node by its HTTP address.
    pub nodes: Vec<Node>,
    /// The disks that things of ours are on.
    pub disks: Vec<Disk>,
}

/// What one node says for itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// `host:port`.
    pub http: String,
    /// `/api/version`, or why it did not answer.
    pub version: Result<Value, String>,
    /// Its clock less ours, in seconds; its answers tell whole seconds.
    pub clock_s: Option<f64>,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What is kept there.
    pub what: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What makes room on it.
    pub remedy: &'static str,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes there are.
    pub total_bytes: u64,
}

/// Asks everybody.
pub async fn everything(client: &Client) -> Observed {
    let mut observed = Observed { disks: disks(), ..Observed::default() };
    if let Err(failure) = client.get("/api/version").await {
        observed.unreachable = Some(failure.to_string());
        return observed;
    }
    match client.get(CLUSTER).await {
        Ok(cluster) => observed.cluster = as_leader(client, cluster).await,
        Err(failure) => observed.refused = Some(failure.to_string()),
    }
    observed.authorities = client.get("/admin/v1/authorities").await.unwrap_or(Value::Null);
    observed.plan = client.get("/admin/v1/placement/plan").await.unwrap_or(Value::Null);
    let told_by = client.answered_by();
    let addresses = elements(&observed.cluster["nodes"]).iter().map(|node| text(node, "http"));
    let asked = addresses.map(async |http| node(client, http, told_by.as_ref()).await);
    observed.nodes = futures_util::future::join_all(asked).await;
    observed
}

/// The cluster as its leader sees it, if it answers.
async fn as_leader(client: &Client, cluster: Value) -> Value {
    let told_by = client.answered_by();
    let leader = leader_of(&cluster).and_then(|http| node_endpoint(&http, told_by.as_ref()));
    let Some(leader) = leader else { return cluster };
    let asking = async { client.only(leader).await?.get(CLUSTER).await };
    match tokio::time::timeout(NODE_WAIT, asking).await {
        Ok(Ok(seen)) => seen,
        _ => cluster,
    }
}

async fn node(client: &Client, http: String, told_by: Option<&Endpoint>) -> Node {
    let asking = async {
        let endpoint = node_endpoint(&http, told_by);
        let endpoint = endpoint.ok_or_else(|| format!("`{http}` is no address"))?;
        let only = client.only(endpoint).await.map_err(|failure| failure.to_string())?;
        only.text("/api/version").await.map_err(|failure| failure.to_string())
    };
    let before = jiff::Timestamp::now();
    let answer = tokio::time::timeout(NODE_WAIT, asking).await;
    let answer =
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", NODE_WAIT.as_secs())));
    let now = jiff::Timestamp::now();
    let (version, date) = match answer {
        Err(why) => (Err(why), None),
        Ok((text, date)) => (serde_json::from_str(&text).map_err(|error| error.to_string()), date),
    };
    let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(&date).ok());
    let clock_s = theirs
        .map(|theirs| offset(theirs.timestamp().as_second() as f64, seconds(before), seconds(now)));
    Node { http, version, clock_s }
}

fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

/// How far a clock that shows whole seconds is from ours, at least, if its answer came between two moments of ours.
fn offset(theirs: f64, before: f64, after: f64) -> f64 {
    if theirs > after {
        theirs - after
    } else if theirs + 1.0 < before {
        theirs + 1.0 - before
    } else {
        0.0
    }
}

fn disks() -> Vec<Disk> {
    let up = data_directory().map(|directory| directory.join("up"));
    let rm = "remove models that nobody needs: `ollamamax list`, `ollamamax rm`";
    let delete = "delete what is in it: it is fetched again when it is needed";
    let up = up.and_then(|path| disk("data of `up`", &path, rm));
    let cache = cache_directory().and_then(|path| disk("downloaded models", &path, delete));
    up.into_iter().chain(cache).collect()
}

fn disk(what: &'static str, path: &Path, remedy: &'static str) -> Option<Disk> {
    let path = path.exists().then(|| path.to_owned())?;
    let told = rustix::fs::statvfs(&path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    let (free_bytes, total_bytes) = (bytes(told.f_bavail), bytes(told.f_blocks));
    Some(Disk { what, path, remedy, free_bytes, total_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_whole_seconds_is_only_blamed_for_what_is_sure() {
        assert_eq!(offset(100.0, 100.2, 100.4), 0.0);
        assert_eq!(offset(100.0, 99.9, 100.1), 0.0);
        assert_eq!(offset(105.0, 100.0, 101.0), 4.0);
        assert_eq!(offset(90.0, 100.0, 101.0), -9.0);
    }

    #[test]
    fn a_disk_that_is_there_tells_its_room() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = disk("x", directory.path(), "").expect("there");
        assert!(disk.total_bytes >= disk.free_bytes && disk.total_bytes > 0);
        assert!(super::disk("x", &directory.path().join("nothing"), "").is_none());
    }
}
