//! The kernels and all that launches them, on the host, against the plain path of the CPU.

use super::host::HostDevice;
use super::{CudaBackend, CudaOptions};
use crate::architecture::{ALL, Architecture};
use crate::backend::{Backend, BackendError, BlockId, Logits, Slice, SliceLogits, StepBatch};
use crate::cpu::{CpuBackend, CpuOptions, NumericPath};
use crate::synth::Synth;
use crate::weights::Mapping;
use ollamamax_gguf::GgmlType;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;
use std::sync::Arc;

const BLOCKS: u32 = 64;

fn mapping(synth: &Synth) -> Arc<Mapping> {
    Arc::new(Mapping::from_vec(synth.to_gguf()))
}

fn device_backend(mapping: &Arc<Mapping>, device: HostDevice) -> CudaBackend {
    let options = CudaOptions { kv_blocks: BLOCKS, context_tokens: 1_024 };
    CudaBackend::load(Box::new(device), mapping, &options, None).expect("it loads")
}

fn on_device(mapping: &Arc<Mapping>) -> CudaBackend {
    device_backend(mapping, HostDevice::new(4))
}

fn oracle(mapping: &Arc<Mapping>) -> CpuBackend {
    let options = CpuOptions {
        path: NumericPath::Plain,
        threads: 1,
        kv_blocks: BLOCKS,
        context_tokens: 1_024,
        ..CpuOptions::default()
    };
    CpuBackend::from_mapping(Arc::clone(mapping), &options).expect("it loads")
}

/// A run of `count` tokens from `start` of the sequence that has every third block from `first_block`.
fn slice(start: u32, count: u32, first_block: u32, logits: Logits) -> Slice {
    let blocks = (start + count).div_ceil(KV_BLOCK_TOKENS as u32);
    Slice {
        start,
        tokens: (start..start + count).map(|n| (n * 7 + first_block * 13 + 1) % 96).collect(),
        blocks: (0..blocks).map(|n| BlockId(first_block + 3 * n)).collect(),
        logits,
    }
}

fn step(backend: &mut dyn Backend, slices: Vec<Slice>) -> Vec<SliceLogits> {
    backend.step(&StepBatch { slices }).expect("it computes")
}

/// The largest difference, as a share of the spread of what is expected.
fn difference(ours: &[SliceLogits], expected: &[SliceLogits]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let mut worst = 0.0f32;
    for (ours, expected) in ours.iter().flatten().zip(expected.iter().flatten()) {
        assert_eq!(ours.len(), expected.len());
        let mean = expected.iter().sum::<f32>() / expected.len() as f32;
        let square = expected.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
        let spread = (square / expected.len() as f32).sqrt().max(1e-6);
        for (a, b) in ours.iter().zip(expected) {
            assert!(a.is_finite(), "{a}");
            worst = worst.max((a - b).abs() / spread);
        }
    }
    worst
}

/// Prompts, a second chunk, single tokens, and tokens of several sequences at once.
fn compare(synth: &Synth) -> f32 {
    let mapping = mapping(synth);
    let (mut ours, mut theirs) = (on_device(&mapping), oracle(&mapping));
    let mut worst = 0.0f32;
    let steps = [
        vec![slice(0, 5, 0, Logits::Last)],
        vec![slice(5, 1, 0, Logits::Last), slice(0, 37, 1, Logits::All)],
        vec![
            slice(6, 1, 0, Logits::Last),
            slice(37, 1, 1, Logits::Last),
            slice(0, 20, 2, Logits::Hidden),
        ],
    ];
    for slices in steps {
        let expected = step(&mut theirs, slices.clone());
        worst = worst.max(difference(&step(&mut ours, slices), &expected));
    }
    worst
}

#[test]
fn every_weight_type_agrees_with_the_cpu() {
    use GgmlType::*;
    // Levels of sixteen bits lose nothing beside f16 keys; floats of sixteen bits as inputs do.
    let bounds = [
        (F32, 0.002),
        (F16, 0.01),
        (BF16, 0.06),
        (Q4_0, 0.01),
        (Q4_1, 0.01),
        (Q5_0, 0.01),
        (Q5_1, 0.01),
        (Q8_0, 0.01),
        (Q4_K, 0.02),
        (Q5_K, 0.02),
        (Q6_K, 0.02),
    ];
    for (kind, bound) in bounds {
        let worst = compare(&Synth::tiny(kind, 11));
        assert!(worst < bound, "{kind}: off by {worst} of the spread");
    }
}

