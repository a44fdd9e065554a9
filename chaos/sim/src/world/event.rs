//! What is due: events in virtual time, each at a moment and in the order in which they were scheduled.

use super::log::Proposal;
use super::request::Said;
use ollamamax_core::quota::News;
use ollamamax_proto::placement::AssignmentReport;
use ollamamax_proto::{AssignmentId, Generation};
use std::cmp::Ordering;

/// A thing that happens in the world by itself. Lives, terms and attempts fence what was meant for another one.
#[derive(Debug)]
pub(super) enum Event {
    /// The next operation of the script.
    Script,
    /// A command comes to the leader.
    Commit(Box<Proposal>),
    /// A node hears of commits.
    Hear { node: usize, life: u64, index: u64 },
    /// A node comes back.
    Restart { node: usize },
    /// Somebody must lead.
    Elect,
    /// The leader judges its workers.
    Check { term: u64 },
    /// The leader looks at what should be.
    Round { term: u64, by_itself: bool },
    /// A heartbeat comes to a node.
    Beat(Box<Beat>),
    /// A worker sends one.
    Tick { worker: usize, life: u64 },
    /// A worker asks what it shall hold.
    Pull { worker: usize, life: u64 },
    /// A worker has loaded, or failed to.
    Loaded { worker: usize, life: u64, id: AssignmentId, generation: Generation },
    /// A placement computes.
    Step { worker: usize, life: u64, id: AssignmentId, generation: Generation },
    /// A request comes to a gateway.
    Asked { request: u64 },
    /// A request looks for a worker again.
    Again { request: u64, attempt: u32 },
    /// An attempt comes to its worker.
    Sent { request: u64, attempt: u32 },
    /// A worker says something of an attempt.
    Said { request: u64, attempt: u32, said: Said },
    /// A gateway looks whether an attempt has been silent.
    Watch { request: u64, attempt: u32 },
    /// A client hangs up.
    Gone { request: u64 },
    /// A worker hears that nobody waits for a sequence any more.
    Cancel { worker: usize, life: u64, id: AssignmentId, request: u64, attempt: u32 },
    /// A gateway throws out those that waited too long.
    Expire { node: usize, life: u64 },
    /// A gateway tells the others what was used.
    Gossip { node: usize, life: u64 },
    /// Another hears it.
    Absorb { node: usize, from: usize, news: Vec<News> },
}

/// What a worker says of itself.
#[derive(Debug)]
pub(super) struct Beat {
    pub worker: usize,
    pub life: u64,
    pub node: usize,
    pub draining: bool,
    pub reports: Vec<AssignmentReport>,
    pub ns_per_mib: u64,
}

/// Who waits for the answer to a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// Nobody.
    Nobody,
    /// A worker that registers.
    Registered { worker: usize, life: u64 },
    /// The leader's loop of one worker: its errand is done.
    Errand { worker: usize, what: u8, term: u64 },
    /// Somebody who wants to plan again to see that nothing is left to do.
    Planned { term: u64 },
}

/// An event and when it is due.
#[derive(Debug)]
pub(super) struct Due {
    pub us: u64,
    pub number: u64,
    pub event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest: a heap gives the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.us, other.number).cmp(&(self.us, self.number))
    }
}
