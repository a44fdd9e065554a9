//! Ranges and lengths that come from the limits: one line for a field, so that a number stands in one place only. Where a type has
//! no room for them, its words stand here, too.

use ollamamax_proto::limits;
use serde_json::{Map, Value, json};

/// What is said of a field of a schema beside its type.
type Line = (&'static str, &'static str, Value);

/// Fields of Ollama's endpoints.
fn ollama() -> Vec<Line> {
    let top = json!({"minimum": 0, "maximum": limits::TOP_LOGPROBS_COUNT});
    let text = json!({"maxLength": limits::MODEL_TEXT_BYTES});
    vec![
        ("GenerateRequest", "top_logprobs", top.clone()),
        ("ChatRequest", "top_logprobs", top),
        ("ChatRequest", "messages", json!({"maxItems": limits::MESSAGES_COUNT})),
        ("CreateRequest", "template", text.clone()),
        ("CreateRequest", "system", text),
        ("PullRequest", "model", json!({"maxLength": limits::PULL_REFERENCE_BYTES})),
    ]
}

/// Fields of OpenAI's endpoints.
fn openai() -> Vec<Line> {
    let chat = |field, more| ("ChatCompletionRequest", field, more);
    let penalty = |what: &str| {
        let most = limits::PENALTY_LOGITS;
        json!({"minimum": -most, "maximum": most, "default": 0, "description": what})
    };
    let tokens = json!({"minimum": 1, "maximum": u32::MAX, "description": "Tokens at most."});
    let probability = json!({"minimum": 0, "maximum": 1, "default": 1,
        "description": "The likeliest tokens that together have this probability are chosen from."});
    let bias =
        json!({"type": "number", "minimum": -limits::BIAS_LOGITS, "maximum": limits::BIAS_LOGITS});
    vec![
        chat(
            "model",
            json!({"type": "string", "minLength": 1, "description": "Its name.", "examples": ["smollm2:135m"]}),
        ),
        chat(
            "messages",
            json!({"type": "array", "minItems": 1, "maxItems": limits::MESSAGES_COUNT,
            "description": "What was said.", "examples": [[{"role": "user", "content": "Why is the sky blue?"}]]}),
        ),
        chat(
            "stream",
            json!({"default": false, "description": "Events as they come, or one answer."}),
        ),
        chat("stream_options", json!({"description": "Of a stream."})),
        chat(
            "top_logprobs",
            json!({"minimum": 0, "maximum": limits::TOP_LOGPROBS_COUNT,
            "description": "How many of the likeliest tokens are told beside each."}),
        ),
        chat(
            "logprobs",
            json!({"default": false, "description": "Tells how likely each token was."}),
        ),
        chat(
            "temperature",
            json!({"minimum": 0, "maximum": limits::OPENAI_TEMPERATURE_MAX, "default": 1,
            "description": "0 takes the likeliest token always."}),
        ),
        chat("top_p", probability),
        chat("frequency_penalty", penalty("On tokens that were said, each time more.")),
        chat("presence_penalty", penalty("On tokens that were said.")),
        chat(
            "grammar",
            json!({"maxLength": limits::OUTPUT_FORMAT_BYTES, "description": "What the answer may be, in Lark."}),
        ),
        chat(
            "response_format",
            json!({"description": "What the answer may be: any JSON, or what a JSON schema describes."}),
        ),
        chat("n", json!({"minimum": 1, "maximum": limits::CHOICES_COUNT, "default": 1})),
        chat("max_tokens", tokens.clone()),
        chat("max_completion_tokens", tokens),
        chat("seed", json!({"description": "The same seed gives the same text."})),
        chat("stop", json!({"description": "Texts before which the answer ends."})),
        chat(
            "tools",
            json!({"description": "Functions the model may call; refused where it cannot."}),
        ),
        chat("tool_choice", json!({"description": "`none`: it calls none."})),
        chat(
            "reasoning_effort",
            json!({"examples": ["none"], "description": "How hard it thinks first; refused where it cannot."}),
        ),
        chat("reasoning", json!({"description": "The same."})),
        chat(
            "logit_bias",
            json!({"maxProperties": limits::BIASES_COUNT, "additionalProperties": bias,
            "description": "What is added to the logits of tokens, by their ids.", "examples": [{"42": -100}]}),
        ),
        ("EmbeddingsRequest", "dimensions", json!({"minimum": 1})),
    ]
}

/// Fields of our own endpoints.
fn ours() -> Vec<Line> {
    let name = json!({"minLength": 1, "maxLength": limits::ACCESS_NAME_CHARS});
    let roles = json!({"maxItems": limits::ROLES_OF_USER_COUNT});
    let grants = json!({"maxItems": limits::GRANTS_COUNT});
    let labels = json!({"maxProperties": limits::WORKER_LABELS_COUNT});
    let password =
        json!({"minLength": limits::PASSWORD_MIN_CHARS, "maxLength": limits::PASSWORD_BYTES});
    let replicas = json!({"minimum": 1, "maximum": limits::REPLICAS_COUNT});
    let (usual_s, most_s) = (limits::JOIN_TOKEN_MS / 1_000, limits::JOIN_TOKEN_MAX_MS / 1_000);
    let uses = json!({"minimum": 1, "maximum": limits::JOIN_TOKEN_USES_COUNT, "default": 1});
    vec![
        ("NewUser", "name", name),
        ("NewUser", "roles", roles.clone()),
        ("NewUser", "password", password.clone()),
        ("ChangedUser", "roles", roles),
        ("NewPassword", "password", password),
        ("NewKey", "scope", grants.clone()),
        ("NewKey", "lifetime_s", json!({"minimum": 1})),
        ("RoleRequest", "grants", grants),
        ("NewJoinToken", "uses", uses),
        (
            "NewJoinToken",
            "lifetime_s",
            json!({"minimum": 1, "maximum": most_s, "default": usual_s}),
        ),
        ("NewJoinToken", "labels", labels.clone()),
        ("LabelRequest", "labels", labels.clone()),
        ("DeployRequest", "labels", labels),
        ("DeployRequest", "replicas", replicas.clone()),
        ("DeployRequest", "replicas_max", replicas),
        ("DeployRequest", "weight", json!({"minimum": 0, "maximum": 100})),
    ]
}

/// Fields that a request must have, where the type leaves it to the handler to say so.
const REQUIRED: [(&str, &[&str]); 1] = [("ChatCompletionRequest", &["model", "messages"])];

/// Adds them to the schemas.
pub(super) fn apply(schemas: &mut Map<String, Value>) {
    for (schema, names) in REQUIRED {
        schemas[schema]["required"] = json!(names);
    }
    for (schema, field, more) in ollama().into_iter().chain(openai()).chain(ours()) {
        let found = schemas.get_mut(schema).and_then(|schema| schema["properties"].get_mut(field));
        let field = found.and_then(Value::as_object_mut);
        let field = field.expect("each line of the table names a field that there is");
        field.extend(more.as_object().cloned().unwrap_or_default());
    }
}
