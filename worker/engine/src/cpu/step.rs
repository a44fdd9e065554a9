//! Steps of the CPU backend.

use super::{CpuBackend, Model, Pool};
use crate::backend::{Backend, BackendError, Shards, SliceLogits, StageBackend, StepBatch};
use crate::pieces::{Join, Place, Wanted};
use crate::shape::ModelShape;
use crate::step::{self, Held, Passes};

/// The model while it computes a step.
struct Running<'a> {
    shape: &'a ModelShape,
    model: &'a mut Model,
    pool: &'a Pool,
}

impl Passes for Running<'_> {
    fn run(&mut self, places: &[Place<'_>], join: Join<'_>, wanted: &Wanted) -> Wanted<Vec<f32>> {
        match self.model {
            Model::Plain(plain) => plain.run(self.shape, self.pool, places, join, wanted),
            Model::Fast(fast) => fast.run(self.shape, self.pool, places, join, wanted),
        }
    }

    fn residuals(&mut self, tokens: usize, out: &mut Vec<f32>) {
        for token in 0..tokens {
            out.extend_from_slice(match self.model {
                Model::Plain(plain) => plain.residual(token),
                Model::Fast(fast) => fast.residual(token),
            });
        }
    }
}

impl CpuBackend {
    pub(super) fn run(
        &mut self,
        batch: &StepBatch,
        before: Option<&[f32]>,
        after: Option<&mut Vec<f32>>,
    ) -> Result<Vec<SliceLogits>, BackendError> {
        let held = Held {
            shape: &self.shape,
            part: &self.part,
            sharded: self.sharded,
            blocks: self.blocks_count(),
            context_tokens: None,
        };
        held.check(batch, before, after.is_some(), self.shards.is_some())?;
        let is_part = before.is_some() || after.is_some();
        let Self { shape, model, pool, shards, .. } = self;
        let mut running = Running { shape, model, pool };
        let results = step::run(&mut running, shape, batch, before, after, shards.as_deref_mut());
        if is_part {
            // The next part computes now, perhaps on the same processors.
            pool.rest();
        }
        let results = results?;
        if pool.failed() {
            let reason = "a computation panicked, see the panic message";
            return Err(BackendError::Device(reason.to_owned()));
        }
        Ok(results)
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
