//! What a template tells of how its model writes: whether it knows tools, thinking and texts with a gap, and by what marks.
//!
//! A template is not run for that, its source is looked at, as Ollama does. In a Go template the marks stand around the fields
//! `.ToolCalls` and `.Thinking` of earlier answers; in a Jinja template they are looked for by their spelling.

use super::{Syntax, calls};
use ollamamax_proto::inference::Tags;
use ollamamax_proto::limits;

/// How the answers of a model look, and what it can be asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    /// Whether the template shows the model its tools.
    pub tools: bool,
    /// What encloses thinking, where the model thinks.
    pub thinking: Option<Tags>,
    /// Whether the template has a place for what follows a gap.
    pub insert: bool,
    /// What stands before a call; empty where calls are bare JSON.
    tags: Vec<String>,
}

/// What opens and closes thinking in the families that do not say it in a Go template.
const THINKING: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
];
/// What stands before calls in the families that do not say it in a Go template.
const CALLS: [&str; 6] = [
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|tool_call|>",
    "<|tool_call_start|>",
    "<function_call>",
    "<|python_tag|>",
];

impl Marks {
    /// Of a template's source.
    pub(crate) fn of(template: &str) -> Self {
        if is_go(template) { Self::of_go(template) } else { Self::of_jinja(template) }
    }

    fn of_jinja(template: &str) -> Self {
        let by_name = ["enable_thinking", "reasoning_content"].iter().any(|n| template.contains(n));
        let spelled = THINKING
            .iter()
            .find(|(open, close)| template.contains(open) || template.contains(close));
        let thinking =
            spelled.or(by_name.then_some(&THINKING[0])).map(|(open, close)| tags(open, close));
        let calls = CALLS.into_iter().filter(|tag| template.contains(tag)).map(str::to_owned);
        Self { tools: reads_tools(template), thinking, insert: false, tags: calls.collect() }
    }

    fn of_go(template: &str) -> Self {
        let nodes = nodes(template);
        let uses = |field: &str| {
            let mut actions = nodes.iter().filter(|node| matches!(node, Node::Action(_)));
            actions.any(|node| matches!(node, Node::Action(action) if has_field(action, field)))
        };
        let thinks = uses(".Thinking") || uses(".Think");
        let thinking =
            thinks.then(|| around(&nodes, ".Thinking").unwrap_or(tags("<think>", "</think>")));
        let call = before_calls(&nodes).filter(|tag| !tag.is_empty());
        Self {
            tools: uses(".Tools"),
            thinking,
            insert: uses(".Suffix"),
            tags: call.into_iter().collect(),
        }
    }

    /// How an answer is read: with thinking told apart where `think`, and calls of the tools named.
    pub(crate) fn syntax(&self, think: bool, names: Vec<String>) -> Syntax {
        let calls = (!names.is_empty()).then(|| calls::Syntax {
            tags: self.tags.clone(),
            bare: self.tags.is_empty() || self.tags.iter().any(|tag| tag == "<|python_tag|>"),
            names,
            salt: rand::random(),
        });
        Syntax { thinking: self.thinking.clone(), hidden: !think, calls }
    }
}

impl Syntax {
    /// For an answer that is a call, or a list of them, and nothing else.
    pub(crate) fn of_only_calls(self, names: Vec<String>) -> Self {
        let (tags, salt) = (Vec::new(), rand::random());
        Self { calls: Some(calls::Syntax { tags, bare: true, names, salt }), ..self }
    }

    /// The same for another answer to the same request: its calls have other ids.
    pub(crate) fn for_choice(&self, place: usize) -> Self {
        let mut syntax = self.clone();
        if let Some(calls) = &mut syntax.calls {
            calls.salt = calls.salt.wrapping_add(0x0100_0193_u32.wrapping_mul(place as u32));
        }
        syntax
    }

    /// Control tokens that a worker has to show for this.
    pub(crate) fn shown(&self) -> Vec<String> {
        let tags = self.thinking.iter().flat_map(|tags| [tags.open.clone(), tags.close.clone()]);
        let calls = self.calls.iter().flat_map(|calls| {
            calls.tags.iter().cloned().chain(calls::closing().map(str::to_owned))
        });
        tags.chain(calls).take(limits::MARKERS_COUNT).collect()
    }
}

/// Whether a Jinja template reads the variable `tools`; a field of a message that is called so is not where tools are given.
fn reads_tools(template: &str) -> bool {
    template.match_indices("tools").any(|(at, _)| !template[..at].ends_with(['\'', '"']))
}

/// Whether a source is a Go template: it has no `{%`, and a field in it begins with a dot.
fn is_go(template: &str) -> bool {
    let fields = [".Prompt", ".System", ".Messages", ".Response", ".Tools", ".Suffix"];
    let reads = |node: &Node<'_>| matches!(node, Node::Action(action) if fields.iter().any(|f| has_field(action, f)));
    !template.contains("{%") && nodes(template).iter().any(reads)
}

fn tags(open: &str, close: &str) -> Tags {
    Tags { open: open.to_owned(), close: close.to_owned() }
}

enum Node<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// The texts and actions of a Go template, without any structure.
fn nodes(mut template: &str) -> Vec<Node<'_>> {
    let mut nodes = Vec::new();
    while let Some((text, rest)) = template.split_once("{{") {
        let Some((action, rest)) = rest.split_once("}}") else { break };
        nodes.push(Node::Text(text));
        nodes.push(Node::Action(action));
        template = rest;
    }
    nodes.push(Node::Text(template));
    nodes
}

/// Whether an action reads a field: `.Tools` is not read by `.ToolsFor` nor by `.ToolCalls`.
fn has_field(action: &str, field: &str) -> bool {
    let variable = action.find('$');
    action.match_indices(field).any(|(at, _)| {
        let next = action[at + field.len()..].chars().next();
        let before = action[..at].chars().next_back();
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        // A variable may stand before a field, a name of something else may not.
        let is_root = before.is_none_or(|before| !is_name(before))
            || variable.is_some_and(|variable| variable < at);
        is_root && next.is_none_or(|next| !is_name(next))
    })
}

/// What stands right before and behind where a field is printed.
fn around(nodes: &[Node<'_>], field: &str) -> Option<Tags> {
    let prints = |action: &str| {
        let action = action.trim_matches(['-', ' ', '\t', '\n']);
        !action.contains(char::is_whitespace) && has_field(action, field)
    };
    nodes.windows(3).find_map(|window| match window {
        [Node::Text(before), Node::Action(action), Node::Text(behind)] if prints(action) => {
            let (open, close) =
                (before.split_whitespace().last()?, behind.split_whitespace().next()?);
            Some(tags(open, close)).filter(|tags| {
                tags.open.len() <= limits::MARKER_BYTES && tags.close.len() <= limits::MARKER_BYTES
            })
        }
        _ => None,
    })
}

/// What stands between where earlier calls are gone through and the first of them: Ollama takes that for what a model writes
/// before a call, without the JSON itself.
fn before_calls(nodes: &[Node<'_>]) -> Option<String> {
    let at = nodes
        .iter()
        .position(|node| matches!(node, Node::Action(a) if has_field(a, ".ToolCalls")))?;
    let text = nodes[at..].iter().find_map(|node| match node {
        Node::Text(text) if !text.trim().is_empty() => Some(text.trim()),
        _ => None,
    })?;
    let tag = text.split('{').next()?.trim_end().trim_end_matches('[').trim_end();
    Some(tag.to_owned()).filter(|tag| tag.len() <= limits::MARKER_BYTES)
}
