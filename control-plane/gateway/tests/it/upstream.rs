//! Servers of others, scripted: Ollama- and OpenAI-shaped ones behind real sockets, which answer, fail, hang and lie as told.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with a request that is no look.
#[derive(Clone, Debug, PartialEq)]
pub enum Script {
    /// Answers as its kind does.
    Answer,
    /// Answers with this status and body.
    Status(u16, &'static str),
    /// Says nothing.
    Hang,
    /// Closes the connection at once.
    Close,
    /// Says something that is no HTTP.
    Garbage,
    /// Sends elsewhere.
    Redirect(String),
    /// Streams so many pieces, then closes.
    Breaks(usize),
    /// Streams so many pieces, then says nothing.
    Stalls(usize),
    /// Streams pieces without end, with this pause.
    Endless(Duration),
    /// Calls a tool.
    Calls,
}

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub head: String,
    pub text: String,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }
}

pub struct Upstream {
    pub url: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    ollama: bool,
    models: Mutex<Vec<String>>,
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
    running: AtomicUsize,
    deaf: AtomicBool,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const PIECES: [&str; 3] = ["Hel", "lo, ", "you"];

impl Upstream {
    pub async fn ollama(models: &[&str]) -> Self {
        Self::start("127.0.0.1:0", true, models).await
    }

    pub async fn openai(models: &[&str]) -> Self {
        Self::start("127.0.0.1:0", false, models).await
    }

    /// One at an address, which somebody may have had before.
    pub async fn start(address: &str, ollama: bool, models: &[&str]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        let shared = Arc::new(Shared {
            ollama,
            models: Mutex::new(models),
            script: Mutex::new(Script::Answer),
            asked: Mutex::default(),
            running: AtomicUsize::new(0),
            deaf: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                open.spawn(own.clone().serve(stream));
            }
        });
        Self { url, shared, task }
    }

    pub fn script(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// Whether it answers looks.
    pub fn deaf(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::SeqCst);
    }

    /// What it was asked beside looks.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Requests that it has not answered to their end.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let Some(asked) = read(&mut stream).await else { return };
        let looks = ["/api/version", "/api/tags", "/api/ps", "/v1/models"];
        if looks.contains(&asked.path.as_str()) {
            if self.deaf.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let _ = stream.write_all(&self.look(&asked.path)).await;
            return;
        }
        let script = self.script.lock().unwrap().clone();
        self.asked.lock().unwrap().push(asked.clone());
        self.running.fetch_add(1, Ordering::SeqCst);
        self.act(&script, &asked, &mut stream).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn look(&self, path: &str) -> Vec<u8> {
        let models = self.models.lock().unwrap();
        let tag = |name: &String| {
            json!({"name": name, "model": name, "modified_at": "2026-01-02T03:04:05.123456789Z",
                "size": 98_000_000, "digest": "ab".repeat(32),
                "details": {"parent_model": "", "format": "gguf", "family": "llama",
                    "families": null, "parameter_size": "1B", "quantization_level": "Q4_0"}})
        };
        let tags: Vec<Value> = models.iter().map(tag).collect();
        let entry = |id: &String| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "x", "max_model_len": 4096});
        let entries: Vec<Value> = models.iter().map(entry).collect();
        match (self.ollama, path) {
            (true, "/api/version") => whole(200, &json!({"version": "0.33.0"})),
            (true, "/api/tags") => whole(200, &json!({"models": tags})),
            (true, "/api/ps") => whole(200, &json!({"models": []})),
            (_, "/v1/models") => whole(200, &json!({"object": "list", "data": entries})),
            _ => whole(404, &json!({"detail": "Not Found"})),
        }
    }

    async fn act(&self, script: &Script, asked: &Asked, stream: &mut TcpStream) {
        let count = match script {
            Script::Answer | Script::Calls => None,
            Script::Status(status, text) => {
                let body = text.as_bytes();
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
                return;
            }
            Script::Hang => return gone(stream).await,
            Script::Close => return,
            Script::Garbage => {
                let _ = stream.write_all(b"\x00\x01 nonsense\r\n\r\n").await;
                return;
            }
            Script::Redirect(to) => {
                let head = format!(
                    "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes()).await;
                return;
            }
            Script::Breaks(count) | Script::Stalls(count) => Some(*count),
            Script::Endless(_) => Some(usize::MAX),
        };
        let body = asked.json();
        let by_default = asked.path.starts_with("/api/");
        let streams = body["stream"].as_bool().unwrap_or(by_default)
            && !asked.path.contains("embed")
            && asked.path != "/api/show";
        if !streams {
            let _ = stream.write_all(&whole(200, &self.object(asked, &body))).await;
            return;
        }
        let kind = if by_default { "application/x-ndjson" } else { "text/event-stream" };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        for nth in 0..count.unwrap_or(PIECES.len()) {
            let piece = piece(asked, &body, PIECES[nth % PIECES.len()], *script == Script::Calls);
            if chunk(stream, &piece).await.is_err() {
                return;
            }
            if let Script::Endless(pause) = script {
                tokio::time::sleep(*pause).await;
            }
        }
        match script {
            Script::Breaks(_) => {}
            Script::Stalls(_) => gone(stream).await,
            _ => {
                let _ = chunk(stream, &end(asked, &body)).await;
                let _ = stream.write_all(b"0\r\n\r\n").await;
            }
        }
    }

    fn object(&self, asked: &Asked, body: &Value) -> Value {
        let model = &body["model"];
        let metrics = json!({"total_duration": 5, "load_duration": 1, "prompt_eval_count": 7, "prompt_eval_duration": 2,
            "eval_count": 3, "eval_duration": 2});
        let mut answer = match asked.path.as_str() {
            "/api/chat" => json!({"model": model, "created_at": "2026-01-02T03:04:05Z",
                "message": {"role": "assistant", "content": PIECES.concat()}, "done": true, "done_reason": "stop"}),
            "/api/generate" => json!({"model": model, "created_at": "2026-01-02T03:04:05Z",
                "response": PIECES.concat(), "done": true, "done_reason": "stop"}),
            "/api/embed" => {
                return json!({"model": model, "embeddings": [[0.6, 0.8]], "total_duration": 1, "prompt_eval_count": 2});
            }
            "/api/show" => {
                return json!({"modelfile": "FROM x", "template": "T", "details": {"parent_model": "",
                "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "1B",
                "quantization_level": "Q4_0", "context_length": 10, "embedding_length": 2},
                "model_info": {"llama.context_length": 8192}, "capabilities": ["completion"],
                "modified_at": "2026-01-02T03:04:05.000000000Z"});
            }
            "/v1/embeddings" => {
                let count = body["input"].as_array().map_or(1, Vec::len);
                let data: Vec<Value> = (0..count)
                    .map(|index| json!({"object": "embedding", "index": index, "embedding": [3.0, 4.0]}))
                    .collect();
                return json!({"object": "list", "model": model, "data": data,
                    "usage": {"prompt_tokens": 4, "total_tokens": 4}});
            }
            "/v1/completions" => {
                return json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model,
                "system_fingerprint": "f", "choices": [{"text": PIECES.concat(), "index": 0, "logprobs": null, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}});
            }
            _ => {
                return json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
                "system_fingerprint": "f", "choices": [{"index": 0,
                "message": {"role": "assistant", "content": PIECES.concat()}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}});
            }
        };
        answer.as_object_mut().unwrap().extend(metrics.as_object().unwrap().clone());
        answer
    }
}

