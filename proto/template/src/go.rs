//! Go templates as Ollama models carry them: the language of Go's `text/template`, run over what Ollama gives it. What is
//! not known is refused by its name and line.
//!
//! ```text
//! source -> lex: text and words -> parse: nodes -> run over inputs (messages, tools, thinking) -> text
//! ```
//!
//! Ollama knows two styles. A template that reads `.Messages` is run once. An older one has `.System`, `.Prompt` and
//! `.Response` and is run once per turn; in the last run everything after `.Response` is left out, because there the model
//! goes on (Ollama `template.Execute`). One that reads `.Suffix` can write the middle of a text, too.

mod functions;
mod inputs;
mod json;
mod lex;
mod node;
mod parse;
mod printf;
mod run;
mod shown;
#[cfg(test)]
mod tests;
mod value;
mod words;

use crate::TemplateError;
use inputs::{Inputs, collate};
use node::{Action, Branch, Expression, Kind, Node, Pipe, Root, reads};
use ollamamax_proto::inference::{Message, Think};
use parse::{Parsed, parse};
use run::Run;
use value::Value;

/// A Go template, ready to render.
#[derive(Debug)]
pub struct GoTemplate {
    parsed: Parsed,
    /// Whether it reads `.Messages`.
    whole: bool,
    /// Whether it reads `.Suffix`.
    inserts: bool,
    /// For the older style: the nodes up to `.Response`.
    open: Vec<Node>,
}

impl GoTemplate {
    /// Whether a source is a Go template rather than a Jinja one: no `{%`, and in some `{{ }}` a keyword of Go, or a field that
    /// begins with a dot and a capital.
    pub fn looks_like(source: &str) -> bool {
        const KEYWORDS: [&str; 8] =
            ["if", "else", "end", "range", "with", "define", "block", "template"];
        let is_field = |action: &str| {
            let bytes = action.as_bytes();
            let field = |place: usize| {
                let before = place.checked_sub(1).map_or(b' ', |before| bytes[before]);
                bytes.get(place + 1).is_some_and(u8::is_ascii_uppercase)
                    && matches!(before, b' ' | b'(' | b'$' | b'-' | b'\n' | b'\t')
            };
            let first = action.trim_start_matches('-').split_whitespace().next();
            first.is_some_and(|word| KEYWORDS.contains(&word))
                || action.match_indices('.').any(|(place, _)| field(place))
        };
        let actions = source.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        !source.contains("{%") && actions.into_iter().any(is_field)
    }

    /// Reads a template.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        let mut parsed = parse(source)?;
        let anywhere = |field: &str| {
            reads(&parsed.main, field) || parsed.defined.values().any(|nodes| reads(nodes, field))
        };
        let (whole, inserts) = (anywhere("Messages"), anywhere("Suffix"));
        if !whole && !anywhere("Response") {
            let value = Expression::Fields(Root::Dot, vec!["Response".to_owned()]);
            let pipe = Pipe { variables: Vec::new(), assigns: false, value };
            parsed.main.push(Node::Action(Action { line: 0, kind: Kind::Print(pipe) }));
        }
        let open = until_response(&parsed.main, &mut false);
        Ok(Self { parsed, whole, inserts, open })
    }

    /// Renders messages; `tools_json` is a JSON array or empty.
    pub fn render(
        &self,
        messages: &[Message],
        tools_json: &str,
        think: Option<Think>,
    ) -> Result<String, TemplateError> {
        let messages = collate(messages)?;
        let inputs = Inputs::new(think).with("Tools", inputs::tools(tools_json)?);
        let mut run = Run::default();
        if self.whole {
            let system = messages.iter().filter(|message| message.role == "system");
            let system: Vec<&str> = system.map(|message| message.content.as_str()).collect();
            let inputs = inputs
                .with("System", Value::text(&system.join("\n\n")))
                .with("Messages", inputs::messages(&messages));
            run.execute(&self.parsed.main, &self.parsed, &inputs)?;
            return Ok(run.output);
        }
        let mut turn = Turn::default();
        for message in &messages {
            let text = message.content.as_str();
            match message.role {
                "system" => {
                    if !turn.prompt.is_empty() || !turn.response.is_empty() {
                        run.execute(&self.parsed.main, &self.parsed, &turn.take(inputs.clone()))?;
                    }
                    turn.system = text;
                }
                "user" => {
                    if !turn.response.is_empty() {
                        run.execute(&self.parsed.main, &self.parsed, &turn.take(inputs.clone()))?;
                    }
                    turn.prompt = text;
                }
                "assistant" => turn.response = text,
                role => {
                    let construct = format!("{role} messages in a template without .Messages");
                    return Err(TemplateError::Unsupported { construct });
                }
            }
        }
        run.execute(&self.open, &self.parsed, &turn.take(inputs))?;
        Ok(run.output)
    }

    /// Renders a text with a gap; nothing when it cannot.
    pub fn insert(&self, before: &str, after: &str) -> Result<Option<String>, TemplateError> {
        if !self.inserts {
            return Ok(None);
        }
        let inputs = Inputs::new(None)
            .with("Prompt", Value::text(before))
            .with("Suffix", Value::text(after));
        let mut run = Run::default();
        run.execute(&self.parsed.main, &self.parsed, &inputs)?;
        Ok(Some(run.output))
    }
}

/// One run of the older style.
#[derive(Default)]
struct Turn<'a> {
    system: &'a str,
    prompt: &'a str,
    response: &'a str,
}

impl Turn<'_> {
    /// As inputs; the next one is empty.
    fn take(&mut self, inputs: Inputs) -> Inputs {
        let turn = std::mem::take(self);
        inputs
            .with("System", Value::text(turn.system))
            .with("Prompt", Value::text(turn.prompt))
            .with("Response", Value::text(turn.response))
    }
}

/// The nodes without what comes after the first action that prints `.Response`.
fn until_response(nodes: &[Node], cut: &mut bool) -> Vec<Node> {
    let mut kept = Vec::new();
    for node in nodes {
        if *cut {
            break;
        }
        let Node::Action(action) = node else {
            kept.push(node.clone());
            continue;
        };
        let mut branch = |branch: &Branch| Branch {
            pipe: branch.pipe.clone(),
            body: until_response(&branch.body, cut),
            otherwise: until_response(&branch.otherwise, cut),
        };
        let kind = match &action.kind {
            Kind::If(inner) => Kind::If(branch(inner)),
            Kind::With(inner) => Kind::With(branch(inner)),
            Kind::Range(inner) => Kind::Range(branch(inner)),
            Kind::Print(pipe) => {
                *cut = node::expression_reads(&pipe.value, "Response");
                action.kind.clone()
            }
            Kind::Break | Kind::Continue | Kind::Template(..) => action.kind.clone(),
        };
        kept.push(Node::Action(Action { line: action.line, kind }));
    }
    kept
}

fn unsupported<T>(line: usize, construct: impl Into<String>) -> Result<T, TemplateError> {
    let construct = format!("{} (line {line})", construct.into());
    Err(TemplateError::Unsupported { construct })
}

fn syntax<T>(line: usize, reason: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Syntax { reason: format!("line {line}: {}", reason.into()) })
}
