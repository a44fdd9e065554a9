//! Assignments, and the rings they are parts of.

use super::{InvalidMessage, out_of_range};
use crate::ids::{AssignmentId, Generation, ReplicaId};
use crate::limits;
use crate::placement::{Activations, Assigned, Assignment, Peer, Ring, Stage};
use crate::wire;

impl From<&Stage> for wire::Stage {
    fn from(stage: &Stage) -> Self {
        Self {
            first_layer: stage.first_layer,
            end_layer: stage.end_layer,
            embedding: stage.embedding,
            head: stage.head,
            shard: stage.shard,
            shards: stage.shards,
        }
    }
}

impl TryFrom<wire::Stage> for Stage {
    type Error = InvalidMessage;

    fn try_from(stage: wire::Stage) -> Result<Self, InvalidMessage> {
        if stage.first_layer >= stage.end_layer || stage.shard >= stage.shards {
            let expected = "first_layer < end_layer and shard < shards";
            return Err(out_of_range("stage", format!("{stage:?}"), expected));
        }
        Ok(Self {
            first_layer: stage.first_layer,
            end_layer: stage.end_layer,
            embedding: stage.embedding,
            head: stage.head,
            shard: stage.shard,
            shards: stage.shards,
        })
    }
}

impl From<&Peer> for wire::Peer {
    fn from(peer: &Peer) -> Self {
        Self {
            assignment: peer.assignment.0,
            generation: peer.generation.0,
            address: peer.address.clone(),
            stage: Some((&peer.stage).into()),
            first_head: peer.first_head,
            end_head: peer.end_head,
            worker: peer.worker.to_string(),
        }
    }
}

impl TryFrom<wire::Peer> for Peer {
    type Error = InvalidMessage;

    fn try_from(peer: wire::Peer) -> Result<Self, InvalidMessage> {
        let lacks = InvalidMessage::Missing { message: "Peer", field: "stage" };
        if peer.address.len() > limits::ADDRESS_CHARS {
            let expected = format!("at most {} characters", limits::ADDRESS_CHARS);
            return Err(out_of_range("address", peer.address, expected));
        }
        if peer.first_head >= peer.end_head {
            let got = format!("{}..{}", peer.first_head, peer.end_head);
            return Err(out_of_range("heads", got, "at least one"));
        }
        let worker = peer.worker.parse();
        let worker = worker
            .map_err(|_| out_of_range("worker", peer.worker.clone(), "the id of a worker"))?;
        Ok(Self {
            assignment: AssignmentId(peer.assignment),
            generation: Generation(peer.generation),
            worker,
            address: peer.address,
            stage: peer.stage.ok_or(lacks)?.try_into()?,
            first_head: peer.first_head,
            end_head: peer.end_head,
        })
    }
}

impl From<&Ring> for wire::Ring {
    fn from(ring: &Ring) -> Self {
        Self {
            replica: ring.replica.0,
            activations: ring.activations.as_str().to_owned(),
            steps_in_flight: ring.steps_in_flight,
            peers: ring.peers.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Ring> for Ring {
    type Error = InvalidMessage;

    fn try_from(ring: wire::Ring) -> Result<Self, InvalidMessage> {
        let activations = match ring.activations.as_str() {
            "f32" => Activations::F32,
            "bf16" => Activations::Bf16,
            other => return Err(out_of_range("activations", other, "`f32` or `bf16`")),
        };
        let count = ring.peers.len();
        if !(2..=limits::REPLICA_STAGES_COUNT).contains(&count) {
            let expected = format!("2 to {}", limits::REPLICA_STAGES_COUNT);
            return Err(out_of_range("peers", count, expected));
        }
        let peers: Vec<Peer> =
            ring.peers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let drivers = peers.iter().filter(|peer| peer.stage.head && peer.stage.shard == 0).count();
        if drivers != 1 || !peers[0].stage.embedding {
            let expected = "the first to have the embedding, and one the head";
            return Err(out_of_range("peers", format!("{drivers} heads"), expected));
        }
        Ok(Self {
            replica: ReplicaId(ring.replica),
            activations,
            steps_in_flight: ring.steps_in_flight.clamp(1, limits::REPLICA_STAGES_COUNT as u32),
            peers,
        })
    }
}

impl From<&Assigned> for wire::Assignment {
    fn from(Assigned { assignment, ring }: &Assigned) -> Self {
        Self {
            id: assignment.id.0,
            generation: assignment.generation.0,
            model: assignment.model.to_string(),
            blob: assignment.blob.to_string(),
            blob_bytes: assignment.blob_bytes,
            stage: Some((&assignment.stage).into()),
            context_length: assignment.context_length,
            sequences_max: assignment.sequences_max,
            ring: ring.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Assignment> for Assigned {
    type Error = InvalidMessage;

    fn try_from(wire: wire::Assignment) -> Result<Self, InvalidMessage> {
        let stage =
            wire.stage.ok_or(InvalidMessage::Missing { message: "Assignment", field: "stage" })?;
        let assignment = Assignment {
            id: AssignmentId(wire.id),
            generation: Generation(wire.generation),
            model: wire.model.parse()?,
            blob: wire.blob.parse()?,
            blob_bytes: wire.blob_bytes,
            stage: stage.try_into()?,
            context_length: wire.context_length,
            sequences_max: wire.sequences_max.min(limits::SEQUENCES_COUNT),
        };
        Ok(Self { assignment, ring: wire.ring.map(TryInto::try_into).transpose()? })
    }
}
