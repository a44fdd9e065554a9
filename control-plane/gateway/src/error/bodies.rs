//! What errors look like on the wire: three shapes, one for each family of endpoints.

use serde::Serialize;
use utoipa::ToSchema;

/// An error of Ollama's endpoints; also the last line of a stream that breaks off.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OllamaErrorBody {
    /// What is wrong, in words.
    #[schema(examples("model 'x' not found"))]
    pub error: String,
}

/// An error of OpenAI's endpoints; also the last event of a stream that breaks off.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    /// All about it.
    pub error: OpenAiErrorDetail,
}

/// What OpenAI's clients read of an error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OpenAiErrorDetail {
    /// What is wrong, in words.
    #[schema(examples("model 'x' not found"))]
    pub message: String,
    /// Its kind.
    #[serde(rename = "type")]
    #[schema(examples("invalid_request_error", "not_found_error", "api_error"))]
    pub kind: &'static str,
    /// The field that is wrong, where it is one.
    pub param: Option<&'static str>,
    /// A word for programs, where there is one.
    #[schema(examples("model_not_found", "invalid_api_key"))]
    pub code: Option<&'static str>,
}

/// An error of Anthropic's endpoints; also the last event of a stream that breaks off.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AnthropicErrorBody {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// All about it.
    pub error: AnthropicErrorDetail,
    /// The id of the request, where the error is the whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What Anthropic's clients read of an error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AnthropicErrorDetail {
    /// Its kind.
    #[serde(rename = "type")]
    #[schema(examples("invalid_request_error", "not_found_error", "overloaded_error"))]
    pub kind: &'static str,
    /// What is wrong, in words.
    pub message: String,
}

/// An error of our own endpoints: problem details (RFC 9457), with `error` beside for clients that read only that.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// Always `about:blank`: the status says it all.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    #[schema(examples("Not Found"))]
    pub title: Option<&'static str>,
    /// The status.
    #[schema(examples(404))]
    pub status: u16,
    /// What is wrong, in words.
    pub detail: String,
    /// The same.
    pub error: String,
}
