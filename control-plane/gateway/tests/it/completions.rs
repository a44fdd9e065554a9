//! `/v1/completions`.

use crate::http::{Bench, steady};
use crate::worker::{Script, text, token};
use ollamamax_proto::inference::{Predict, Prompt};
use serde_json::{Value, json};

#[tokio::test]
async fn a_text_goes_on_whole_and_in_pieces() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = |stream: bool| {
        json!({"model": "m", "prompt": "Once", "max_tokens": 2, "seed": 7, "stream": stream,
        "stream_options": {"include_usage": true}})
    };
    let mut whole = steady(bench.post("/v1/completions", ask(false)).await.json());
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));
    whole["id"] = "I".into();
    let expected = json!({"id": "I", "object": "text_completion", "created": 1, "model": "m", "system_fingerprint": "fp_ollama",
        "choices": [{"text": text(7, 2), "index": 0, "logprobs": null, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}});
    assert_eq!(whole, expected);
    let request = bench.workers[0].requests().remove(0);
    let Prompt::Chat(chat) = &request.prompt else { panic!("as a message") };
    assert_eq!(
        (chat.messages[0].content.as_str(), request.options.predict),
        ("Once", Predict::AtMost(2))
    );
    let events = bench.post("/v1/completions", ask(true)).await.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let texts: Vec<&str> = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(texts.concat(), text(7, 2));
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    assert_eq!(
        (&chunks.last().unwrap()["choices"], &chunks.last().unwrap()["usage"]["total_tokens"]),
        (&json!([]), &json!(5))
    );
}

#[tokio::test]
async fn several_prompts_have_an_answer_each_with_log_probabilities() {
    let bench = Bench::new(&[Script::Answer]);
    let ask = json!({"model": "m", "prompt": ["a", "b"], "n": 2, "seed": 7, "max_tokens": 1, "logprobs": 1, "echo": true});
    let whole = bench.post("/v1/completions", ask).await.json();
    let choices = whole["choices"].as_array().unwrap();
    // Each prompt once, each answer.
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10})
    );
    let expected = [("a", 7), ("a", 8), ("b", 7), ("b", 8)];
    for (at, (prompt, seed)) in expected.into_iter().enumerate() {
        assert_eq!(choices[at]["text"], format!("{prompt}t{} ", token(seed, 0)));
        let logprobs = &choices[at]["logprobs"];
        assert_eq!(
            (&logprobs["tokens"][0], &logprobs["token_logprobs"][0], &logprobs["text_offset"][0]),
            (&json!(format!("t{} ", token(seed, 0))), &json!(-0.5), &json!(0))
        );
        assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_field() {
    let bench = Bench::new(&[Script::Answer]);
    for (more, field) in [
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": "x", "n": 0}), "n"),
        (json!({"prompt": vec!["x"; 9], "n": 2}), "prompt"),
        (json!({"prompt": "x", "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": "x", "temperature": 5}), "temperature"),
        (json!({"prompt": "x", "echo": true, "stream": true}), "echo"),
    ] {
        let mut ask = json!({"model": "m"});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = bench.post("/v1/completions", ask).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["param"].clone()),
            (400, json!(field)),
            "{}",
            answer.text
        );
    }
    assert!(bench.workers[0].requests().is_empty());
    let answer = bench.post("/v1/completions", json!({"model": "m", "prompt": 7})).await;
    assert!(
        answer.json()["error"]["message"].as_str().unwrap().contains("`prompt`"),
        "{}",
        answer.text
    );
}
