//! Checkers: each judges one promise by a history alone, and can say no.
//!
//! A checker is a pure function from [`History`] to [`Verdict`], in a file of its own, with tests that show it good and bad histories
//! made by hand. One that cannot tell (because telling would take too much work, or because there was nothing to look at) says
//! [`Verdict::Unknown`]: that is never a pass.

pub mod durable;
pub mod exclusive;
pub mod heals;
pub mod leaders;
pub mod linearizable;
pub mod order;
pub mod resources;
pub mod sessions;
pub mod streams;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod trail;

use crate::history::History;
use ollamamax_proto::limits;
use serde::Serialize;

/// What a checker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// The promise was kept, as far as so many things show.
    Pass {
        /// How many were looked at.
        looked_at: usize,
    },
    /// It was broken, each time in words.
    Fail {
        /// Where.
        findings: Vec<String>,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

impl Verdict {
    /// A failure when there are findings, unknown when nothing was looked at, else a pass.
    pub fn of(findings: Vec<String>, looked_at: usize, nothing: &str) -> Self {
        match (findings.is_empty(), looked_at) {
            (false, _) => Self::Fail { findings },
            (true, 0) => Self::Unknown { why: nothing.to_owned() },
            (true, looked_at) => Self::Pass { looked_at },
        }
    }

    /// Whether the promise was broken.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Fail { .. })
    }

    /// Whether it was kept.
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Pass { .. })
    }
}

/// What checkers need to know beside the history.
#[derive(Clone, Debug)]
pub struct Bars {
    /// How many steps the search for an order may take, over all registers.
    pub search_steps: u64,
    /// How long a revoked token may be good after the acknowledgement, in microseconds.
    pub revoked_us: u64,
    /// The same for a node that a fault may keep from hearing of it.
    pub stale_us: u64,
    /// What a process may have more at the end than before the faults, in bytes.
    pub memory_bytes: u64,
    /// The same in descriptors.
    pub descriptors: u64,
}

impl Default for Bars {
    fn default() -> Self {
        Self {
            search_steps: 20_000_000,
            revoked_us: 2_000_000,
            stale_us: (limits::STALE_VIEW_MS + 2_000) * 1_000,
            memory_bytes: 128 << 20,
            descriptors: 48,
        }
    }
}

/// A checker: its name, the promise in words, and how it judges.
pub struct Checker {
    /// As reports and scenarios name it.
    pub name: &'static str,
    /// What it holds the system to.
    pub promise: &'static str,
    /// Judges.
    pub judge: fn(&History, &Bars) -> Verdict,
}

/// All of them.
pub const ALL: [Checker; 10] = [
    Checker {
        name: "linearizable",
        promise: "registers behave as if each request happened at one moment between its begin and its end",
        judge: linearizable::check,
    },
    Checker {
        name: "durable",
        promise: "no acknowledged write is lost, at any node",
        judge: durable::check,
    },
    Checker {
        name: "leaders",
        promise: "no term has two leaders, and no node goes back in term or log while it lives",
        judge: leaders::check,
    },
    Checker {
        name: "sessions",
        promise: "a client never sees an older state than it has seen or made",
        judge: sessions::check,
    },
    Checker {
        name: "exclusive",
        promise: "no two workers hold the same stage of a model in the same generation",
        judge: exclusive::check,
    },
    Checker {
        name: "streams",
        promise: "every stream ends exactly once, with the bytes it has undisturbed",
        judge: streams::check,
    },
    Checker {
        name: "tokens",
        promise: "what is revoked is refused from then on, and nothing else is",
        judge: tokens::check,
    },
    Checker {
        name: "trail",
        promise: "the audit trail is whole, and has every acknowledged write",
        judge: trail::check,
    },
    Checker {
        name: "heals",
        promise: "once faults stop, everything is well again in time",
        judge: heals::check,
    },
    Checker {
        name: "resources",
        promise: "memory and descriptors come back",
        judge: resources::check,
    },
];

/// The checker of this name.
pub fn find(name: &str) -> Option<&'static Checker> {
    ALL.iter().find(|checker| checker.name == name)
}
