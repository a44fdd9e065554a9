//! A worker with a script: deterministic tokens over real gRPC, and ways to fail.

use ollamamax_proto::Digest;
use ollamamax_proto::inference::{
    Done, EmbedInput, EmbedRequest, FinishReason, GenerateRequest, Logprob, Predict, Prompt,
    Started, TokenChunk, TokenLogprob,
};
use ollamamax_proto::wire::inference_server::{Inference, InferenceServer};
use ollamamax_proto::wire::{self, TokenizeReply, TokenizeRequest};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Allow, Who};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status};

/// Whose members gateways and workers of these tests are.
pub static CLUSTER: LazyLock<TestCluster> = LazyLock::new(|| TestCluster::new("test"));

/// What the next calls do.
#[derive(Clone, Debug, PartialEq)]
pub enum Script {
    /// Everything asked.
    Answer,
    /// So many tokens, then an error.
    FailAfter(usize),
    /// So many tokens, then silence.
    HangAfter(usize),
    /// Nothing but a status.
    Refuse(Code, &'static str),
    /// A token each so often, without end.
    Forever(Duration),
    /// A token each so often.
    Slow(Duration),
    /// Repeats the resumed tokens before it goes on.
    Repeat,
    /// Says tokens the engine cannot mean.
    Skip,
    /// Sends each token twice.
    Twice,
    /// So many tokens, then what no worker says.
    Garbage(usize),
    /// Everything asked, but the first token only after a while.
    Late(Duration),
    /// This text, three characters a token.
    Say(String),
    /// The same, a token every five milliseconds.
    SaySlowly(String),
    /// Releases text with every second token only, and never that of the last.
    Lag,
}

#[derive(Debug)]
pub struct Shared {
    pub script: Mutex<Script>,
    pub requests: Mutex<Vec<GenerateRequest>>,
    pub embeds: Mutex<Vec<EmbedRequest>>,
    pub running: AtomicUsize,
    pub sent: AtomicUsize,
    /// Whether it has stopped in the middle of everything, as a process does at `SIGSTOP`.
    pub frozen: AtomicBool,
    /// Whether answers wait before they begin.
    pub held: watch::Sender<bool>,
    /// Bytes of a version with which every stream breaks before its first token.
    pub breaks: Mutex<Option<Digest>>,
    /// What it says it has cached.
    pub cached: watch::Sender<Vec<u64>>,
}

/// A worker process of its own, as far as a test can have one: dropping it cuts its connections.
pub struct FakeWorker {
    pub address: String,
    pub shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl FakeWorker {
    /// As the worker with that id.
    pub fn start_as(id: u128, script: Script) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            requests: Mutex::default(),
            embeds: Mutex::default(),
            running: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            frozen: AtomicBool::new(false),
            held: watch::channel(false).0,
            breaks: Mutex::default(),
            cached: watch::channel(Vec::new()).0,
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let service = Service(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let tls = CLUSTER.worker(id);
            let allow = Allow::new(tls.clone()).service("ollamamax.v1.Inference", Who::Node);
            let mut server = tonic::transport::Server::builder().layer(allow);
            let service = InferenceServer::new(service);
            server.add_service(service).serve_with_incoming(tls.incoming(listener, None)).await
        });
        Self { address, shared, runtime: Some(runtime) }
    }

    pub fn script(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    pub fn requests(&self) -> Vec<GenerateRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn embeds(&self) -> Vec<EmbedRequest> {
        self.shared.embeds.lock().unwrap().clone()
    }

    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// Stops it in the middle of everything.
    pub fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::SeqCst);
    }

    /// Lets no answer begin, or lets all of them.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The token at a place: a function of seed and place alone, as the engine promises.
