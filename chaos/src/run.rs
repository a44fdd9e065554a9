//! One run of a scenario: start, calm, faults, healing, last looks, verdicts.
//!
//! ```text
//!  start -> references -> | calm: load alone | faults from the schedule, load | calm again: what heals, and when | load ends
//!        -> every register at every node -> the audit trail -> what processes use -> checkers -> report
//! ```

use crate::check::{self, Bars, Verdict};
use crate::faults::Active;
use crate::figures::Figures;
use crate::heal;
use crate::history::{Heal, History};
use crate::load::{Clients, PROMPTS_COUNT, read_all, read_reference};
use crate::recorder::{Recorder, us};
use crate::scenario::Scenario;
use crate::schedule::{Planned, schedule};
use crate::world::World;
use ollamamax_tests::{Api, HarnessError};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the load runs alone before the first fault.
const CALM: Duration = Duration::from_secs(3);
/// And after everything is well.
const AFTER: Duration = Duration::from_millis(1_500);

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// What was run.
    pub scenario: Scenario,
    /// With which seed.
    pub seed: u64,
    /// What each checker says, by name.
    pub verdicts: Vec<(String, Verdict)>,
    /// Why the run shows less than it should.
    pub invalid: Vec<String>,
    /// What was measured.
    pub figures: Figures,
    /// What was seen; in a file of its own.
    #[serde(skip)]
    pub history: History,
    /// What was planned; in a file of its own.
    #[serde(skip)]
    pub planned: Vec<Planned>,
}

/// Good, bad, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Every checker says so, and there was enough to look at.
    Pass,
    /// It shows too little, or a checker cannot tell.
    Invalid,
    /// A checker says no.
    Fail,
}

impl Done {
    /// What it comes to.
    pub fn grade(&self) -> Grade {
        if self.verdicts.iter().any(|(_, verdict)| verdict.is_failure()) {
            Grade::Fail
        } else if self.invalid.is_empty() {
            Grade::Pass
        } else {
            Grade::Invalid
        }
    }
}

/// Runs it. What is left of the processes' files goes to `evidence`.
///
/// # Errors
/// When the run itself breaks: a cluster that does not start, a fault that cannot be made or undone.
pub async fn run(
    scenario: &Scenario,
    seed: u64,
    binary: &Path,
    evidence: Option<PathBuf>,
) -> Result<Done, HarnessError> {
    let recorder = Arc::new(Recorder::new());
    let planned = schedule(scenario, seed);
    let mut world = World::start(scenario, binary, Arc::clone(&recorder)).await?;
    let ran = drive(&mut world, scenario, seed, &planned, &recorder).await;
    if let Some(evidence) = evidence {
        keep_logs(&world, &evidence);
    }
    let invalid = ran?;
    world.observer.stop().await;
    let history = recorder.history();
    Ok(judge(scenario, seed, planned, history, invalid))
}

/// Judges a history as a run of the scenario would be.
pub fn judge(
    scenario: &Scenario,
    seed: u64,
    planned: Vec<Planned>,
    history: History,
    mut invalid: Vec<String>,
) -> Done {
    let bars = Bars { revoked_us: (scenario.bars.revoked_s * 1e6) as u64, ..Bars::default() };
    let figures = Figures::of(&history);
    let mut verdicts = Vec::new();
    for checker in &check::ALL {
        let has_subject = match checker.name {
            "streams" | "exclusive" => scenario.load.streams > 0 && scenario.cluster.workers > 0,
            "tokens" => scenario.load.logins > 0,
            _ => true,
        };
        if has_subject {
            let verdict = (checker.judge)(&history, &bars);
            if let Verdict::Unknown { why } = &verdict {
                invalid.push(format!("{}: {why}", checker.name));
            }
            verdicts.push((checker.name.to_owned(), verdict));
        }
    }
    let floor = scenario.bars.writes_per_s;
    if figures.calm_writes_per_s < floor {
        let had = figures.calm_writes_per_s;
        invalid
            .push(format!("{had:.1} writes a second before the first fault, {floor} are a load"));
    }
    let ended = history.streams.iter().filter(|stream| stream.error.is_none()).count();
    if scenario.load.streams > 0 && ended < scenario.bars.streams {
        invalid.push(format!("{ended} streams ended, {} are a load", scenario.bars.streams));
    }
    Done { scenario: scenario.clone(), seed, verdicts, invalid, figures, history, planned }
}

