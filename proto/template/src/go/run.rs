//! Nodes and inputs to text, within a budget.

use super::functions;
use super::inputs::Inputs;
use super::node::{Action, Branch, Expression, Function, Kind, Node, Pipe, Root};
use super::parse::Parsed;
use super::value::{List, Map, Value};
use crate::TemplateError;
use ollamamax_proto::limits::{TEMPLATE_DEPTH, TEMPLATE_FUEL};

/// Why a template ends before its end.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its own fault, in words.
    Reason(String),
    /// The same, with the line.
    At(String),
    /// Its budget is spent.
    Budget,
}

impl Fault {
    /// Names the line, unless one is named already.
    fn at(self, line: usize) -> Self {
        match self {
            Self::Reason(reason) => Self::At(format!("in line {line}: {reason}")),
            other => other,
        }
    }
}

pub(super) fn fail<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Reason(reason.into()))
}

/// Where to go on behind a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// The output of one or more executions, and what they have used of the budget.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub output: String,
    spent: u64,
    depth: usize,
}

struct Scope<'a> {
    parsed: &'a Parsed,
    inputs: &'a Inputs,
    dot: Dot,
    dollar: Dot,
    variables: Vec<(&'a str, Value)>,
}

/// What `.` stands for.
#[derive(Clone)]
enum Dot {
    Inputs,
    Value(Value),
}

impl Run {
    /// Runs the nodes once over the inputs.
    pub fn execute(
        &mut self,
        nodes: &[Node],
        parsed: &Parsed,
        inputs: &Inputs,
    ) -> Result<(), TemplateError> {
        let (dot, dollar) = (Dot::Inputs, Dot::Inputs);
        let mut scope = Scope { parsed, inputs, dot, dollar, variables: Vec::new() };
        self.nodes(nodes, &mut scope).map(|_| ()).map_err(|fault| match fault {
            Fault::Reason(reason) | Fault::At(reason) => TemplateError::Render { reason },
            Fault::Budget => TemplateError::Budget { fuel: TEMPLATE_FUEL },
        })
    }

