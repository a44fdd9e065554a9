//! The request path: from a model and a prompt to a stream of text that survives its worker.
//!
//! ```text
//!   job -> loaded? -> pick -> opening (two, where one is slow) -> text to the client
//!            ^                Generate(resume = tokens so far)         |
//!            +---- broken, silent, refused ----------------------------+   at most `attempts` tries
//! ```
//!
//! One task per request owns the whole of it. Tokens decide what a worker has to continue from, text is only ever appended:
//! what a client has seen stays, and what follows is what would have followed. When the client goes, the task is dropped and
//! with it the call, which is how a worker learns to stop.

mod attempt;
mod count;
mod embed;
mod estimate;
mod generation;
mod job;
mod opening;
mod prefix;
mod race;
mod resume;
mod tries;
mod waiting;

use crate::Gateway;
use crate::demand::Use;
use crate::error::Failure;
use crate::history::{Running, ms};
use crate::quotas::Charge;
use crate::request::Deadline;
use crate::streams::Hold;
use crate::telemetry;
use crate::workers::route::{Ask, Route};
use attempt::{Attempt, End};
pub use embed::{EmbedJob, Vectors};
use estimate::{count, estimate};
pub use generation::Generation;
pub use job::{Event, Job, Piece, Summary};
use ollamamax_core::budget::RetryBudget;
use ollamamax_core::record::ModelRecord;
use ollamamax_core::route::{Policy, Shape};
use ollamamax_proto::inference::{Options, Prompt, Salt, TokenLogprob};
use ollamamax_proto::{Millis, ModelName, limits};
use opening::Unopened;
pub use resume::Resumed;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tracing::Instrument;
use tries::Tries;

impl Gateway {
    /// Starts a generation and returns when its first event is there, so that what fails before can still have a status.
    pub(crate) async fn generate(self: &Arc<Self>, job: Job) -> Result<Generation, Failure> {
        let resumed = job.resumed.as_ref().map_or(0, |resumed| resumed.tokens.len());
        let charge = self.let_in(&job.asker, &job.model.name, resumed)?;
        let entry = self.enter(&job.model.name, &job.asker, job.want)?;
        let running = self.remember(&job.asker, &job.model);
        let (sender, events) = mpsc::channel(limits::STREAM_CHUNKS_BUFFERED);
        let span =
            tracing::info_span!("generate", request = %job.request_id, model = %job.model.name);
        let gateway = Arc::clone(self);
        let task = async move {
            let _in_flight = telemetry::InFlight::new();
            let deadline = job.asker.deadline;
            let told = running.entry();
            let mut run = Run::new(gateway, job, (entry, charge, running), sender.clone());
            tokio::select! {
                failure = told.ended() => {
                    telemetry::attempt("ended");
                    run.running.ended();
                    run.tell(failure).await;
                }
                failure = lateness(deadline) => {
                    telemetry::attempt("late");
                    run.running.failed(&failure);
                    run.tell(failure).await;
                }
                result = run.drive() => if let Err(failure) = result {
                    run.running.failed(&failure);
                    run.tell(failure).await;
                }
            }
        };
        tokio::spawn(task.instrument(span));
        Generation::begun(events).await
    }
}

/// What a prompt is thought to take, in tokens, before a worker has said.
pub(crate) fn prompt_tokens(prompt: &Prompt, options: &Options) -> u32 {
    estimate(prompt, options).prompt_tokens
}

impl Gateway {
    /// The way to a model as it is now.
    fn route(&self, model: &ModelRecord) -> Arc<Route> {
        self.workers.route(&self.control.state(), model)
    }

    /// How requests for a model are spread over its replicas.
    fn policy_of(&self, model: &ModelName) -> Policy {
        let state = self.control.state();
        // A name that a later version knows is as good as none.
        let deployed = state.deployments.get(model).and_then(|d| d.balancing.parse().ok());
        self.config.policy(model, deployed)
    }
}

