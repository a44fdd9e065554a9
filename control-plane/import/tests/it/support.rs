//! Files in memory, and models written into memory.

use ollamamax_import::{Checkpoint, Files, ImportError, Model, Quantisation, ReadAt};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Files as a checkpoint takes them.
pub fn files(all: BTreeMap<String, Vec<u8>>) -> Files {
    let shared = |bytes: Vec<u8>| -> Arc<dyn ReadAt> { Arc::new(bytes) };
    all.into_iter().map(|(name, bytes)| (name, shared(bytes))).collect()
}

/// A checkpoint's model.
pub fn model(all: BTreeMap<String, Vec<u8>>) -> Result<Model, ImportError> {
    Model::of_checkpoint(&Checkpoint::read(&files(all))?)
}

/// A model, written.
pub fn written(model: &Model, quantisation: Option<Quantisation>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut heard = (0, 0);
    let mut progress = |done, total| {
        assert!(done >= heard.0, "bytes that were written are not any more");
        heard = (done, total);
        ControlFlow::Continue(())
    };
    let bytes = model.write(quantisation, 2, &mut out, &mut progress).expect("it can be written");
    assert_eq!(bytes, out.len() as u64);
    assert_eq!(heard, (bytes, bytes), "the last that is heard is the end");
    out
}
