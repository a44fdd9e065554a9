//! A replica that spreads over several workers: which assignments it is made of, in ring order.

use crate::deployment::Strategy;
use crate::record::Placement;
use crate::state::State;
use ollamamax_proto::placement::{Activations, Assignment, Peer, Ring, Stage};
use ollamamax_proto::{AssignmentId, ModelName, ReplicaId, WorkerId};
use serde::{Deserialize, Serialize};

/// The record. It exists as long as all of its members do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Its identity, never reused.
    pub id: ReplicaId,
    /// Which model.
    pub model: ModelName,
    /// How the model is cut.
    pub strategy: Strategy,
    /// What its stages hand to each other.
    pub activations: Activations,
    /// Steps on their way at once, at least 1.
    pub steps_in_flight: u32,
    /// Its parts: stage by stage, and within a stage shard by shard.
    pub members: Vec<Member>,
}

/// A part of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which assignment.
    pub assignment: AssignmentId,
    /// First key-value head of its shard.
    pub first_head: u32,
    /// One past the last.
    pub end_head: u32,
}

/// A replica to add: ids and generations are given out when it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewReplica {
    /// Which model.
    pub model: ModelName,
    /// How the model is cut.
    pub strategy: Strategy,
    /// What its stages hand to each other.
    pub activations: Activations,
    /// Steps on their way at once, at least 1.
    pub steps_in_flight: u32,
    /// Its parts, in ring order.
    pub members: Vec<NewMember>,
}

/// A part of a replica to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// Who shall hold it.
    pub worker: WorkerId,
    /// What; `id` and `generation` are ignored.
    pub assignment: Assignment,
    /// First key-value head of its shard.
    pub first_head: u32,
    /// One past the last.
    pub end_head: u32,
}

/// A part as it covers the model: its stage and its key-value heads.
pub type Cover = (Stage, u32, u32);

/// Whether `parts`, in this order, hold each of `layers` layers and each head exactly once.
///
/// # Errors
/// The first thing that is missing or twice, in words.
pub fn covers(layers: u32, parts: &[Cover]) -> Result<(), String> {
    let all_heads = parts.iter().map(|(_, _, end)| *end).max().unwrap_or(0);
    let (mut at, mut rest) = (0, parts);
    while let Some((first, ..)) = rest.first() {
        let shards = first.shards as usize;
        if shards == 0 || rest.len() < shards {
            return Err(format!("{} of {shards} shards from layer {at} on", rest.len()));
        }
        if first.first_layer != at || first.end_layer <= at || first.end_layer > layers {
            let (begin, end) = (first.first_layer, first.end_layer);
            return Err(format!("layers {begin} to {end} where {at} is next of {layers}"));
        }
        let (group, behind) = rest.split_at(shards);
        let mut head = 0;
        for (shard, (stage, first_head, end_head)) in (0u32..).zip(group) {
            let expected =
                Stage { embedding: at == 0, head: first.end_layer == layers, shard, ..*first };
            if *stage != expected {
                return Err(format!("{stage:?} where {expected:?} is next"));
            }
            if *first_head != head || end_head <= first_head {
                return Err(format!("heads {first_head} to {end_head} where {head} is next"));
            }
            head = *end_head;
        }
        if head != all_heads {
            return Err(format!("{head} of {all_heads} heads from layer {at} on"));
        }
        at = first.end_layer;
        rest = behind;
    }
    if at == layers { Ok(()) } else { Err(format!("{at} of {layers} layers")) }
}

impl ReplicaRecord {
    /// Its placements in ring order, as far as they exist.
    pub fn placements<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a Placement> + 'a {
        self.members.iter().filter_map(|member| state.placements.get(&member.assignment))
    }

    /// The placement that takes requests: shard 0 of the last stage.
    pub fn driver<'a>(&'a self, state: &'a State) -> Option<&'a Placement> {
        self.placements(state).find(|placement| {
            placement.assignment.stage.head && placement.assignment.stage.shard == 0
        })
    }

    /// The ring as its workers get it: addresses and generations as they are now.
    pub fn ring(&self, state: &State) -> Ring {
        let peer = |member: &Member| {
            let placement = state.placements.get(&member.assignment)?;
            let worker = state.workers.get(&placement.worker)?;
            Some(Peer {
                assignment: member.assignment,
                generation: placement.assignment.generation,
                worker: worker.id,
                address: worker.address.clone(),
                stage: placement.assignment.stage,
                first_head: member.first_head,
                end_head: member.end_head,
            })
        };
        Ring {
            replica: self.id,
            activations: self.activations,
            steps_in_flight: self.steps_in_flight,
            peers: self.members.iter().filter_map(peer).collect(),
        }
    }

    /// How many key-value heads its shards have together.
    pub fn heads(&self) -> u32 {
        self.members.iter().map(|member| member.end_head).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(layers: (u32, u32), shard: (u32, u32), heads: (u32, u32)) -> Cover {
        let stage = Stage {
            first_layer: layers.0,
            end_layer: layers.1,
            embedding: layers.0 == 0,
            head: layers.1 == 4,
            shard: shard.0,
            shards: shard.1,
        };
        (stage, heads.0, heads.1)
    }

    #[test]
    fn layers_and_heads_are_covered_once() {
        let pipeline = [part((0, 3), (0, 1), (0, 4)), part((3, 4), (0, 1), (0, 4))];
        assert_eq!(covers(4, &pipeline), Ok(()));
        let group = [part((0, 4), (0, 2), (0, 3)), part((0, 4), (1, 2), (3, 4))];
        assert_eq!(covers(4, &group), Ok(()));
        for (parts, why) in [
            (vec![pipeline[0]], "3 of 4 layers"),
            (vec![pipeline[1], pipeline[0]], "layers 3 to 4 where 0 is next of 4"),
            (vec![group[0]], "1 of 2 shards from layer 0 on"),
            (vec![group[0], group[0]], "shard: 0"),
            (vec![group[0], part((0, 4), (1, 2), (2, 4))], "heads 2 to 4 where 3 is next"),
            (vec![pipeline[0], part((3, 4), (0, 1), (0, 2))], "2 of 4 heads from layer 3 on"),
        ] {
            let got = covers(4, &parts).expect_err(why);
            assert!(got.contains(why), "{got}");
        }
    }
}
