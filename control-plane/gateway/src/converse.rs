//! A conversation that is to go on, whichever endpoint asks: from messages, tools and wishes to a prompt, and to how its answer
//! is read.
//!
//! Where a tool must be called, the answer is constrained to such a call, so that it is one whatever the model would rather do.

mod calls;

use crate::answer::Syntax;
use crate::auth::Caller;
use crate::error::Failure;
use crate::format::bounded;
use crate::ollama::{check_generates, no_support, thinking};
use crate::{Gateway, names};
use calls::{call_schema, name_of, names};
use ollamamax_core::access::Action;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::inference::{Chat, Insert, Message, Options, OutputFormat, Prompt, Think};
use ollamamax_proto::limits;
use ollamamax_template::{ChatTemplate, Traits};
use serde_json::Value;

/// Whether a tool is to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// As the model likes.
    #[default]
    Auto,
    /// None: the model does not hear of tools.
    Never,
    /// Any.
    Required,
    /// This one.
    Named(String),
}

/// What is to be answered.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub messages: Vec<Message>,
    /// Tools as `{"type": "function", "function": {...}}`.
    pub tools: Vec<Value>,
    pub choice: Choice,
    /// How hard to think, where somebody said so.
    pub think: Option<Think>,
    pub options: Options,
}

/// A text that is to go on, alone or as a message of a user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    pub prompt: String,
    /// What stands behind the gap that is to be filled; empty for none.
    pub suffix: String,
    /// Instead of the model's own; empty for that.
    pub system: String,
    /// Instead of the model's own; empty for that.
    pub template: String,
    /// Tokens of an earlier answer.
    pub context: Vec<u32>,
    /// As it is, without a template.
    pub raw: bool,
    pub think: Option<Think>,
    pub options: Options,
}

/// What a worker is asked, and how its answer is read.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub prompt: Prompt,
    pub options: Options,
    pub syntax: Syntax,
}

impl Gateway {
    /// The model a request names, as it was asked and as it is; `what` is what it must be able to do.
    pub(crate) fn model_for(
        &self,
        caller: &Caller,
        asked: Option<&str>,
        what: &str,
    ) -> Result<(String, ModelRecord), Failure> {
        let asked = names::named(asked.map(str::to_owned), None)?;
        let model = caller.model(&self.control.state(), &asked, Action::RunInference)?;
        let model = self.version_for(model);
        check_generates(&model, what)?;
        Ok((asked, model))
    }

    /// Turns what is to be answered into what a worker is asked. Refuses what the model cannot do.
    pub(crate) fn prepare(&self, model: &ModelRecord, turn: Turn) -> Result<Prepared, Failure> {
        let (name, traits) = (model.name.to_string(), self.traits(&model.version));
        let Turn { messages, tools, choice, think, mut options } = turn;
        let think = thinking(&name, &traits, think)?;
        let tools = offered(&name, &traits, tools, &choice)?;
        let names = names(&tools);
        let thinks = think.is_some_and(|think| think != Think::Off);
        let mut syntax = Syntax::new(&traits, thinks, names.clone());
        if matches!(choice, Choice::Required | Choice::Named(_)) {
            if options.format.is_some() {
                let field = "tool_choice";
                let text = "`tool_choice` asks for a call and `response_format` for something else, expected one: leave the other out";
                return Err(Failure::InvalidField { field, text: text.to_owned() });
            }
            let schema = bounded("tools", call_schema(&tools).to_string())?;
            options.format = Some(OutputFormat::Schema(schema));
            syntax = syntax.of_only_calls(names);
        }
        options.thinking.clone_from(&syntax.thinking);
        options.shown = syntax.shown();
        let prompt = conversation(model, messages, &tools, think);
        Ok(Prepared { prompt, options, syntax })
    }
}

