//! The kernels and all that launches them, on the host.

use super::check::{self, BLOCKS, difference, mapping, slice};
use super::host::HostDevice;
use super::{CudaBackend, CudaOptions};
use crate::backend::{Backend, BackendError, Logits, Shards, StageBackend, StepBatch};
use crate::part::Part;
use crate::shape::ModelShape;
use crate::synth::Synth;
use crate::weights::Mapping;
use ollamamax_gguf::GgmlType;
use ollamamax_proto::limits::KV_BLOCK_TOKENS;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

fn on_device(mapping: &Arc<Mapping>) -> CudaBackend {
    check::on_device(Box::new(HostDevice::new(4)), mapping).expect("it loads")
}

/// On small and large devices in turn: what is shared out otherwise on them is the same, too.
#[test]
fn kernels_agree_with_the_cpu_and_company_changes_no_bit() {
    let mut processors = [1, 200].into_iter().cycle();
    let mut open = || {
        let processors = processors.next().unwrap_or(1);
        Ok(Box::new(HostDevice::new(processors)) as Box<dyn super::Device>)
    };
    for row in check::check(&mut open).expect("it computes") {
        assert!(
            row.passes(),
            "{}: off by {} of the spread, at most {}",
            row.what,
            row.worst,
            row.bound
        );
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

fn part(shape: &ModelShape, layers: Range<u32>, heads: Range<u32>) -> Part {
    let (embedding, head) = (layers.start == 0, layers.end == shape.layers);
    Part { layers, embedding, head, heads }
}

fn part_on_device(mapping: &Arc<Mapping>, part: Part) -> CudaBackend {
    let options = CudaOptions { kv_blocks: BLOCKS, context_tokens: 1_024 };
    CudaBackend::load(Box::new(HostDevice::new(4)), mapping, &options, Some(part)).expect("a part")
}

#[test]
fn stages_change_no_bit() {
    let mapping = mapping(&Synth { tied: false, ..Synth::tiny(GgmlType::Q4_1, 9) });
    let mut whole = on_device(&mapping);
    let heads = 0..whole.shape.kv_heads;
    let [mut first, mut last] = [0..1, 1..2]
        .map(|layers| part_on_device(&mapping, part(&whole.shape, layers, heads.clone())));
    for slices in [
        vec![slice(0, 30, 0, Logits::Last)],
        vec![slice(30, 1, 0, Logits::Last), slice(0, 5, 1, Logits::All)],
    ] {
        let batch = StepBatch { slices };
        let expected = whole.step(&batch).expect("it computes");
        let residuals = first.residuals(&batch, None).expect("residuals");
        assert_eq!(last.step_from(&batch, &residuals).expect("logits"), expected);
    }
}

/// Two shards: each sends its products to the other, and both add them up; of two, in either order the same.
#[derive(Debug)]
struct Pair {
    to: Sender<Vec<f32>>,
    from: Receiver<Vec<f32>>,
}

impl Shards for Pair {
    fn sum(&mut self, products: &mut [f32]) -> Result<(), String> {
        self.to.send(products.to_vec()).map_err(|error| error.to_string())?;
        let other = self.from.recv().map_err(|error| error.to_string())?;
        for (mine, other) in products.iter_mut().zip(other) {
            *mine += other;
        }
        Ok(())
    }
}

#[test]
fn shards_of_a_model_say_what_the_whole_says() {
    let mapping = mapping(&Synth { tied: false, ..Synth::tiny(GgmlType::Q8_0, 4) });
    let mut whole = on_device(&mapping);
    let layers = 0..whole.shape.layers;
    let [mut one, mut two] = [0..1, 1..2].map(|heads| {
        let part = part(&whole.shape, layers.clone(), heads);
        part_on_device(&mapping, part)
    });
    let ((to_two, from_one), (to_one, from_two)) = (channel(), channel());
    one.join(Some(Box::new(Pair { to: to_two, from: from_two })));
    two.join(Some(Box::new(Pair { to: to_one, from: from_one })));
    for slices in [
        vec![slice(0, 12, 0, Logits::Last)],
        vec![slice(12, 1, 0, Logits::Last), slice(0, 9, 1, Logits::All)],
    ] {
        let batch = StepBatch { slices };
        let expected = whole.step(&batch).expect("it computes");
        let (ours, theirs) = std::thread::scope(|scope| {
            let (one, two, batch) = (&mut one, &mut two, &batch);
            let theirs = scope.spawn(move || two.step(batch).expect("it computes"));
            (one.step(batch).expect("it computes"), theirs.join().expect("no panic"))
        });
        assert_eq!(ours, theirs, "every shard gets the same bits");
        let worst = difference(&ours, &expected);
        assert!(worst < 0.002, "off by {worst} of the spread");
    }
}

#[test]
fn a_sequence_longer_than_its_context_is_refused_whatever_blocks_it_names() {
    let mapping = mapping(&Synth::tiny(GgmlType::Q4_0, 1));
    let mut backend = on_device(&mapping);
    let mut long = slice(1_020, 5, 0, Logits::Last);
    long.blocks = vec![crate::backend::BlockId(1); 80];
    let error = backend.step(&StepBatch { slices: vec![long.clone()] }).expect_err("too long");
    assert_eq!(error, BackendError::TooLong { tokens: 1_025, context_tokens: 1_024 });
    // More blocks than it needs do no harm.
    long.tokens.truncate(4);
    backend.step(&StepBatch { slices: vec![long; 3] }).expect("it computes");
}

#[test]
fn a_device_that_fails_is_not_trusted_again() {
    let mapping = mapping(&Synth::tiny(GgmlType::Q4_0, 1));
    let mut device = HostDevice::new(4);
    device.fails_after = Some(30);
    let mut backend = check::on_device(Box::new(device), &mapping).expect("it loads");
    let (tell, told) = channel();
    backend.failure.told = Some(Box::new(move |error| {
        let _ = tell.send(error.to_string());
    }));
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
    let told: Vec<String> = told.iter().collect();
    assert!(told.len() == 1 && told[0].contains("made to fail"), "{told:?}");
}
