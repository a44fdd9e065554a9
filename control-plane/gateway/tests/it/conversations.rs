//! Thinking and tools, as Ollama's and OpenAI's clients see them.

use crate::control::{FakeBlobs, version};
use crate::http::{Bench, local, quick, steady};
use crate::worker::Script;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use ollamamax_gateway::Gateway;
use ollamamax_proto::inference::{OutputFormat, Prompt, Tags, Think};
use serde_json::{Value, json};
use tower::ServiceExt;

/// A template of a model that thinks and calls, in the way of Qwen's.
pub const TEMPLATE: &str =
    "{% if tools %}<tool_call>{% endif %}{% if enable_thinking %}<think>{% endif %}{{ messages }}";
pub const CALLS: &str = "<think>\nThe weather, twice.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": \
    {\"city\": \"Orléans\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Lyon\"}}\n</tool_call>";

/// A model with such a template, and a worker that says `text`.
pub fn bench(text: &str) -> Bench {
    let bench = Bench::new(&[Script::Say(text.to_owned())]);
    let mut able = version();
    able.template = Some(TEMPLATE.to_owned());
    bench.control.put_version("m", able);
    bench
}

pub fn tools() -> Value {
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([{"type": "function", "function": {"name": "weather", "description": "now", "parameters": parameters}}])
}

fn ask(more: Value) -> Value {
    let mut ask =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": tools()});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask
}

/// Ids of calls are drawn.
fn without_ids(mut value: Value) -> Value {
    if let Some(calls) = value.as_array_mut() {
        for call in calls {
            let id = call["id"].as_str().expect("an id");
            assert!(id.starts_with("call_") && id.len() == 13, "{id}");
            call["id"] = "C".into();
        }
    }
    value
}

#[tokio::test]
async fn ollama_streams_thinking_text_and_whole_calls() {
    let bench = bench(CALLS);
    let lines = bench.post("/api/chat", ask(json!({}))).await.lines();
    let texts = |key: &str| -> String {
        lines.iter().filter_map(|line| line["message"][key].as_str()).collect()
    };
    assert_eq!(
        (texts("thinking").as_str(), texts("content").as_str()),
        ("The weather, twice.", "I look.")
    );
    let (last, before) = lines.split_last().unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    let calls: Vec<Value> =
        before.iter().filter(|line| line["message"].get("tool_calls").is_some()).cloned().collect();
    assert_eq!(calls.len(), 2);
    let mut second = steady(calls[1].clone());
    second["message"]["tool_calls"] = without_ids(second["message"]["tool_calls"].take());
    let expected = json!({"model": "m", "created_at": "T", "message": {"role": "assistant", "content": "", "tool_calls":
        [{"id": "C", "function": {"index": 1, "name": "weather", "arguments": {"city": "Lyon"}}}]}, "done": false});
    assert_eq!(second, expected);
    let request = &bench.workers[0].requests()[0];
    let Prompt::Chat(chat) = &request.prompt else { panic!("a chat") };
    assert_eq!(
        (chat.think, serde_json::from_str::<Value>(&chat.tools_json).unwrap()),
        (Some(Think::On), tools())
    );
    let tags = Tags { open: "<think>".into(), close: "</think>".into() };
    assert_eq!(request.options.thinking.as_ref(), Some(&tags));
    assert!(
        ["<tool_call>", "<think>"]
            .iter()
            .all(|mark| request.options.shown.contains(&(*mark).to_owned()))
    );
}

#[tokio::test]
async fn ollama_answers_whole_and_does_not_think_when_told_so() {
    let bench = bench(CALLS);
    let whole = bench.post("/api/chat", ask(json!({"stream": false}))).await.json();
    assert_eq!(
        (&whole["message"]["content"], &whole["message"]["thinking"]),
        (&json!("I look."), &json!("The weather, twice."))
    );
    assert_eq!(
        whole["message"]["tool_calls"][0]["function"]["arguments"],
        json!({"city": "Orléans"})
    );
    // Without tools a call is text, and thinking that nobody wants is left out should the model do it all the same.
    let plain = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "think": false, "stream": false});
    let answered = bench.post("/api/chat", plain).await.json();
    assert!(answered["message"]["content"].as_str().unwrap().starts_with("I look.\n<tool_call>"));
    assert!(answered["message"].get("thinking").is_none());
    let request = bench.workers[0].requests().remove(1);
    let Prompt::Chat(chat) = &request.prompt else { panic!("a chat") };
    assert_eq!((chat.think, request.options.thinking.is_some()), (Some(Think::Off), true));
    let generated = bench
        .post(
            "/api/generate",
            json!({"model": "m", "prompt": "hi", "stream": false, "think": "high"}),
        )
        .await
        .json();
    assert_eq!(generated["thinking"], "The weather, twice.");
    assert!(generated["response"].as_str().unwrap().starts_with("I look.\n<tool_call>"));
    let raw = json!({"model": "m", "prompt": "hi", "stream": false, "raw": true});
    assert_eq!(bench.post("/api/generate", raw).await.json()["response"], CALLS);
}