/// Ends when the time is over.
pub(crate) async fn lateness(deadline: Option<Deadline>) -> Failure {
    match deadline {
        None => std::future::pending().await,
        Some(deadline) => {
            tokio::time::sleep_until(deadline.at).await;
            deadline.late()
        }
    }
}

/// One request on its way over workers.
struct Run {
    gateway: Arc<Gateway>,
    job: Job,
    entry: Use,
    /// What it costs whom.
    charge: Charge,
    /// What is remembered of it.
    running: Running,
    sender: mpsc::Sender<Result<Event, Failure>>,
    started: Instant,
    load_ns: u64,
    first_text: Option<Instant>,
    /// All tokens so far: what the next worker has to continue from.
    tokens: Vec<u32>,
    /// And where Mirostat stands after them, if it is used: that depends on logits, tokens do not tell it.
    mu: Option<f64>,
    /// Log-probabilities of tokens that have released no text yet.
    untold: Vec<TokenLogprob>,
    /// How many tokens have released no text yet.
    silent: usize,
    resumes: u32,
    /// Whether it went over to the other version of its model.
    switched: bool,
    recording: Option<Hold>,
    /// When tokens came last.
    heard: Instant,
    /// How long it took from there to ask another worker, and when that was.
    paused: Option<(Duration, Instant)>,
    tries: Tries,
    /// Tokens of the prompt: estimated, until a worker tells.
    prompt_tokens: u32,
    cached_tokens: u32,
    /// Whether one has.
    told: bool,
    /// What a pick sees of it; its size grows with the tokens.
    ask: Ask,
    /// With whom it shares what is cached.
    salt: Salt,
    last_touch: Instant,
}

impl Run {
    fn new(
        gateway: Arc<Gateway>,
        job: Job,
        (entry, charge, running): (Use, Charge, Running),
        sender: mpsc::Sender<Result<Event, Failure>>,
    ) -> Self {
        let now = Instant::now();
        let salt = gateway.config.sharing.salt(&job.asker.payer);
        let prefix = Arc::new(prefix::of(&job.model, salt, &job.prompt));
        let shape = Shape { prefix_hash: prefix.home(), ..estimate(&job.prompt, &job.options) };
        let ask = Ask { policy: gateway.policy_of(&job.model.name), shape, prefix };
        Self {
            gateway,
            job,
            entry,
            charge,
            running,
            sender,
            started: now,
            load_ns: 0,
            first_text: None,
            tokens: Vec::new(),
            mu: None,
            untold: Vec::new(),
            silent: 0,
            resumes: 0,
            switched: false,
            recording: None,
            heard: now,
            paused: None,
            tries: Tries::new(),
            prompt_tokens: ask.shape.prompt_tokens,
            cached_tokens: 0,
            told: false,
            ask,
            salt,
            last_touch: now,
        }
    }

    async fn drive(&mut self) -> Result<(), Failure> {
        self.load().await?;
        self.load_ns = nanos(self.started.elapsed());
        let loaded = ms(self.started.elapsed());
        self.running.note(|record| record.load_ms = Some(loaded));
        let place = self.gateway.admit(&self.job, &self.ask.shape).await?;
        if !self.take_up().await {
            return Ok(());
        }
        let driven = self.over_workers().await;
        if driven.is_err() && !self.told {
            self.charge.failed();
        }
        drop(place);
        driven
    }

    /// A version that cannot be loaded, or is given up meanwhile, is not the request's fault.
    async fn load(&mut self) -> Result<(), Failure> {
        if self.is_stranded() {
            self.switch(true);
        }
        let loaded = self.ensure_loaded().await;
        match loaded {
            Err(_) if self.switch(false) => self.ensure_loaded().await,
            loaded => loaded,
        }
    }

    async fn ensure_loaded(&self) -> Result<(), Failure> {
        let Job { asker, model, want, .. } = &self.job;
        self.gateway.ensure_loaded(asker, model, *want).await
    }

