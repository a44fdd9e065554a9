//! What a placement takes: weights plus the KV cache of all its sequences. Everything saturates: a
//! lying model is too big.

use super::partition::Load;
use crate::record::Placement;
use crate::state::State;
use ollamamax_proto::limits;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::{Assignment, Device, Stage};

/// Bytes of weights and KV cache that `stage` of `version` takes with `sequences` of `context`
/// tokens each.
pub fn need_bytes(version: &ModelVersion, stage: &Stage, context: u32, sequences: u32) -> u64 {
    weight_bytes(version, stage)
        .saturating_add(kv_bytes(version, stage, context).saturating_mul(u64::from(sequences)))
}

/// Bytes that a member of a replica takes: its layers, and of these its share of the key-value heads, as (its, all).
pub fn member_bytes(version: &ModelVersion, assignment: &Assignment, share: (u32, u32)) -> u64 {
    let Assignment { stage, context_length, sequences_max, .. } = assignment;
    Load::new(version, *context_length, *sequences_max).part_bytes(stage, share)
}

/// Bytes that a placement was given: the whole model, or the part of a replica that it is. 0 when its model is unknown.
pub fn predicted_bytes(state: &State, placement: &Placement) -> u64 {
    let Assignment { id, model, stage, context_length, sequences_max, .. } = &placement.assignment;
    let Some(record) = state.models.get(model) else { return 0 };
    let Some(replica) = state.replica_of(*id) else {
        return need_bytes(&record.version, stage, *context_length, *sequences_max);
    };
    let mine = replica.members.iter().find(|member| member.assignment == *id);
    let heads = mine.map_or(0, |member| member.end_head.saturating_sub(member.first_head));
    member_bytes(&record.version, &placement.assignment, (heads, replica.heads()))
}

/// Bytes of KV cache that one sequence of `context` tokens takes in `stage`, in whole blocks.
pub fn kv_bytes(version: &ModelVersion, stage: &Stage, context: u32) -> u64 {
    let block = limits::KV_BLOCK_TOKENS as u64;
    let tokens = u64::from(context).div_ceil(block).saturating_mul(block);
    let all = version.facts.kv_bytes_per_token.saturating_mul(tokens);
    if stage.is_whole(version.facts.layers) {
        return all;
    }
    let layers = u64::from(stage.end_layer.saturating_sub(stage.first_layer));
    let per_layer = all.div_ceil(u64::from(version.facts.layers.max(1)));
    per_layer.saturating_mul(layers).div_ceil(u64::from(stage.shards.max(1)))
}

/// Bytes of a device that weights and KV cache may take.
pub fn usable_bytes(device: &Device, headroom_percent: u64) -> u64 {
    let kept = 100 - headroom_percent.min(100);
    let bytes = u128::from(device.memory_bytes) * u128::from(kept) / 100;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The file's size counts where the whole of it is held: it bounds what the facts leave out.
fn weight_bytes(version: &ModelVersion, stage: &Stage) -> u64 {
    let facts = &version.facts;
    let sum = |bytes: &[u64]| bytes.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
    let first = (stage.first_layer as usize).min(facts.layer_bytes.len());
    let end = (stage.end_layer as usize).clamp(first, facts.layer_bytes.len());
    let layers = sum(&facts.layer_bytes[first..end]).div_ceil(u64::from(stage.shards.max(1)));
    let embedding = if stage.embedding { facts.embedding_bytes } else { 0 };
    let head = if stage.head { facts.head_bytes } else { 0 };
    let weights = sum(&[layers, embedding, head]);
    if stage.is_whole(facts.layers) { weights.max(version.blob_bytes) } else { weights }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_proto::Digest;
    use ollamamax_proto::model::ModelFacts;
    use std::collections::BTreeMap;

    fn version(layer_bytes: Vec<u64>, kv_bytes_per_token: u64) -> ModelVersion {
        let facts = ModelFacts {
            layers: u32::try_from(layer_bytes.len()).expect("few layers"),
            layer_bytes,
            kv_bytes_per_token,
            embedding_bytes: 5,
            head_bytes: 7,
            ..ModelFacts::default()
        };
        ModelVersion {
            digest: Digest([0; 32]),
            blob: Digest([0; 32]),
            blob_bytes: 0,
            facts,
            template: None,
            system: None,
            parameters: BTreeMap::new(),
            messages: Vec::new(),
            licenses: Vec::new(),
            parent: None,
        }
    }

    #[test]
    fn a_whole_stage_needs_weights_and_cache_in_whole_blocks() {
        let version = version(vec![10, 20], 2);
        let whole = Stage::whole(2);
        assert_eq!(need_bytes(&version, &whole, 17, 3), 42 + 32 * 2 * 3);
    }

    #[test]
    fn two_halves_need_what_the_whole_needs() {
        let version = version(vec![10, 20], 2);
        let first = Stage { end_layer: 1, head: false, ..Stage::whole(2) };
        let second = Stage { first_layer: 1, embedding: false, ..Stage::whole(2) };
        let need = |stage| need_bytes(&version, stage, 16, 1);
        assert_eq!(need(&first) + need(&second), need(&Stage::whole(2)));
    }

    #[test]
    fn lying_numbers_saturate() {
        let version = version(vec![u64::MAX, u64::MAX], u64::MAX);
        assert_eq!(need_bytes(&version, &Stage::whole(2), u32::MAX, u32::MAX), u64::MAX);
        let beyond = Stage { first_layer: 9, end_layer: 3, ..Stage::whole(2) };
        assert_eq!(need_bytes(&version, &beyond, 0, 0), 12);
    }
}
