//! A name goes from one version to another under load, and back when the new one is bad.

use crate::control::version;
use crate::http::{Bench, quick, until};
use crate::worker::{Script, text};
use futures_util::future::join_all;
use ollamamax_core::Command;
use ollamamax_core::command::Transition;
use ollamamax_core::plan::{Observed, PlanLimits, plan};
use ollamamax_core::rollout::{VersionState, unloadable};
use ollamamax_gateway::ports::ControlPlane;
use ollamamax_proto::model::ModelVersion;
use ollamamax_proto::placement::Phase;
use ollamamax_proto::{Digest, Incarnation, Millis, ModelName};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LOOPS: u64 = 8;

fn other(bytes: &[u8]) -> ModelVersion {
    let mut version = ModelVersion { blob: Digest::of(bytes), ..version() };
    version.digest = version.compute_digest();
    version
}

fn name() -> ModelName {
    "m".parse().unwrap()
}

fn bench() -> Bench {
    let bench = Bench::with(&[Script::Answer, Script::Answer], quick());
    bench.control.auto_place.store(false, Ordering::SeqCst);
    bench
}

/// Does what the leader and the workers do: plans, and loads everything but `bad`, until told to stop.
async fn lead(bench: &Bench, bad: Option<Digest>, stop: &AtomicBool) {
    let control = &bench.control;
    while !stop.load(Ordering::SeqCst) {
        let state = control.state();
        let now = Millis::now().max(state.counters.clock);
        let planned = plan(&state, &Observed::default(), &PlanLimits::default(), now);
        for command in unloadable(&state, &planned) {
            let _ = control.propose(command).await;
        }
        if !planned.steps.is_empty() {
            let command = Command::ApplyPlan { base: planned.base, steps: planned.steps };
            let _ = control.propose(command).await;
        }
        for placement in control.state().placements.values() {
            let assignment = &placement.assignment;
            if placement.phase != Phase::Pending {
                continue;
            }
            let failed = Phase::Failed { reason: "no such tensor".into() };
            let phase = if bad == Some(assignment.blob) { failed } else { Phase::Ready };
            let (id, generation) = (assignment.id, assignment.generation);
            let transition = Transition { id, generation, phase, resident_bytes: 1, load_ns: 1 };
            let report = Command::ReportPlacements {
                worker: placement.worker,
                incarnation: Incarnation(1),
                transitions: vec![transition],
            };
            let _ = control.propose(report).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Loops of requests until told to stop; each is answered in full. How many there were.
async fn load(bench: &Bench, asked: &AtomicU64, stop: &AtomicBool) {
    let one = |nth: u64| async move {
        while !stop.load(Ordering::SeqCst) {
            let seed = asked.fetch_add(1, Ordering::SeqCst);
            let ask = json!({"model": "m", "prompt": "x", "stream": nth.is_multiple_of(2),
                "options": {"seed": seed, "num_predict": 20}});
            let answer = bench.post("/api/generate", ask).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let lines = answer.lines();
            let response = |line: &Value| line["response"].as_str().map(str::to_owned);
            let got: Option<String> = lines.iter().map(response).collect();
            assert_eq!(got.as_deref(), Some(&*text(seed, 20)), "{}", answer.text);
        }
    };
    join_all((0..LOOPS).map(one)).await;
}

/// Runs `story` beside a leader and eight loops of requests.
async fn under_load(bench: &Bench, bad: Option<Digest>, story: impl AsyncFnOnce(&AtomicU64)) {
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let story = async {
        until("the old version answers", || asked.load(Ordering::SeqCst) > 50).await;
        story(&asked).await;
        let before = asked.load(Ordering::SeqCst);
        until("it goes on", || asked.load(Ordering::SeqCst) > before + 50).await;
        stop.store(true, Ordering::SeqCst);
    };
    tokio::join!(lead(bench, bad, &stop), load(bench, &asked, &stop), story);
}

/// The bytes that each request was sent to, over both workers.
fn blobs(bench: &Bench) -> Vec<Digest> {
    let requests = bench.workers.iter().flat_map(|worker| worker.requests());
    requests.map(|request| request.blob).collect()
}

async fn roll(bench: &Bench, version: &ModelVersion, weight: u32) {
    let version = Box::new(version.clone());
    bench.control.propose(Command::RollOut { name: name(), version, weight }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_a_new_version_under_load_drops_no_request() {
    let bench = bench();
    let new = other(b"new bytes");
    under_load(&bench, None, async |_| {
        roll(&bench, &new, 100).await;
        until("the new version is all there is", || {
            let state = bench.control.state();
            let mut all = state.placements.values();
            state.rollouts.is_empty() && all.all(|p| p.assignment.blob == new.blob)
        })
        .await;
        bench.workers.iter().for_each(|worker| worker.shared.requests.lock().unwrap().clear());
    })
    .await;
    assert!(
        blobs(&bench).iter().all(|blob| *blob == new.blob),
        "all traffic is on the new version"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_cannot_be_loaded_rolls_back_by_itself() {
    let bench = bench();
    let bad = other(b"bad bytes");
    under_load(&bench, Some(bad.blob), async |_| {
        roll(&bench, &bad, 100).await;
        until("it is rolled back", || bench.control.state().rollouts.is_empty()).await;
    })
    .await;
    let state = bench.control.state();
    assert_ne!(state.models[&name()].version.blob, bad.blob);
    let kept = &state.versions[&(name(), bad.digest)];
    assert!(matches!(&kept.state, VersionState::Failed { reason } if reason.contains("tensor")));
    assert!(!blobs(&bench).contains(&bad.blob));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_breaks_streams_rolls_back_by_itself() {
    let bench = bench();
    let bad = other(b"bad bytes");
    for worker in &bench.workers {
        *worker.shared.breaks.lock().unwrap() = Some(bad.blob);
    }
    under_load(&bench, None, async |_| {
        roll(&bench, &bad, 100).await;
        until("it is rolled back", || bench.control.state().rollouts.is_empty()).await;
    })
    .await;
    let state = bench.control.state();
    assert_ne!(state.models[&name()].version.blob, bad.blob);
    let kept = &state.versions[&(name(), bad.digest)];
    assert!(matches!(&kept.state, VersionState::Failed { reason } if reason.contains("attempts")));
    assert!(blobs(&bench).contains(&bad.blob), "it was tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_requests_goes_to_the_new_version_until_somebody_says_otherwise() {
    let bench = bench();
    let (old, new) = (bench.control.state().models[&name()].version.clone(), other(b"new bytes"));
    let shift = async |ask: Value| bench.post("/admin/v1/models/m/deploy", ask).await;
    let shape = async || bench.send("GET", "/api/tags", "").await.json()["models"][0].clone();
    let before = shape().await;
    under_load(&bench, None, async |asked| {
        roll(&bench, &new, 30).await;
        until("both serve", || {
            let state = bench.control.state();
            let both = state.placements.values().filter(|held| held.phase == Phase::Ready);
            both.count() == 4
        })
        .await;
        bench.workers.iter().for_each(|worker| worker.shared.requests.lock().unwrap().clear());
        let begun = asked.load(Ordering::SeqCst);
        until("many have asked", || asked.load(Ordering::SeqCst) > begun + 600).await;
        let all = blobs(&bench);
        let share = all.iter().filter(|blob| **blob == new.blob).count() * 100 / all.len();
        assert!((20..=40).contains(&share), "{share} % of {}", all.len());

        let refused = shift(json!({"weight": 101})).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        let unknown = shift(json!({"version": "abcdef123456", "weight": 50})).await;
        assert_eq!(unknown.status, 404, "{}", unknown.text);
        let mixed = shift(json!({"weight": 50, "replicas": 2})).await;
        assert_eq!(mixed.status, 400, "{}", mixed.text);
        let more = shift(json!({"weight": 60})).await.json();
        assert_eq!(
            (&more["versions"][0]["weight"], &more["versions"][1]["weight"]),
            (&json!(60), &json!(40))
        );
        assert_eq!(more["versions"][1]["state"], "old");
        let back = shift(json!({"rollback": true})).await.json();
        assert_eq!(back["versions"][0]["digest"], old.digest.hex());
        assert_eq!(back["versions"][1]["state"], "failed");
    })
    .await;
    let alone = shift(json!({"weight": 50})).await;
    assert_eq!(alone.status, 400, "{}", alone.text);
    assert!(alone.text.contains("no other one serves the rest"), "{}", alone.text);
    let after = shape().await;
    let keys = |model: &Value| model.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&before), keys(&after));
    let shown = bench.post("/api/show", json!({"model": "m"})).await.json();
    assert_eq!(shown["versions"].as_array().map(Vec::len), Some(2));
}