    async fn over_workers(&mut self) -> Result<(), Failure> {
        self.budget(|budget, now| budget.deposit(now));
        let mut last: Option<Failure> = None;
        loop {
            if self.is_stranded() {
                self.switch(true);
            }
            let (model, begun) = (&self.job.model, !self.tokens.is_empty());
            let next = self.tries.next(&self.gateway, model, &self.ask, begun).await;
            let Some((seat, work)) = next else {
                if self.switch(true) {
                    continue;
                }
                return Err(last.unwrap_or_else(tries::nobody));
            };
            if begun {
                self.paused = Some((self.heard.elapsed(), Instant::now()));
                self.resumes += 1;
                telemetry::resumed(&self.job.model.name.to_string());
                let (worker, tokens) = (seat.candidate.worker.id, self.tokens.len());
                tracing::info!(%worker, tokens, "resuming the stream");
            }
            self.charge.sent(u64::from(self.prompt_tokens));
            let (seat, end) = match race::open(self, seat, work).await? {
                Err(Unopened { seat, end }) => (seat, end),
                Ok(opened) => {
                    let seat = Arc::clone(&opened.seat);
                    self.running.goes_on_at(&seat, self.ask.policy, self.resumes);
                    (seat, Attempt { run: self, opened }.forward().await)
                }
            };
            match end {
                End::Done | End::ClientGone => {
                    telemetry::attempt(end.name());
                    if matches!(end, End::Done) {
                        seat.record(true, Millis::now());
                        let assignment = &seat.candidate.placement.assignment;
                        self.gateway.note_attempt(assignment, true);
                    }
                    self.gateway.touch(&self.job.model.name);
                    return Ok(());
                }
                end => {
                    // A stale map is nobody's failure, and a client that has seen a part shall get the rest.
                    let free = matches!(end, End::Stale(_)) || !self.tokens.is_empty();
                    let failure = self.tries.failed(&self.gateway, &seat, end)?;
                    // Whatever the version has to do with it, the other one may do better; that is tried once.
                    let switches = !self.switched && self.switch(true);
                    self.switched |= switches;
                    let free = free || switches;
                    if !free && !self.budget(RetryBudget::take) {
                        telemetry::retry_refused();
                        return Err(failure);
                    }
                    // What is to be computed elsewhere has grown.
                    self.ask.shape.prompt_tokens =
                        self.prompt_tokens.saturating_add(count(self.tokens.len()));
                    last = Some(failure);
                }
            }
        }
    }

    /// Tokens came.
    fn hear(&mut self) {
        self.heard = Instant::now();
        if let Some((noticed, asked)) = self.paused.take() {
            let replayed = asked.elapsed();
            telemetry::paused(&self.job.model.name.to_string(), noticed, replayed);
            let (noticed_ms, replayed_ms) = (noticed.as_millis(), replayed.as_millis());
            tracing::info!(noticed_ms, replayed_ms, "the stream goes on");
        }
    }

    fn budget<T>(&self, change: impl FnOnce(&mut RetryBudget, Millis) -> T) -> T {
        let route = self.gateway.route(&self.job.model);
        route.budget(|budget| change(budget, Millis::now()))
    }

    /// Tells the client that there is nothing more. It may not listen any longer, which is as good, and is not waited for for ever.
    async fn tell(&self, failure: Failure) {
        let _ = self.sender.send_timeout(Err(failure), self.gateway.config.client_stall).await;
    }

    async fn send(&mut self, event: Event) -> bool {
        if let Event::Text(_) = event
            && self.first_text.is_none()
        {
            self.first_text = Some(Instant::now());
            self.entry.started();
            self.running.first_text();
            let model = self.job.model.name.to_string();
            telemetry::first_token(&model, self.started.elapsed());
        }
        if self.last_touch.elapsed() > Duration::from_secs(5) {
            self.last_touch = Instant::now();
            self.gateway.touch(&self.job.model.name);
        }
        self.sender.send_timeout(Ok(event), self.gateway.config.client_stall).await.is_ok()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
