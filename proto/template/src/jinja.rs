//! Jinja as Hugging Face's `apply_chat_template` runs it, and what templates written for it find there.

use super::{Conversation, TODAY, TemplateError, fields, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value};
use ollamamax_proto::inference::Think;
use ollamamax_proto::limits::TEMPLATE_FUEL;
use serde_json::Value as Json;
use std::collections::BTreeMap;

const NAME: &str = "chat_template";

/// Reads a template.
pub(super) fn read(source: &str) -> Result<Environment<'static>, TemplateError> {
    let mut jinja = environment();
    jinja
        .add_template_owned(NAME, source.to_owned())
        .map_err(|error| TemplateError::Syntax { reason: reason(&error) })?;
    Ok(jinja)
}

/// Renders a conversation. Most templates want the arguments of a call as an object; one that fails over that, because it
/// joins them to a text, gets them as JSON.
pub(super) fn render(
    jinja: &Environment<'static>,
    conversation: &Conversation<'_>,
) -> Result<String, TemplateError> {
    let messages = conversation.messages.iter().map(fields).collect::<Result<Vec<_>, _>>()?;
    let calls = messages.iter().any(|message| message.contains_key("tool_calls"));
    let again = calls.then(|| messages.clone());
    let rendered = render_over(jinja, conversation, messages);
    match (again, &rendered) {
        (Some(mut messages), Err(TemplateError::Render { .. })) => {
            let objects = messages.iter_mut().flat_map(arguments);
            objects.for_each(|object| *object = Json::String(object.to_string()));
            render_over(jinja, conversation, messages).or(rendered)
        }
        _ => rendered,
    }
}

/// The arguments of a message's calls that are objects.
fn arguments(message: &mut serde_json::Map<String, Json>) -> impl Iterator<Item = &mut Json> {
    let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut);
    let calls = calls.into_iter().flatten();
    calls.filter_map(|call| call.pointer_mut("/function/arguments")).filter(|all| all.is_object())
}

fn render_over(
    jinja: &Environment<'static>,
    conversation: &Conversation<'_>,
    messages: Vec<serde_json::Map<String, Json>>,
) -> Result<String, TemplateError> {
    let Conversation { tools_json, think, bos, eos, .. } = *conversation;
    let tools = if tools_json.trim().is_empty() {
        Value::from(())
    } else {
        Value::from(Serde(parse::<Vec<Json>>("tools", tools_json)?))
    };
    let mut context = BTreeMap::from([
        ("messages", Value::from(Serde(messages))),
        ("tools", tools),
        ("add_generation_prompt", Value::from(true)),
        ("bos_token", Value::from(bos)),
        ("eos_token", Value::from(eos)),
    ]);
    if let Some(think) = think {
        // Qwen's name for it, and that of DeepSeek and Granite.
        for name in ["enable_thinking", "thinking"] {
            context.insert(name, Value::from(think != Think::Off));
        }
    }
    if let Some(level) = think.and_then(Think::level) {
        context.insert("reasoning_effort", Value::from(level));
    }
    let template = jinja.get_template(NAME).map_err(|error| failure(&error))?;
    template.render(context).map_err(|error| failure(&error))
}

fn environment() -> Environment<'static> {
    let mut jinja = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    jinja.set_syntax(syntax.expect("the standard delimiters do not clash"));
    jinja.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    jinja.set_fuel(Some(TEMPLATE_FUEL));
    jinja.add_filter("tojson", super::json::tojson);
    jinja.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    // Same messages, same bytes: a template that asks for the date always gets the same one.
    jinja.add_function("strftime_now", |_format: String, _kwargs: Kwargs| TODAY.spelt.to_owned());
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
