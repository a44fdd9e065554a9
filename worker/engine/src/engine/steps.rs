//! Steps on their way: started in the order of their plans, finished in the same order.

use super::{Emission, Engine, finished};
use crate::backend::{BackendError, StepBatch};
use crate::batch::StepPlan;

/// A step that is started and not finished.
#[derive(Debug)]
pub(super) struct Flight {
    plan: StepPlan,
    step: StepBatch,
}

impl Engine {
    /// Starts as many steps as the backend has room for and there is work.
    pub(super) fn start(&mut self, emissions: &mut Vec<Emission>) -> Result<(), BackendError> {
        while self.flights.len() < self.backend.steps_in_flight() {
            emissions.extend(self.admit());
            let mut plan = self.planned.take().unwrap_or_default();
            let mut step = self.batch.step_batch(&mut plan);
            if self.flights.is_empty() {
                step.slices.extend(self.embedder.slices(self.batch.pool_mut()));
            }
            if step.slices.is_empty() {
                break;
            }
            self.backend.start(&step)?;
            self.flights.push_back(Flight { plan, step });
        }
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        Flight { plan, step }: Flight,
        emissions: &mut Vec<Emission>,
    ) -> Result<(), BackendError> {
        let mut logits = self.backend.step(&step)?;
        if logits.len() != step.slices.len() {
            let reason = format!("{} results for {} slices", logits.len(), step.slices.len());
            return Err(BackendError::Device(reason));
        }
        self.embedder.complete(logits.split_off(plan.chunks.len()), self.batch.pool_mut())?;
        for (chunk, mut rows) in plan.chunks.iter().zip(logits) {
            let id = chunk.sequence;
            let Some(sequence) = self.batch.computed(chunk) else { continue };
            if rows.len() != 1 + sequence.guess.len() || rows.iter().any(Vec::is_empty) {
                return Err(BackendError::Device("no logits for a slice that wants them".into()));
            }
            let mut emission = Emission::of(sequence);
            let mut restart = false;
            for (right, row) in rows.iter_mut().enumerate() {
                let (token, logprob) = match sequence.sample(row, &self.text) {
                    Ok(sampled) => sampled,
                    Err(stuck) => {
                        emission.failed = Some(stuck.to_string());
                        break;
                    }
                };
                let guessed = sequence.guess.get(right) == Some(&token);
                emission.tokens.push(token);
                emission.logprobs.extend(logprob);
                emission.text += &sequence.accept(token, &self.text);
                let shifted = sequence.take_shifted();
                restart |= shifted;
                if !guessed || shifted || sequence.finished().is_some() {
                    sequence.guessed(right);
                    break;
                }
                // Its keys and values are there already.
                sequence.computed += 1;
            }
            emission.mu = sequence.mu();
            if sequence.finished().is_some() {
                emission.finished = self.batch.remove(id).and_then(finished);
            } else if restart {
                self.batch.restart(id);
            } else if emission.failed.is_some() {
                self.batch.remove(id);
            }
            match emissions.iter_mut().find(|other| other.sequence == id) {
                Some(started) => *started = Emission { started: started.started, ..emission },
                None => emissions.push(emission),
            }
        }
        Ok(())
    }
}
