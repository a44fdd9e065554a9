//! A model in parts against the whole of it: stages change no bit, shards only the order of sums.

use super::{PATHS, families, load, options, slice, tokens, worst};
use ollamamax_engine::backend::{Backend, BackendError, Logits, Shards, StageBackend, StepBatch};
use ollamamax_engine::cpu::{CpuBackend, CpuOptions, LoadError, NumericPath};
use ollamamax_engine::part::Part;
use ollamamax_engine::shape::{ModelShape, ShapeError};
use ollamamax_engine::synth::Synth;
use ollamamax_engine::weights::Mapping;
use ollamamax_gguf::{GgmlType, Gguf};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The file with nothing in it but the header and what a part reads.
fn only(file: &[u8], part: &Part) -> Vec<u8> {
    let gguf = Gguf::parse(file).expect("a model");
    let shape = ModelShape::from_gguf(&gguf).expect("a shape");
    let first = gguf.tensors().iter().map(|tensor| tensor.start).min().expect("tensors");
    let mut sparse = vec![0xa5; file.len()];
    let header = 0..first;
    for range in part.ranges(&gguf, &shape).expect("ranges").into_iter().chain([header]) {
        let range = range.start as usize..range.end as usize;
        sparse[range.clone()].copy_from_slice(&file[range]);
    }
    sparse
}

fn load_part(file: &[u8], options: &CpuOptions, part: Part) -> Result<CpuBackend, LoadError> {
    let mapping = Arc::new(Mapping::from_vec(only(file, &part)));
    CpuBackend::part_from_mapping(mapping, options, Some(part))
}

fn shape(file: &[u8]) -> ModelShape {
    ModelShape::from_gguf(&Gguf::parse(file).expect("a model")).expect("a shape")
}

fn layers(shape: &ModelShape, layers: Range<u32>) -> Part {
    let (embedding, head) = (layers.start == 0, layers.end == shape.layers);
    Part { layers, embedding, head, heads: 0..shape.kv_heads }
}

/// Two steps of two sequences: prompts in chunks, then more tokens beside each other.
fn batches() -> Vec<StepBatch> {
    let (a, b) = (tokens(300, 1), tokens(40, 2));
    let blocks: Vec<u32> = (0..20).collect();
    vec![
        StepBatch {
            slices: vec![
                slice(0, &a[..290], &blocks, Logits::Last),
                slice(0, &b[..10], &[21, 22, 23], Logits::None),
            ],
        },
        StepBatch {
            slices: vec![
                slice(10, &b[10..], &[21, 22, 23], Logits::All),
                slice(290, &a[290..], &blocks, Logits::All),
            ],
        },
    ]
}

#[test]
fn stages_change_no_bit() {
    for case in families::cases(GgmlType::Q4_0) {
        let synth = Synth { layers: 6, tied: false, ..case.synth };
        let file = synth.to_gguf();
        let shape = shape(&file);
        for path in PATHS {
            let options = CpuOptions { context_tokens: case.context_tokens, ..options(path) };
            let mut whole = load(&file, options.clone());
            let expected: Vec<_> =
                batches().iter().map(|batch| whole.step(batch).expect("a step")).collect();
            for cuts in [vec![0, 1, 6], vec![0, 2, 3, 6]] {
                let parts = cuts.windows(2).map(|cut| layers(&shape, cut[0]..cut[1]));
                let mut parts: Vec<_> =
                    parts.map(|part| load_part(&file, &options, part).expect("a part")).collect();
                let mut last = parts.pop().expect("parts");
                for (batch, expected) in batches().iter().zip(&expected) {
                    let mut rows: Option<Vec<f32>> = None;
                    for part in &mut parts {
                        rows = Some(part.residuals(batch, rows.as_deref()).expect("residuals"));
                    }
                    let logits = last.step_from(batch, &rows.expect("rows")).expect("a step");
                    assert!(logits == *expected, "{} {path:?} {cuts:?}", case.name);
                }
            }
        }
    }
}

/// Shards in one process: each sends its products to all others.
#[derive(Debug)]
struct Channels {
    rank: usize,
    to: Vec<Sender<(usize, Vec<f32>)>>,
    from: Receiver<(usize, Vec<f32>)>,
    /// What has come of each: one that is faster may be a sum ahead of another.
    come: Vec<VecDeque<Vec<f32>>>,
}

