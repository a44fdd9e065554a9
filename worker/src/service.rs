//! What gateways ask of this worker over gRPC: generate tokens, embed texts, tokenise a text.
//!
//! A call is a sequence, or some texts: it is refused here, before it costs anything, when it was routed by an old map, when the worker
//! drains, or when the queue is full; dropping its stream cancels it.

use crate::caches::{self, Ledgers, NewsStream};
use crate::holder::{Holder, LookupError};
use crate::machine::BadRequest;
use crate::outbox::Inbox;
use crate::runner::SubmitError;
use ollamamax_proto::inference::{Chat, EmbedRequest, GenerateRequest, Prompt, TokenChunk};
use ollamamax_proto::wire::inference_server::Inference;
use ollamamax_proto::wire::{self, EmbedReply, TokenizeReply, TokenizeRequest};
use ollamamax_proto::{AssignmentId, Digest, Generation, limits};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// The inference service of one worker.
#[derive(Clone, Debug)]
pub struct InferenceService {
    /// Where the runners are.
    pub holder: Arc<Holder>,
    /// True once no new requests are taken.
    pub draining: watch::Receiver<bool>,
    ledgers: Arc<Ledgers>,
}

/// Chunks of one sequence, on their way to a gateway.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<wire::TokenChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = ChunkStream;
    type CacheEventsStream = NewsStream;

    async fn generate(
        &self,
        request: Request<wire::GenerateRequest>,
    ) -> Result<Response<ChunkStream>, Status> {
        let request = GenerateRequest::try_from(request.into_inner())?;
        let deadline = request.time_left.map(|left| Instant::now() + left);
        self.refuse_when_draining()?;
        let GenerateRequest { assignment, generation, blob, resume, .. } = &request;
        let runner = self.holder.lookup(*assignment, *generation, *blob).map_err(lookup_status)?;
        if resume.len() > limits::RPC_MESSAGE_BYTES / 4 {
            return Err(Status::invalid_argument("`resume` is longer than any context"));
        }
        let text = Arc::clone(runner.text());
        // Rendering and tokenising a long prompt takes milliseconds: not on a thread that serves sockets.
        let (prepared, request) = tokio::task::spawn_blocking(move || {
            (text.prepare(&request.prompt, &request.options), request)
        })
        .await
        .map_err(|error| Status::internal(format!("the request could not be prepared: {error}")))?;
        let mut prepared = prepared.map_err(|BadRequest(why)| Status::invalid_argument(why))?;
        prepared.caller = request.caller;
        prepared.salt = request.salt;
        let ledger = self.ledgers.of(request.assignment, request.generation);
        prepared.marks = caches::marks(&request.prefix, prepared.tokens.len(), ledger);
        let inbox = runner.submit(prepared, request.resume, deadline).map_err(submit_status)?;
        tracing::debug!(
            request = request.request_id,
            attempt = request.attempt,
            assignment = %request.assignment,
            "accepted"
        );
        Ok(Response::new(Box::pin(chunks(inbox))))
    }

    async fn embed(
        &self,
        request: Request<wire::EmbedRequest>,
    ) -> Result<Response<EmbedReply>, Status> {
        let request = EmbedRequest::try_from(request.into_inner())?;
        let deadline = request.time_left.map(|left| Instant::now() + left);
        self.refuse_when_draining()?;
        let EmbedRequest { assignment, generation, blob, .. } = request;
        let runner = self.holder.lookup(assignment, generation, blob).map_err(lookup_status)?;
        let text = Arc::clone(runner.text());
        let (id, attempt, caller) = (request.request_id, request.attempt, request.caller);
        let texts = tokio::task::spawn_blocking(move || {
            let tokens = |input| text.prepare_input(input, request.truncate);
            request.inputs.iter().map(tokens).collect::<Result<Vec<_>, BadRequest>>()
        })
        .await
        .map_err(|error| Status::internal(format!("the texts could not be prepared: {error}")))?;
        let texts = texts.map_err(|BadRequest(why)| Status::invalid_argument(why))?;
        tracing::debug!(request = id, attempt, %assignment, texts = texts.len(), "embeds");
        let embedded = runner.embed(texts, &caller, deadline).await;
        let embeddings = embedded.map_err(submit_status)??;
        Ok(Response::new(EmbedReply {
            embeddings: embeddings.into_iter().map(Into::into).collect(),
        }))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeReply>, Status> {
        let TokenizeRequest { blob, text, chat } = request.into_inner();
        let prompt = match chat {
            Some(chat) => Prompt::Chat(Chat::try_from(chat)?),
            None => Prompt::Text(text),
        };
        let blob: Digest =
            blob.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let runner = self.holder.by_blob(blob);
        let runner =
            runner.ok_or_else(|| Status::not_found(format!("blob `{blob}` is not held here")))?;
        let model = Arc::clone(runner.text());
        let tokens = tokio::task::spawn_blocking(move || model.tokenize(&prompt))
            .await
            .map_err(|error| Status::internal(format!("the text was not tokenised: {error}")))?
            .map_err(|BadRequest(why)| Status::invalid_argument(why))?;
        Ok(Response::new(TokenizeReply { tokens }))
    }

    async fn cache_events(
        &self,
        request: Request<wire::CacheEventsRequest>,
    ) -> Result<Response<NewsStream>, Status> {
        let wire::CacheEventsRequest { assignment, generation, blob } = request.into_inner();
        let (assignment, generation) = (AssignmentId(assignment), Generation(generation));
        let blob: Digest =
            blob.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        self.refuse_when_draining()?;
        let runner = self.holder.lookup(assignment, generation, blob).map_err(lookup_status)?;
        let ledger = self.ledgers.of(assignment, generation);
        Ok(Response::new(caches::news(ledger, &runner, self.draining.clone())))
    }
}

impl InferenceService {
    /// A service over what `holder` holds, until `draining` becomes true.
    pub fn new(holder: Arc<Holder>, draining: watch::Receiver<bool>) -> Self {
        Self { holder, draining, ledgers: Arc::default() }
    }

    fn refuse_when_draining(&self) -> Result<(), Status> {
        if *self.draining.borrow() {
            return Err(Status::unavailable("this worker drains and takes no new requests"));
        }
        Ok(())
    }
}

fn chunks(inbox: Inbox) -> impl Stream<Item = Result<wire::TokenChunk, Status>> + Send {
    futures_util::stream::unfold(inbox, |mut inbox| async move {
        let chunk: Result<TokenChunk, Status> = inbox.next().await?;
        Some((chunk.map(wire::TokenChunk::from), inbox))
    })
}

fn lookup_status(error: LookupError) -> Status {
    let words = error.to_string();
    match error {
        LookupError::Unknown(_) => Status::not_found(words),
        LookupError::Generation { .. } | LookupError::Blob { .. } => {
            Status::failed_precondition(words)
        }
        LookupError::Stage(_) => Status::failed_precondition(words),
        LookupError::NotReady { .. } => Status::unavailable(words),
    }
}

fn submit_status(error: SubmitError) -> Status {
    match error {
        SubmitError::NoPlace(_) => Status::resource_exhausted(error.to_string()),
        SubmitError::Stopped | SubmitError::Apart => Status::unavailable(error.to_string()),
    }
}
