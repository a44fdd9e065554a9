//! A scenario: which cluster, which load, which faults, and what has to hold. A TOML file in `chaos/scenarios`.
//!
//! ```toml
//! about = "the leader is killed, again and again"
//! seconds = 20
//!
//! [[fault]]
//! kind = "kill"
//! target = "leader"
//! every_s = 5
//! lasts_s = [0.5, 2.0]
//! ```
//!
//! Whatever is left out has the values of [`Cluster`], [`Load`] and [`Bars`] below. A key that is not known is an error.

use serde::{Deserialize, Serialize};

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its end.
    #[serde(default)]
    pub name: String,
    /// In one sentence.
    pub about: String,
    /// How long faults are made, in seconds; a calm part comes before, and healing after.
    pub seconds: u64,
    /// Whether it is part of the profile that every change has to pass.
    #[serde(default)]
    pub smoke: bool,
    /// Whether it needs root on Linux.
    #[serde(default)]
    pub root: bool,
    /// What runs.
    #[serde(default)]
    pub cluster: Cluster,
    /// What clients do.
    #[serde(default)]
    pub load: Load,
    /// What goes wrong.
    pub fault: Vec<Fault>,
    /// What is good enough.
    #[serde(default)]
    pub bars: Bars,
}

/// What runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Nodes.
    pub nodes: usize,
    /// Workers.
    pub workers: usize,
    /// Bytes of the file system that each node keeps its data on; 0: that of the temporary directory.
    pub disk_bytes: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { nodes: 3, workers: 2, disk_bytes: 0 }
    }
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// Clients that read and write registers.
    pub clients: usize,
    /// Registers.
    pub registers: usize,
    /// How long a client rests between two requests, in milliseconds.
    pub rest_ms: u64,
    /// Clients that generate, each one stream after the other.
    pub streams: usize,
    /// Tokens of each stream.
    pub tokens: u32,
    /// Clients that log in, use their token, and revoke it.
    pub logins: usize,
    /// How often a minute the model's replicas are changed between one and all workers; 0: never.
    pub deploys_per_minute: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            clients: 5,
            registers: 5,
            rest_ms: 20,
            streams: 3,
            tokens: 600,
            logins: 1,
            deploys_per_minute: 0,
        }
    }
}

/// What is good enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bars {
    /// Acknowledged writes before the first fault, a second; with fewer the run shows nothing.
    pub writes_per_s: f64,
    /// Streams that have to end in the whole run.
    pub streams: usize,
    /// How long writes may stay away after the last fault, in seconds.
    pub writes_heal_s: f64,
    /// How long anything else may take to be well after the last fault.
    pub heal_s: f64,
    /// The longest time without an acknowledged write, where no majority was down, in seconds; 0: any.
    pub write_gap_s: f64,
    /// The longest pause of a stream, in seconds; 0: any.
    pub stream_pause_s: f64,
    /// How long a revoked token may be accepted after the acknowledgement, in seconds.
    pub revoked_s: f64,
}

impl Default for Bars {
    fn default() -> Self {
        Self {
            writes_per_s: 1.0,
            streams: 3,
            writes_heal_s: 10.0,
            heal_s: 30.0,
            write_gap_s: 0.0,
            stream_pause_s: 0.0,
            revoked_s: 2.0,
        }
    }
}

/// Something that goes wrong, once or again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Whom it hits.
    #[serde(default = "anybody")]
    pub target: Target,
    /// When it comes first, in seconds after the calm part.
    #[serde(default)]
    pub first_s: f64,
    /// How long after that it comes again; 0: once.
    #[serde(default)]
    pub every_s: f64,
    /// How long it lasts, at least and at most.
    #[serde(default = "a_second")]
    pub lasts_s: [f64; 2],
    /// How much later or earlier than planned it may come, in seconds.
    #[serde(default)]
    pub jitter_s: f64,
    /// Of `delay`: how long, and how much longer.
    #[serde(default)]
    pub delay_ms: u64,
    /// Of `delay`.
    #[serde(default)]
    pub jitter_ms: u64,
    /// Of `loss`: how many of a hundred segments.
    #[serde(default)]
    pub percent: u32,
    /// Of `narrow`: bytes a second.
    #[serde(default)]
    pub bytes_per_s: u64,
    /// Of `herd`: how many clients.
    #[serde(default)]
    pub clients: usize,
}

fn anybody() -> Target {
    Target::Node
}

