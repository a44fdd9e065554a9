//! Families of endpoints: whose clients ask there, and in which shape they are told what is wrong.

use crate::error::{AnthropicError, Failure, OllamaError, OpenAiError, Problem};
use axum::response::{IntoResponse, Response};

/// Whose endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Ollama's, and what every server has.
    Ollama,
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Our own.
    Ours,
}

impl Family {
    /// The family a path belongs to, served or not.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else if path.starts_with("/v1/") {
            Self::OpenAi
        } else if path.starts_with("/admin/") || path.starts_with("/auth/") {
            Self::Ours
        } else {
            Self::Ollama
        }
    }

    /// The answer that tells of a failure.
    pub fn respond(self, failure: Failure, request_id: &str) -> Response {
        match self {
            Self::Ollama => OllamaError(failure).into_response(),
            Self::OpenAi => OpenAiError(failure).into_response(),
            Self::Anthropic => {
                AnthropicError { failure, request_id: request_id.to_owned() }.into_response()
            }
            Self::Ours => Problem(failure).into_response(),
        }
    }

    /// The content type of such an answer, and the name of the schema of its body.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Ollama => ("application/json", "OllamaErrorBody"),
            Self::OpenAi => ("application/json", "OpenAiErrorBody"),
            Self::Anthropic => ("application/json", "AnthropicErrorBody"),
            Self::Ours => ("application/problem+json", "ProblemBody"),
        }
    }
}
