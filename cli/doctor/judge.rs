//! What the observations mean: each finding says what it is about, what is so, and what to do next.

use super::observe::Observed;
use crate::human;
use crate::list::{elements, text};
use jiff::Timestamp;
use ollamamax_proto::Millis;
use serde_json::{Value, json};

/// Clocks further apart than this make logs and expiries hard to believe, in seconds.
const CLOCK_S: f64 = 2.0;
/// Entries a node may be behind the leader.
const LAG_ENTRIES: u64 = 10_000;
/// A disk with less than this share free, in percent, is nearly full.
const DISK_PERCENT: u64 = 5;
/// What signs certificates should last longer than this, in milliseconds: seven days.
const AUTHORITY_MS: u64 = 7 * 24 * 3_600_000;
const OURS: &str = env!("CARGO_PKG_VERSION");

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Problem,
    /// Something will not work, or not as it should.
    Warning,
    /// As it should be.
    Well,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about, e.g. `node 2`.
    pub about: String,
    /// What is so.
    pub what: String,
    /// What to do; empty: nothing.
    pub next: String,
}

impl Finding {
    /// As data.
    pub fn to_json(&self) -> Value {
        let level = ["problem", "warning", "well"][self.level as usize];
        json!({"level": level, "about": self.about, "what": self.what, "next": self.next})
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, about: &str, what: String, next: &str) {
        let (about, next) = (about.to_owned(), next.to_owned());
        self.0.push(Finding { level, about, what, next });
    }
}

/// The findings, the worst first.
pub fn judge(observed: &Observed, now: Timestamp) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    disks(&mut findings, observed);
    if let Some(why) = &observed.unreachable {
        let next =
            "start a cluster with `ollamamax up`, or name a node with `--host` or OLLAMA_HOST";
        // The message has a next step of its own.
        let why = why.split("; ").next().unwrap_or(why).to_owned();
        findings.add(Level::Problem, "cluster", why, next);
    } else if let Some(why) = &observed.refused {
        let what = format!("its state may not be seen: {why}");
        findings.add(
            Level::Problem,
            "cluster",
            what,
            "log in with `ollamamax login` as somebody who may see nodes",
        );
    } else {
        quorum(&mut findings, &observed.cluster);
        nodes(&mut findings, observed);
        workers(&mut findings, &observed.cluster);
        models(&mut findings, observed);
        authorities(&mut findings, &observed.authorities, now);
    }
    findings.0.sort();
    findings.0
}

fn disks(findings: &mut Findings, observed: &Observed) {
    for disk in &observed.disks {
        let percent = disk.free_bytes.saturating_mul(100) / disk.total_bytes.max(1);
        let what = format!(
            "{} free of {} ({percent} %)",
            human::bytes(disk.free_bytes),
            human::bytes(disk.total_bytes)
        );
        let about = format!("disk of `{}` ({})", disk.path.display(), disk.what);
        match percent {
            ..DISK_PERCENT => findings.add(Level::Warning, &about, what, disk.remedy),
            _ => findings.add(Level::Well, &about, what, ""),
        }
    }
}

fn quorum(findings: &mut Findings, cluster: &Value) {
    let voters: Vec<&Value> =
        elements(&cluster["nodes"]).iter().filter(|node| node["voter"] != false).collect();
    let up = voters.iter().filter(|node| node["role"] != "unreachable").count();
    let (total, needed) = (voters.len(), voters.len() / 2 + 1);
    let told = format!("{up} of {total} voting nodes answer");
    match (cluster["leader"].as_u64(), up) {
        (None, up) if up < needed => {
            let next = "start the nodes that are down; models that are loaded go on serving, changes have to wait";
            findings.add(
                Level::Problem,
                "quorum",
                format!("lost: {told}, {needed} are needed"),
                next,
            );
        }
        (None, _) => {
            let next = "wait a moment, then look at the nodes' logs: they cannot agree on a leader";
            findings.add(Level::Problem, "quorum", format!("no leader, though {told}"), next);
        }
        (Some(leader), up) if up == needed && total > 1 => {
            let next = "start the nodes that are down before another one fails";
            findings.add(
                Level::Warning,
                "quorum",
                format!("node {leader} leads, {told}: none more may fail"),
                next,
            );
        }
        (Some(leader), _) if total < 3 => {
            let next = "three nodes survive the loss of one: `ollamamax join-token create node`, then `cluster join` on others";
            findings.add(
                Level::Warning,
                "quorum",
                format!("node {leader} leads {total} voting nodes: none may fail"),
                next,
            );
        }
        (Some(leader), _) => {
            findings.add(Level::Well, "quorum", format!("node {leader} leads, {told}"), "");
        }
    }
}

