//! Who runs, as which process, and in which of its lives: kept where faults are made, read by those who only look.

use ollamamax_tests::Member;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A member's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Its process id; `None` while it is dead.
    pub pid: Option<u32>,
    /// How often it had been started before.
    pub number: u32,
    /// A node's id in the cluster, once it is known.
    pub id: Option<u64>,
}

/// All members.
#[derive(Debug, Default)]
pub struct Watched(Mutex<BTreeMap<Member, Life>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Member, Life>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a member is.
    pub fn life(&self, member: Member) -> Life {
        self.lock().get(&member).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn all(&self) -> Vec<(Member, Life)> {
        self.lock().iter().map(|(member, life)| (*member, *life)).collect()
    }

    /// It was started.
    pub fn started(&self, member: Member, pid: Option<u32>) {
        let mut lives = self.lock();
        let number = lives.get(&member).map_or(0, |life| life.number + 1);
        let id = lives.get(&member).and_then(|life| life.id);
        lives.insert(member, Life { pid, number, id });
    }

    /// It has ended.
    pub fn ended(&self, member: Member) {
        if let Some(life) = self.lock().get_mut(&member) {
            life.pid = None;
        }
    }

    /// A node has said who it is.
    pub fn named(&self, member: Member, id: u64) {
        if let Some(life) = self.lock().get_mut(&member) {
            life.id = Some(id);
        }
    }

    /// The node with this id.
    pub fn node(&self, id: u64) -> Option<usize> {
        self.lock().iter().find_map(|(member, life)| match member {
            Member::Node(index) if life.id == Some(id) => Some(*index),
            _ => None,
        })
    }
}

/// `node-1`, `worker-2`.
pub fn name(member: Member) -> String {
    match member {
        Member::Node(index) => format!("node-{}", index + 1),
        Member::Worker(index) => format!("worker-{}", index + 1),
    }
}
