//! A machine whose engine computes through a ring: as any other while the ring is closed, and without an engine while it is
//! open.

use super::ring::Driver;
use crate::machine::{BadRequest, Machine, MachineFailure};
use ollamamax_engine::backend::BackendError;
use ollamamax_engine::engine::{
    Embedded, Emission, Engine, EngineLimits, Prepared, SequenceId, TextModel,
};
use std::sync::Arc;

/// Drives a ring.
#[derive(Debug)]
pub struct RingMachine {
    driver: Driver,
    text: Arc<TextModel>,
    limits: EngineLimits,
    engine: Option<Engine>,
    resident_bytes: u64,
}

impl RingMachine {
    /// A machine whose ring is open.
    pub fn new(driver: Driver, text: Arc<TextModel>, limits: EngineLimits) -> Self {
        let resident_bytes = driver.local().resident_bytes();
        Self { driver, text, limits, engine: None, resident_bytes }
    }
}

const APART: &str = "the stages of this replica are not connected; try again later";

impl Machine for RingMachine {
    fn submit(&mut self, prepared: Prepared, resume: &[u32]) -> Result<SequenceId, BadRequest> {
        let engine = self.engine.as_mut().ok_or_else(|| BadRequest(APART.to_owned()))?;
        Machine::submit(engine, prepared, resume)
    }

    fn embed(&mut self, texts: Vec<Vec<u32>>) -> Result<SequenceId, BadRequest> {
        let engine = self.engine.as_mut().ok_or_else(|| BadRequest(APART.to_owned()))?;
        Machine::embed(engine, texts)
    }

    fn embedded(&mut self) -> Vec<Embedded> {
        self.engine.as_mut().map(Engine::embedded).unwrap_or_default()
    }

    fn cancel(&mut self, sequence: SequenceId) {
        if let Some(engine) = &mut self.engine {
            engine.cancel(sequence);
        }
    }

    fn admit(&mut self) -> Vec<Emission> {
        self.engine.as_mut().map(Engine::admit).unwrap_or_default()
    }

    fn step(&mut self) -> Result<Vec<Emission>, MachineFailure> {
        let Some(engine) = &mut self.engine else {
            return Err(MachineFailure::Apart(APART.to_owned()));
        };
        engine.step().map_err(|error| match error {
            BackendError::Shards(_) => {
                self.engine = None;
                MachineFailure::Apart(error.to_string())
            }
            error => MachineFailure::Dead(error.to_string()),
        })
    }

    fn is_together(&self) -> bool {
        self.engine.is_some()
    }

    fn join(&mut self) -> Result<(), String> {
        self.engine = None;
        let backend = self.driver.close().map_err(|error| error.to_string())?;
        self.engine = Some(Engine::new(Box::new(backend), Arc::clone(&self.text), self.limits));
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.engine.as_ref().is_none_or(Engine::is_idle)
    }

    fn running(&self) -> usize {
        self.engine.as_ref().map_or(0, Machine::running)
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }
}