async fn drive(
    world: &mut World,
    scenario: &Scenario,
    seed: u64,
    planned: &[Planned],
    recorder: &Arc<Recorder>,
) -> Result<Vec<String>, HarnessError> {
    let apis: Vec<Api> =
        world.nodes().iter().map(|node| world.cluster.api(*node).clone()).collect();
    let clients = Clients {
        apis,
        recorder: Arc::clone(recorder),
        load: scenario.load.clone(),
        revoked: Duration::from_secs_f64(scenario.bars.revoked_s),
        seed,
        over: CancellationToken::new(),
    };
    clients.prepare().await?;
    if scenario.load.streams > 0 && scenario.cluster.workers > 0 {
        for prompt in 0..PROMPTS_COUNT {
            let node = prompt % clients.apis.len();
            let text = read_reference(&clients.apis[node], prompt, scenario.load.tokens).await?;
            recorder.note(|history| history.references.insert(prompt, text));
        }
    }
    let running = clients.start();
    tokio::time::sleep(CALM).await;
    let missed = faults(world, scenario, planned).await?;
    world.net.links.clear();
    let since_us = recorder.now_us();
    let heals = heal::wait(world, scenario, since_us).await;
    tokio::time::sleep(AFTER).await;
    running.stop().await?;
    recorder.note(|history| {
        history.heals.extend(heals);
        let more = bars(history, scenario);
        history.heals.extend(more);
    });
    let alive = world.nodes();
    let apis: Vec<_> = alive.iter().map(|node| (*node, world.cluster.api(*node).clone())).collect();
    read_all(recorder, &apis).await;
    let trail = heal::export(&apis, recorder).await;
    recorder.note(|history| history.trail = trail.ok());
    // Connections of clients that have gone are closed, and two samples are taken.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut invalid = Vec::new();
    if missed == planned.len() {
        invalid.push("no fault hit anybody".to_owned());
    }
    Ok(invalid)
}

/// Makes all faults, each at its time, and undoes each at its. How many hit nobody.
async fn faults(
    world: &mut World,
    scenario: &Scenario,
    planned: &[Planned],
) -> Result<usize, HarnessError> {
    let begun = Instant::now();
    let mut active: Vec<(Instant, Active)> = Vec::new();
    let mut left = planned.iter().peekable();
    let mut missed = 0;
    loop {
        active.sort_by_key(|(until, _)| *until);
        let next = left.peek().map(|planned| begun + Duration::from_millis(planned.at_ms));
        let end = active.first().map(|(until, _)| *until);
        match (next, end) {
            (None, None) => return Ok(missed),
            (Some(next), end) if end.is_none_or(|end| next < end) => {
                tokio::time::sleep_until(next).await;
                let Some(planned) = left.next() else { continue };
                let fault = &scenario.fault[planned.fault];
                match world.begin(fault, planned).await? {
                    Some(fault) => {
                        let until = Instant::now() + Duration::from_millis(planned.lasts_ms);
                        active.push((until, fault));
                    }
                    None => missed += 1,
                }
            }
            (_, Some(end)) => {
                tokio::time::sleep_until(end).await;
                let (_, fault) = active.remove(0);
                world.end(fault).await?;
            }
            (Some(_), None) => {}
        }
    }
}

/// What the load may have felt while faults were made.
fn bars(history: &History, scenario: &Scenario) -> Vec<Heal> {
    let figures = Figures::of(history);
    let bar = |what: &str, seconds: f64, took_us: u64| Heal {
        what: what.to_owned(),
        took_us: Some(took_us),
        bar_us: (seconds * 1e6) as u64,
        seen: String::new(),
    };
    let all = [
        ("the longest time without a write", scenario.bars.write_gap_s, figures.longest_gap_us),
        ("the longest pause of a stream", scenario.bars.stream_pause_s, figures.longest_pause_us),
    ];
    let wanted = all.iter().filter(|(_, seconds, _)| *seconds > 0.0);
    wanted.map(|(what, seconds, took)| bar(what, *seconds, *took)).collect()
}

/// Copies what processes have said.
fn keep_logs(world: &World, evidence: &Path) {
    let Ok(entries) = std::fs::read_dir(world.cluster.directory()) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            // Evidence that cannot be kept is missed by whoever looks for it.
            let _ = std::fs::copy(&path, evidence.join(entry.file_name()));
        }
    }
}

/// How long ago something was, for tests and reports.
pub fn seconds(time_us: u64) -> f64 {
    us(time_us).as_secs_f64()
}
