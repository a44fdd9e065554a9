//! What was seen from outside while a run went on: by clients, and by those who looked at nodes and workers.
//!
//! A history holds no opinion. Whoever saw something wrote down what was asked, when, when the answer came, and what it was;
//! the checkers in [`crate::check`] judge it afterwards, and it is kept as JSON beside the report, so that it can be judged
//! again. All times are microseconds since the begin of the run, by one monotonic clock.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// What clients did to registers, in no order.
    pub operations: Vec<Operation>,
    /// Linearizable reads of every register at every node, made when all faults were over.
    pub finals: Vec<Operation>,
    /// The generations that clients asked for.
    pub streams: Vec<Stream>,
    /// What each prompt gave before the first fault.
    pub references: BTreeMap<usize, String>,
    /// What nodes said of themselves and of who leads.
    pub sightings: Vec<Sighting>,
    /// Who held which part of a model.
    pub holdings: Vec<Holding>,
    /// Requests with access tokens.
    pub uses: Vec<Use>,
    /// Access tokens that were revoked.
    pub revocations: Vec<Revocation>,
    /// The exported audit trail, when it was exported.
    pub trail: Option<Trail>,
    /// Faults, as they were made.
    pub faults: Vec<Span>,
    /// What had to be well again when all faults were over.
    pub heals: Vec<Heal>,
    /// Memory and descriptors of the processes.
    pub samples: Vec<Sample>,
}

/// One request to a register: a named value that is read, set, or set only where its revision is as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Which client; it had one operation under way at a time.
    pub client: usize,
    /// At which node.
    pub node: usize,
    /// Which register.
    pub key: String,
    /// What was asked.
    pub asked: Asked,
    /// When it was sent.
    pub begun_us: u64,
    /// When the answer came, or was given up.
    pub ended_us: u64,
    /// What came.
    pub outcome: Outcome,
}

/// What is asked of a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Its value, linearizably.
    Read,
    /// To set it.
    Write {
        /// To what; no two writes of a run write the same.
        value: String,
        /// Only at this revision, 0 meaning that there is no value; else whatever is there.
        expected: Option<u64>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The value, if there is one, and the revision of the whole state it was read from.
    Read {
        /// What was there.
        found: Option<Found>,
        /// Of the state, where the answer told it.
        state: Option<u64>,
    },
    /// It was set, at this revision.
    Written(u64),
    /// It was not set, because something else is there than was expected.
    Conflict,
    /// It certainly did not happen.
    Refused,
    /// It may have happened, or may yet.
    Unknown,
}

/// A value as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What it is.
    pub value: String,
    /// At which revision it was set.
    pub revision: u64,
}

/// A generation, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Which of the run's prompts.
    pub prompt: usize,
    /// At which gateway it began.
    pub node: usize,
    /// When it was asked for.
    pub begun_us: u64,
    /// When it ended, well or not.
    pub ended_us: u64,
    /// All text that came, in order.
    pub text: String,
    /// How many last records came.
    pub ends: u32,
    /// How many records came after a last one.
    pub after_end: u32,
    /// How often it went on at another gateway.
    pub moves: u32,
    /// How often it was asked for anew, because nothing of it was kept.
    pub restarts: u32,
    /// The longest time between two records.
    pub pause_us: u64,
    /// What gateways said that could not go on with it.
    pub told: Vec<Told>,
    /// Why it did not end, if it did not.
    pub error: Option<String>,
}

/// A gateway said in the middle of a stream that it cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at_us: u64,
    /// Which.
    pub node: usize,
    /// In its words.
    pub words: String,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// When it answered.
    pub at_us: u64,
    /// Which node.
    pub node: usize,
    /// How often it had been started before.
    pub life: u32,
    /// Its term.
    pub term: u64,
    /// Whom it takes for the leader, by id.
    pub leader: Option<u64>,
    /// Revision of its state.
    pub revision: u64,
    /// Entries of the log it has applied.
    pub applied: u64,
}

/// Somebody held a part of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holding {
    /// Which model.
    pub model: String,
    /// The assignment's generation.
    pub generation: u64,
    /// Which part of the model, in words.
    pub stage: String,
    /// Who.
    pub worker: String,
    /// When that was seen first.
    pub first_us: u64,
}

/// A request with an access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Which token.
    pub token: usize,
    /// At which node.
    pub node: usize,
    /// When it was sent.
    pub begun_us: u64,
    /// Whether it was let in; requests that got neither yes nor no are not written down.
    pub accepted: bool,
}

/// A token was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Which.
    pub token: usize,
    /// When that was asked for.
    pub begun_us: u64,
    /// When it was acknowledged; `None`: never.
    pub acknowledged_us: Option<u64>,
}

/// The audit trail as it was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// Its lines.
    pub lines: Vec<String>,
    /// The last number and hash (in hexadecimal) that each node named.
    pub heads: Vec<(u64, String)>,
    /// How many checkpoint writes were acknowledged: each has its record.
    pub writes: usize,
}

/// A fault, from its begin to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What, in a few words.
    pub what: String,
    /// To whom.
    pub target: String,
    /// By which means: `signal`, `proxy`, `files`, ...
    pub means: String,
    /// When it began.
    pub begun_us: u64,
    /// When it was over.
    pub ended_us: u64,
}

/// Something that has to be well again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heal {
    /// What.
    pub what: String,
    /// How long it took after the last fault; `None`: it did not come.
    pub took_us: Option<u64>,
    /// How long it may take.
    pub bar_us: u64,
    /// What was seen last, when it did not come.
    pub seen: String,
}

/// What a process used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at_us: u64,
    /// Which process.
    pub member: String,
    /// How often it had been started before.
    pub life: u32,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open descriptors, where one may look.
    pub descriptors: Option<u64>,
    /// What it has on disk.
    pub disk_bytes: u64,
}

impl History {
    /// When the first fault began; the end of time when there was none.
    pub fn first_fault_us(&self) -> u64 {
        self.faults.iter().map(|fault| fault.begun_us).min().unwrap_or(u64::MAX)
    }

    /// Whether a fault was under way between two moments, or a short while before them.
    pub fn is_disturbed(&self, from_us: u64, to_us: u64) -> bool {
        const AFTER_US: u64 = 5_000_000;
        let touches =
            |fault: &Span| fault.begun_us <= to_us && fault.ended_us + AFTER_US >= from_us;
        self.faults.iter().any(touches)
    }

    /// Whether a fault had hit a node then, or a short while before.
    pub fn is_hit(&self, node: usize, at_us: u64) -> bool {
        const AFTER_US: u64 = 5_000_000;
        let name = format!("node-{}", node + 1);
        self.faults.iter().any(|fault| {
            let is_then = fault.begun_us <= at_us && at_us <= fault.ended_us + AFTER_US;
            is_then && fault.target.split(", ").any(|target| target == name)
        })
    }

    /// When the last fault was over.
    pub fn last_fault_us(&self) -> u64 {
        self.faults.iter().map(|fault| fault.ended_us).max().unwrap_or(0)
    }
}

impl Operation {
    /// Whether it was acknowledged to have changed its register, and at which revision.
    pub fn written(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Written(revision) => Some(revision),
            _ => None,
        }
    }
}
