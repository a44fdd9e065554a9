//! Those who only look: what each node says of who leads and who holds what, and what each process uses.

use crate::history::{Holding, Sample, Sighting};
use crate::recorder::Recorder;
use crate::watched::{Watched, name};
use ollamamax_tests::{Api, Member};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_millis(150);
const SAMPLE: Duration = Duration::from_millis(1_000);
const PATIENCE: Duration = Duration::from_millis(1_000);

/// Looks until it is told to stop.
pub struct Observer {
    recorder: Arc<Recorder>,
    watched: Arc<Watched>,
    over: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Of the members of a run, whose data lies in `directory`.
    pub fn start(recorder: Arc<Recorder>, watched: Arc<Watched>, directory: PathBuf) -> Self {
        let over = CancellationToken::new();
        let (to, of, end) = (Arc::clone(&recorder), Arc::clone(&watched), over.clone());
        let sampling = tokio::spawn(async move {
            let sampling = async {
                loop {
                    sample(&to, &of, &directory);
                    tokio::time::sleep(SAMPLE).await;
                }
            };
            end.run_until_cancelled(sampling).await;
        });
        Self { recorder, watched, over, tasks: vec![sampling] }
    }

    /// Looks at a node, too.
    pub fn watch(&mut self, node: usize, api: Api) {
        let (recorder, watched) = (Arc::clone(&self.recorder), Arc::clone(&self.watched));
        let over = self.over.clone();
        self.tasks.push(tokio::spawn(async move {
            let looking = async {
                loop {
                    look(&recorder, &watched, node, &api).await;
                    tokio::time::sleep(LOOK).await;
                }
            };
            over.run_until_cancelled(looking).await;
        }));
    }

    /// Ends it.
    pub async fn stop(self) {
        self.over.cancel();
        for task in self.tasks {
            // One that has panicked has written down less, and checkers notice that.
            let _ = task.await;
        }
    }
}

async fn look(recorder: &Recorder, watched: &Watched, node: usize, api: &Api) {
    let member = Member::Node(node);
    let before = watched.life(member);
    let request = api.request(Method::GET, "/admin/v1/cluster").timeout(PATIENCE);
    let Ok(answer) = request.send().await else { return };
    let Ok(status) = answer.json::<Value>().await else { return };
    // What an answer says of a process that is no more belongs to nobody's life.
    if watched.life(member).number != before.number {
        return;
    }
    let number = |name: &str| status[name].as_u64();
    let (Some(id), Some(term)) = (number("node"), number("term")) else { return };
    watched.named(member, id);
    let sighting = Sighting {
        at_us: recorder.now_us(),
        node,
        life: before.number,
        term,
        leader: number("leader"),
        revision: number("revision").unwrap_or(0),
        applied: number("applied").unwrap_or(0),
    };
    let held = status["placements"].as_array().cloned().unwrap_or_default();
    recorder.note(|history| {
        let first_us = sighting.at_us;
        history.sightings.push(sighting);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let known: BTreeSet<_> = history.holdings.iter().map(part).collect();
        let mut fresh = Vec::new();
        for held in &held {
            let holding = Holding {
                model: text(&held["model"]),
                generation: held["generation"].as_u64().unwrap_or(0),
                stage: "one placement".to_owned(),
                worker: text(&held["worker"]),
                first_us,
            };
            if !known.contains(&part(&holding)) {
                fresh.push(holding);
            }
        }
        history.holdings.extend(fresh);
    });
}

fn part(holding: &Holding) -> (String, u64, String, String) {
    let Holding { model, generation, stage, worker, .. } = holding.clone();
    (model, generation, stage, worker)
}

fn sample(recorder: &Recorder, watched: &Watched, directory: &Path) {
    for (member, life) in watched.all() {
        let Some(pid) = life.pid else { continue };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let Some(kib) = kib else { continue };
        // A process that hides its memory shows its descriptors to root alone.
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let member = name(member);
        let sample = Sample {
            at_us: recorder.now_us(),
            resident_bytes: kib << 10,
            descriptors: descriptors.map(|entries| entries.count() as u64),
            disk_bytes: bytes_in(&directory.join(&member)),
            member,
            life: life.number,
        };
        recorder.note(|history| history.samples.push(sample));
    }
}

/// What lies in a directory; what vanishes meanwhile counts as nothing.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let entries = entries.filter_map(Result::ok);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
