//! A device against the plain path of the CPU, on small random models: every weight type, every family, and that company
//! changes nothing. Tests run it on the host, `ollamamax bench device` on a GPU.

use super::device::Device;
use super::{CudaBackend, CudaOptions, Gpu, Unavailable};
use crate::architecture::{ALL, Architecture};
use crate::backend::{Backend, BackendError, BlockId, Logits, Slice, SliceLogits, StepBatch};
use crate::cpu::{CpuBackend, CpuOptions, LoadError, NumericPath};
use crate::synth::Synth;
use crate::weights::Mapping;
use ollamamax_gguf::GgmlType;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;
use std::path::Path;
use std::sync::Arc;

/// KV blocks of each model.
pub(super) const BLOCKS: u32 = 192;
/// Tokens of the random models' vocabularies.
const VOCABULARY: u32 = 96;
const CONTEXT_TOKENS: u32 = 1_024;

/// What a weight type may be off by, as a share of the logits' spread. Levels of sixteen bits lose nothing beside f16 keys; inputs
/// of sixteen-bit floats do.
const KINDS: [(GgmlType, f32); 11] = [
    (GgmlType::F32, 0.002),
    (GgmlType::F16, 0.01),
    (GgmlType::BF16, 0.06),
    (GgmlType::Q4_0, 0.01),
    (GgmlType::Q4_1, 0.01),
    (GgmlType::Q5_0, 0.01),
    (GgmlType::Q5_1, 0.01),
    (GgmlType::Q8_0, 0.01),
    (GgmlType::Q4_K, 0.02),
    (GgmlType::Q5_K, 0.02),
    (GgmlType::Q6_K, 0.02),
];
/// What a family may be off by.
const FAMILY: f32 = 0.01;

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was compared.
    pub what: String,
    /// The largest difference of a logit, or of an element of a hidden state, as a share of their spread.
    pub worst: f32,
    /// The largest it may be.
    pub bound: f32,
}

impl Row {
    /// Whether the device is as near as it has to be.
    pub fn passes(&self) -> bool {
        self.worst <= self.bound
    }
}

/// Why a device cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It cannot be used.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A model cannot be loaded onto it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It fails.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

type Open<'a> = &'a mut dyn FnMut() -> Result<Box<dyn Device>, Unavailable>;

/// Checks the GPU of a number.
pub fn check_gpu(index: u32, kept: Option<&Path>) -> Result<Vec<Row>, CheckError> {
    check(&mut || Ok(Box::new(Gpu::open(index, kept)?)))
}

/// Checks a device, opened anew for each model.
pub(super) fn check(open: Open<'_>) -> Result<Vec<Row>, CheckError> {
    let mut rows = Vec::new();
    for (kind, bound) in KINDS {
        let worst = compare(open, &Synth::tiny(kind, 11))?;
        rows.push(Row { what: format!("weights {kind}"), worst, bound });
    }
    for architecture in &ALL {
        let worst = match architecture.encoder {
            true => compare_encoder(open, architecture)?,
            false => {
                let tiny = Synth::tiny(GgmlType::F32, 3);
                compare(open, &Synth { architecture, rope_factors: true, ..tiny })?
            }
        };
        rows.push(Row { what: format!("family {}", architecture.name), worst, bound: FAMILY });
    }
    rows.push(Row { what: "wide heads".to_owned(), worst: compare(open, &wide())?, bound: FAMILY });
    rows.push(Row { what: "wide heads, long".to_owned(), worst: long(open)?, bound: FAMILY });
    for kind in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::BF16, GgmlType::F32] {
        let worst = company(open, kind)?;
        rows.push(Row { what: format!("alone and among others, {kind}"), worst, bound: 0.0 });
    }
    Ok(rows)
}

pub(super) fn mapping(synth: &Synth) -> Arc<Mapping> {
    Arc::new(Mapping::from_vec(synth.to_gguf()))
}

pub(super) fn on_device(
    device: Box<dyn Device>,
    mapping: &Arc<Mapping>,
) -> Result<CudaBackend, LoadError> {
    let options = CudaOptions { kv_blocks: BLOCKS, context_tokens: CONTEXT_TOKENS };
    CudaBackend::load(device, mapping, &options, None)
}

fn oracle(mapping: &Arc<Mapping>) -> Result<CpuBackend, LoadError> {
    let options = CpuOptions {
        path: NumericPath::Plain,
        threads: 1,
        kv_blocks: BLOCKS,
        context_tokens: CONTEXT_TOKENS,
        ..CpuOptions::default()
    };
    CpuBackend::from_mapping(Arc::clone(mapping), &options)
}

/// A run of `count` tokens from `start` of the sequence that has every third block from `first_block`.
pub(super) fn slice(start: u32, count: u32, first_block: u32, logits: Logits) -> Slice {
    let blocks = (start + count).div_ceil(KV_BLOCK_TOKENS as u32);
    let token = |n: u32| (n * 7 + first_block * 13 + 1) % VOCABULARY;
    Slice {
        start,
        tokens: (start..start + count).map(token).collect(),
        blocks: (0..blocks).map(|n| BlockId(first_block + 3 * n)).collect(),
        logits,
    }
}