#[test]
fn every_family_agrees_with_the_cpu() {
    let continuing = |architecture: &&Architecture| !architecture.encoder;
    for architecture in ALL.iter().filter(continuing) {
        let architecture = Architecture::find(architecture.name).expect("it is one");
        let synth = Synth { architecture, rope_factors: true, ..Synth::tiny(GgmlType::F32, 3) };
        let worst = compare(&synth);
        assert!(worst < 0.01, "{}: off by {worst} of the spread", architecture.name);
    }
}

#[test]
fn encoders_agree_with_the_cpu() {
    for name in ["bert", "nomic-bert"] {
        let architecture = Architecture::find(name).expect("a family");
        let mapping = mapping(&Synth::encoder(architecture, 5));
        let (mut ours, mut theirs) = (on_device(&mapping), oracle(&mapping));
        let slices = vec![slice(0, 9, 0, Logits::Hidden), slice(0, 70, 1, Logits::Hidden)];
        let expected = step(&mut theirs, slices.clone());
        let worst = difference(&step(&mut ours, slices), &expected);
        assert!(worst < 0.01, "{name}: off by {worst} of the spread");
    }
}

/// A token's logits are the same bits alone and among others, in one chunk or many, on a small and on a large device.
#[test]
fn company_changes_no_bit() {
    for kind in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::BF16, GgmlType::F32] {
        let mapping = mapping(&Synth::tiny(kind, 21));
        let mut alone = on_device(&mapping);
        step(&mut alone, vec![slice(0, 300, 0, Logits::None)]);
        let expected = step(&mut alone, vec![slice(300, 1, 0, Logits::Last)]);
        for processors in [1, 200] {
            let mut among = device_backend(&mapping, HostDevice::new(processors));
            let chunks = [(0, 1), (1, 7), (8, 30), (38, 100), (138, 162)];
            for (start, count) in chunks {
                let others = slice(0, count % 11 + 1, 1, Logits::Last);
                step(&mut among, vec![others, slice(start, count, 0, Logits::None)]);
            }
            let mut slices: Vec<Slice> = (0..40).map(|_| slice(3, 1, 2, Logits::Last)).collect();
            slices.insert(17, slice(300, 1, 0, Logits::Last));
            let got = step(&mut among, slices);
            assert_eq!(got[17], expected[0], "{kind}, {processors} processors");
        }
    }
}

/// What is predicted before anything is loaded is what is held then.
#[test]
fn memory_is_predicted() {
    for kind in [GgmlType::Q4_K, GgmlType::Q8_0, GgmlType::F16, GgmlType::F32] {
        let mapping = mapping(&Synth { tied: false, ..Synth::tiny(kind, 1) });
        let predicted = CudaBackend::fixed_bytes(&mapping, 1_024, None).expect("a model");
        let backend = on_device(&mapping);
        let shape = &backend.shape;
        let token = 4 * shape.kv_heads * shape.head_width * shape.layers;
        let cache = u64::from(token * BLOCKS) * KV_BLOCK_TOKENS as u64;
        let vectors = u64::from((2 * shape.layers + 1) * shape.width) * 4;
        assert_eq!(backend.resident_bytes(), predicted + cache + vectors, "{kind}");
    }
}

#[test]
fn a_device_that_fails_is_not_trusted_again() {
    let mapping = mapping(&Synth::tiny(GgmlType::Q4_0, 1));
    let mut device = HostDevice::new(4);
    device.fails_after = Some(30);
    let mut backend = device_backend(&mapping, device);
    let batch = StepBatch { slices: vec![slice(0, 5, 0, Logits::Last)] };
    let mut failures = 0;
    for _ in 0..4 {
        match backend.step(&batch) {
            Ok(_) => assert_eq!(failures, 0, "it answers after it failed"),
            Err(BackendError::Device(reason)) => {
                assert!(reason.contains("made to fail"), "{reason}");
                failures += 1;
            }
            Err(other) => unreachable!("{other}"),
        }
    }
    assert!(failures > 0);
}
