//! What is loaded: a model that takes requests, or a stage that another one drives.

use crate::machine::Loader;
use crate::pace::Pace;
use crate::runner::{Runner, RunnerState};
use crate::stage::{Links, StageRunner};
use ollamamax_proto::placement::{Assigned, Peer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something loaded.
#[derive(Clone, Debug)]
pub enum Live {
    /// A whole model, or the stage that drives a ring.
    Model(Arc<Runner>),
    /// Another stage.
    Stage(Arc<StageRunner>),
}

impl Live {
    /// Loads what is assigned from the bytes at `path`.
    pub async fn start(
        loader: &Arc<dyn Loader>,
        path: PathBuf,
        assigned: &Arc<Assigned>,
        links: &Arc<Links>,
    ) -> Result<Self, String> {
        let (loader, links) = (Arc::clone(loader), Arc::clone(links));
        if drives(assigned) {
            let runner = Runner::start(loader, path, (**assigned).clone(), links).await?;
            return Ok(Self::Model(Arc::new(runner)));
        }
        let kv_type = loader.kv_type().to_owned();
        let of = Arc::clone(assigned);
        let load = move || loader.load_stage(&path, &of).map_err(|error| error.0);
        let assignment = Arc::new(assigned.assignment.clone());
        let runner = StageRunner::start(Box::new(load), assignment, kv_type, links).await?;
        Ok(Self::Stage(Arc::new(runner)))
    }

    /// Takes nothing more; what runs may go on until `deadline`.
    pub fn stop(&self, deadline: Instant) {
        match self {
            Self::Model(runner) => runner.stop(deadline),
            Self::Stage(stage) => stage.stop(),
        }
    }

    /// Waits until the memory is given back.
    pub async fn ended(&self) {
        match self {
            Self::Model(runner) => runner.ended().await,
            Self::Stage(stage) => stage.ended().await,
        };
    }

    /// Tells whenever its state changes, until it ends.
    pub async fn watch(&self, changed: impl Fn()) {
        if let Self::Model(runner) = self {
            let mut state = runner.follow();
            while !state.borrow_and_update().is_end() && state.changed().await.is_ok() {
                changed();
            }
        }
        self.ended().await;
    }

    /// Where it stands.
    pub fn state(&self) -> RunnerState {
        match self {
            Self::Model(runner) => runner.state(),
            Self::Stage(stage) => stage.state(),
        }
    }

    /// Memory it holds.
    pub fn resident_bytes(&self) -> u64 {
        match self {
            Self::Model(runner) => runner.resident_bytes(),
            Self::Stage(stage) => stage.resident_bytes(),
        }
    }

    /// How long its own steps take.
    pub fn pace(&self) -> &Pace {
        match self {
            Self::Model(runner) => runner.pace(),
            Self::Stage(stage) => stage.pace(),
        }
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        match self {
            Self::Model(runner) => runner.load_time(),
            Self::Stage(stage) => stage.load_time(),
        }
    }

    /// Requests taken and not yet answered in full; a stage has none of its own.
    pub fn outstanding(&self) -> usize {
        match self {
            Self::Model(runner) => runner.outstanding(),
            Self::Stage(_) => 0,
        }
    }

    /// Sequences that run, and requests that wait.
    pub fn requests(&self) -> (u32, u32) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let running = match self {
            Self::Model(runner) => runner.running(),
            Self::Stage(_) => 0,
        };
        (count(running), count(self.outstanding().saturating_sub(running)))
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Model(a), Self::Model(b)) => Arc::ptr_eq(a, b),
            (Self::Stage(a), Self::Stage(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Whether requests come to it.
fn drives(Assigned { assignment, ring }: &Assigned) -> bool {
    let drives = |driver: &Peer| driver.assignment == assignment.id;
    ring.as_ref().is_none_or(|ring| ring.driver().is_some_and(drives))
}

/// About how many bytes of the file it will hold.
pub fn bytes(Assigned { assignment, ring }: &Assigned) -> u64 {
    let (stage, all) = (assignment.stage, assignment.blob_bytes);
    let Some(ring) = ring else { return all };
    let layers = ring.peers.iter().map(|peer| peer.stage.end_layer).max().unwrap_or(1).max(1);
    let mine = u64::from(stage.end_layer.saturating_sub(stage.first_layer));
    all / u64::from(layers) * mine / u64::from(stage.shards.max(1))
}
