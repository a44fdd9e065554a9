//! What a client sees while workers die, hang, refuse, stammer or talk nonsense: every record once, in order, and soon.

use crate::http::{Answer, Bench, quick, until};
use crate::worker::{FakeWorker, Script, logprobs, text, token};
use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use ollamamax_core::route::Policy;
use ollamamax_gateway::Config;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tonic::Code;
use tower::ServiceExt;

fn ask(seed: u64, tokens: usize) -> Value {
    let options = json!({"seed": seed, "num_predict": tokens});
    json!({"model": "m", "prompt": "x", "logprobs": true, "options": options})
}

fn in_turn() -> Config {
    Config { balancing: Policy::RoundRobin, ..quick() }
}

/// The text, and each token with its log-probability, exactly once and in order.
fn check(answer: &Answer, seed: u64, tokens: usize, why: &str) {
    assert_eq!(answer.status, 200, "{why}: {}", answer.text);
    let lines = answer.lines();
    let got: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    assert_eq!(got, text(seed, tokens), "{why}");
    let told: Vec<f64> = lines
        .iter()
        .filter_map(|line| line["logprobs"].as_array())
        .flatten()
        .map(|one| one["logprob"].as_f64().expect("a number"))
        .collect();
    let expected: Vec<f64> =
        (0..tokens).map(|at| logprobs(token(seed, at), 0).chosen.logprob.into()).collect();
    assert_eq!(told, expected, "{why}");
    assert_eq!(lines.last().expect("a line")["eval_count"], tokens, "{why}");
}

/// A coin for scripts, the same in every run.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_comes_once_and_in_order_whatever_workers_do() {
    let round = |seed: u64| async move {
        let mut coin = seed;
        let mut script = || match draw(&mut coin, 9) {
            0 => Script::FailAfter(draw(&mut coin, 12) as usize),
            1 => Script::HangAfter(draw(&mut coin, 12) as usize),
            2 => Script::Garbage(draw(&mut coin, 12) as usize),
            3 => Script::Refuse(Code::Unavailable, "draining"),
            4 => Script::Refuse(Code::ResourceExhausted, "full"),
            5 => Script::Refuse(Code::FailedPrecondition, "stale"),
            6 => Script::Skip,
            7 => Script::Repeat,
            _ => Script::Late(Duration::from_millis(100)),
        };
        let scripts = [script(), script(), Script::Twice, script()];
        let bench = Bench::with(&scripts, in_turn());
        let answer = bench.post("/api/generate", ask(seed, 14)).await;
        check(&answer, seed, 14, &format!("seed {seed}: {scripts:?}"));
    };
    for seeds in (0..60u64).collect::<Vec<_>>().chunks(10) {
        join_all(seeds.iter().copied().map(round)).await;
    }
}

