//! A cluster before another one: the other is adopted as any server of others is, answers through it, dies and comes back.

use crate::{binary, run_cli};
use ollamamax_tests::{Cluster, ClusterOptions, Member, model};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const MODEL: &str = "smollm2:135m";

fn ask(stream: bool, tokens: u32) -> Value {
    json!({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "Count from one to ten."}],
        "options": {"num_predict": tokens, "temperature": 0, "seed": 1}})
}

async fn answers(front: &Cluster, node: usize) -> Result<String, String> {
    let (status, text) = front
        .api(node)
        .raw_post("/api/chat", ask(false, 4).to_string())
        .await
        .map_err(|error| error.to_string())?;
    if status == 200 { Ok(text) } else { Err(format!("{status}: {text}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_adopted_answers_through_every_node_dies_and_comes_back() {
    let options = || ClusterOptions { memory_bytes: 4 << 30, ..ClusterOptions::new(binary()) };
    // Nobody gets in there without a key.
    let behind = ClusterOptions { anonymous: String::new(), ..options() };
    let mut behind = Cluster::start(behind.size(1, 1)).await.expect("a server");
    behind.serve_file(MODEL, model::smollm2()).await.expect("the model is served");
    let front = Cluster::start(options().size(2, 0)).await.expect("a cluster");
    let key = front.directory().join("behind.key");
    std::fs::write(&key, behind.key()).expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("closed");

    let without = run_cli(&front, &["workers", "adopt", &behind.url(0)]).expect_err("no key");
    assert!(without.contains("API key"), "{without}");
    let key = key.to_string_lossy().into_owned();
    let (url, label) = (behind.url(0), "site=old");
    let adopt =
        ["workers", "adopt", &url, "--name", "old", "--api-key-file", &key, "--label", label];
    let adopted = run_cli(&front, &adopt).expect("adopted");
    assert!(adopted.contains("old is ready") && adopted.contains(MODEL), "{adopted}");
    let listed = run_cli(&front, &["workers", "list"]).expect("a list");
    assert!(listed.contains("ollama") && listed.contains(label), "{listed}");
    assert!(run_cli(&front, &["list"]).expect("a list").contains(MODEL));
    assert!(run_cli(&front, &["top", "--once"]).expect("a screen").contains("adopted"));
    let trail = run_cli(&front, &["audit", "tail"]).expect("the trail");
    assert!(trail.contains("worker.adopt"), "{trail}");

    for node in 0..2 {
        let first = async || answers(&front, node).await;
        front.wait("the node has heard of it", PATIENCE, first).await.expect("it answers");
        let api = front.api(node);
        let own = behind.api(0).post("/api/chat", &ask(false, 16)).await.expect("an answer");
        let through = api.post("/api/chat", &ask(false, 16)).await.expect("an answer");
        assert_eq!(through["message"], own["message"], "the same answer");
        let streamed = api.stream("/api/chat", &ask(true, 16)).await.expect("a stream");
        let text = streamed.text().await.expect("it ends well");
        assert_eq!(json!(text), own["message"]["content"]);
        let openai = json!({"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]});
        let openai = api.post("/v1/chat/completions", &openai).await.expect("an answer");
        assert_eq!(openai["object"], "chat.completion");
        let anthropic = json!({"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]});
        let anthropic = api.post("/v1/messages", &anthropic).await.expect("an answer");
        assert_eq!(anthropic["type"], "message");
        let shown = api.post("/api/show", &json!({"model": MODEL})).await.expect("shown");
        assert!(shown["model_info"]["llama.context_length"].as_u64() > Some(0), "{shown}");
    }

    let mut stream = front.api(1).stream("/api/chat", &ask(true, 2_000)).await.expect("a stream");
    stream.next().await.expect("a record").expect("not the end");
    behind.kill9(Member::Node(0));
    let broken = stream.text().await.expect_err("it breaks").to_string();
    assert!(broken.contains("adopted server `old` failed"), "{broken}");
    for node in 0..2 {
        let lost = async || match answers(&front, node).await {
            Err(text) if text.starts_with("503") && text.contains("`old`") => Ok(()),
            other => Err(format!("{other:?}")),
        };
        front.wait("requests are refused with the reason", PATIENCE, lost).await.expect("503");
    }
    behind.restart(Member::Node(0)).expect("restarted");
    for node in 0..2 {
        let again = async || answers(&front, node).await;
        front.wait("it serves again", PATIENCE, again).await.expect("it serves again");
    }
    let released = run_cli(&front, &["workers", "release", "old"]).expect("released");
    assert!(released.contains("goes on as it was"), "{released}");
    let gone = answers(&front, 0).await.expect_err("nobody has it");
    assert!(gone.starts_with("404"), "{gone}");
}