fn nodes(findings: &mut Findings, observed: &Observed) {
    let listed = elements(&observed.cluster["nodes"]);
    let newest = listed.iter().filter_map(|node| node["applied"].as_u64()).max().unwrap_or(0);
    for node in listed {
        let (about, http) = (format!("node {}", node["id"]), text(node, "http"));
        if node["role"] == "unreachable" {
            let next = format!(
                "start it again, or, if it is gone for good, `ollamamax cluster remove {}`",
                node["id"]
            );
            findings.add(
                Level::Problem,
                &about,
                format!("the others do not reach it ({http})"),
                &next,
            );
        }
        let behind = node["applied"].as_u64().map_or(0, |applied| newest - applied);
        if behind > LAG_ENTRIES {
            let what = format!("it is {behind} entries behind");
            findings.add(Level::Warning, &about, what, "look at its disk and its network");
        }
        let Some(told) = observed.nodes.iter().find(|told| told.http == http) else { continue };
        match &told.version {
            Err(why) if node["role"] != "unreachable" => {
                let next = "the other nodes reach it: look for a firewall, or the address it advertises (--advertise-http)";
                findings.add(Level::Problem, &about, format!("not reached from here: {why}"), next);
            }
            Err(_) => {}
            Ok(version) => match version["ollamamax"].as_str() {
                Some(OURS) | None => {
                    findings.add(Level::Well, &about, format!("answers at {http}"), "")
                }
                Some(theirs) => {
                    let what = format!("it is version {theirs}, this program is {OURS}");
                    findings.add(
                        Level::Warning,
                        &about,
                        what,
                        "bring all nodes, workers and this program to one version",
                    );
                }
            },
        }
        if let Some(clock) = told.clock_s.filter(|clock| clock.abs() > CLOCK_S) {
            let way = if clock > 0.0 { "ahead of" } else { "behind" };
            let what = format!("its clock is {:.0} s {way} this machine's", clock.abs());
            findings.add(
                Level::Warning,
                &about,
                what,
                "have both set by NTP: `timedatectl set-ntp true`",
            );
        }
    }
}

fn workers(findings: &mut Findings, cluster: &Value) {
    let workers = elements(&cluster["workers"]);
    if workers.is_empty() {
        let next = "`ollamamax join-token create worker`, then `ollamamax worker` on a machine that computes";
        findings.add(
            Level::Problem,
            "workers",
            "there are none: nothing can be run".to_owned(),
            next,
        );
    }
    for worker in workers {
        let name = worker["name"].as_str().map_or_else(|| text(worker, "id"), str::to_owned);
        let about = format!("worker {name}");
        let because = match worker["reason"].as_str().filter(|why| !why.is_empty()) {
            Some(why) => format!(": {why}"),
            None => String::new(),
        };
        match worker["status"].as_str().unwrap_or("unknown") {
            "ready" => findings.add(Level::Well, &about, "ready".to_owned(), ""),
            "draining" => {
                let next = format!("`ollamamax workers resume {name}` when it shall be used again");
                findings.add(Level::Warning, &about, format!("draining{because}"), &next);
            }
            status => {
                let next = format!(
                    "start it again, or `ollamamax workers rm {name}` if it is gone for good"
                );
                findings.add(Level::Problem, &about, format!("{status}{because}"), &next);
            }
        }
        if worker["slow"] == true {
            let next =
                "look for what else runs there, and at its temperature: `ollamamax workers show`";
            findings.add(Level::Warning, &about, "much slower than usual".to_owned(), next);
        }
        let health = &worker["health"];
        if let Some(xid) = health["xid"].as_u64() {
            let next = "its GPU must be reset, or the machine started anew";
            findings.add(Level::Problem, &about, format!("its GPU failed (Xid {xid})"), next);
        }
        if let Some(errors) = health["memory_errors"].as_u64().filter(|errors| *errors > 0) {
            let next = format!("`ollamamax workers drain {name}` and have the GPU replaced");
            findings.add(
                Level::Problem,
                &about,
                format!("{errors} uncorrected memory errors"),
                &next,
            );
        }
    }
}

fn models(findings: &mut Findings, observed: &Observed) {
    for line in elements(&observed.plan["report"]).iter().filter_map(Value::as_str) {
        let (model, why) = line.split_once(": ").unwrap_or(("?", line));
        let next = format!("`ollamamax placement explain {model}` says what would work");
        findings.add(Level::Warning, &format!("model {model}"), why.to_owned(), &next);
    }
    let failed = |place: &&Value| place["reason"].is_string();
    for place in elements(&observed.cluster["placements"]).iter().filter(failed) {
        let (model, why) = (text(place, "model"), text(place, "reason"));
        let next = format!("`ollamamax placement explain {model}` says where else it could be");
        findings.add(
            Level::Problem,
            &format!("model {model}"),
            format!("failed to load: {why}"),
            &next,
        );
    }
}

fn authorities(findings: &mut Findings, answer: &Value, now: Timestamp) {
    let now = Millis(u64::try_from(now.as_millisecond()).unwrap_or(0));
    for authority in elements(&answer["authorities"]) {
        let Some(end) = authority["expires_at"].as_u64().map(Millis) else { continue };
        let about = format!(
            "authority {}",
            text(authority, "fingerprint").chars().take(11).collect::<String>()
        );
        let left = end.since(now);
        let told = human::duration(left / 1_000);
        match left {
            0 => {
                let next =
                    "`ollamamax cluster rotate-authority`; who is off meanwhile must join anew";
                findings.add(Level::Problem, &about, "has expired".to_owned(), next);
            }
            1..AUTHORITY_MS => {
                let next =
                    "it is replaced by itself; if it is not: `ollamamax cluster rotate-authority`";
                findings.add(Level::Warning, &about, format!("expires in {told}"), next);
            }
            _ => findings.add(
                Level::Well,
                &about,
                format!("{}, expires in {told}", text(authority, "state")),
                "",
            ),
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
