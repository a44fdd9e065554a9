//! What a gateway tells of a request in headers, and remembers of it afterwards.

use crate::http::{Bench, until};
use crate::worker::Script;
use ollamamax_gateway::ports::ControlPlane;
use serde_json::{Value, json};
use std::time::Duration;

async fn requests(bench: &Bench, query: &str) -> Vec<Value> {
    let answer = bench.get(&format!("/admin/v1/requests{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["requests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_answer_tells_who_gave_it_and_the_gateway_remembers() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "prompt": "a secret", "stream": false, "options": {"seed": 7}});
    let headers = [("x-request-id", "r-1")];
    let answer = bench.send_with("POST", "/api/generate", &headers, ask.to_string()).await;
    let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    let worker = header("x-ollamamax-worker");
    assert_eq!(
        (header("x-ollamamax-strategy").as_str(), header("x-ollamamax-resumes").as_str()),
        ("whole", "0")
    );
    for name in ["load", "queue", "execution"] {
        header(&format!("x-ollamamax-{name}-ms")).parse::<f64>().expect("milliseconds");
    }
    let shown = bench.get("/admin/v1/requests/r-1").await;
    assert!(!shown.text.contains("secret"), "nothing of what was said: {}", shown.text);
    let own = &shown.json()["requests"][0];
    assert_eq!(
        (&own["outcome"], &own["reason"], &own["route"]),
        (&json!("done"), &json!("stop"), &json!("/api/generate"))
    );
    assert_eq!(
        (&own["workers"][0]["name"], &own["output_tokens"], &own["prompt_tokens"]),
        (&json!(worker), &json!(8), &json!(3))
    );
    assert!(own["first_text_ms"].as_f64().unwrap() <= own["total_ms"].as_f64().unwrap());
    assert_eq!(bench.get("/admin/v1/requests/r-2").await.status, 404);
}

#[tokio::test]
async fn every_way_to_end_is_told_apart_and_found() {
    let bench = Bench::new(&[Script::Answer]);
    bench.post("/api/embed", json!({"model": "m", "input": "x"})).await;
    bench
        .post(
            "/v1/chat/completions",
            json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 2}),
        )
        .await;
    bench.workers[0].script(Script::Refuse(tonic::Code::InvalidArgument, "no"));
    assert_eq!(bench.post("/api/generate", json!({"model": "m", "prompt": "x"})).await.status, 400);
    let all = requests(&bench, "").await;
    let told: Vec<_> = all
        .iter()
        .map(|r| (r["route"].as_str().unwrap(), r["outcome"].as_str().unwrap()))
        .collect();
    let chat = ("/v1/chat/completions", "done");
    assert_eq!(told, [("/api/generate", "failed"), chat, chat, ("/api/embed", "done")]);
    assert_eq!(all[0]["reason"], "400");
    assert_eq!(requests(&bench, "?outcome=failed").await.len(), 1);
    assert_eq!(requests(&bench, "?limit=2&model=m").await.len(), 2);
    assert!(requests(&bench, "?model=other").await.is_empty());
    for wrong in ["?limit=0", "?limit=5000", "?outcome=odd"] {
        assert_eq!(bench.get(&format!("/admin/v1/requests{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_can_be_ended_and_what_was_left_is_told() {
    let bench = Bench::new(&[Script::Forever(Duration::from_millis(5))]);
    let ask = json!({"model": "m", "prompt": "x"}).to_string();
    let headers = [("x-request-id", "long")];
    let stream = bench.send_with("POST", "/api/generate", &headers, ask.clone());
    let end = async {
        until("it runs", || bench.busy().is_some()).await;
        let running = requests(&bench, "?outcome=running").await;
        assert_eq!((running.len(), &running[0]["request"]), (1, &json!("long")));
        let ended = bench.send("DELETE", "/admin/v1/requests/long", "").await;
        assert_eq!(ended.status, 200, "{}", ended.text);
    };
    let (answer, ()) = tokio::join!(stream, end);
    let last = answer.lines().pop().unwrap();
    assert_eq!(last["error"], "the request was ended by an administrator");
    until("the worker is free", || bench.busy().is_none()).await;
    let noted = || {
        bench
            .control
            .state()
            .access
            .trail
            .values()
            .any(|record| record.note.action == "request.end")
    };
    until("it is in the trail", noted).await;
    assert_eq!(bench.send("DELETE", "/admin/v1/requests/long", "").await.status, 404);
    let own = requests(&bench, "").await;
    assert_eq!((&own[0]["outcome"], own.len()), (&json!("cancelled"), 1));
}

#[tokio::test]
async fn a_request_is_known_by_the_id_of_its_trace() {
    let bench = Bench::new(&[Script::Answer]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let answer = bench.send_with("GET", "/api/version", &[("traceparent", &parent)], "").await;
    assert_eq!(answer.headers["x-request-id"], trace);
    let told = answer.headers["traceparent"].to_str().unwrap();
    assert!(
        told.starts_with(&format!("00-{trace}-")) && told.ends_with("-01") && told != parent,
        "{told}"
    );
    let named = [("traceparent", parent.as_str()), ("x-request-id", "mine")];
    let answer = bench.send_with("GET", "/api/version", &named, "").await;
    assert_eq!(answer.headers["x-request-id"], "mine");
    for wrong in [
        "",
        "00",
        "zz",
        &parent.replace("00-4", "ff-4"),
        &parent.replace('b', "B"),
        &format!("{parent}-x"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        let answer = bench.send_with("GET", "/api/version", &[("traceparent", wrong)], "").await;
        assert!(!answer.headers.contains_key("traceparent"), "{wrong:?}");
        assert_eq!(answer.headers["x-request-id"].len(), 32);
    }
}