fn step(backend: &mut dyn Backend, slices: Vec<Slice>) -> Result<Vec<SliceLogits>, BackendError> {
    backend.step(&StepBatch { slices })
}

/// The largest difference, as a share of the spread of what is expected; infinite where something is no number.
pub(super) fn difference(ours: &[SliceLogits], expected: &[SliceLogits]) -> f32 {
    let sizes = |all: &[SliceLogits]| -> Vec<Vec<usize>> {
        all.iter().map(|rows| rows.iter().map(Vec::len).collect()).collect()
    };
    if sizes(ours) != sizes(expected) {
        return f32::INFINITY;
    }
    let mut worst = 0.0f32;
    for (ours, expected) in ours.iter().flatten().zip(expected.iter().flatten()) {
        let mean = expected.iter().sum::<f32>() / expected.len() as f32;
        let square = expected.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
        let spread = (square / expected.len() as f32).sqrt().max(1e-6);
        for (a, b) in ours.iter().zip(expected) {
            let off = (a - b).abs() / spread;
            worst = if off.is_nan() { f32::INFINITY } else { worst.max(off) };
        }
    }
    worst
}

/// Prompts, a second chunk, single tokens, and tokens of several sequences at once.
fn compare(open: Open<'_>, synth: &Synth) -> Result<f32, CheckError> {
    let mapping = mapping(synth);
    let (mut ours, mut theirs) = (on_device(open()?, &mapping)?, oracle(&mapping)?);
    let steps = [
        vec![slice(0, 5, 0, Logits::Last)],
        vec![slice(5, 1, 0, Logits::Last), slice(0, 37, 1, Logits::All)],
        vec![
            slice(6, 1, 0, Logits::Last),
            slice(37, 1, 1, Logits::Last),
            slice(0, 20, 2, Logits::Hidden),
        ],
    ];
    let mut worst = 0.0f32;
    for slices in steps {
        let expected = step(&mut theirs, slices.clone())?;
        worst = worst.max(difference(&step(&mut ours, slices)?, &expected));
    }
    Ok(worst)
}

fn compare_encoder(open: Open<'_>, family: &'static Architecture) -> Result<f32, CheckError> {
    let mapping = mapping(&Synth::encoder(family, 5));
    let (mut ours, mut theirs) = (on_device(open()?, &mapping)?, oracle(&mapping)?);
    let slices = vec![slice(0, 9, 0, Logits::Hidden), slice(0, 70, 1, Logits::Hidden)];
    let expected = step(&mut theirs, slices.clone())?;
    Ok(difference(&step(&mut ours, slices)?, &expected))
}

/// Heads as wide as kernels take them, and more query heads for one of keys than they take at once.
fn wide() -> Synth {
    let (head_width, heads) = (super::HEAD_WIDTH, 10);
    let tiny = Synth::tiny(GgmlType::Q8_0, 6);
    Synth { layers: 1, head_width, rope_width: head_width, heads, kv_heads: 1, ..tiny }
}

/// Some more chunks of positions, for one token and for more tokens than are computed chunk by chunk.
fn long(open: Open<'_>) -> Result<f32, CheckError> {
    let mapping = mapping(&wide());
    let (mut ours, mut theirs) = (on_device(open()?, &mapping)?, oracle(&mapping)?);
    let mut worst = 0.0f32;
    let mut start = 0;
    for count in [200, 200, 200, 70, 1] {
        let slices = vec![slice(start, count, 0, Logits::Last)];
        let expected = step(&mut theirs, slices.clone())?;
        worst = worst.max(difference(&step(&mut ours, slices)?, &expected));
        start += count;
    }
    Ok(worst)
}

/// How far a token's logits alone, after one chunk, are from those among others, after many: nothing, where they are the same bits.
fn company(open: Open<'_>, kind: GgmlType) -> Result<f32, CheckError> {
    let mapping = mapping(&Synth::tiny(kind, 21));
    let mut alone = on_device(open()?, &mapping)?;
    step(&mut alone, vec![slice(0, 300, 0, Logits::None)])?;
    let expected = step(&mut alone, vec![slice(300, 1, 0, Logits::Last)])?;
    let mut among = on_device(open()?, &mapping)?;
    for (start, count) in [(0, 1), (1, 7), (8, 30), (38, 100), (138, 162)] {
        let others = slice(0, count % 11 + 1, 1, Logits::Last);
        step(&mut among, vec![others, slice(start, count, 0, Logits::None)])?;
    }
    let mut slices: Vec<Slice> = (0..40).map(|_| slice(3, 1, 2, Logits::Last)).collect();
    slices.insert(17, slice(300, 1, 0, Logits::Last));
    let got = step(&mut among, slices)?;
    Ok(difference(&got[17..18], &expected))
}
