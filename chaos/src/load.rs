//! The load of a run: clients that do what users do, and write down what they see.
//!
//! Clients end when they are told to, after what they have begun: a stream runs to its end, a token is tried for as long as a
//! revocation may take. What a client draws comes from the run's seed and its own number.

mod logins;
mod registers;
mod streams;

pub use registers::read_all;
pub use streams::{PROMPTS_COUNT, read_reference};

use crate::recorder::Recorder;
use crate::scenario;
use ollamamax_tests::{Api, HarnessError};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The password of those who log in.
const PASSWORD: &str = "a-password-of-chaos";
/// The model that streams ask for.
pub const MODEL: &str = "chaos:latest";

/// What all clients know.
#[derive(Clone)]
pub struct Clients {
    /// A client of each node there was at the begin, with an administrator's key.
    pub apis: Vec<Api>,
    /// Where to write.
    pub recorder: Arc<Recorder>,
    /// How much of everything.
    pub load: scenario::Load,
    /// How long a revoked token may be good.
    pub revoked: Duration,
    /// What decides.
    pub seed: u64,
    /// Ends them all.
    pub over: CancellationToken,
}

/// Clients that run.
pub struct Running {
    tasks: Vec<JoinHandle<()>>,
    over: CancellationToken,
}

impl Clients {
    /// What client `number` of a kind draws from.
    fn coin(&self, kind: u64, number: usize) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ (kind << 56) ^ ((number as u64 + 1) << 40))
    }

    /// Rests, unless it is over.
    async fn rest(&self, rest: Duration) {
        let _ = self.over.run_until_cancelled(tokio::time::sleep(rest)).await;
    }

    /// Makes those who will log in.
    ///
    /// # Errors
    /// When one cannot be made.
    pub async fn prepare(&self) -> Result<(), HarnessError> {
        for number in 0..self.load.logins {
            let body =
                json!({"name": format!("u{number}"), "password": PASSWORD, "roles": ["user"]});
            self.apis[0].post("/admin/v1/users", &body).await?;
        }
        Ok(())
    }

    /// Starts them all.
    pub fn start(&self) -> Running {
        let mut tasks = Vec::new();
        for number in 0..self.load.clients {
            tasks.push(tokio::spawn(registers::run(self.clone(), number)));
        }
        for number in 0..self.load.streams {
            tasks.push(tokio::spawn(streams::run(self.clone(), number)));
        }
        for number in 0..self.load.logins {
            tasks.push(tokio::spawn(logins::run(self.clone(), number)));
        }
        if self.load.deploys_per_minute > 0 {
            tasks.push(tokio::spawn(deploy(self.clone())));
        }
        Running { tasks, over: self.over.clone() }
    }
}

impl Running {
    /// Tells them to end, and waits until they have.
    ///
    /// # Errors
    /// When one has panicked.
    pub async fn stop(self) -> Result<(), HarnessError> {
        self.over.cancel();
        for task in self.tasks {
            task.await.map_err(|error| HarnessError::Other(format!("a client: {error}")))?;
        }
        Ok(())
    }
}

/// Changes how many replicas the model has, between one and two.
async fn deploy(clients: Clients) {
    let period = Duration::from_secs(60) / clients.load.deploys_per_minute.max(1);
    for turn in 0.. {
        clients.rest(period).await;
        if clients.over.is_cancelled() {
            return;
        }
        let node = turn % clients.apis.len();
        // That it is refused without a quorum is as good.
        let _ = clients.apis[node].deploy(MODEL, 1 + turn % 2).await;
    }
}