    fn nodes<'a>(&mut self, nodes: &'a [Node], scope: &mut Scope<'a>) -> Result<Flow, Fault> {
        self.depth += 1;
        if self.depth > TEMPLATE_DEPTH {
            return fail(format!("more than {TEMPLATE_DEPTH} blocks and templates in each other"));
        }
        let variables = scope.variables.len();
        let mut flow = Flow::Next;
        for node in nodes {
            self.spend(1)?;
            flow = match node {
                Node::Text(text) => self.print(text).map(|()| Flow::Next)?,
                Node::Action(action) => {
                    self.action(action, scope).map_err(|fault| fault.at(action.line))?
                }
            };
            if flow != Flow::Next {
                break;
            }
        }
        scope.variables.truncate(variables);
        self.depth -= 1;
        Ok(flow)
    }

    fn action<'a>(&mut self, action: &'a Action, scope: &mut Scope<'a>) -> Result<Flow, Fault> {
        let variables = scope.variables.len();
        let flow = match &action.kind {
            Kind::Print(pipe) => {
                let value = self.pipe(pipe, scope)?;
                if pipe.variables.is_empty() {
                    self.print(&value.printed())?;
                }
                return Ok(Flow::Next);
            }
            Kind::If(branch) => {
                let truth = self.pipe(&branch.pipe, scope)?.is_true();
                self.nodes(if truth { &branch.body } else { &branch.otherwise }, scope)?
            }
            Kind::With(branch) => {
                let value = self.pipe(&branch.pipe, scope)?;
                if value.is_true() {
                    self.nodes_over(&branch.body, value, scope)?
                } else {
                    self.nodes(&branch.otherwise, scope)?
                }
            }
            Kind::Range(branch) => self.range(branch, scope)?,
            Kind::Break => Flow::Break,
            Kind::Continue => Flow::Continue,
            Kind::Template(name, value) => {
                self.template(name, value.as_ref(), scope)?;
                Flow::Next
            }
        };
        scope.variables.truncate(variables);
        Ok(flow)
    }

    fn nodes_over<'a>(
        &mut self,
        nodes: &'a [Node],
        dot: Value,
        scope: &mut Scope<'a>,
    ) -> Result<Flow, Fault> {
        let outer = std::mem::replace(&mut scope.dot, Dot::Value(dot));
        let flow = self.nodes(nodes, scope)?;
        scope.dot = outer;
        Ok(flow)
    }

    fn range<'a>(&mut self, branch: &'a Branch, scope: &mut Scope<'a>) -> Result<Flow, Fault> {
        let over = self.value(&branch.pipe.value, scope)?;
        let pairs: Box<dyn Iterator<Item = (Value, Value)>> = match over {
            Value::Nil => Box::new(std::iter::empty()),
            Value::List(List { items, start, end, .. }) => {
                let pair = move |place: usize| (int(place - start), items[place].clone());
                Box::new((start..end).map(pair))
            }
            Value::Map(Map { entries, .. }) => {
                let keys: Vec<String> = entries.keys().cloned().collect();
                self.spend(keys.len() as u64)?;
                Box::new(keys.into_iter().map(move |key| {
                    let value = entries.get(&key).cloned().unwrap_or(Value::Nil);
                    (Value::text(&key), value)
                }))
            }
            Value::Int(count) => Box::new((0..count).map(|n| (Value::Int(n), Value::Int(n)))),
            other => return fail(format!("`range` over {}", other.kind())),
        };
        let mut empty = true;
        for (key, value) in pairs {
            empty = false;
            self.spend(1)?;
            let variables = scope.variables.len();
            match branch.pipe.variables.as_slice() {
                [] => {}
                [one] => set(&branch.pipe, one, value.clone(), scope),
                [first, second, ..] => {
                    set(&branch.pipe, first, key, scope);
                    set(&branch.pipe, second, value.clone(), scope);
                }
            }
            let flow = self.nodes_over(&branch.body, value, scope)?;
            scope.variables.truncate(variables);
            if flow == Flow::Break {
                break;
            }
        }
        if empty { self.nodes(&branch.otherwise, scope) } else { Ok(Flow::Next) }
    }

    fn template<'a>(
        &mut self,
        name: &str,
        value: Option<&'a Expression>,
        scope: &mut Scope<'a>,
    ) -> Result<(), Fault> {
        let Some(nodes) = scope.parsed.defined.get(name) else {
            return fail(format!("there is no template \"{name}\""));
        };
        let dot = match value {
            Some(Expression::Fields(Root::Dot, path)) if path.is_empty() => scope.dot.clone(),
            Some(Expression::Fields(Root::Dollar, path)) if path.is_empty() => scope.dollar.clone(),
            Some(value) => Dot::Value(self.value(value, scope)?),
            None => Dot::Value(Value::Nil),
        };
        let dollar = dot.clone();
        let (parsed, inputs) = (scope.parsed, scope.inputs);
        let mut inner = Scope { parsed, inputs, dot, dollar, variables: Vec::new() };
        self.nodes(nodes, &mut inner).map(|_| ())
    }

    /// The value of a pipe; its variables take it.
    fn pipe<'a>(&mut self, pipe: &'a Pipe, scope: &mut Scope<'a>) -> Result<Value, Fault> {
        let value = self.value(&pipe.value, scope)?;
        for name in &pipe.variables {
            set(pipe, name, value.clone(), scope);
        }
        Ok(value)
    }

    fn value(&mut self, expression: &Expression, scope: &Scope<'_>) -> Result<Value, Fault> {
        self.spend(1)?;
        match expression {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Fields(root, path) => {
                let root = match root {
                    Root::Dot => scope.dot.clone(),
                    Root::Dollar => scope.dollar.clone(),
                    Root::Variable(name) => {
                        let set = scope.variables.iter().rev().find(|(known, _)| known == name);
                        Dot::Value(set.map_or(Value::Nil, |(_, value)| value.clone()))
                    }
                    Root::Value(inner) => Dot::Value(self.value(inner, scope)?),
                };
                let (root, path) = match (root, path.split_first()) {
                    (Dot::Value(value), _) => (value, path.as_slice()),
                    (Dot::Inputs, Some((first, rest))) => (scope.inputs.get(first), rest),
                    (Dot::Inputs, None) => return fail("`.` by itself, which is all there is"),
                };
                path.iter().try_fold(root, |value, name| field(&value, name))
            }
            Expression::Call(function @ (Function::And | Function::Or), arguments) => {
                let mut last = Value::Nil;
                for argument in arguments {
                    last = self.value(argument, scope)?;
                    if last.is_true() == (*function == Function::Or) {
                        break;
                    }
                }
                Ok(last)
            }
            Expression::Call(function, arguments) => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(self.value(argument, scope)?);
                }
                // Texts are read, and a new one is made of them.
                let texts = values.iter().map(|value| match value {
                    Value::Text(text) => text.len() as u64,
                    _ => 0,
                });
                self.spend(texts.sum::<u64>() / 64)?;
                let room = TEMPLATE_FUEL.saturating_sub(self.spent).saturating_mul(64);
                let result = functions::call(*function, &values, room)?;
                if let Value::Text(text) = &result {
                    self.spend(text.len() as u64 / 64)?;
                }
                Ok(result)
            }
        }
    }

    fn print(&mut self, text: &str) -> Result<(), Fault> {
        self.spend(text.len() as u64 / 64)?;
        self.output.push_str(text);
        Ok(())
    }

    fn spend(&mut self, work: u64) -> Result<(), Fault> {
        self.spent += work;
        if self.spent <= TEMPLATE_FUEL { Ok(()) } else { Err(Fault::Budget) }
    }
}

/// Sets a variable: a new one, or the innermost of that name.
fn set<'a>(pipe: &Pipe, name: &'a str, value: Value, scope: &mut Scope<'a>) {
    let known = scope.variables.iter_mut().rev().find(|(known, _)| pipe.assigns && *known == name);
    match known {
        Some((_, old)) => *old = value,
        None => scope.variables.push((name, value)),
    }
}

fn int(number: usize) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn field(value: &Value, name: &str) -> Result<Value, Fault> {
    match value {
        Value::Map(map) => Ok(map.entries.get(name).cloned().unwrap_or(Value::Nil)),
        Value::Object(object) => {
            let field = object.fields.iter().find(|field| field.name == name);
            match field {
                Some(field) => Ok(field.value.clone()),
                None => fail(format!("`.{name}` of an object that has no such field")),
            }
        }
        other => fail(format!("`.{name}` of {}", other.kind())),
    }
}