impl Shards for Channels {
    fn sum(&mut self, products: &mut [f32]) -> Result<(), String> {
        for to in &self.to {
            to.send((self.rank, products.to_vec())).map_err(|error| error.to_string())?;
        }
        while self.come.iter().any(VecDeque::is_empty) {
            let (rank, part) = self.from.recv().map_err(|error| error.to_string())?;
            self.come[rank].push_back(part);
        }
        products.fill(0.0);
        for part in self.come.iter_mut().filter_map(VecDeque::pop_front) {
            products.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }
}

fn connect(shards: &mut [CpuBackend]) {
    let (to, from): (Vec<_>, Vec<_>) = shards.iter().map(|_| channel()).unzip();
    for (rank, (shard, from)) in shards.iter_mut().zip(from).enumerate() {
        let come = vec![VecDeque::new(); to.len()];
        shard.join(Some(Box::new(Channels { rank, to: to.clone(), from, come })));
    }
}

#[test]
fn shards_agree_with_the_whole_and_with_each_other() {
    let wide = |kind| Synth {
        heads: 9,
        kv_heads: 3,
        head_width: 64,
        rope_width: 64,
        width: 576,
        feed_forward: 1536,
        tied: false,
        ..Synth::tiny(kind, 8)
    };
    let cuts: [&[u32]; 2] = [&[0, 1, 2, 3], &[0, 2, 3]];
    for kind in [GgmlType::Q4_1, GgmlType::Q8_0, GgmlType::F16] {
        let file = wide(kind).to_gguf();
        let shape = shape(&file);
        for (path, cuts) in PATHS.into_iter().zip(cuts) {
            let options = options(path);
            let mut whole = load(&file, options.clone());
            let shard = |cut: &[u32]| Part {
                heads: cut[0]..cut[1],
                head: cut[0] == 0,
                ..Part::whole(&shape)
            };
            let mut shards: Vec<_> = cuts
                .windows(2)
                .map(|cut| load_part(&file, &options, shard(cut)).expect("a shard"))
                .collect();
            connect(&mut shards);
            for batch in batches() {
                let expected = whole.step(&batch).expect("a step");
                let (first, others) = shards.split_first_mut().expect("shards");
                let (got, rows) = std::thread::scope(|scope| {
                    let batch = &batch;
                    let others: Vec<_> = others
                        .iter_mut()
                        .map(|shard| scope.spawn(move || shard.residuals(batch, None)))
                        .collect();
                    let got = first.step(batch).expect("a step");
                    let rows: Vec<_> = others
                        .into_iter()
                        .map(|other| other.join().expect("no panic").expect("residuals"))
                        .collect();
                    (got, rows)
                });
                assert!(rows.windows(2).all(|rows| rows[0] == rows[1]), "{kind} {path:?}");
                for (got, expected) in got.iter().zip(&expected) {
                    let spread =
                        expected.iter().flatten().fold(0.0f32, |most, l| most.max(l.abs()));
                    let off = worst(got, expected);
                    assert!(
                        off < 1e-4 * f64::from(spread.max(1.0)),
                        "{kind} {path:?}: {off} of {spread}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_cut_is_refused_and_what_is_not_together_does_not_compute() {
    let file = Synth::tiny(GgmlType::Q4_K, 3).to_gguf();
    let shape = shape(&file);
    let whole = Part::whole(&shape);
    let options = options(NumericPath::Fast);
    let refused = |part: Part| {
        let mapping = Arc::new(Mapping::from_vec(file.clone()));
        CpuBackend::part_from_mapping(mapping, &options, Some(part)).expect_err("refused")
    };
    let error = refused(Part { heads: 0..1, ..whole.clone() });
    assert!(matches!(error, LoadError::Shape(ShapeError::Cut { unit: 256, .. })), "{error}");
    for part in [
        Part { layers: 1..3, ..whole.clone() },
        Part { layers: 1..1, ..whole.clone() },
        Part { heads: 0..3, ..whole.clone() },
    ] {
        let error = refused(part);
        assert!(matches!(error, LoadError::Shape(ShapeError::Part { .. })), "{error}");
    }
    let mut first = load_part(&file, &options, layers(&shape, 0..1)).expect("a part");
    let batch = &batches()[0];
    assert!(matches!(first.step(batch), Err(BackendError::Part(_))), "it has no head");
    let mut last = load_part(&file, &options, layers(&shape, 1..2)).expect("a part");
    assert!(matches!(last.step(batch), Err(BackendError::Part(_))), "it has no embedding");
    assert!(matches!(last.step_from(batch, &[0.0; 7]), Err(BackendError::Part(_))));
    let file = Synth::tiny(GgmlType::Q4_0, 3).to_gguf();
    let mut shard =
        load_part(&file, &options, Part { heads: 0..1, ..whole.clone() }).expect("a shard");
    assert!(matches!(shard.step(batch), Err(BackendError::Part(_))), "it is alone");
    let (to, from) = channel();
    let (to, come) = (vec![to, channel().0], vec![VecDeque::new(); 2]);
    shard.join(Some(Box::new(Channels { rank: 0, to, from, come })));
    assert!(matches!(shard.step(batch), Err(BackendError::Shards(_))), "the other is gone");
}