#[tokio::test]
async fn what_a_model_cannot_do_is_refused_by_name() {
    let bench = Bench::new(&[Script::Answer]);
    for (path, more, error) in [
        ("/api/chat", json!({"tools": tools()}), "\"m:latest\" does not support tools"),
        ("/api/chat", json!({"think": true}), "\"m:latest\" does not support thinking"),
        (
            "/api/generate",
            json!({"prompt": "x", "think": "low"}),
            "\"m:latest\" does not support thinking",
        ),
        (
            "/api/generate",
            json!({"prompt": "x", "suffix": "y"}),
            "\"m:latest\" does not support insert",
        ),
    ] {
        let mut ask = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = bench.post(path, ask).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, error));
    }
    let relaxed =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "think": false});
    assert_eq!(bench.post("/api/chat", relaxed).await.status, 200);
}

#[tokio::test]
async fn a_gap_is_filled_where_the_template_has_a_place_for_it() {
    let bench = Bench::new(&[Script::Answer]);
    let mut able = version();
    able.template = Some("{{ .Prompt }}<gap>{{ .Suffix }}".to_owned());
    bench.control.put_version("m", able);
    let ask = json!({"model": "m", "prompt": "a", "suffix": "b", "stream": false});
    assert_eq!(bench.post("/api/generate", ask).await.status, 200);
    let Prompt::Insert(insert) = &bench.workers[0].requests()[0].prompt else { panic!("a gap") };
    assert_eq!((insert.before.as_str(), insert.after.as_str()), ("a", "b"));
    let shown = bench.post("/api/show", json!({"model": "m"})).await.json();
    assert_eq!(shown["capabilities"], json!(["completion", "insert"]));
}

#[tokio::test]
async fn openai_streams_reasoning_and_calls() {
    let bench = bench(CALLS);
    let events = bench.post("/v1/chat/completions", ask(json!({"stream": true}))).await.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let delta = |chunk: &Value| chunk["choices"][0]["delta"].clone();
    assert_eq!(delta(&chunks[0])["role"], "assistant");
    assert!(chunks[1..].iter().all(|chunk| delta(chunk).get("role").is_none()));
    let texts = |key: &str| -> String {
        chunks.iter().filter_map(|c| delta(c)[key].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(
        (texts("reasoning").as_str(), texts("content").as_str()),
        ("The weather, twice.", "I look.")
    );
    let calls: Vec<Value> =
        chunks.iter().map(|c| delta(c)["tool_calls"].clone()).filter(|c| !c.is_null()).collect();
    let expected = json!([{"id": "C", "index": 0, "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Orléans\"}"}}]);
    assert_eq!((calls.len(), without_ids(calls[0].clone())), (2, expected));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn openai_hears_of_calls_and_their_results_as_templates_want_them() {
    let bench = bench("Sunny.");
    let call = json!({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Lyon\"}"}});
    let messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]);
    let whole = bench.post("/v1/chat/completions", ask(json!({"messages": messages}))).await.json();
    assert_eq!(whole["choices"][0]["message"], json!({"role": "assistant", "content": "Sunny."}));
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let Prompt::Chat(chat) = &bench.workers[0].requests()[0].prompt else { panic!("a chat") };
    let extra: Vec<Value> = chat
        .messages
        .iter()
        .map(|m| serde_json::from_str(&m.extra_json).unwrap_or_default())
        .collect();
    assert_eq!(
        (&extra[1]["thinking"], &extra[1]["tool_calls"][0]["function"]["arguments"]),
        (&json!("hm"), &json!({"city": "Lyon"}))
    );
    assert_eq!(extra[2]["tool_name"], "weather");
}