impl Gateway {
    /// The same for a text.
    pub(crate) fn prepare_text(
        &self,
        model: &ModelRecord,
        text: Text,
    ) -> Result<Prepared, Failure> {
        let dressed = [&text.system, &text.template].iter().any(|text| !text.is_empty());
        let Text { prompt, suffix, system, template, context, raw, think, mut options } = text;
        if raw && (dressed || !context.is_empty()) {
            return Err(Failure::invalid("raw mode does not support template, system, or context"));
        }
        if template.len() > limits::MODEL_TEXT_BYTES {
            let (bytes, limit) = (template.len(), limits::MODEL_TEXT_BYTES);
            let text = format!("`template` has {bytes} bytes, at most {limit} are accepted");
            return Err(Failure::InvalidField { field: "template", text });
        }
        check_template(&template)?;
        let (name, version) = (model.name.to_string(), &model.version);
        let traits = self.traits_under(version, &template);
        let think = thinking(&name, &traits, think)?;
        if raw {
            let (prompt, syntax) = (Prompt::Text(prompt), Syntax::default());
            return Ok(Prepared { prompt, options, syntax });
        }
        let template = Some(template).filter(|text| !text.is_empty()).or(version.template.clone());
        if !suffix.is_empty() {
            if !traits.insert && !self.has_gap(version) {
                return Err(no_support(&name, "insert"));
            }
            let prompt = Prompt::Insert(Insert { before: prompt, after: suffix, template });
            return Ok(Prepared { prompt, options, syntax: Syntax::default() });
        }
        let thinks = think.is_some_and(|think| think != Think::Off);
        let syntax = Syntax::new(&traits, thinks, Vec::new());
        options.thinking.clone_from(&syntax.thinking);
        options.shown = syntax.shown();
        let system = Some(system).filter(|text| !text.is_empty()).or(version.system.clone());
        let mut messages = Vec::new();
        messages.extend(system.filter(|text| !text.is_empty()).map(|text| plain("system", &text)));
        // A context already holds the model's own messages.
        if context.is_empty() {
            messages.extend(version.messages.iter().map(|seed| plain(&seed.role, &seed.content)));
        }
        messages.push(plain("user", &prompt));
        let chat = Chat { messages, template, context, think, ..Chat::default() };
        Ok(Prepared { prompt: Prompt::Chat(chat), options, syntax })
    }
}

/// Refuses a template that no worker could read; empty for none.
pub(crate) fn check_template(template: &str) -> Result<(), Failure> {
    if template.is_empty() {
        return Ok(());
    }
    let refuse = |error| {
        let text = format!("template error: {error}");
        Failure::InvalidField { field: "template", text }
    };
    ChatTemplate::new(template).map(drop).map_err(refuse)
}

fn plain(role: &str, content: &str) -> Message {
    let (role, content) = (role.to_owned(), content.to_owned());
    Message { role, content, extra_json: String::new() }
}

/// The tools the model hears of.
fn offered(
    name: &str,
    traits: &Traits,
    tools: Vec<Value>,
    choice: &Choice,
) -> Result<Vec<Value>, Failure> {
    let refused = |field: &'static str, text: String| Err(Failure::InvalidField { field, text });
    if tools.len() > limits::TOOLS_COUNT {
        let (count, most) = (tools.len(), limits::TOOLS_COUNT);
        return refused(
            "tools",
            format!("`tools` has {count} entries, at most {most} are accepted"),
        );
    }
    if *choice == Choice::Never {
        return Ok(Vec::new());
    }
    if !tools.is_empty() && !traits.tools {
        return Err(no_support(name, "tools"));
    }
    match choice {
        Choice::Named(wanted) => {
            let one: Vec<Value> =
                tools.into_iter().filter(|tool| name_of(tool) == Some(wanted)).collect();
            if one.is_empty() {
                let wanted: String = wanted.chars().take(100).collect();
                let text =
                    format!("`tool_choice` names {wanted:?}, expected the name of one of `tools`");
                return refused("tool_choice", text);
            }
            Ok(one)
        }
        Choice::Required if names(&tools).is_empty() => refused(
            "tool_choice",
            "`tool_choice` asks for a call, but `tools` names none".to_owned(),
        ),
        _ => Ok(tools),
    }
}

/// A conversation with what its model puts before it.
fn conversation(
    model: &ModelRecord,
    messages: Vec<Message>,
    tools: &[Value],
    think: Option<Think>,
) -> Prompt {
    let version = &model.version;
    let mut all = Vec::new();
    let own_system = messages.first().is_some_and(|message| message.role == "system");
    if let Some(system) = version.system.as_ref().filter(|s| !own_system && !s.is_empty()) {
        all.push(plain("system", system));
    }
    all.extend(version.messages.iter().map(|seed| plain(&seed.role, &seed.content)));
    all.extend(messages);
    let encoded = || serde_json::to_string(tools).expect("values that were parsed can be written");
    Prompt::Chat(Chat {
        messages: all,
        template: version.template.clone(),
        tools_json: if tools.is_empty() { String::new() } else { encoded() },
        context: Vec::new(),
        think,
    })
}
