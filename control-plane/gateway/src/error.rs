//! What goes wrong, and what a client sees of it. The only file that knows status codes.
//!
//! Code behind it returns a [`Failure`]; the three families of endpoints wrap it in their own shape: [`OllamaError`],
//! [`OpenAiError`], [`Problem`].

mod bodies;

pub use bodies::{
    AnthropicErrorBody, AnthropicErrorDetail, OllamaErrorBody, OpenAiErrorBody, OpenAiErrorDetail,
    ProblemBody,
};

use crate::ports::{BlobError, ControlError};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ollamamax_core::Rejection;
use ollamamax_proto::limits;
use serde::Serialize;
use std::io::ErrorKind;

/// Why a request got no answer, or only half of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A field makes no sense; OpenAI's errors name it apart.
    #[error("{text}")]
    InvalidField {
        /// Its path.
        field: &'static str,
        /// What is wrong with it.
        text: String,
    },
    /// What it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// No such path.
    #[error("404 page not found")]
    NoPath,
    /// The path is there, the method is not.
    #[error("405 method not allowed")]
    NoMethod,
    /// Nobody knows who asks. The words are the same whatever is wrong with what was presented.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Who asks may not do that.
    #[error("{0}")]
    Forbidden(String),
    /// The request collides with what is there.
    #[error("{0}")]
    Conflict(String),
    /// A compare-and-set lost.
    #[error("{0}")]
    Precondition(String),
    /// More bytes than accepted.
    #[error("the body has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// It is for another host than this one.
    #[error("{0}")]
    Misdirected(String),
    /// A page made a browser send it that may not.
    #[error("{0}")]
    ForeignOrigin(String),
    /// A longer URL than accepted.
    #[error("the URL has more than {limit} bytes")]
    LongUrl {
        /// The limit.
        limit: usize,
    },
    /// The body is in a form that is not taken.
    #[error("{0}")]
    MediaType(String),
    /// The body came too slowly.
    #[error("{0}")]
    SlowBody(String),
    /// It could be answered later, or by somebody else.
    #[error("{reason}")]
    Unavailable {
        /// Why not now.
        reason: String,
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// The client, or its kind, asks for more than its share.
    #[error("{reason}")]
    TooMany {
        /// What of.
        reason: String,
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// The time the client gave it is over.
    #[error("{0}")]
    Late(String),
    /// The disk has no room.
    #[error("{0}")]
    StorageFull(String),
    /// A server that was asked for the client failed, or sent what it must not.
    #[error("{0}")]
    Upstream(String),
    /// It is our fault.
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    /// A request that makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// A model that is not in the catalogue, in Ollama's words.
    pub fn unknown_model(name: &str) -> Self {
        let name: String = name.chars().take(500).collect();
        Self::NotFound(format!("model '{name}' not found"))
    }

    /// Something that may work in a moment.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry_after_s: 1 }
    }

    /// The queue of a model is full, in Ollama's words (two spaces included).
    pub fn queue_full(retry_after_s: u32) -> Self {
        let reason = "server busy, please try again.  maximum pending requests exceeded".to_owned();
        Self::Unavailable { reason, retry_after_s }
    }

    /// Its status, as a number.
    pub fn status_code(&self) -> u16 {
        self.status().as_u16()
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) | Self::InvalidField { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::ForeignOrigin(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::NoPath => StatusCode::NOT_FOUND,
            Self::NoMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Precondition(_) => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::LongUrl { .. } => StatusCode::URI_TOO_LONG,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SlowBody(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::StorageFull(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What is told of it: what a client sent is quoted, but not at any length.
    fn text(&self) -> String {
        let mut text = self.to_string();
        if let Some((end, _)) = text.char_indices().nth(limits::ERROR_TEXT_CHARS) {
            text.truncate(end);
            text.push('…');
        }
        text
    }

    /// The body of an OpenAI error, which is also what a broken event stream ends with.
    pub fn openai_body(&self) -> OpenAiErrorBody {
        let (kind, code) = match self.status() {
            StatusCode::NOT_FOUND if matches!(self, Self::NotFound(_)) => {
                ("not_found_error", Some("model_not_found"))
            }
            StatusCode::NOT_FOUND => ("not_found_error", None),
            StatusCode::UNAUTHORIZED => ("authentication_error", Some("invalid_api_key")),
            StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", None),
            StatusCode::FORBIDDEN => ("permission_error", None),
            status if status.is_client_error() => ("invalid_request_error", None),
            _ => ("api_error", None),
        };
        let param = match self {
            Self::InvalidField { field, .. } => Some(*field),
            _ => None,
        };
        OpenAiErrorBody { error: OpenAiErrorDetail { message: self.text(), kind, param, code } }
    }

    /// The body of an Anthropic error, without the id of its request.
    pub fn anthropic_body(&self) -> AnthropicErrorBody {
        let kind = match self.status() {
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        };
        let error = AnthropicErrorDetail { kind, message: self.text() };
        AnthropicErrorBody { kind: "error", error, request_id: None }
    }

    /// The body of an Ollama error, which is also the last line of a broken stream.
    pub fn ollama_body(&self) -> OllamaErrorBody {
        OllamaErrorBody { error: self.text() }
    }

    fn problem_body(&self) -> ProblemBody {
        let status = self.status();
        let (kind, title) = ("about:blank", status.canonical_reason());
        let (detail, error) = (self.text(), self.text());
        ProblemBody { kind, title, status: status.as_u16(), detail, error }
    }

    fn respond(&self, content_type: &'static str, body: &impl Serialize) -> Response {
        let status = self.status();
        if status.is_server_error() {
            // As a quoted text: what a client sent stays on its line.
            tracing::warn!(%status, error = self.text(), "request failed");
        } else {
            tracing::debug!(%status, error = self.text(), "request refused");
        }
        let body = serde_json::to_string(body).expect("texts and numbers can be written");
        let mut response = (status, body).into_response();
        if let Self::Forbidden(reason) = self {
            response.extensions_mut().insert(RefusedFor(reason.clone()));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if matches!(self, Self::Unauthenticated(_)) {
            let challenge = HeaderValue::from_static("Bearer realm=\"ollamamax\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Self::Unavailable { retry_after_s, .. } | Self::TooMany { retry_after_s, .. } = self
        {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
        }
        response
    }
}

/// Rides on an answer that refuses somebody: why, for the trail.
#[derive(Clone, Debug)]
pub struct RefusedFor(pub String);

/// A failure as Ollama's endpoints answer it.
#[derive(Debug)]
pub struct OllamaError(pub Failure);

/// A failure as OpenAI's endpoints answer it.
#[derive(Debug)]
pub struct OpenAiError(pub Failure);

/// A failure as Anthropic's endpoints answer it.
#[derive(Debug)]
pub struct AnthropicError {
    /// What went wrong.
    pub failure: Failure,
    /// With which request.
    pub request_id: String,
}

/// A failure as our own endpoints answer it: problem details (RFC 9457), with `error` beside for clients that read only that.
#[derive(Debug)]
pub struct Problem(pub Failure);

impl IntoResponse for OllamaError {
    fn into_response(self) -> Response {
        self.0.respond("application/json; charset=utf-8", &self.0.ollama_body())
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        self.0.respond("application/json", &self.0.openai_body())
    }
}

impl IntoResponse for AnthropicError {
    fn into_response(self) -> Response {
        let mut body = self.failure.anthropic_body();
        body.request_id = Some(self.request_id);
        self.failure.respond("application/json", &body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.0.respond("application/problem+json", &self.0.problem_body())
    }
}

macro_rules! wraps_failures {
    ($($name:ident),*) => {$(
        impl<T: Into<Failure>> From<T> for $name {
            fn from(failure: T) -> Self {
                Self(failure.into())
            }
        }
    )*};
}

wraps_failures!(OllamaError, OpenAiError, Problem);

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let text = rejection.to_string();
        match rejection {
            Rejection::NotBootstrapped => Self::unavailable(text),
            Rejection::UnknownModel(_)
            | Rejection::UnknownWorker(_)
            | Rejection::UnknownNode(_)
            | Rejection::UnknownAssignment(_)
            | Rejection::UnknownReplica(_)
            | Rejection::UnknownVersion { .. }
            | Rejection::UnknownRollout(_)
            | Rejection::Unknown { .. }
            | Rejection::UnknownCheckpoint(_) => Self::NotFound(text),
            Rejection::CheckpointMoved { .. } => Self::Precondition(text),
            Rejection::Invalid { .. } => Self::Invalid(text),
            Rejection::NotLetIn => Self::Forbidden(text),
            Rejection::AlreadyBootstrapped(_)
            | Rejection::Exists { .. }
            | Rejection::LastAdmin(_)
            | Rejection::LastVoter(_)
            | Rejection::StaleIncarnation { .. }
            | Rejection::StalePlan { .. }
            | Rejection::OverLimit { .. } => Self::Conflict(text),
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Rejected(rejection) => rejection.into(),
            ControlError::TooLarge { limit, .. } => Self::TooLarge { limit: limit as u64 },
            ControlError::NoQuorum { .. } | ControlError::Busy { .. } => {
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        let text = error.to_string();
        match error {
            BlobError::Mismatch { .. } | BlobError::Upload(_) => Self::Invalid(text),
            BlobError::NotFound(_) => Self::NotFound(text),
            BlobError::TooLarge { limit } => Self::TooLarge { limit },
            BlobError::Io(e) if e.kind() == ErrorKind::StorageFull => Self::StorageFull(text),
            BlobError::Io(_) => Self::Internal(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_status() {
        let table = [
            (Failure::invalid("x"), 400),
            (Failure::unknown_model("x"), 404),
            (Failure::NoPath, 404),
            (Failure::NoMethod, 405),
            (Failure::Unauthenticated("x"), 401),
            (Failure::Forbidden("x".into()), 403),
            (Failure::Conflict("x".into()), 409),
            (Failure::Precondition("x".into()), 412),
            (Failure::TooLarge { limit: 1 }, 413),
            (Failure::TooMany { reason: "x".into(), retry_after_s: 2 }, 429),
            (Failure::Internal("x".into()), 500),
            (Failure::Upstream("x".into()), 502),
            (Failure::queue_full(1), 503),
            (Failure::StorageFull("x".into()), 507),
        ];
        for (failure, status) in table {
            assert_eq!(failure.status().as_u16(), status, "{failure:?}");
        }
        let response = OllamaError(Failure::queue_full(1)).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn openai_errors_have_their_own_shape() {
        let body = Failure::unknown_model("x").openai_body();
        assert_eq!(
            serde_json::to_string(&body).expect("JSON"),
            r#"{"error":{"message":"model 'x' not found","type":"not_found_error","param":null,"code":"model_not_found"}}"#
        );
    }
}
