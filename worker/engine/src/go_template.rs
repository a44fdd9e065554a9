//! Go templates as Ollama models carry them: the part of the language that chat templates use, and
//! a refusal by name for the rest.
//!
//! Ollama knows two styles. A template that ranges over `.Messages` is run once. An older one has
//! `.System`, `.Prompt` and `.Response` and is run once per turn; in the last run everything after
//! `.Response` is left out, because there the model goes on (Ollama `template.Execute`).

mod parse;
mod run;
#[cfg(test)]
mod tests;

use crate::template::TemplateError;
use ollamamax_proto::inference::Message;
use parse::{Expression, Field, Node, Root};
use run::{Inputs, Run};

/// A Go template, ready to render.
#[derive(Debug)]
pub struct GoTemplate {
    nodes: Vec<Node>,
    /// Whether it ranges over `.Messages`.
    whole: bool,
    /// For the older style: the nodes up to `.Response`.
    open: Vec<Node>,
}

impl GoTemplate {
    /// Whether a source is a Go template rather than a Jinja one: a field begins with a dot, and no
    /// `{%`.
    pub fn looks_like(source: &str) -> bool {
        let fields = ["System", "Prompt", "Response", "Messages", "Tools"];
        let field = |name: &&str| {
            [format!(" .{name}"), format!("{{.{name}"), format!("$.{name}"), format!("-.{name}")]
                .iter()
                .any(|spelling| source.contains(spelling.as_str()))
        };
        !source.contains("{%") && source.contains("{{") && fields.iter().any(field)
    }

    /// Reads a template.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        let mut nodes = parse::parse(source)?;
        let whole = uses(&nodes, Field::Messages);
        if !whole && !uses(&nodes, Field::Response) {
            nodes.push(Node::Print(Expression::Field(Root::Dollar, vec![Field::Response])));
        }
        let open = until_response(&nodes, &mut false);
        Ok(Self { nodes, whole, open })
    }

    /// Renders messages; `tools_json` is a JSON array or empty.
    pub fn render(&self, messages: &[Message], tools_json: &str) -> Result<String, TemplateError> {
        let messages = collate(messages);
        let mut run = Run::default();
        if self.whole {
            let system: Vec<&str> = messages
                .iter()
                .filter(|message| message.role == "system")
                .map(|message| message.content.as_str())
                .collect();
            let system = system.join("\n\n");
            let inputs = Inputs {
                system: &system,
                messages: &messages,
                tools: tools_json,
                ..Inputs::default()
            };
            run.execute(&self.nodes, inputs)?;
            return Ok(run.output);
        }
        let mut turn = Inputs { tools: tools_json, ..Inputs::default() };
        for message in &messages {
            let text = message.content.as_str();
            match message.role.as_str() {
                "system" => {
                    if !turn.prompt.is_empty() || !turn.response.is_empty() {
                        self.close(&mut run, &mut turn)?;
                    }
                    turn.system = text;
                }
                "user" => {
                    if !turn.response.is_empty() {
                        self.close(&mut run, &mut turn)?;
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
        run.execute(&self.open, turn)?;
        Ok(run.output)
    }

    fn close<'a>(&self, run: &mut Run, turn: &mut Inputs<'a>) -> Result<(), TemplateError> {
        let next = Inputs { tools: turn.tools, ..Inputs::default() };
        run.execute(&self.nodes, std::mem::replace(turn, next))
    }
}

/// Neighbouring messages of one role become one, as Ollama does it.
fn collate(messages: &[Message]) -> Vec<Message> {
    let mut collated: Vec<Message> = Vec::new();
    for message in messages {
        match collated.last_mut().filter(|last| last.role == message.role && last.role != "tool") {
            Some(last) => last.content = format!("{}\n\n{}", last.content, message.content),
            None => collated.push(message.clone()),
        }
    }
    collated
}

fn uses(nodes: &[Node], field: Field) -> bool {
    fn in_expression(expression: &Expression, field: Field) -> bool {
        match expression {
            Expression::Field(_, path) => path.contains(&field),
            Expression::Call(_, arguments) => {
                arguments.iter().any(|argument| in_expression(argument, field))
            }
            Expression::Text(_) | Expression::Number(_) | Expression::Truth(_) => false,
        }
    }
    nodes.iter().any(|node| match node {
        Node::Text(_) => false,
        Node::Print(value) | Node::Set(_, value) => in_expression(value, field),
        Node::If(branches, otherwise) => {
            uses(otherwise, field)
                || branches
                    .iter()
                    .any(|(test, body)| in_expression(test, field) || uses(body, field))
        }
        Node::Range { over, body, otherwise, .. } => {
            in_expression(over, field) || uses(body, field) || uses(otherwise, field)
        }
    })
}

/// The nodes without what comes after the first `{{ .Response }}` in the text.
fn until_response(nodes: &[Node], cut: &mut bool) -> Vec<Node> {
    let mut kept = Vec::new();
    for node in nodes {
        if *cut {
            break;
        }
        kept.push(match node {
            Node::If(branches, otherwise) => {
                let branch = |(test, body): &(Expression, Vec<Node>)| {
                    (test.clone(), until_response(body, cut))
                };
                let branches = branches.iter().map(branch).collect();
                Node::If(branches, until_response(otherwise, cut))
            }
            Node::Print(Expression::Field(_, path)) if path.as_slice() == [Field::Response] => {
                *cut = true;
                node.clone()
            }
            _ => node.clone(),
        });
    }
    kept
}
