//! The replicated log as a model: one order of commands, which the leader chooses; nodes that hear of it late, crash, come
//! back from snapshot and log, and are compared with what was committed, change for change.
//!
//! ```text
//! propose -> (leader with a majority behind it) commit: append, store on a majority, apply, answer
//!                 \-> other nodes, later: hear -> store -> apply -> the same changes? the same state?
//! crash -> restart: snapshot rows -> table::load -> replay of what was stored
//! behind what is kept -> the rows of a peer that has more
//! ```
//!
//! A leader is elected among those of a majority that stored the most, so what is committed is never lost here; that Raft
//! itself keeps this is shown elsewhere, with its real storage.

use super::World;
use super::event::{Event, Then};
use ollamamax_core::codec::{Batch, decode_batch, encode_batch};
use ollamamax_core::{Change, Command, Entry, Outcome, Rejection, State, apply, table};
use ollamamax_proto::Millis;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Applied entries after which a node takes a snapshot.
const SNAPSHOT_ENTRIES: u64 = 150;
/// Entries that are kept behind the newest.
const KEEP_ENTRIES: usize = 250;
/// Every how many entries whole states are compared; changes are, at each.
const COMPARE_ENTRIES: u64 = 32;
/// The wall clock at the start.
const EPOCH_MS: u64 = 1_800_000_000_000;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A node of the control plane.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub up: bool,
    /// Counts its restarts.
    pub life: u64,
    pub state: State,
    /// The last entry its state has.
    pub applied: u64,
    /// The last entry on its disk.
    pub stored: u64,
    /// The last entry it was told of and has not taken in yet.
    heard: u64,
    /// Rows of the state at an entry, on its disk.
    snapshot: (u64, Arc<Rows>),
    /// How much later it hears of commits, in microseconds.
    pub lag_us: u64,
    /// How far its clock is off, in milliseconds.
    pub off_ms: i64,
}

/// An entry that was committed, and what it did.
#[derive(Debug)]
struct Committed {
    bytes: Vec<u8>,
    changes: Vec<Change>,
    state: State,
}

/// All nodes and what they agreed on.
#[derive(Debug)]
pub(super) struct Log {
    pub nodes: Vec<Node>,
    /// Committed entries that are kept.
    entries: VecDeque<Committed>,
    /// Index of the last one.
    pub last: u64,
    pub leader: Option<usize>,
    /// Counts leaders.
    pub term: u64,
    /// Whether an election is due.
    pub electing: bool,
    /// Pairs of nodes that do not reach each other.
    cut: [[bool; 3]; 3],
}

impl Log {
    pub fn new(nodes: usize) -> Self {
        let node = || Node { up: true, ..Node::default() };
        Self {
            nodes: (0..nodes).map(|_| node()).collect(),
            entries: VecDeque::new(),
            last: 0,
            leader: None,
            term: 0,
            electing: false,
            cut: [[false; 3]; 3],
        }
    }

    /// Whether two nodes reach each other.
    pub fn reach(&self, one: usize, other: usize) -> bool {
        self.nodes[one].up && self.nodes[other].up && !self.cut[one][other]
    }

    pub fn part(&mut self, one: usize, other: usize) {
        if one != other {
            (self.cut[one][other], self.cut[other][one]) = (true, true);
        }
    }

    pub fn heal(&mut self) {
        self.cut = [[false; 3]; 3];
    }

    /// Whether a majority reaches `node`, itself included.
    pub fn has_majority(&self, node: usize) -> bool {
        let reached = (0..self.nodes.len()).filter(|&other| self.reach(node, other)).count();
        reached * 2 > self.nodes.len()
    }