#[tokio::test]
async fn a_choice_of_tools_is_kept_to() {
    let bench = bench("{\"name\": \"weather\", \"arguments\": {\"city\": \"Lyon\"}}");
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})]
    {
        let whole =
            bench.post("/v1/chat/completions", ask(json!({"tool_choice": choice}))).await.json();
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls", "{whole}");
        let Some(OutputFormat::Schema(schema)) =
            bench.workers[0].requests().remove(0).options.format
        else {
            panic!("a schema")
        };
        let schema: Value = serde_json::from_str(&schema).unwrap();
        assert_eq!(
            schema["anyOf"][0]["properties"]["arguments"],
            tools()[0]["function"]["parameters"]
        );
    }
    let none = bench.post("/v1/chat/completions", ask(json!({"tool_choice": "none"}))).await.json();
    assert!(none["choices"][0]["message"].get("tool_calls").is_none());
    for (more, part) in [
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "other"}}}),
            "names \"other\"",
        ),
        (json!({"tool_choice": "required", "tools": []}), "`tools` names none"),
        (
            json!({"tool_choice": "required", "response_format": {"type": "json_object"}}),
            "leave the other out",
        ),
        (json!({"tool_choice": 7}), "expected \"auto\""),
    ] {
        let refused = bench.post("/v1/chat/completions", ask(more)).await;
        assert_eq!(refused.status, 400);
        let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn several_answers_are_told_apart() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = |stream: bool| {
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 3, "seed": 5,
        "max_tokens": 2, "stream": stream, "stream_options": {"include_usage": true}})
    };
    let whole = bench.post("/v1/chat/completions", ask(false)).await.json();
    let text = |at: usize| whole["choices"][at]["message"]["content"].as_str().unwrap().to_owned();
    for at in 0..3 {
        assert_eq!(
            (&whole["choices"][at]["index"], text(at)),
            (&json!(at), crate::worker::text(5 + at as u64, 2))
        );
    }
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9})
    );
    let streamed = bench.post("/v1/chat/completions", ask(true)).await;
    assert!(!streamed.headers.contains_key("x-stream-id"));
    let events = streamed.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    for at in 0..3 {
        let own = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == at);
        let said: String =
            own.clone().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(said, text(at));
        assert_eq!(own.filter(|c| c["choices"][0]["finish_reason"] == "length").count(), 1);
    }
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 6);
    let refused = bench
        .post(
            "/v1/chat/completions",
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 17}),
        )
        .await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["error"]["param"].clone()),
        (400, json!("n"))
    );
}

/// Another gateway reads the text anew, and tells what the client does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_thinking_and_calls_goes_on_anywhere() {
    let long = format!(
        "<think>{}</think>Well. {}",
        "hm ".repeat(300),
        &CALLS[CALLS.find("I look").unwrap()..]
    );
    let bench = bench(&long);
    bench.workers[0].script(Script::SaySlowly(long.clone()));
    let request = Request::post("/v1/chat/completions").header("host", "localhost");
    let request = request.body(Body::from(ask(json!({"stream": true})).to_string())).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let id = response.headers()["x-stream-id"].to_str().unwrap().to_owned();
    let read = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec())
        .unwrap();
    let told = |text: &str| -> Vec<(usize, String)> {
        let mut at = 0;
        let mut told = Vec::new();
        for line in text.lines() {
            if let Some(id) = line.strip_prefix("id: ") {
                at = id.parse().unwrap();
            }
            let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else {
                continue;
            };
            let chunk: Value = serde_json::from_str(data).unwrap();
            let delta = &chunk["choices"][0]["delta"];
            for (mark, text) in [("?", &delta["reasoning"]), ("=", &delta["content"])] {
                told.extend(
                    text.as_str()
                        .filter(|text| !text.is_empty())
                        .map(|text| (at, format!("{mark}{text}"))),
                );
            }
            told.extend(delta["tool_calls"].as_array().map(|calls| (at, calls[0].to_string())));
        }
        told
    };
    let joined = |parts: &[(usize, String)]| -> String {
        parts.iter().map(|(_, text)| text.trim_start_matches(['?', '='])).collect()
    };
    let all = told(&read);
    assert!(all.iter().filter(|(_, text)| text.starts_with('{')).count() == 2, "{all:?}");
    let other = local(Gateway::new(bench.control.clone(), FakeBlobs::new(), quick()).router());
    for had in [0, 1, all.len() / 2, all.len() - 2, all.len() - 1, all.len()] {
        let from = if had == 0 { 0 } else { all[had - 1].0 };
        let request =
            Request::get(format!("/api/streams/{id}?from={from}")).header("host", "localhost");
        let response = other.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let rest =
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec())
                .unwrap();
        assert_eq!(joined(&told(&rest)), joined(&all[had..]), "from {from}");
        assert!(rest.contains("\"finish_reason\":\"tool_calls\""), "{rest}");
        assert_eq!(rest.contains("\"role\""), had == 0);
    }
}
