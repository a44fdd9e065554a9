//! A stream survives its worker, and a worker learns that its client is gone.

use crate::http::{Bench, quick, until};
use crate::worker::{FakeWorker, Script, text};
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use ollamamax_core::Command;
use ollamamax_gateway::Config;
use ollamamax_proto::placement::{Phase, WorkerStatus};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::Code;
use tower::ServiceExt;

fn ask(tokens: usize) -> Value {
    json!({"model": "m", "prompt": "x", "options": {"seed": 42, "num_predict": tokens}})
}

fn all_text(lines: &[Value]) -> String {
    lines.iter().map(|line| line["response"].as_str().expect("a response")).collect()
}

/// Two workers; whichever is asked first behaves as told, and only for that one call.
async fn survives(first: Script) -> (Bench, Vec<Value>) {
    let bench = Bench::new(&[first.clone(), first]);
    let request = bench.post("/api/generate", ask(30));
    let heal = async {
        until("a worker is asked", || {
            bench.workers.iter().any(|worker| !worker.requests().is_empty())
        })
        .await;
        bench.workers.iter().for_each(|worker| worker.script(Script::Answer));
    };
    let (answer, ()) = tokio::join!(request, heal);
    assert_eq!(answer.status, 200);
    let lines = answer.lines();
    (bench, lines)
}

#[tokio::test]
async fn a_worker_that_dies_mid_stream_is_not_noticed_in_the_text() {
    let (bench, lines) = survives(Script::FailAfter(10)).await;
    assert_eq!(all_text(&lines), text(42, 30));
    let last = lines.last().expect("lines");
    assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), &json!(30)));
    let resumed = bench.workers.iter().flat_map(FakeWorker::requests).find(|r| r.attempt == 1);
    let resumed = resumed.expect("a second attempt");
    assert_eq!(resumed.resume.len(), 10);
    assert_eq!(resumed.options.sampling.seed, 42);
}

