//! A model on its way into the catalogue: records of what is done, its bytes where those are made first, then the proposal.

use super::import::Work;
use crate::auth::Caller;
use crate::error::{Failure, OllamaError};
use crate::ports::Hold;
use crate::{Gateway, stream};
use axum::body::Body;
use axum::response::Response;
use ollamamax_core::Command;
use ollamamax_proto::ModelName;
use ollamamax_proto::model::ModelVersion;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;
use utoipa::ToSchema;

/// A step that is done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// The last says `success`.
    #[schema(examples("success"))]
    status: String,
    /// What is being made, while it has no digest yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'static str>,
    /// Bytes there will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Bytes there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl Progress {
    pub(crate) fn of(status: impl Into<String>) -> Self {
        Self { status: status.into(), digest: None, total: None, completed: None }
    }

    /// How far something is. Clients tell what goes on by the digest, and Ollama says this where there is none yet.
    pub(crate) fn bytes(status: &str, completed: u64, total: u64) -> Self {
        let digest = Some("0000000000000000000");
        Self { status: status.to_owned(), digest, total: Some(total), completed: Some(completed) }
    }
}

/// Where records go.
pub(crate) type Records = mpsc::Sender<Result<Progress, Failure>>;

/// A way for records to who asked.
pub(crate) fn records() -> (Records, Answers) {
    mpsc::channel(RECORDS_AHEAD)
}

/// Records that may wait for a client.
const RECORDS_AHEAD: usize = 16;

/// Records as somebody who asked gets them.
pub(crate) type Answers = mpsc::Receiver<Result<Progress, Failure>>;

/// A line for each record as it comes.
pub(crate) fn stream_of(answers: Answers) -> Response {
    let lines = futures_util::stream::unfold(answers, async |mut answers| {
        let mut out = Vec::new();
        match answers.recv().await? {
            Ok(record) => stream::line(&record, &mut out),
            Err(failure) => stream::line(&failure.ollama_body(), &mut out),
        }
        Some((Ok::<_, Infallible>(out), answers))
    });
    stream::typed("application/x-ndjson", Body::from_stream(lines))
}

/// The last record, or why there is none.
pub(crate) async fn last_of(mut answers: Answers) -> Result<Response, OllamaError> {
    let mut last = Err(Failure::Internal("making the model broke off".to_owned()));
    while let Some(answer) = answers.recv().await {
        last = answer;
    }
    Ok(stream::ollama_json(&last?))
}

/// A model that is about to be made.
pub(crate) struct Making {
    pub gateway: Arc<Gateway>,
    pub caller: Caller,
    pub name: ModelName,
    /// Without its bytes, where those are made first.
    pub version: ModelVersion,
    /// Bytes that nobody removes until the model is in the catalogue.
    pub holds: Vec<Hold>,
}

impl Making {
    /// Makes the bytes, then the model.
    pub async fn run(self, work: Work, records: Records) {
        if let Err(failure) = self.make(work, &records).await {
            tracing::warn!(error = failure.to_string(), "a model was not made");
            // Whoever has gone does not hear it.
            let _ = records.send(Err(failure)).await;
        }
    }

    async fn make(mut self, work: Work, records: &Records) -> Result<(), Failure> {
        let (blob, _) = self.gateway.import(&self.caller, work, records).await?;
        self.holds.push(self.gateway.blobs.hold(blob));
        let (facts, blob_bytes) = self.gateway.facts(blob).await?;
        self.version = ModelVersion { blob, blob_bytes, facts, ..self.version };
        tell(records, format!("creating new layer {blob}")).await?;
        self.end(records).await
    }

    /// Puts the model into the catalogue.
    pub async fn end(mut self, records: &Records) -> Result<(), Failure> {
        self.version.digest = self.version.compute_digest();
        let shown = self.name.to_string();
        let version = Box::new(self.version);
        let command = Command::RollOut { name: self.name, version, weight: 100 };
        tell(records, "writing manifest").await?;
        self.caller.propose(&self.gateway, "model.create", shown, command).await?;
        // It is made, heard or not.
        let _ = tell(records, "success").await;
        Ok(())
    }
}

/// Sends a record; fails when whoever asked has gone.
pub(crate) async fn tell(records: &Records, status: impl Into<String>) -> Result<(), Failure> {
    let sent = records.send(Ok(Progress::of(status))).await;
    sent.map_err(|_| Failure::Internal("the client has gone".to_owned()))
}
