//! What a message between nodes must say to be handed to Raft.
//!
//! Raft believes its members: whoever has a node's certificate can lead. But the library takes for granted what its own sender always
//! does, and ends the process where that does not hold. So what no honest node sends is refused here:
//!
//! ```text
//! vote     the sender's own, of a term that elections can have led to
//! entries  one after another behind the one they follow, none of a later term than the vote
//! ```

use ollamamax_proto::limits;
use ollamamax_storage::{LogId, SnapshotMeta, TypeConfig, Vote};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

/// A message that is checked before Raft sees it.
pub trait Plausible {
    /// Why it is not passed on, when node `from` sent it and this node is in `term`.
    fn check(&self, from: u64, term: u64) -> Result<(), String>;
}

fn check_vote(vote: &Vote, from: u64, term: u64) -> Result<(), String> {
    let (voter, of) = (vote.leader_id.node_id, vote.leader_id.term);
    if voter != from {
        return Err(format!("node {from} sent a vote of node {voter}"));
    }
    if of > term.saturating_add(limits::RAFT_TERMS_AHEAD_COUNT) {
        return Err(format!("term {of} is too far from {term}, in which this node is"));
    }
    Ok(())
}

/// Refuses what belongs to a later term than its sender, or leaves no room behind it.
fn check_log_id(id: Option<&LogId>, vote: &Vote) -> Result<(), String> {
    let Some(id) = id else { return Ok(()) };
    if id.leader_id.term > vote.leader_id.term {
        let (term, own) = (id.leader_id.term, vote.leader_id.term);
        return Err(format!("an entry of term {term} came from a node in term {own}"));
    }
    if id.index >= u64::MAX - limits::RAFT_APPEND_ENTRIES {
        return Err(format!("no log has {} entries", id.index));
    }
    Ok(())
}

impl Plausible for AppendEntriesRequest<TypeConfig> {
    fn check(&self, from: u64, term: u64) -> Result<(), String> {
        check_vote(&self.vote, from, term)?;
        if !self.vote.committed {
            return Err("entries came from a node that leads nobody".to_owned());
        }
        check_log_id(self.prev_log_id.as_ref(), &self.vote)?;
        check_log_id(self.leader_commit.as_ref(), &self.vote)?;
        let mut last = self.prev_log_id;
        for entry in &self.entries {
            let id = entry.log_id;
            check_log_id(Some(&id), &self.vote)?;
            let expected = last.map_or(0, |last| last.index + 1);
            if id.index != expected || last.is_some_and(|last| last.leader_id > id.leader_id) {
                return Err(format!("entry {id} does not follow {last:?}"));
            }
            last = Some(id);
        }
        Ok(())
    }
}

/// Whether it is only asked for, and for what.
impl Plausible for (bool, VoteRequest<TypeConfig>) {
    fn check(&self, from: u64, term: u64) -> Result<(), String> {
        check_vote(&self.1.vote, from, term)?;
        if self.1.vote.committed {
            return Err("a node asked for a vote that it has".to_owned());
        }
        check_log_id(self.1.last_log_id.as_ref(), &self.1.vote)
    }
}

impl Plausible for TransferLeaderRequest<TypeConfig> {
    fn check(&self, from: u64, term: u64) -> Result<(), String> {
        check_vote(self.from_leader(), from, term)?;
        check_log_id(self.last_log_id(), self.from_leader())
    }
}