#[tokio::test]
async fn what_tokens_do_not_tell_goes_along() {
    let first = Script::FailAfter(10);
    let bench = Bench::new(&[first.clone(), first]);
    let mut ask = ask(30);
    ask["logprobs"] = json!(true);
    ask["options"]["mirostat"] = json!(1);
    let request = bench.post("/api/generate", ask);
    let heal = async {
        until("a worker is asked", || bench.workers.iter().any(|w| !w.requests().is_empty())).await;
        bench.workers.iter().for_each(|worker| worker.script(Script::Answer));
    };
    let (answer, ()) = tokio::join!(request, heal);
    let lines = answer.lines();
    assert_eq!(all_text(&lines), text(42, 30));
    let told = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().count();
    assert_eq!(told, 30, "each token once");
    let mus: Vec<(usize, Option<f64>)> = bench
        .workers
        .iter()
        .flat_map(FakeWorker::requests)
        .map(|r| (r.resume.len(), r.options.sampling.mirostat.expect("mirostat").mu))
        .collect();
    assert!(mus.contains(&(0, None)) && mus.contains(&(10, Some(10.5))), "{mus:?}");
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_left_behind() {
    let (_, lines) = survives(Script::HangAfter(7)).await;
    assert_eq!(all_text(&lines), text(42, 30));
}

#[tokio::test]
async fn a_worker_that_fails_before_the_first_token_costs_nothing() {
    let (_, lines) = survives(Script::FailAfter(0)).await;
    assert_eq!(all_text(&lines), text(42, 30));
    let (_, lines) = survives(Script::Refuse(Code::Unavailable, "draining")).await;
    assert_eq!(all_text(&lines), text(42, 30));
    let (_, lines) = survives(Script::Refuse(Code::FailedPrecondition, "stale")).await;
    assert_eq!(all_text(&lines), text(42, 30));
    let (_, lines) = survives(Script::Skip).await;
    assert_eq!(all_text(&lines), text(42, 30), "a worker that skips tokens is not believed");
}

#[tokio::test]
async fn tokens_that_were_seen_are_dropped() {
    let bench = Bench::new(&[Script::FailAfter(10), Script::Repeat]);
    // Only the first worker can be asked first.
    bench.control.set_worker(2, WorkerStatus::Suspect);
    bench.control.place("m", 1, Phase::Ready);
    bench.control.set_worker(2, WorkerStatus::Ready);
    bench.control.place("m", 2, Phase::Ready);
    bench.control.set_worker(2, WorkerStatus::Suspect);
    let lines = bench.post("/api/generate", ask(30)).await.lines();
    assert_eq!(all_text(&lines), text(42, 30));
    assert_eq!(bench.workers[1].requests()[0].resume.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_process_and_a_later_placement() {
    let slow = Script::Forever(Duration::from_millis(5));
    let mut bench = Bench::new(&[slow]);
    let request = Request::post("/api/generate")
        .header("host", "localhost")
        .body(Body::from(ask(60).to_string()))
        .unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let reading = tokio::spawn(response.into_body().collect());
    until("ten tokens came", || bench.workers[0].shared.sent.load(Ordering::SeqCst) > 10).await;
    bench.workers[0].kill();
    // The planner notices later, and has another worker by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    bench.control.set_worker(1, WorkerStatus::Down);
    let second = FakeWorker::start_as(2, Script::Answer);
    bench.control.add_worker(2, &second.address);
    bench.control.place("m", 2, Phase::Ready);
    let bytes = reading.await.unwrap().unwrap().to_bytes();
    let lines: Vec<Value> = String::from_utf8(bytes.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(all_text(&lines), text(42, 60));
    assert!(second.requests()[0].resume.len() > 5);
}

#[tokio::test]
async fn a_stream_that_cannot_go_on_ends_with_an_error_line() {
    let config = Config { attempts: 2, resume_timeout: Duration::from_millis(300), ..quick() };
    let bench = Bench::with(&[Script::FailAfter(3)], config.clone());
    let answer = bench.post("/api/generate", ask(30)).await;
    assert_eq!(answer.status, 200, "it had begun");
    let lines = answer.lines();
    assert!(lines.last().expect("lines")["error"].as_str().expect("text").contains("plug"));

    let bench = Bench::with(&[Script::FailAfter(3)], config);
    let chat =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let events = bench.post("/v1/chat/completions", chat).await.events();
    let last: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["type"], "api_error");
    assert!(!events.iter().any(|event| event == "[DONE]"));
}

#[tokio::test]
async fn the_last_try_goes_to_a_worker_that_failed_when_no_other_comes() {
    let config = Config { attempts: 2, resume_timeout: Duration::from_secs(8), ..quick() };
    let bench = Bench::with(&[Script::FailAfter(10)], config);
    let request = bench.post("/api/generate", ask(30));
    let heal = async {
        until("it is asked", || !bench.workers[0].requests().is_empty()).await;
        bench.workers[0].script(Script::Answer);
    };
    let (answer, ()) = tokio::join!(request, heal);
    assert_eq!(all_text(&answer.lines()), text(42, 30));
}

#[tokio::test]
async fn running_models_are_served_without_a_quorum() {
    let bench = Bench::new(&[Script::Answer]);
    bench.control.place("m", 1, Phase::Ready);
    bench.control.quorum.store(false, Ordering::SeqCst);
    let lines = bench.post("/api/generate", ask(5)).await.lines();
    assert_eq!(all_text(&lines), text(42, 5));
    let delete = json!({"model": "m"}).to_string();
    let answer = bench.send("DELETE", "/api/delete", delete).await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("no quorum"), "{}", answer.text);
    bench.control.put_model("cold");
    let mut cold = crate::control::version();
    cold.blob = ollamamax_proto::Digest::of(b"other");
    bench.control.put_version("cold", cold);
    let answer = bench.post("/api/generate", json!({"model": "cold", "prompt": "x"})).await;
    assert_eq!(answer.status, 503, "nobody has it and nobody can be told");
}

#[tokio::test]
async fn steady_traffic_does_not_write() {
    let bench = Bench::new(&[Script::Answer]);
    let demands = || bench.control.proposed(|c| matches!(c, Command::DemandModel { .. }));
    for _ in 0..5 {
        bench.post("/api/generate", ask(2)).await;
    }
    assert_eq!(demands(), 1);
    let mut longer = ask(2);
    longer["keep_alive"] = json!("1h");
    bench.post("/api/generate", longer.clone()).await;
    until("another keep_alive is told", || demands() == 2).await;
    bench.post("/api/generate", longer).await;
    bench.post("/api/generate", ask(2)).await;
    assert_eq!(demands(), 2, "the value sticks");
}

#[tokio::test]
async fn keep_alive_zero_releases_when_the_last_request_ends() {
    let bench = Bench::new(&[Script::Answer]);
    let mut once = ask(2);
    once["keep_alive"] = json!(0);
    let answer = bench.post("/api/generate", once).await;
    assert_eq!(answer.lines().last().expect("lines")["done"], true);
    let released = || bench.control.proposed(|c| matches!(c, Command::ReleaseModel { .. })) == 1;
    until("the model is released", released).await;
}

#[tokio::test]
async fn a_client_that_goes_stops_its_worker() {
    let bench = Bench::new(&[Script::Forever(Duration::from_millis(2))]);
    let request = Request::post("/api/generate")
        .header("host", "localhost")
        .body(Body::from(ask(9).to_string()))
        .unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.expect("a frame").expect("no error");
    assert_eq!(bench.workers[0].running(), 1);
    drop(body);
    until("the worker is free", || bench.workers[0].running() == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_before_the_first_token_stops_its_worker() {
    let bench = Bench::new(&[Script::HangAfter(0)]);
    let request = bench.post("/api/generate", ask(9));
    tokio::select! {
        _ = request => panic!("it hangs"),
        () = until("the worker is asked", || bench.workers[0].running() == 1) => {}
    }
    until("the worker is free", || bench.workers[0].running() == 0).await;
}
