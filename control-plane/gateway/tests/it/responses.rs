//! `/v1/responses`.

use crate::conversations::{CALLS, bench, tools};
use ollamamax_proto::inference::{OutputFormat, Predict, Prompt, Think};
use serde_json::{Value, json};

fn flat_tools() -> Value {
    let mut tool = tools()[0]["function"].clone();
    tool["type"] = "function".into();
    json!([tool, {"type": "web_search"}])
}

#[tokio::test]
async fn an_answer_is_items() {
    let bench = bench(CALLS);
    let ask = json!({"model": "m", "input": "hi", "instructions": "be brief", "tools": flat_tools(), "max_output_tokens": 500,
        "reasoning": {"effort": "low"}, "metadata": {"a": "b"}});
    let answer = bench.post("/v1/responses", ask).await.json();
    assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(
        (&answer["object"], &answer["status"], &answer["error"]),
        (&json!("response"), &json!("completed"), &json!(null))
    );
    let kinds: Vec<&Value> =
        answer["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(
        answer["output"][0]["summary"],
        json!([{"type": "summary_text", "text": "The weather, twice."}])
    );
    assert_eq!(
        answer["output"][1]["content"],
        json!([{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}])
    );
    assert_eq!(
        (&answer["output"][3]["name"], &answer["output"][3]["arguments"]),
        (&json!("weather"), &json!("{\"city\":\"Lyon\"}"))
    );
    assert_eq!(
        (&answer["instructions"], &answer["metadata"]),
        (&json!("be brief"), &json!({"a": "b"}))
    );
    let usage = &answer["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap()
    );
    assert!(usage["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);
    let request = bench.workers[0].requests().remove(0);
    let Prompt::Chat(chat) = &request.prompt else { panic!("a chat") };
    assert_eq!((chat.think, request.options.predict), (Some(Think::Low), Predict::AtMost(500)));
    assert_eq!(serde_json::from_str::<Value>(&chat.tools_json).unwrap(), tools());
    let said: Vec<_> =
        chat.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
    assert_eq!(said, [("system", "be brief"), ("user", "hi")]);
}

#[tokio::test]
async fn events_grow_what_the_last_one_says() {
    let bench = bench(CALLS);
    let answer = bench
        .post(
            "/v1/responses",
            json!({"model": "m", "input": "hi", "tools": flat_tools(), "stream": true}),
        )
        .await;
    let events = answer.named_events();
    let numbers: Vec<u64> =
        events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    let item = ["response.output_item.added", "response.output_item.done"];
    let call = [
        item[0],
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        item[1],
    ];
    let expected = [
        &[
            "response.created",
            "response.in_progress",
            item[0],
            "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
            item[1],
            item[0],
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            item[1],
        ][..],
        &call,
        &call,
        &["response.completed"],
    ]
    .concat();
    assert_eq!(kinds, expected);
    let last = &events.last().unwrap()["response"];
    let done: Vec<Value> = events
        .iter()
        .filter(|e| e["type"] == "response.output_item.done")
        .map(|e| e["item"].clone())
        .collect();
    assert_eq!(last["output"], Value::Array(done));
    let grown: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(last["output"][1]["content"][0]["text"], grown);
    assert_eq!(events[0]["response"]["id"], last["id"]);
}

#[tokio::test]
async fn items_become_messages() {
    let bench = bench("Sunny.");
    let input = json!([
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "weather in "}, {"type": "input_text", "text": "Lyon?"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"city\": \"Lyon\"}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
    ]);
    let format =
        json!({"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}});
    let answer = bench
        .post(
            "/v1/responses",
            json!({"model": "m", "input": input, "text": format, "max_output_tokens": 1}),
        )
        .await
        .json();
    assert_eq!(
        (&answer["status"], &answer["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    let request = bench.workers[0].requests().remove(0);
    assert_eq!(
        request.options.format,
        Some(OutputFormat::Schema("{\"type\":\"object\"}".to_owned()))
    );
    let Prompt::Chat(chat) = &request.prompt else { panic!("a chat") };
    let said: Vec<_> =
        chat.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
    assert_eq!(
        said,
        [("system", "be brief"), ("user", "weather in Lyon?"), ("assistant", ""), ("tool", "sun")]
    );
    let extra: Value = serde_json::from_str(&chat.messages[2].extra_json).unwrap();
    assert_eq!(
        (&extra["thinking"], &extra["tool_calls"][0]["function"]["arguments"]),
        (&json!("hm"), &json!({"city": "Lyon"}))
    );
    assert_eq!(
        serde_json::from_str::<Value>(&chat.messages[3].extra_json).unwrap()["tool_name"],
        "weather"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_field() {
    let bench = bench("x");
    for (more, field) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": "x", "previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"input": "x", "background": true}), "background"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input"),
        (
            json!({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "no"}]}),
            "input",
        ),
        (json!({"input": "x", "tools": [{"type": "function"}]}), "tools"),
        (json!({"input": "x", "max_output_tokens": 0}), "max_output_tokens"),
    ] {
        let mut ask = json!({"model": "m"});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = bench.post("/v1/responses", ask).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["param"].clone()),
            (400, json!(field)),
            "{}",
            answer.text
        );
    }
}