impl Plausible for (Vote, SnapshotMeta) {
    fn check(&self, from: u64, term: u64) -> Result<(), String> {
        check_vote(&self.0, from, term)?;
        if !self.0.committed {
            return Err("a snapshot came from a node that leads nobody".to_owned());
        }
        check_log_id(self.1.last_log_id.as_ref(), &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_storage::{Batch, Entry, EntryPayload, LeaderId};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn vote(term: u64, node_id: u64, committed: bool) -> Vote {
        Vote { leader_id: LeaderId { term, node_id }, committed }
    }

    fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id }, index }
    }

    fn append() -> AppendEntriesRequest<TypeConfig> {
        let entry = |index, payload| Entry { log_id: log_id(3, 2, index), payload };
        AppendEntriesRequest {
            vote: vote(3, 2, true),
            prev_log_id: Some(log_id(2, 1, 7)),
            entries: vec![
                entry(8, EntryPayload::Blank),
                entry(9, EntryPayload::Normal(Batch(vec![1, 2, 3]))),
            ],
            leader_commit: Some(log_id(3, 2, 8)),
        }
    }

    #[test]
    fn what_honest_nodes_send_passes() {
        append().check(2, 3).expect("a leader's entries");
        let heartbeat = AppendEntriesRequest { entries: Vec::new(), ..append() };
        heartbeat.check(2, 1).expect("a heartbeat to a node that was away");
        let first = AppendEntriesRequest {
            prev_log_id: None,
            entries: vec![Entry { log_id: log_id(0, 0, 0), payload: EntryPayload::Blank }],
            leader_commit: None,
            ..append()
        };
        first.check(2, 0).expect("a log from its beginning");
        let request = VoteRequest {
            vote: vote(4, 2, false),
            last_log_id: Some(log_id(3, 2, 9)),
            leadership_transfer: false,
        };
        (true, request).check(2, 3).expect("a candidate");
        let transfer = TransferLeaderRequest::new(vote(3, 2, true), 1, Some(log_id(3, 2, 9)));
        transfer.check(2, 3).expect("a leader that goes");
    }

    #[test]
    fn what_no_honest_node_sends_is_refused() {
        let refused = |what: &str, change: fn(&mut AppendEntriesRequest<TypeConfig>)| {
            let mut request = append();
            change(&mut request);
            assert!(request.check(2, 3).is_err(), "{what}");
        };
        refused("the vote of another", |r| r.vote.leader_id.node_id = 1);
        refused("a vote that nobody gave", |r| r.vote.committed = false);
        refused("a term without end", |r| r.vote.leader_id.term = u64::MAX);
        refused("a gap", |r| r.entries[1].log_id.index = 10);
        refused("an entry twice", |r| r.entries[1].log_id.index = 8);
        refused("entries that follow nothing", |r| r.prev_log_id = None);
        refused("an entry of the future", |r| r.entries[1].log_id.leader_id.term = 4);
        refused("an entry of the past", |r| r.entries[1].log_id.leader_id.term = 1);
        refused("a log without end", |r| r.prev_log_id = Some(log_id(2, 1, u64::MAX)));
        refused("a commit without end", |r| r.leader_commit = Some(log_id(3, 2, u64::MAX)));
        let request =
            VoteRequest { vote: vote(4, 2, true), last_log_id: None, leadership_transfer: false };
        assert!((false, request).check(2, 3).is_err(), "a vote that it has");
        let transfer = TransferLeaderRequest::<TypeConfig>::new(vote(3, 1, true), 3, None);
        assert!(transfer.check(2, 3).is_err(), "in the name of another");
    }

    #[test]
    fn mutants_of_messages_are_refused_or_follow_each_other() {
        let count = std::env::var("OLLAMAMAX_FUZZ").ok().and_then(|text| text.parse().ok());
        let (count, seed) = (count.unwrap_or(20_000), 0x5eed);
        eprintln!("OLLAMAMAX_FUZZ={count}, seed {seed}");
        let good = postcard::to_stdvec(&append()).expect("encoded");
        let (mut chance, mut passed) = (StdRng::seed_from_u64(seed), 0);
        for _ in 0..count {
            let mut bytes = good.clone();
            for _ in 0..chance.random_range(1..4) {
                let at = chance.random_range(0..bytes.len());
                match chance.random_range(0..3) {
                    0 => bytes[at] = chance.random(),
                    1 => bytes[at] ^= 1 << chance.random_range(0..8),
                    _ => drop(bytes.splice(at..at, [0xff; 9])),
                }
            }
            let decoded = postcard::from_bytes::<AppendEntriesRequest<TypeConfig>>(&bytes);
            let Ok(request) = decoded else { continue };
            if request.check(2, 3).is_ok() {
                passed += 1;
                let first = request.prev_log_id.map_or(0, |id| id.index + 1);
                let indices = request.entries.iter().map(|entry| entry.log_id.index);
                assert!(indices.eq(first..first + request.entries.len() as u64), "{request:?}");
                assert_eq!(request.vote.leader_id.node_id, 2);
            }
        }
        assert!(passed > 0 && passed < count, "{passed} of {count} passed");
    }
}
