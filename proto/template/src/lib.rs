//! Chat templates: messages to the text a model was trained on, and what a template tells of how its model answers.
//!
//! Most models bring a Jinja template (as Hugging Face's `apply_chat_template` runs it: blocks
//! trimmed, Python's methods, `raise_exception`). An Ollama model may bring a Go template instead
//! (module `go`). A template is foreign code, so it runs on fuel: that bounds both its
//! time and its memory.

#![forbid(unsafe_code)]

mod go;
mod jinja;
mod json;
#[cfg(test)]
mod tests;
mod traits;

use go::GoTemplate;
use minijinja::Environment;
use ollamamax_proto::inference::{Message, Think};
use ollamamax_proto::limits::MODEL_TEXT_BYTES;
pub use traits::Traits;

/// The format most models without a template understand.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
    + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The day it is for every template: same messages, same bytes.
pub(crate) const TODAY: Day =
    Day { iso: "2024-07-26", yesterday: "2024-07-25", spelt: "26 Jul 2024" };

/// A day as templates want it.
pub(crate) struct Day {
    pub iso: &'static str,
    pub yesterday: &'static str,
    pub spelt: &'static str,
}

/// What a template is rendered over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversation<'a> {
    /// In order.
    pub messages: &'a [Message],
    /// A JSON array or empty.
    pub tools_json: &'a str,
    /// Whether the model is to think; `None` leaves it to the template.
    pub think: Option<Think>,
    /// What begins a text in this model's vocabulary.
    pub bos: &'a str,
    /// What ends one.
    pub eos: &'a str,
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Longer than any real template.
    #[error("the template has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Of the source.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Its source cannot be read.
    #[error("the template cannot be read: {reason}")]
    Syntax {
        /// What the parser said, with the line.
        reason: String,
    },
    /// A Go template uses what this engine does not know.
    #[error("the template uses `{construct}`, which is not supported; give it as a Jinja template")]
    Unsupported {
        /// What it uses.
        construct: String,
    },
    /// It failed over these messages.
    #[error("the template failed: {reason}")]
    Render {
        /// What happened, with the line.
        reason: String,
    },
    /// It refused these messages (`raise_exception`).
    #[error("the model's template refuses the messages: {reason}")]
    Refused {
        /// Its own words.
        reason: String,
    },
    /// It ran for too long or made too much.
    #[error("the template did not end within its budget of {fuel} units of work")]
    Budget {
        /// The budget.
        fuel: u64,
    },
    /// Tools or extra fields of a message are not the JSON they should be.
    #[error("`{field}` is not the expected JSON: {reason}")]
    Json {
        /// Which.
        field: &'static str,
        /// What the parser said.
        reason: String,
    },
}

/// A template, ready to render.
#[derive(Debug)]
pub struct ChatTemplate(Kind);

#[derive(Debug)]
enum Kind {
    Jinja(Box<Environment<'static>>),
    Go(GoTemplate),
}

impl ChatTemplate {
    /// Reads a template's source; whether it is Jinja or Go is told from what it contains.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        if source.len() > MODEL_TEXT_BYTES {
            return Err(TemplateError::TooLong { bytes: source.len(), limit: MODEL_TEXT_BYTES });
        }
        if GoTemplate::looks_like(source) {
            return GoTemplate::new(source).map(|template| Self(Kind::Go(template)));
        }
        jinja::read(source).map(|jinja| Self(Kind::Jinja(Box::new(jinja))))
    }

    /// ChatML, for a model without a template.
    pub fn chatml() -> Self {
        Self::new(CHATML).expect("the constant is a template, as a test shows")
    }

    /// Renders a conversation up to where the model goes on.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        let Conversation { messages, tools_json, think, .. } = *conversation;
        match &self.0 {
            Kind::Go(template) => template.render(messages, tools_json, think),
            Kind::Jinja(jinja) => jinja::render(jinja, conversation),
        }
    }

    /// Renders a text with a gap; nothing when the template has no place for what follows the gap.
    pub fn insert(&self, before: &str, after: &str) -> Result<Option<String>, TemplateError> {
        match &self.0 {
            Kind::Go(template) => template.insert(before, after),
            Kind::Jinja(_) => Ok(None),
        }
    }
}

/// A message as the object a template sees, with what clients spell in several ways in all of them: thinking
/// (`reasoning_content`), the name of the tool that answers (`tool_name`, `name`), and arguments of calls as objects.
pub(crate) fn fields(
    message: &Message,
) -> Result<serde_json::Map<String, serde_json::Value>, TemplateError> {
    let mut fields = serde_json::Map::new();
    fields.insert("role".into(), message.role.as_str().into());
    fields.insert("content".into(), message.content.as_str().into());
    if message.extra_json.trim().is_empty() {
        return Ok(fields);
    }
    let extra: serde_json::Map<_, _> = parse("messages", &message.extra_json)?;
    fields.extend(extra.into_iter().filter(|(key, _)| key != "role" && key != "content"));
    let mut alike = |names: &[&str]| {
        let Some(value) = names.iter().find_map(|name| fields.get(*name).cloned()) else { return };
        for name in names {
            fields.entry((*name).to_owned()).or_insert_with(|| value.clone());
        }
    };
    alike(&["thinking", "reasoning_content", "reasoning"]);
    if message.role == "tool" {
        alike(&["tool_name", "name"]);
    }
    let calls = fields.get_mut("tool_calls").and_then(serde_json::Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Some(Ok(object)) = arguments.as_str().map(object)
        {
            *arguments = object;
        }
    }
    Ok(fields)
}

fn object(json: &str) -> serde_json::Result<serde_json::Value> {
    serde_json::from_str::<serde_json::Map<_, _>>(json).map(serde_json::Value::Object)
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    field: &'static str,
    json: &str,
) -> Result<T, TemplateError> {
    serde_json::from_str(json)
        .map_err(|error| TemplateError::Json { field, reason: error.to_string() })
}
