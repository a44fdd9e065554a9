//! What the nodes of a template show of earlier answers: the marks that a model writes.

use super::GoTemplate;
use super::node::{Branch, Expression, Kind, Node, Pipe, expression_reads};
use crate::traits::{Traits, is_mark, marks, usual_thinking};
use ollamamax_proto::inference::Tags;

/// A node in the order of the source, without its blocks.
enum Flat<'a> {
    Text(&'a str),
    Reads(&'a Expression),
    Prints(&'a Expression),
}

impl GoTemplate {
    /// What it tells of how its model writes.
    pub fn traits(&self) -> Traits {
        let mut flat = Vec::new();
        flatten(&self.parsed.main, &mut flat);
        self.parsed.defined.values().for_each(|nodes| flatten(nodes, &mut flat));
        let uses = |field: &str| flat.iter().any(|node| node.reads(field));
        let thinks = uses("Thinking") || uses("Think");
        let thinking = thinks.then(|| around(&flat, "Thinking").unwrap_or_else(usual_thinking));
        Traits {
            tools: uses("Tools"),
            thinking,
            insert: self.inserts,
            calls: before_calls(&flat).into_iter().collect(),
        }
    }
}

impl Flat<'_> {
    fn reads(&self, field: &str) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Reads(value) | Self::Prints(value) => expression_reads(value, field),
        }
    }
}

fn flatten<'a>(nodes: &'a [Node], flat: &mut Vec<Flat<'a>>) {
    for node in nodes {
        let action = match node {
            Node::Text(text) => {
                flat.extend((!text.is_empty()).then_some(Flat::Text(text)));
                continue;
            }
            Node::Action(action) => action,
        };
        match &action.kind {
            Kind::Print(Pipe { variables, value, .. }) if variables.is_empty() => {
                flat.push(Flat::Prints(value));
            }
            Kind::Print(pipe) => flat.push(Flat::Reads(&pipe.value)),
            Kind::If(branch) | Kind::With(branch) | Kind::Range(branch) => {
                let Branch { pipe, body, otherwise } = branch;
                flat.push(Flat::Reads(&pipe.value));
                flatten(body, flat);
                flatten(otherwise, flat);
            }
            Kind::Template(_, value) => flat.extend(value.as_ref().map(Flat::Reads)),
            Kind::Break | Kind::Continue => {}
        }
    }
}

/// The words right before and behind where a field is printed as it is.
fn around(flat: &[Flat<'_>], field: &str) -> Option<Tags> {
    let printed = flat.iter().enumerate().filter(|(_, node)| match node {
        Flat::Prints(Expression::Fields(_, path)) => path.last().is_some_and(|last| last == field),
        _ => false,
    });
    printed.into_iter().find_map(|(at, _)| {
        let text = |node: &Flat<'_>| match node {
            Flat::Text(text) => Some(text.to_string()),
            _ => None,
        };
        // Between the mark and the field may stand whether the field is there.
        let before = flat[..at].iter().rev().find_map(text)?;
        let behind = flat[at + 1..].iter().find_map(text)?;
        let open = before.split_whitespace().next_back()?;
        marks(open, behind.split_whitespace().next()?)
    })
}

/// What stands between where earlier calls are gone through and the first of them: Ollama takes that for what a model writes
/// before a call, without the JSON itself.
fn before_calls(flat: &[Flat<'_>]) -> Option<String> {
    let at = flat.iter().position(|node| node.reads("ToolCalls"))?;
    let text = flat[at..].iter().find_map(|node| match node {
        Flat::Text(text) if !text.trim().is_empty() => Some(text.trim()),
        _ => None,
    })?;
    let mark = text.split('{').next()?.trim_end().trim_end_matches('[').trim_end();
    Some(mark.to_owned()).filter(|mark| is_mark(mark))
}
