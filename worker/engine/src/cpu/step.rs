//! A step, cut into passes, for the whole model or a part of it.

use super::pieces::{self, Join, Place, Wanted};
use super::{CpuBackend, Model};
use crate::backend::{Backend, BackendError, Logits, Shards, SliceLogits, StageBackend, StepBatch};

impl CpuBackend {
    pub(super) fn run(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
        mut after: Option<&mut Vec<f32>>,
    ) -> Result<Vec<SliceLogits>, BackendError> {
        self.check(batch)?;
        self.check_part(batch, before, after.is_some())?;
        let mut results = vec![SliceLogits::new(); batch.slices.len()];
        let encoder = self.is_encoder();
        let mut places = Vec::new();
        // For each token its slice, and whether something of it is wanted.
        let mut slices = Vec::new();
        for (index, slice) in batch.slices.iter().enumerate() {
            for (offset, &token) in slice.tokens.iter().enumerate() {
                let position = slice.start as usize + offset;
                let seen = if encoder { slice.tokens.len() } else { position + 1 };
                places.push(Place { token, position, seen, blocks: &slice.blocks });
                let wants = match slice.logits {
                    Logits::None => false,
                    Logits::Last => offset + 1 == slice.tokens.len(),
                    Logits::All | Logits::Hidden => true,
                };
                slices.push((index, wants && after.is_none()));
            }
        }
        let cuts = pieces::cuts(batch.slices.iter().map(|slice| slice.tokens.len()), encoder);
        let Self { shape, model, pool, shards, .. } = self;
        let (width, mut failed) = (shape.width as usize, None);
        for piece in cuts.windows(2) {
            let (first, end) = (piece[0], piece[1]);
            let (places, slices) = (&places[first..end], &slices[first..end]);
            let mut wanted = Wanted::default();
            for (token, &(index, _)) in slices.iter().enumerate().filter(|(_, (_, wants))| *wants) {
                match batch.slices[index].logits {
                    Logits::Hidden => wanted.hidden.push(token),
                    _ => wanted.logits.push(token),
                }
            }
            let join = Join {
                residuals: before.map(|rows| &rows[first * width..end * width]),
                shards: shards.as_deref_mut(),
                failed: &mut failed,
            };
            let rows = match model {
                Model::Plain(plain) => plain.run(shape, pool, places, join, &wanted),
                Model::Fast(fast) => fast.run(shape, pool, places, join, &wanted),
            };
            if let Some(after) = after.as_deref_mut() {
                for token in 0..places.len() {
                    after.extend_from_slice(match model {
                        Model::Plain(plain) => plain.residual(token),
                        Model::Fast(fast) => fast.residual(token),
                    });
                }
            }
            let logits = wanted.logits.iter().zip(rows.logits);
            for (&token, row) in logits.chain(wanted.hidden.iter().zip(rows.hidden)) {
                results[slices[token].0].push(row);
            }
        }
        if before.is_some() || after.is_some() {
            // The next part computes now, perhaps on the same processors.
            pool.rest();
        }
        if let Some(reason) = failed {
            return Err(BackendError::Shards(reason));
        }
        if pool.failed() {
            let reason = "a computation panicked, see the panic message";
            return Err(BackendError::Device(reason.to_owned()));
        }
        Ok(results)
    }

    /// Whether what is given and wanted is what this part takes and gives.
    fn check_part(
        &self,
        batch: &StepBatch,
        before: Option<&[f32]>,
        after: bool,
    ) -> Result<(), BackendError> {
        let tokens: usize = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        let width = self.shape.width as usize;
        let mismatch = |reason: String| Err(BackendError::Part(reason));
        match before {
            None if !self.part.embedding => {
                return mismatch("it starts from residuals, none were given".to_owned());
            }
            Some(rows) if rows.len() != tokens * width => {
                let got = rows.len();
                return mismatch(format!("{got} residuals for {tokens} tokens of width {width}"));
            }
            _ => {}
        }
        if !after && !self.part.head && !self.is_encoder() {
            return mismatch("it has no head, only residuals can be had of it".to_owned());
        }
        if self.sharded && self.shards.is_none() {
            return mismatch("it is a shard and not connected to the others".to_owned());
        }
        Ok(())
    }
}

impl StageBackend for CpuBackend {
    fn residuals(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
    ) -> Result<Vec<f32>, BackendError> {
        let mut residuals = Vec::new();
        self.run(batch, before, Some(&mut residuals))?;
        Ok(residuals)
    }

    fn step_from(
        &mut self,
        batch: &StepBatch,
        before: &[f32],
    ) -> Result<Vec<SliceLogits>, BackendError> {
        self.run(batch, Some(before), None)
    }

    fn join(&mut self, shards: Option<Box<dyn Shards>>) {
        self.shards = shards;
    }

    fn width(&self) -> usize {
        self.shape.width as usize
    }
}