fn piece(asked: &Asked, body: &Value, text: &str, calls: bool) -> String {
    let model = &body["model"];
    let chat = |delta: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": null});
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
            "system_fingerprint": "f", "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    match asked.path.as_str() {
        "/api/chat" => json!({"model": model, "created_at": "2026-01-02T03:04:05Z",
            "message": {"role": "assistant", "content": text}, "done": false})
        .to_string()
            + "\n",
        "/api/generate" => json!({"model": model, "created_at": "2026-01-02T03:04:05Z", "response": text, "done": false})
            .to_string()
            + "\n",
        "/v1/completions" => format!(
            "data: {}\n\n",
            json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model, "system_fingerprint": "f",
                "choices": [{"text": text, "index": 0, "logprobs": null, "finish_reason": null}]})
        ),
        _ if calls && text == PIECES[0] => chat(json!({"role": "assistant", "content": "", "tool_calls": [{"index": 0, "id": "c1", "type": "function",
            "function": {"name": "f", "arguments": "{\"x\":"}}]})),
        _ if calls && text == PIECES[1] => {
            chat(json!({"role": "assistant", "content": "",
                "tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}))
        }
        _ if calls => chat(json!({"role": "assistant", "content": ""})),
        _ => chat(json!({"role": "assistant", "content": text})),
    }
}

fn end(asked: &Asked, body: &Value) -> String {
    let model = &body["model"];
    if asked.path.starts_with("/api/") {
        let mut last = json!({"model": model, "created_at": "2026-01-02T03:04:05Z", "done": true, "done_reason": "stop",
            "total_duration": 5, "prompt_eval_count": 7, "eval_count": 3, "eval_duration": 2});
        match asked.path.as_str() {
            "/api/chat" => last["message"] = json!({"role": "assistant", "content": ""}),
            _ => last["response"] = json!(""),
        }
        return last.to_string() + "\n";
    }
    let object =
        if asked.path == "/v1/completions" { "text_completion" } else { "chat.completion.chunk" };
    let event = |choices: Value, usage: Value| {
        let mut event = json!({"id": "chatcmpl-1", "object": object, "created": 1, "model": model,
            "system_fingerprint": "f", "choices": choices});
        if !usage.is_null() {
            event["usage"] = usage;
        }
        format!("data: {event}\n\n")
    };
    let mut choice = json!({"index": 0, "finish_reason": "stop"});
    match asked.path.as_str() {
        "/v1/completions" => (choice["text"], choice["logprobs"]) = (json!(""), Value::Null),
        _ => choice["delta"] = json!({"role": "assistant", "content": ""}),
    }
    let mut out = event(json!([choice]), Value::Null);
    if body["stream_options"]["include_usage"] == true {
        let usage = json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10});
        out += &event(json!([]), usage);
    }
    out + "data: [DONE]\n\n"
}

fn whole(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

async fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}

/// Returns when the other end has gone.
async fn gone(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while bytes.len() < end + length {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
    let path = String::from_utf8_lossy(&bytes).split(' ').nth(1)?.to_owned();
    let text = String::from_utf8_lossy(&bytes[end..]).into_owned();
    Some(Asked { path, head, text })
}
