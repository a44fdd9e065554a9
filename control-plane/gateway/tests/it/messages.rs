//! `/v1/messages`.

use crate::conversations::{CALLS, bench, tools};
use crate::http::Bench;
use crate::worker::Script;
use ollamamax_proto::inference::{OutputFormat, Predict, Prompt, Think};
use serde_json::{Value, json};

fn own_tools() -> Value {
    let tool = &tools()[0]["function"];
    json!([{"name": "weather", "description": "now", "input_schema": tool["parameters"]}, {"type": "web_search_20250305", "name": "web_search"}])
}

fn ask(more: Value) -> Value {
    let mut ask =
        json!({"model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask
}

#[tokio::test]
async fn an_answer_is_blocks() {
    let bench = bench(CALLS);
    let more = json!({"tools": own_tools(), "thinking": {"type": "enabled", "budget_tokens": 1024}, "system": [{"type": "text", "text": "be brief"}],
        "stop_sequences": ["END"], "top_k": 5});
    let answer = bench.post("/v1/messages", ask(more)).await.json();
    assert!(answer["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("tool_use"))
    );
    let blocks = answer["content"].as_array().unwrap();
    assert_eq!(
        blocks[0],
        json!({"type": "thinking", "thinking": "The weather, twice.", "signature": ""})
    );
    assert_eq!(blocks[1], json!({"type": "text", "text": "I look."}));
    assert_eq!(
        (&blocks[3]["type"], &blocks[3]["input"]),
        (&json!("tool_use"), &json!({"city": "Lyon"}))
    );
    assert!(answer["usage"]["input_tokens"].as_u64().unwrap() > 0);
    let request = bench.workers[0].requests().remove(0);
    assert_eq!(
        (request.options.predict, request.options.sampling.top_k),
        (Predict::AtMost(500), 5)
    );
    assert_eq!(request.options.stop, ["END"]);
    let Prompt::Chat(chat) = &request.prompt else { panic!("a chat") };
    assert_eq!((chat.think, chat.messages[0].content.as_str()), (Some(Think::On), "be brief"));
    assert_eq!(serde_json::from_str::<Value>(&chat.tools_json).unwrap(), tools());
}

#[tokio::test]
async fn who_names_stop_sequences_is_told_which_one_came() {
    let bench = bench("one two");
    let stops = json!({"stop_sequences": ["STOP", "END"]});
    let answer = bench.post("/v1/messages", ask(stops.clone())).await.json();
    let ending = |of: &Value| (of["stop_reason"].clone(), of["stop_sequence"].clone());
    assert_eq!(ending(&answer), (json!("stop_sequence"), json!("END")));
    let mut streamed = stops;
    streamed["stream"] = json!(true);
    let events = bench.post("/v1/messages", ask(streamed)).await.named_events();
    let delta = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(ending(&delta["delta"]), (json!("stop_sequence"), json!("END")));
    let answer = bench.post("/v1/messages", ask(json!({}))).await.json();
    assert_eq!(ending(&answer), (json!("end_turn"), Value::Null));
}

#[tokio::test]
async fn events_grow_block_after_block() {
    let bench = bench(CALLS);
    let more = json!({"tools": own_tools(), "thinking": {"type": "adaptive"}, "stream": true});
    let events = bench.post("/v1/messages", ask(more)).await.named_events();
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let expected = [
        &["message_start"][..],
        &block,
        &block,
        &block,
        &block,
        &["message_delta", "message_stop"],
    ]
    .concat();
    assert_eq!(kinds, expected);
    let started: Vec<_> = events.iter().filter(|e| e["type"] == block[0]).collect();
    let starts: Vec<_> = started
        .iter()
        .map(|e| (e["index"].as_u64().unwrap(), e["content_block"]["type"].as_str().unwrap()))
        .collect();
    assert_eq!(starts, [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")]);
    let grown = |kind: &str, key: &str| -> String {
        let deltas = events.iter().map(|e| &e["delta"]).filter(|delta| delta["type"] == kind);
        deltas.map(|delta| delta[key].as_str().unwrap()).collect()
    };
    assert_eq!(
        (grown("thinking_delta", "thinking").as_str(), grown("text_delta", "text").as_str()),
        ("The weather, twice.", "I look.")
    );
    assert_eq!(
        grown("input_json_delta", "partial_json"),
        "{\"city\":\"Orléans\"}{\"city\":\"Lyon\"}"
    );
    let delta = &events[events.len() - 2];
    assert_eq!(delta["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    assert!(delta["usage"]["output_tokens"].as_u64().unwrap() > 0);
    assert_eq!(events[0]["message"]["content"], json!([]));
}

#[tokio::test]
async fn blocks_become_messages_and_nobody_thinks_unasked() {
    let bench = bench("Sunny.");
    let messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Lyon"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
            {"type": "text", "text": "and?"}]},
    ]);
    let answer = bench.post("/v1/messages", ask(json!({"messages": messages, "tools": own_tools(), "tool_choice": {"type": "none"}}))).await.json();
    assert_eq!(
        (&answer["content"], &answer["stop_reason"]),
        (&json!([{"type": "text", "text": "Sunny."}]), &json!("end_turn"))
    );
    let Prompt::Chat(chat) = bench.workers[0].requests().remove(0).prompt else { panic!("a chat") };
    assert_eq!((chat.think, chat.tools_json.as_str()), (Some(Think::Off), ""));
    let said: Vec<_> =
        chat.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
    assert_eq!(
        said,
        [("user", "weather?"), ("assistant", "I look."), ("tool", "sun"), ("user", "and?")]
    );
    let extra: Value = serde_json::from_str(&chat.messages[1].extra_json).unwrap();
    assert_eq!(
        (&extra["thinking"], &extra["tool_calls"][0]["function"]["arguments"]),
        (&json!("hm"), &json!({"city": "Lyon"}))
    );
    assert_eq!(
        serde_json::from_str::<Value>(&chat.messages[2].extra_json).unwrap()["tool_name"],
        "weather"
    );
    let cut = bench.post("/v1/messages", ask(json!({"max_tokens": 1}))).await.json();
    assert_eq!(cut["stop_reason"], "max_tokens");
    bench.workers[0].script(Script::Say("{\"name\": \"weather\", \"arguments\": {}}".to_owned()));
    let any = bench
        .post("/v1/messages", ask(json!({"tools": own_tools(), "tool_choice": {"type": "any"}})))
        .await
        .json();
    assert_eq!(
        (&any["stop_reason"], any["content"].as_array().unwrap().len()),
        (&json!("tool_use"), 1),
        "{any}"
    );
    assert!(matches!(bench.workers[0].requests()[2].options.format, Some(OutputFormat::Schema(_))));
}

#[tokio::test]
async fn tokens_are_counted_by_who_has_the_model() {
    let bench = bench("x");
    let count = async |more: Value| {
        let answer = bench.post("/v1/messages/count_tokens", ask(more)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    assert_eq!(count(json!({"system": "s"})).await, json!({"input_tokens": 2}));
    assert_eq!(
        count(json!({"tools": own_tools(), "max_tokens": null})).await,
        json!({"input_tokens": 2})
    );
    assert!(bench.workers[0].requests().is_empty());
}

#[tokio::test]
async fn errors_have_their_own_shape() {
    let bench = Bench::new(&[Script::Answer]);
    for (more, status, kind, part) in [
        (json!({"model": "nope"}), 404, "not_found_error", "model 'nope' not found"),
        (
            json!({"max_tokens": 0}),
            400,
            "invalid_request_error",
            "max_tokens is required and must be positive",
        ),
        (json!({"messages": []}), 400, "invalid_request_error", "at least one message"),
        (
            json!({"messages": [{"role": "robot", "content": "x"}]}),
            400,
            "invalid_request_error",
            "\"robot\"",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            400,
            "invalid_request_error",
            "does not support vision",
        ),
        (json!({"thinking": {"type": "deep"}}), 400, "invalid_request_error", "thinking.type"),
        (
            json!({"tool_choice": {"type": "tool"}}),
            400,
            "invalid_request_error",
            "tool_choice.type",
        ),
    ] {
        let headers = [("x-request-id", "r-7")];
        let answer = bench.send_with("POST", "/v1/messages", &headers, ask(more).to_string()).await;
        let body = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &body["error"]["type"], &body["request_id"]),
            (status, &json!(kind), &json!("r-7")),
            "{body}"
        );
        assert!(body["error"]["message"].as_str().unwrap().contains(part), "{body}");
        assert_eq!(body["type"], "error");
    }
    // Thinking is relaxed where a model cannot: clients ask every model for it.
    let thinking = ask(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}));
    assert_eq!(bench.post("/v1/messages", thinking).await.status, 200);
    bench.workers[0].script(Script::FailAfter(2));
    let broken = bench.post("/v1/messages", ask(json!({"stream": true}))).await.named_events();
    let last = broken.last().unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("overloaded_error"))
    );
    let wrong = bench.send("GET", "/v1/messages", "").await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["type"]), (405, &json!("error")));
}