pub fn token(seed: u64, index: usize) -> u32 {
    let mixed =
        (seed ^ 0x9e37_79b9).wrapping_mul(index as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
    (mixed >> 40) as u32 % 1000
}

/// The text of a whole generation.
pub fn text(seed: u64, tokens: usize) -> String {
    (0..tokens).map(|index| format!("t{} ", token(seed, index))).collect()
}

/// The log-probabilities of a token: a function of the token alone.
pub fn logprobs(token: u32, top: u32) -> TokenLogprob {
    let logprob = |token: u32, less: u32| Logprob {
        token,
        logprob: -0.5 - less as f32,
        bytes: format!("t{token} ").into(),
    };
    TokenLogprob {
        chosen: logprob(token, 0),
        top: (0..top).map(|less| logprob(token + less, less)).collect(),
    }
}

struct Service(Arc<Shared>);

struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<wire::TokenChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for Service {
    type GenerateStream = Chunks;
    type CacheEventsStream = Pin<Box<dyn Stream<Item = Result<wire::CacheNews, Status>> + Send>>;

    async fn cache_events(
        &self,
        _: Request<wire::CacheEventsRequest>,
    ) -> Result<Response<Self::CacheEventsStream>, Status> {
        let news = |stored| Ok(wire::CacheNews { reset: true, stored, ..Default::default() });
        let cached = WatchStream::new(self.0.cached.subscribe()).map(news);
        Ok(Response::new(Box::pin(cached)))
    }

    async fn generate(
        &self,
        request: Request<wire::GenerateRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let request = GenerateRequest::try_from(request.into_inner())?;
        self.0.requests.lock().unwrap().push(request.clone());
        let broken = *self.0.breaks.lock().unwrap() == Some(request.blob);
        let script = self.0.script.lock().unwrap().clone();
        let script = if broken { Script::FailAfter(0) } else { script };
        if let Script::Refuse(code, text) = script {
            return Err(Status::new(code, text));
        }
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(Arc::clone(&self.0));
        let steps = steps(&request, &script);
        let stream =
            futures_util::stream::unfold((steps, running, 0), |(steps, running, at)| async move {
                if running.0.frozen.load(Ordering::SeqCst) {
                    return std::future::pending().await;
                }
                let _ = running.0.held.subscribe().wait_for(|held| !held).await;
                let item = match steps(at)? {
                    Step::Send(chunk) => Ok(chunk.into()),
                    Step::SendAfter(wait, chunk) => {
                        tokio::time::sleep(wait).await;
                        Ok(chunk.into())
                    }
                    Step::Fail => Err(Status::unavailable("the test pulled the plug")),
                    Step::Hang => std::future::pending().await,
                };
                running.0.sent.fetch_add(1, Ordering::SeqCst);
                Some((item, (steps, running, at + 1)))
            });
        Ok(Response::new(Box::pin(stream)))
    }

    /// The vector of an input has as many ones as it has bytes or tokens, then zeros, at unit length; four values in all.
    async fn embed(
        &self,
        request: Request<wire::EmbedRequest>,
    ) -> Result<Response<wire::EmbedReply>, Status> {
        let request = EmbedRequest::try_from(request.into_inner())?;
        self.0.embeds.lock().unwrap().push(request.clone());
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(Arc::clone(&self.0));
        let script = self.0.script.lock().unwrap().clone();
        match script {
            Script::Refuse(code, text) => return Err(Status::new(code, text)),
            Script::FailAfter(_) => return Err(Status::unavailable("the test pulled the plug")),
            Script::HangAfter(_) => std::future::pending().await,
            _ => {}
        }
        let embedding = |input: &EmbedInput| {
            let tokens = match input {
                EmbedInput::Text(text) => text.len(),
                EmbedInput::Tokens(tokens) => tokens.len(),
            };
            let ones = tokens.clamp(1, 4);
            let mut values = vec![0.0; 4];
            values[..ones].fill(1.0 / (ones as f32).sqrt());
            wire::Embedding { values, tokens: tokens as u32 }
        };
        let skip = usize::from(script == Script::Skip);
        let embeddings = request.inputs.iter().skip(skip).map(embedding).collect();
        Ok(Response::new(wire::EmbedReply { embeddings }))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeReply>, Status> {
        // A token a message, and one for all tools.
        let chat = request.into_inner().chat.unwrap_or_default();
        let tokens = chat.messages.len() + usize::from(!chat.tools_json.is_empty());
        Ok(Response::new(TokenizeReply { tokens: vec![0; tokens] }))
    }
}

fn pieces(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(3).map(|piece| piece.iter().collect()).collect()
}

enum Step {
    Send(TokenChunk),
    SendAfter(Duration, TokenChunk),
    Fail,
    Hang,
}

type Steps = Box<dyn Fn(usize) -> Option<Step> + Send>;

/// The steps of an answer by their place: started, one chunk a token, done.
fn steps(request: &GenerateRequest, script: &Script) -> Steps {
    let seed = request.options.sampling.seed;
    let said = match script {
        Script::Say(text) | Script::SaySlowly(text) => pieces(text),
        _ => Vec::new(),
    };
    let whole = if said.is_empty() { 8 } else { said.len() };
    let total = match request.options.predict {
        Predict::AtMost(tokens) if said.is_empty() => tokens as usize,
        Predict::AtMost(tokens) => whole.min(tokens as usize),
        _ => whole,
    };
    let prompt_tokens = match &request.prompt {
        Prompt::Chat(chat) => chat.messages.len() as u32 * 3,
        _ => 5,
    };
    let told = request.options.logprobs;
    // It says that the last of the stops ended what it was given to say.
    let stop = request.options.stop.last().filter(|_| !said.is_empty()).cloned();
    let mirostat = request.options.sampling.mirostat.is_some();
    let (first, script) = (request.resume.len(), script.clone());
    let start = if script == Script::Repeat { 0 } else { first };
    Box::new(move |at| {
        if at == 0 {
            let started = Some(Started { prompt_tokens, ..Started::default() });
            return Some(Step::Send(TokenChunk {
                index: start as u32,
                started,
                ..Default::default()
            }));
        }
        let sent = if script == Script::Twice { (at - 1) / 2 } else { at - 1 };
        let index = start + sent;
        match script {
            Script::FailAfter(tokens) if sent >= tokens => return Some(Step::Fail),
            Script::HangAfter(tokens) if sent >= tokens => return Some(Step::Hang),
            _ => {}
        }
        let endless = matches!(script, Script::Forever(_));
        if index < total || endless {
            let token = token(seed, index);
            let place = if script == Script::Skip { index + 3 } else { index };
            let text = match script {
                Script::Say(_) | Script::SaySlowly(_) => said[index].clone(),
                Script::Lag if index % 2 == 0 || index + 1 == total => String::new(),
                _ => format!("t{token} "),
            };
            let chunk = TokenChunk {
                index: place as u32,
                tokens: vec![token],
                logprobs: told.map(|top| logprobs(token, top)).into_iter().collect(),
                mu: mirostat.then_some(index as f64 + 1.5),
                text,
                ..Default::default()
            };
            if matches!(script, Script::Garbage(tokens) if sent >= tokens) {
                let logprobs = vec![logprobs(token, 0); 2];
                return Some(Step::Send(TokenChunk { logprobs, ..chunk }));
            }
            return Some(match script {
                Script::Late(wait) if sent == 0 => Step::SendAfter(wait, chunk),
                Script::Forever(wait) | Script::Slow(wait) => Step::SendAfter(wait, chunk),
                Script::SaySlowly(_) => Step::SendAfter(Duration::from_millis(5), chunk),
                _ => Step::Send(chunk),
            });
        }
        (index == total).then(|| {
            let done = Done {
                reason: if total == whole { FinishReason::Stop } else { FinishReason::Length },
                stop: stop.clone().filter(|_| total == whole),
                prompt_tokens,
                output_tokens: total as u32,
                prompt_ns: 11,
                output_ns: 22,
                context: vec![1, 2, 3],
            };
            Step::Send(TokenChunk { index: total as u32, done: Some(done), ..Default::default() })
        })
    })
}
