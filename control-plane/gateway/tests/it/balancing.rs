//! Where requests go: to whom has their beginning, in turn, by class, and never to whom is far off.

use crate::http::{Bench, quick, until};
use crate::worker::{FakeWorker, Script, text};
use futures_util::future::join_all;
use ollamamax_core::route::Policy;
use ollamamax_gateway::Config;
use ollamamax_proto::limits;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn chat(system: &str, user: &str) -> Value {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let messages = [message("system", system), message("user", user)];
    json!({"model": "m", "messages": messages, "stream": false,
        "options": {"seed": 1, "num_predict": 4}})
}

fn asked(bench: &Bench) -> Vec<usize> {
    bench.workers.iter().map(|worker| worker.requests().len()).collect()
}

async fn send(bench: &Bench, body: Value) {
    let answer = bench.post("/api/chat", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["message"]["content"], text(1, 4));
}

#[tokio::test]
async fn each_policy_by_name_is_used_globally_or_for_a_model() {
    let turns = |config: Config| async move {
        let bench = Bench::with(&[Script::Answer, Script::Answer, Script::Answer], config);
        for nth in 0..30 {
            send(&bench, chat("the same system prompt for all", &format!("question {nth}"))).await;
        }
        asked(&bench)
    };
    let policy = |name: &str| name.parse::<Policy>().expect("a policy");
    let in_turn = Config { balancing: policy("round-robin"), ..quick() };
    assert_eq!(turns(in_turn.clone()).await, [10, 10, 10]);
    let mut for_one = quick();
    for_one.balancing_of.insert("m".parse().expect("a name"), policy("round-robin"));
    assert_eq!(turns(for_one).await, [10, 10, 10]);
    let mut other = in_turn;
    other.balancing_of.insert("m".parse().expect("a name"), policy("prefix"));
    let mut counts = turns(other).await;
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 30], "too short to have a hash: all at the same home");
}

#[tokio::test]
async fn a_conversation_goes_where_its_beginning_was_computed() {
    let bench = Bench::new(&[Script::Answer, Script::Answer, Script::Answer, Script::Answer]);
    let system = "a long system prompt, ".repeat(60);
    for nth in 0..12 {
        send(&bench, chat(&system, &format!("question {nth}"))).await;
    }
    let mut counts = asked(&bench);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 12]);
    let home = asked(&bench).iter().position(|count| *count > 0).expect("one was asked");
    let request = bench.workers[home].requests().remove(0);
    let blocks = system.len() / limits::PREFIX_BLOCK_BYTES;
    assert!((blocks..=blocks + 1).contains(&request.prefix.hashes.len()));
}

#[tokio::test]
async fn what_a_worker_says_of_its_cache_is_believed_until_it_says_otherwise() {
    let bench = Bench::new(&[Script::Answer, Script::Answer, Script::Answer]);
    let system = "another long system prompt, ".repeat(60);
    send(&bench, chat(&system, "first")).await;
    let home = asked(&bench).iter().position(|count| *count > 0).expect("one was asked");
    let hashes = bench.workers[home].requests().remove(0).prefix.hashes;
    // It has lost it, and somebody else, asked by another gateway, has it now.
    let other = (home + 1) % 3;
    let listening = |worker: &FakeWorker| worker.shared.cached.receiver_count() > 0;
    until("all are listened to", || bench.workers.iter().all(listening)).await;
    bench.workers[home].shared.cached.send_replace(Vec::new());
    bench.workers[other].shared.cached.send_replace(hashes);
    let deadline = Instant::now() + Duration::from_secs(10);
    while asked(&bench)[other] == 0 {
        assert!(Instant::now() < deadline, "the other one was never asked");
        send(&bench, chat(&system, "again")).await;
        // What the gateway sends somewhere it takes for cached there, until it is told again; news take a moment
        // on a connection whose acknowledgements are delayed.
        bench.workers[home].shared.cached.send_replace(Vec::new());
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_with_one_beginning_do_not_all_wait_at_one_worker() {
    let bench = Bench::new(&[Script::Answer, Script::Answer, Script::Answer]);
    let system = "one prompt for a crowd, ".repeat(60);
    send(&bench, chat(&system, "first")).await;
    join_all((0..60).map(|nth| send(&bench, chat(&system, &format!("{nth}"))))).await;
    let counts = asked(&bench);
    assert_eq!(counts.iter().sum::<usize>(), 61);
    assert!(counts.iter().all(|count| *count >= 8), "{counts:?}");
}

#[tokio::test]
async fn a_worker_that_keeps_failing_is_left_out() {
    let scripts = [Script::Answer, Script::Garbage(2), Script::Answer, Script::Answer];
    let bench = Bench::with(&scripts, Config { balancing: Policy::RoundRobin, ..quick() });
    for _ in 0..40 {
        send(&bench, chat("s", "u")).await;
    }
    let counts = asked(&bench);
    assert!(counts[1] <= 10, "{counts:?}");
    assert!(counts.iter().sum::<usize>() == 40 + counts[1], "each failure was resumed once");
}