/// Two workers that have shown their pace; the next request in turn is the first one's.
async fn warm(config: Config) -> Bench {
    let bench = Bench::with(&[Script::Answer, Script::Answer], config);
    for seed in 0..12 {
        check(&bench.post("/api/generate", ask(seed, 8)).await, seed, 8, "warming up");
    }
    bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_first_token_is_hedged_and_nothing_comes_twice() {
    for late in [Script::HangAfter(0), Script::Late(Duration::from_millis(400))] {
        let config = Config { load_timeout: Duration::from_secs(60), ..in_turn() };
        let bench = warm(config).await;
        bench.workers[0].script(late.clone());
        let begun = Instant::now();
        let asked = [0, 1].map(|seed| bench.post("/api/generate", ask(seed, 30)));
        for (answer, seed) in join_all(asked).await.iter().zip(0..) {
            check(answer, seed, 30, &format!("{late:?}"));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{late:?} held the answer up");
        let [first, second] = [0, 1].map(|worker| bench.workers[worker].requests());
        let held_up = first.iter().rfind(|request| request.attempt == 0).expect("its turn");
        let hedges = |of: &str| {
            let again = first.iter().chain(&second).filter(|request| request.attempt > 0);
            again.filter(|request| request.request_id == of).count()
        };
        assert_eq!(hedges(&held_up.request_id), 1, "{late:?} is hedged once");
        assert!(second.iter().any(|r| r.attempt == 1 && r.request_id == held_up.request_id));
        // A machine that is busy itself may hold the other up, too.
        assert!(second.iter().all(|request| hedges(&request.request_id) < 2));
        until("the loser is told to stop", || bench.busy().is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_fail_retries_stay_within_their_budget() {
    let refuse = Script::Refuse(Code::Unavailable, "no");
    let bench = Bench::with(&[refuse.clone(), refuse.clone(), refuse], in_turn());
    let begun = Instant::now();
    let requests = 300;
    for _ in 0..requests / 50 {
        let asked = (0..50).map(|seed| bench.post("/api/generate", ask(seed, 3)));
        for answer in join_all(asked).await {
            assert_eq!(answer.status, 503);
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    let attempts: usize = bench.workers.iter().map(|worker| worker.requests().len()).sum();
    // A fifth, what a quiet time has saved, and what trickles in.
    let allowed = requests + requests / 5 + 10 + 10 * (begun.elapsed().as_secs() as usize + 1);
    assert!((requests..=allowed).contains(&attempts), "{attempts} attempts, {allowed} allowed");
}

/// A stream at the first of two warm workers, and what it reads.
async fn stream(bench: &Bench, tokens: usize) -> Body {
    let body = json!({"model": "m", "prompt": "x", "options": {"seed": 5, "num_predict": tokens}});
    let request = Request::post("/api/generate")
        .header("host", "localhost")
        .body(Body::from(body.to_string()))
        .unwrap();
    bench.router.clone().oneshot(request).await.unwrap().into_body()
}

/// Reads to the end; the text, and the longest wait for a piece of it.
async fn read(mut body: Body) -> (String, Duration) {
    let (mut bytes, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    while let Some(frame) = body.frame().await {
        bytes.extend(frame.unwrap().into_data().unwrap());
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let lines = String::from_utf8(bytes).unwrap();
    let piece = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["response"].as_str().unwrap_or("an error").to_owned()
    };
    (lines.lines().map(piece).collect(), longest)
}

/// The longest pause of a stream whose worker meets with `what` after some tokens.
async fn pause(what: impl FnOnce(&mut FakeWorker)) -> Duration {
    let config = Config { stall: Config::default().stall, ..in_turn() };
    let mut bench = warm(config).await;
    bench.workers[0].script(Script::Forever(Duration::from_millis(5)));
    let before = bench.workers[0].shared.sent.load(Ordering::SeqCst);
    let reading = tokio::spawn(read(stream(&bench, 200).await));
    let sent = || bench.workers[0].shared.sent.load(Ordering::SeqCst) - before;
    until("some tokens came", || sent() > 20).await;
    what(&mut bench.workers[0]);
    let (got, pause) = reading.await.unwrap();
    assert_eq!(got, text(5, 200));
    let resumed = bench.workers[1].requests().pop().expect("the other one went on");
    assert!(resumed.resume.len() >= 20);
    pause
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_is_noticed_at_once() {
    let pause = pause(FakeWorker::kill).await;
    assert!(pause < Duration::from_secs(1), "{pause:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_hangs_is_noticed_within_seconds_but_not_before_a_busy_one_would_be() {
    let pause = pause(|worker| worker.freeze()).await;
    let range = Duration::from_millis(1_400)..Duration::from_millis(2_900);
    assert!(range.contains(&pause), "{pause:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_waits_while_its_worker_serves_others_is_not_given_up_early() {
    let stall = Duration::from_secs(3);
    let bench = warm(Config { stall, ..in_turn() }).await;
    bench.workers[0].script(Script::Forever(Duration::from_millis(5)));
    let mut neighbour = stream(&bench, 10_000).await;
    neighbour.frame().await.expect("a frame").expect("no error");
    bench.workers[0].script(Script::HangAfter(5));
    bench.workers[1].script(Script::Answer);
    // The second worker's turn goes to another request.
    let other = bench.post("/api/generate", ask(1, 3)).await;
    check(&other, 1, 3, "beside");
    let waiting = tokio::spawn(read(stream(&bench, 40).await));
    let drained = tokio::spawn(async move { while let Some(Ok(_)) = neighbour.frame().await {} });
    let (got, pause) = waiting.await.unwrap();
    assert_eq!(got, text(5, 40));
    assert!(pause >= stall - Duration::from_millis(50), "{pause:?}");
    drained.abort();
}