    fn entry(&self, index: u64) -> Option<&Committed> {
        let behind = self.last.checked_sub(index)?;
        let at = (self.entries.len() as u64).checked_sub(behind + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The state that was committed last.
    pub fn committed(&self) -> State {
        self.entries.back().map(|entry| entry.state.clone()).unwrap_or_default()
    }
}

/// A command on its way to the leader.
#[derive(Debug)]
pub(super) struct Proposal {
    /// By whom, among the nodes.
    pub from: usize,
    /// Only in this term.
    pub term: Option<u64>,
    pub command: Command,
    /// Who waits for the answer.
    pub then: Then,
}

impl World {
    /// A node's wall clock.
    pub(super) fn clock(&self, node: usize) -> Millis {
        let off = self.log.nodes[node].off_ms;
        Millis((EPOCH_MS + self.now / 1_000).saturating_add_signed(off))
    }

    /// The clock of what waits for some time, which does not jump.
    pub(super) fn timer(&self) -> Millis {
        Millis(EPOCH_MS + self.now / 1_000)
    }

    /// Sends a command from a node to the leader.
    pub(super) fn propose(&mut self, from: usize, command: Command, then: Then) {
        let delay = self.delay(500..4_000, 1);
        let proposal = Box::new(Proposal { from, term: None, command, then });
        self.later(delay, Event::Commit(proposal));
    }

    /// Commits a command, if there is a leader that can; else whoever waits hears nothing.
    pub(super) fn commit(&mut self, proposal: Proposal) {
        let Proposal { from, term, command, then } = proposal;
        let Some(leader) = self.log.leader else { return };
        let able = self.log.reach(from, leader) && self.log.has_majority(leader);
        if !able || term.is_some_and(|term| term != self.log.term) {
            return;
        }
        let at = self.clock(leader);
        let Some(bytes) = self.encoded(Batch { at, commands: vec![command] }) else { return };
        self.trace.bytes(&bytes);
        self.log.last += 1;
        let index = self.log.last;
        let before = self.log.nodes[leader].state.clone();
        let (reply, changes) = self.decided(leader, &bytes, index);
        let state = self.log.nodes[leader].state.clone();
        self.check_applied(&before, &changes, &state);
        self.log.nodes[leader].stored = index;
        self.trace.note(state.revision().0);
        let moved = changes.iter().any(Change::concerns_placement);
        self.log.entries.push_back(Committed { bytes, changes, state });
        if self.log.entries.len() > KEEP_ENTRIES {
            self.log.entries.pop_front();
        }
        self.replicate(leader, index);
        self.applied(leader, moved);
        self.answer(leader, then, reply);
    }

    /// The bytes of a batch; it reads back as it was written.
    fn encoded(&mut self, batch: Batch) -> Option<Vec<u8>> {
        let bytes = encode_batch(&batch);
        let same = bytes.as_ref().is_ok_and(|bytes| decode_batch(bytes).as_ref() == Ok(&batch));
        self.demand(same, "commands_read_back", || format!("{batch:?}"));
        bytes.ok()
    }

    /// Stores an entry on a majority at once, and tells the others later.
    fn replicate(&mut self, leader: usize, index: u64) {
        let nodes = self.log.nodes.len();
        let mut stored = 1;
        // Who hears first is as good as chance.
        let first = self.coin.below(&[2, self.now], nodes as u64) as usize;
        for node in (0..nodes).map(|nth| (first + nth) % nodes).filter(|&node| node != leader) {
            if !self.log.reach(leader, node) {
                continue;
            }
            if stored * 2 <= nodes {
                let known = &mut self.log.nodes[node];
                known.stored = known.stored.max(index);
                stored += 1;
            }
            self.tell(node, index);
        }
    }

    /// Tells a node of commits up to `index`, as late as it is.
    pub(super) fn tell(&mut self, node: usize, index: u64) {
        let delay = self.delay(300..3_000, 3 + node as u64) + self.log.nodes[node].lag_us;
        let life = self.log.nodes[node].life;
        self.later(delay, Event::Hear { node, life, index });
    }

    /// A node hears of commits.
    pub(super) fn hear(&mut self, node: usize, life: u64, index: u64) {
        let Some(leader) = self.log.leader else { return };
        let known = &mut self.log.nodes[node];
        if known.life != life || !known.up || index <= known.applied {
            return;
        }
        known.heard = known.heard.max(index);
        if node != leader && !self.log.reach(leader, node) {
            return;
        }
        let known = &mut self.log.nodes[node];
        known.stored = known.stored.max(index);
        self.catch_up(node, index);
    }

    /// Applies what is committed up to `index`.
    fn catch_up(&mut self, node: usize, index: u64) {
        let mut moved = false;
        while self.log.nodes[node].applied < index.min(self.log.last) {
            let next = self.log.nodes[node].applied + 1;
            let Some(entry) = self.log.entry(next) else {
                self.install(node);
                moved = true;
                continue;
            };
            let bytes = entry.bytes.clone();
            let (_, changes) = self.decided(node, &bytes, next);
            moved |= changes.iter().any(Change::concerns_placement);
            self.compare(node, next, &changes);
            if self.violation.is_some() {
                return;
            }
        }
        self.applied(node, moved);
    }

    /// Takes an entry in.
    fn decided(
        &mut self,
        node: usize,
        bytes: &[u8],
        index: u64,
    ) -> (Result<Outcome, Rejection>, Vec<Change>) {
        let mut reply = Err(Rejection::NotBootstrapped);
        let mut changes = Vec::new();
        let known = &mut self.log.nodes[node];
        let batch = decode_batch(bytes).unwrap_or_default();
        for command in batch.commands {
            let entry = Entry { index, at: batch.at, command };
            let (said, changed) = apply(&mut known.state, &entry);
            reply = said;
            changes.extend(changed);
        }
        known.applied = index;
        if self.plant.skips_changes(node, index) && !changes.is_empty() {
            known.state.counters.clock = known.state.counters.clock.plus(1);
        }
        if index.is_multiple_of(SNAPSHOT_ENTRIES) {
            self.snapshot(node);
        }
        (reply, changes)
    }

    /// Whether a node did with an entry what the first one did.
    fn compare(&mut self, node: usize, index: u64, changes: &[Change]) {
        let Some(entry) = self.log.entry(index) else { return };
        let same = entry.changes == changes
            && (!index.is_multiple_of(COMPARE_ENTRIES)
                || entry.state == self.log.nodes[node].state);
        self.demand(same, "nodes_tell_one_story", || format!("node {node} at entry {index}"));
    }

    /// Whether a node's whole state is what was committed there.
    pub(super) fn compare_whole(&mut self, node: usize) {
        let known = &self.log.nodes[node];
        let Some(entry) = self.log.entry(known.applied) else { return };
        let (same, applied) = (entry.state == known.state, known.applied);
        self.demand(same, "nodes_tell_one_story", || format!("node {node} at entry {applied}"));
    }

    fn snapshot(&mut self, node: usize) {
        let known = &mut self.log.nodes[node];
        let rows = table::rows(&known.state).map(Arc::new);
        let loaded = rows.as_ref().ok().and_then(|rows| table::load(rows.iter()).ok());
        let same = loaded.as_ref() == Some(&known.state);
        if let Ok(rows) = rows {
            known.snapshot = (known.applied, rows);
        }
        self.demand(same, "rows_rebuild_the_state", || format!("node {node}"));
    }

    /// A node that lacks more than is kept takes the rows of one that has them.
    fn install(&mut self, node: usize) {
        let peers = self.log.nodes.iter().enumerate().filter(|(_, peer)| peer.up);
        let Some((peer, _)) = peers.max_by_key(|(_, peer)| peer.applied) else { return };
        self.snapshot(peer);
        self.log.nodes[node].snapshot = self.log.nodes[peer].snapshot.clone();
        self.load(node);
    }

    /// Goes back to the snapshot on disk.
    fn load(&mut self, node: usize) {
        let known = &mut self.log.nodes[node];
        let (applied, rows) = known.snapshot.clone();
        let loaded = table::load(rows.iter());
        if let Ok(state) = &loaded {
            known.state.clone_from(state);
        }
        (known.applied, known.stored) = (applied, known.stored.max(applied));
        self.demand(loaded.is_ok(), "rows_rebuild_the_state", || format!("node {node}"));
        self.compare_whole(node);
    }

    /// A node's process is gone, and what it had in memory.
    pub(super) fn crash(&mut self, node: usize) {
        if !std::mem::replace(&mut self.log.nodes[node].up, false) {
            return;
        }
        self.log.nodes[node].life += 1;
        if self.log.leader == Some(node) {
            self.depose();
        }
        self.forget_gateway(node);
    }

    /// A node comes back from its disk.
    pub(super) fn restart(&mut self, node: usize) {
        if std::mem::replace(&mut self.log.nodes[node].up, true) {
            return;
        }
        self.load(node);
        let stored = self.log.nodes[node].stored;
        if self.log.entry(self.log.nodes[node].applied + 1).is_some() {
            self.catch_up(node, stored);
            self.compare_whole(node);
        }
        self.tell(node, self.log.last);
    }

    /// The leader is one no more.
    pub(super) fn depose(&mut self) {
        self.log.leader = None;
        self.leader = None;
        self.elect_later();
    }

    pub(super) fn elect_later(&mut self) {
        if !std::mem::replace(&mut self.log.electing, true) {
            let delay = self.delay(250_000..900_000, 9);
            self.later(delay, Event::Elect);
        }
    }

    /// Of those a majority reaches, the one that stored most leads; without one, later.
    pub(super) fn elect(&mut self) {
        self.log.electing = false;
        if let Some(leader) = self.log.leader {
            if self.log.has_majority(leader) {
                return;
            }
            self.log.leader = None;
            self.leader = None;
        }
        let nodes = 0..self.log.nodes.len();
        let able = nodes.filter(|&node| self.log.nodes[node].up && self.log.has_majority(node));
        let first = able.max_by_key(|&node| (self.log.nodes[node].stored, node));
        let Some(leader) = first.filter(|&node| self.log.nodes[node].stored >= self.log.last)
        else {
            return self.elect_later();
        };
        self.log.leader = Some(leader);
        self.log.term += 1;
        self.trace.note(leader as u64);
        self.catch_up(leader, self.log.last);
        self.lead(leader);
        for node in (0..self.log.nodes.len()).filter(|&node| node != leader) {
            self.tell(node, self.log.last);
        }
    }
}
