//! Chat templates: messages to the text a model was trained on.
//!
//! Most models bring a Jinja template (as Hugging Face's `apply_chat_template` runs it: blocks
//! trimmed, Python's methods, `raise_exception`). An Ollama model may bring a Go template instead
//! ([`crate::go_template`]). A template is foreign code, so it runs on fuel: that bounds both its
//! time and its memory.

mod json;
#[cfg(test)]
mod tests;

use crate::go_template::GoTemplate;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value};
use ollamamax_proto::inference::Message;
use ollamamax_proto::limits::{MODEL_TEXT_BYTES, TEMPLATE_FUEL};

/// The format most models without a template understand.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
    + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const NAME: &str = "chat_template";

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
        let mut jinja = environment();
        jinja
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TemplateError::Syntax { reason: reason(&error) })?;
        Ok(Self(Kind::Jinja(Box::new(jinja))))
    }

    /// ChatML, for a model without a template.
    pub fn chatml() -> Self {
        Self::new(CHATML).expect("the constant is a template, as a test shows")
    }

    /// Renders messages. `tools_json` is a JSON array or empty.
    pub fn render(
        &self,
        messages: &[Message],
        tools_json: &str,
        add_generation_prompt: bool,
        bos: &str,
        eos: &str,
    ) -> Result<String, TemplateError> {
        let jinja = match &self.0 {
            Kind::Go(template) => return template.render(messages, tools_json),
            Kind::Jinja(jinja) => jinja,
        };
        let tools = if tools_json.trim().is_empty() {
            Value::from(())
        } else {
            Value::from(Serde(parse::<Vec<serde_json::Value>>("tools", tools_json)?))
        };
        let messages = messages.iter().map(fields).collect::<Result<Vec<_>, _>>()?;
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            tools => tools,
            add_generation_prompt => add_generation_prompt,
            bos_token => bos,
            eos_token => eos,
        };
        let template = jinja.get_template(NAME).map_err(|error| failure(&error))?;
        template.render(context).map_err(|error| failure(&error))
    }
}

fn environment() -> Environment<'static> {
    let mut jinja = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    jinja.set_syntax(syntax.expect("the standard delimiters do not clash"));
    jinja.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    jinja.set_fuel(Some(TEMPLATE_FUEL));
    jinja.add_filter("tojson", json::tojson);
    jinja.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    // Same messages, same bytes: a template that asks for the date always gets the same one.
    jinja.add_function("strftime_now", |_format: String, _kwargs: Kwargs| "26 Jul 2024".to_owned());
    jinja
}

/// Marks an error as the template's own decision.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn failure(error: &Error) -> TemplateError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<Raised>() {
            return TemplateError::Refused { reason: error.detail().unwrap_or("").to_owned() };
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::Budget { fuel: TEMPLATE_FUEL },
        _ => TemplateError::Render { reason: reason(error) },
    }
}

fn reason(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    format!("{}{line}: {}", error.kind(), error.detail().unwrap_or("no details"))
}

/// A message as the object a template sees.
pub(crate) fn fields(
    message: &Message,
) -> Result<serde_json::Map<String, serde_json::Value>, TemplateError> {
    let mut fields = serde_json::Map::new();
    fields.insert("role".into(), message.role.as_str().into());
    fields.insert("content".into(), message.content.as_str().into());
    if !message.extra_json.trim().is_empty() {
        let extra: serde_json::Map<_, _> = parse("messages", &message.extra_json)?;
        fields.extend(extra.into_iter().filter(|(key, _)| key != "role" && key != "content"));
    }
    Ok(fields)
}

fn parse<T: serde::de::DeserializeOwned>(
    field: &'static str,
    json: &str,
) -> Result<T, TemplateError> {
    serde_json::from_str(json)
        .map_err(|error| TemplateError::Json { field, reason: error.to_string() })
}