fn a_second() -> [f64; 2] {
    [1.0, 1.0]
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL; started again at the end.
    Kill,
    /// SIGSTOP, and SIGCONT at the end.
    Stop,
    /// SIGTERM, and started again once it has ended.
    Restart,
    /// SIGSTOP for 80 of every 100 ms.
    Slow,
    /// Neither hears nor is heard.
    Isolate,
    /// Is not heard, and hears.
    Mute,
    /// Does not hear, and is heard.
    Deaf,
    /// The others do not hear each other, and all hear it.
    Bridge,
    /// Isolated and not, by turns, several times a second.
    Flap,
    /// Its links are slow to deliver.
    Delay,
    /// Its links lose segments.
    Loss,
    /// Its links carry little.
    Narrow,
    /// Its disk has no room left; it is started again when there is some.
    FullDisk,
    /// Killed, and a byte of its state on disk changed before it starts again.
    CorruptState,
    /// Killed, and a byte in its log changed: it has to refuse to start, is removed, and another node joins in its place.
    CorruptLog,
    /// A new key signs access tokens.
    RotateSigningKey,
    /// Another authority says who belongs to the cluster.
    RotateAuthority,
    /// A node joins, and is removed at the end.
    Join,
    /// An operator drains a worker, and resumes it at the end.
    Drain,
    /// Many clients come at once.
    Herd,
}

/// Whom it hits, found out when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The node that leads.
    Leader,
    /// A node that does not.
    Follower,
    /// Any node.
    Node,
    /// As many nodes as can be lost, perhaps the leader among them.
    Minority,
    /// One more than can be lost.
    Majority,
    /// All nodes.
    Nodes,
    /// Any worker.
    Worker,
    /// All workers but one.
    MostWorkers,
    /// All nodes and workers, one after the other where that makes sense.
    All,
}

impl Scenario {
    /// Reads one.
    ///
    /// # Errors
    /// In words, when the text is none, or asks for what makes no sense.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let scenario = Self { name: name.to_owned(), ..scenario };
        scenario.sound().map_err(|why| format!("{name}: {why}"))?;
        Ok(scenario)
    }

    fn sound(&self) -> Result<(), String> {
        if !(1..=9).contains(&self.cluster.nodes) || self.cluster.workers > 16 {
            return Err("expected 1 to 9 nodes and at most 16 workers".to_owned());
        }
        if self.seconds == 0 || self.seconds > 7_200 {
            return Err("`seconds` is out of range, expected 1 to 7200".to_owned());
        }
        if self.load.clients > 10 {
            return Err("more than 10 clients make histories that nobody can judge".to_owned());
        }
        for fault in &self.fault {
            let [least, most] = fault.lasts_s;
            let times = [fault.first_s, fault.every_s, fault.jitter_s, least, most];
            if times.iter().any(|time| !time.is_finite() || *time < 0.0) || least > most {
                return Err(format!("{:?}: times are not negative and not backwards", fault.kind));
            }
            let is_idle = match fault.kind {
                Kind::Delay => fault.delay_ms + fault.jitter_ms == 0,
                Kind::Loss => fault.percent == 0,
                Kind::Narrow => fault.bytes_per_s == 0,
                Kind::Herd => fault.clients == 0,
                Kind::FullDisk => self.cluster.disk_bytes == 0,
                _ => false,
            };
            if is_idle {
                return Err(format!("{:?} does not say how much", fault.kind));
            }
        }
        Ok(())
    }
}

/// The scenarios that come with the suite: name and text.
pub const SHIPPED: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));

/// All that come with the suite.
///
/// # Errors
/// When one of them is none.
pub fn shipped() -> Result<Vec<Scenario>, String> {
    SHIPPED.iter().map(|(name, text)| Scenario::parse(name, text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_is_shipped_is_sound_and_of_all_kinds() {
        let all = shipped().expect("sound");
        assert!(all.len() >= 15, "{}", all.len());
        assert!(all.iter().any(|scenario| scenario.smoke));
        let faults: Vec<Kind> =
            all.iter().flat_map(|scenario| &scenario.fault).map(|fault| fault.kind).collect();
        for kind in [
            Kind::Kill,
            Kind::Stop,
            Kind::Restart,
            Kind::Slow,
            Kind::Isolate,
            Kind::Mute,
            Kind::Deaf,
            Kind::Bridge,
            Kind::Flap,
            Kind::Delay,
            Kind::Loss,
            Kind::Narrow,
            Kind::FullDisk,
            Kind::CorruptState,
            Kind::CorruptLog,
            Kind::RotateSigningKey,
            Kind::RotateAuthority,
            Kind::Join,
            Kind::Drain,
            Kind::Herd,
        ] {
            assert!(faults.contains(&kind), "no scenario has {kind:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let refused = |text: &str| Scenario::parse("x", text).expect_err("no scenario");
        assert!(refused("about = ''\nseconds = 1\nfault = []\ncolour = 1").contains("colour"));
        assert!(refused("about = ''\nseconds = 0\nfault = []").contains("seconds"));
        let fault = |rest: &str| format!("about = ''\nseconds = 9\n[[fault]]\n{rest}");
        assert!(refused(&fault("kind = 'kill'\nlasts_s = [2.0, 1.0]")).contains("backwards"));
        assert!(refused(&fault("kind = 'delay'")).contains("how much"));
        assert!(refused(&fault("kind = 'flood'")).contains("flood"));
    }
}
