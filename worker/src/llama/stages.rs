//! Which part of a file an assignment is.

use super::in_words;
use crate::machine::LoadError;
use ollamamax_engine::part::Part;
use ollamamax_engine::shape::ModelShape;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::Gguf;
use ollamamax_proto::placement::Assigned;
use std::ops::Range;
use std::path::Path;

/// The part that is assigned; `None`: the whole model.
pub fn part(assigned: &Assigned) -> Result<Option<Part>, LoadError> {
    let (Assigned { assignment, ring: Some(ring) }, stage) = (assigned, assigned.assignment.stage)
    else {
        return Ok(None);
    };
    let peer = ring.peers.iter().find(|peer| peer.assignment == assignment.id);
    let peer = peer.ok_or_else(|| {
        let (replica, id) = (ring.replica, assignment.id);
        LoadError(format!("the ring of replica `{replica}` has no place for assignment `{id}`"))
    })?;
    Ok(Some(Part {
        layers: stage.first_layer..stage.end_layer,
        embedding: stage.embedding,
        head: stage.head && stage.shard == 0,
        heads: peer.first_head..peer.end_head,
    }))
}

/// Bytes of the file that the part holds, the header left out; of the whole file without a part. An embedding that is no
/// head is only looked up, its rows stay in the file's pages.
pub fn weight_bytes(gguf: &Gguf, part: Option<&Part>, file_bytes: u64) -> Result<u64, LoadError> {
    let Some(part) = part else { return Ok(file_bytes) };
    let shape = ModelShape::from_gguf(gguf).map_err(|error| in_words(&error))?;
    let part = Part { embedding: false, ..part.clone() };
    let ranges = part.ranges(gguf, &shape).map_err(|error| in_words(&error))?;
    Ok(ranges.iter().map(|range| range.end - range.start).sum())
}

/// Bytes of keys and values that one token takes in the part.
pub fn kv_bytes_per_token(gguf: &Gguf, part: Option<&Part>, whole: u64) -> Result<u64, LoadError> {
    let Some(part) = part else { return Ok(whole) };
    let shape = ModelShape::from_gguf(gguf).map_err(|error| in_words(&error))?;
    let all = u64::from(shape.layers) * u64::from(shape.kv_heads);
    let count = |range: &Range<u32>| u64::from(range.end.saturating_sub(range.start));
    Ok(whole / all.max(1) * count(&part.layers) * count(&part.heads))
}

/// The header, and what the part reads of the file that begins at `path`; `None` when too little of it is there.
pub fn ranges(path: &Path, assigned: &Assigned) -> Result<Option<Vec<Range<u64>>>, LoadError> {
    let Some(part) = part(assigned)? else { return Ok(None) };
    let mapping = Mapping::open(path).map_err(|error| in_words(&error))?;
    let Ok(gguf) = Gguf::parse(mapping.bytes()) else { return Ok(None) };
    let Ok(shape) = ModelShape::from_gguf(&gguf) else { return Ok(None) };
    let first = gguf.tensors().iter().map(|tensor| tensor.start).min();
    let Some(first) = first else { return Ok(None) };
    let mut ranges = vec![Range { start: 0, end: first }];
    ranges.extend(part.ranges(&gguf, &shape).map_err(|error| in_words(&error))?);
    Ok(Some(ranges))
}
