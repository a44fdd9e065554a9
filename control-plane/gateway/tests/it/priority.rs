//! Batch requests wait while interactive ones do, in a queue of their own.

use crate::http::{Answer, Bench, quick, until};
use crate::worker::Script;
use ollamamax_gateway::Config;
use serde_json::json;
use std::sync::Arc;
use tokio::task::JoinHandle;

async fn ask(bench: &Bench, priority: &str, seed: u64) -> Answer {
    let options = json!({"seed": seed, "num_predict": 3});
    let body = json!({"model": "m", "prompt": "a prompt", "options": options}).to_string();
    bench.send_with("POST", "/api/generate", &[("x-priority", priority)], body).await
}

fn send(bench: &Arc<Bench>, priority: &'static str, seed: u64) -> JoinHandle<Answer> {
    let bench = Arc::clone(bench);
    tokio::spawn(async move { ask(&bench, priority, seed).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_requests_take_the_places_that_interactive_ones_leave() {
    // The control of these tests gives a worker sixteen places.
    let config = Config { requests_queued: 20, ..quick() };
    let bench = Arc::new(Bench::with(&[Script::HangAfter(0)], config));
    let seeds = || -> Vec<u64> {
        bench.workers[0].requests().iter().map(|r| r.options.sampling.seed).collect()
    };
    let people: Vec<_> = (0..15).map(|seed| send(&bench, "interactive", seed)).collect();
    until("fifteen are served", || seeds().len() == 15).await;
    let first = send(&bench, "batch", 100);
    until("and one batch request", || seeds().contains(&100)).await;
    let queued: Vec<_> = (0..21).map(|nth| send(&bench, "batch", 200 + nth)).collect();
    until("one more than can wait is told so", || queued.iter().any(JoinHandle::is_finished)).await;
    let late = send(&bench, "interactive", 400);
    until("an interactive one passes them by", || seeds().contains(&400)).await;
    assert!(seeds().iter().all(|seed| !(200..300).contains(seed)), "{:?}", seeds());

    // The others go: those that wait come.
    bench.workers[0].script(Script::Answer);
    people.iter().chain([&first, &late]).for_each(JoinHandle::abort);
    let (mut served, mut refused) = (0, 0);
    for answer in queued {
        let answer = answer.await.unwrap();
        match answer.status.as_u16() {
            200 => served += 1,
            429 => {
                refused += 1;
                assert_eq!(answer.headers["retry-after"], "1");
                assert!(answer.error().contains("20 batch requests wait"), "{}", answer.text);
            }
            _ => panic!("{}", answer.text),
        }
    }
    assert_eq!((served, refused), (20, 1));
    until("all places are given back", || bench.busy().is_none()).await;
    assert_eq!(ask(&bench, "batch", 500).await.status, 200);
}

#[tokio::test]
async fn a_class_nobody_knows_is_refused_with_the_names() {
    let bench = Bench::new(&[Script::Answer]);
    let refused = ask(&bench, "urgent", 1).await;
    assert_eq!(refused.status, 400);
    let words = "header `x-priority` is \"urgent\", expected `interactive` or `batch`";
    assert_eq!(refused.error(), words);
    assert_eq!(ask(&bench, "batch", 1).await.status, 200);
}
