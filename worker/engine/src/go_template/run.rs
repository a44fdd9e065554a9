//! Nodes and inputs to text, within a budget.

use super::parse::{Expression, Field, Function, Node, Root};
use crate::template::TemplateError;
use ollamamax_proto::inference::Message;
use ollamamax_proto::limits::TEMPLATE_FUEL;
use std::collections::BTreeMap;

/// What a template may read.
#[derive(Clone, Copy, Default)]
pub(super) struct Inputs<'a> {
    pub system: &'a str,
    pub prompt: &'a str,
    pub response: &'a str,
    pub messages: &'a [Message],
    pub tools: &'a str,
}

#[derive(Clone, Debug, PartialEq)]
enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Truth(bool),
    Messages(&'a [Message]),
    Message(&'a Message),
    /// The root object.
    Root,
}

impl Value<'_> {
    fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0,
            Self::Truth(truth) => *truth,
            Self::Messages(messages) => !messages.is_empty(),
            Self::Message(_) | Self::Root => true,
        }
    }
}

/// The output of one or more executions, and what they have used of the budget.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub output: String,
    spent: u64,
}

struct Scope<'a> {
    inputs: Inputs<'a>,
    dot: Value<'a>,
    variables: BTreeMap<String, Value<'a>>,
}

impl Run {
    /// Runs the nodes once over the inputs.
    pub fn execute(&mut self, nodes: &[Node], inputs: Inputs<'_>) -> Result<(), TemplateError> {
        let mut scope = Scope { inputs, dot: Value::Root, variables: BTreeMap::new() };
        self.nodes(nodes, &mut scope)
    }

    fn nodes<'a>(&mut self, nodes: &'a [Node], scope: &mut Scope<'a>) -> Result<(), TemplateError> {
        nodes.iter().try_for_each(|node| self.node(node, scope))
    }

    fn node<'a>(&mut self, node: &'a Node, scope: &mut Scope<'a>) -> Result<(), TemplateError> {
        self.spend(1)?;
        match node {
            Node::Text(text) => self.print(text),
            Node::Print(expression) => match scope.value(expression)? {
                Value::Text(text) => self.print(text),
                Value::Number(number) => self.print(&number.to_string()),
                Value::Truth(truth) => self.print(if truth { "true" } else { "false" }),
                Value::Messages(_) | Value::Message(_) | Value::Root => {
                    fail("an object has no text")
                }
            },
            Node::Set(name, expression) => {
                let value = scope.value(expression)?;
                scope.variables.insert(name.clone(), value);
                Ok(())
            }
            Node::If(branches, otherwise) => {
                for (test, body) in branches {
                    if scope.value(test)?.is_true() {
                        return self.nodes(body, scope);
                    }
                }
                self.nodes(otherwise, scope)
            }
            Node::Range { index, item, over, body, otherwise } => {
                let Value::Messages(messages) = scope.value(over)? else {
                    return fail("`range` over something that is not a list");
                };
                if messages.is_empty() {
                    return self.nodes(otherwise, scope);
                }
                let outer = scope.dot.clone();
                for (number, message) in (0..).zip(messages) {
                    self.spend(1)?;
                    scope.dot = Value::Message(message);
                    if let Some(name) = index {
                        scope.variables.insert(name.clone(), Value::Number(number));
                    }
                    if let Some(name) = item {
                        scope.variables.insert(name.clone(), Value::Message(message));
                    }
                    self.nodes(body, scope)?;
                }
                scope.dot = outer;
                Ok(())
            }
        }
    }

    fn print(&mut self, text: &str) -> Result<(), TemplateError> {
        self.spend(text.len() as u64 / 64)?;
        self.output.push_str(text);
        Ok(())
    }

    fn spend(&mut self, work: u64) -> Result<(), TemplateError> {
        self.spent += work;
        let within = self.spent <= TEMPLATE_FUEL;
        if within { Ok(()) } else { Err(TemplateError::Budget { fuel: TEMPLATE_FUEL }) }
    }
}

impl<'a> Scope<'a> {
    fn value(&self, expression: &'a Expression) -> Result<Value<'a>, TemplateError> {
        match expression {
            Expression::Text(text) => Ok(Value::Text(text)),
            Expression::Number(number) => Ok(Value::Number(*number)),
            Expression::Truth(truth) => Ok(Value::Truth(*truth)),
            Expression::Field(root, path) => {
                let root = match root {
                    Root::Dot => self.dot.clone(),
                    Root::Dollar => Value::Root,
                    Root::Variable(name) => match self.variables.get(name) {
                        Some(value) => value.clone(),
                        None => return fail(format!("`{name}` has no value")),
                    },
                };
                path.iter().try_fold(root, |value, field| self.field(value, *field))
            }
            Expression::Call(function, arguments) => self.call(*function, arguments),
        }
    }

    fn field(&self, value: Value<'a>, field: Field) -> Result<Value<'a>, TemplateError> {
        match (value, field) {
            (Value::Root, Field::System) => Ok(Value::Text(self.inputs.system)),
            (Value::Root, Field::Prompt) => Ok(Value::Text(self.inputs.prompt)),
            (Value::Root, Field::Response) => Ok(Value::Text(self.inputs.response)),
            (Value::Root, Field::Messages) => Ok(Value::Messages(self.inputs.messages)),
            (Value::Root, Field::Tools) => Ok(Value::Text(self.inputs.tools)),
            (Value::Message(message), Field::Role) => Ok(Value::Text(&message.role)),
            (Value::Message(message), Field::Content) => Ok(Value::Text(&message.content)),
            (_, field) => fail(format!("there is no `.{field:?}` here")),
        }
    }

    fn call(
        &self,
        function: Function,
        arguments: &'a [Expression],
    ) -> Result<Value<'a>, TemplateError> {
        // These two look at as many arguments as they need.
        if let Function::And | Function::Or = function {
            let stops = function == Function::Or;
            let mut last = Value::Truth(false);
            for argument in arguments {
                last = self.value(argument)?;
                if last.is_true() == stops {
                    break;
                }
            }
            return Ok(last);
        }
        let values: Vec<Value<'a>> =
            arguments.iter().map(|argument| self.value(argument)).collect::<Result<_, _>>()?;
        match (function, values.as_slice()) {
            (Function::Not, [value]) => Ok(Value::Truth(!value.is_true())),
            (Function::Eq, [first, rest @ ..]) => Ok(Value::Truth(rest.contains(first))),
            (Function::Ne, [first, second]) => Ok(Value::Truth(first != second)),
            (Function::Lt, [Value::Number(a), Value::Number(b)]) => Ok(Value::Truth(a < b)),
            (Function::Le, [Value::Number(a), Value::Number(b)]) => Ok(Value::Truth(a <= b)),
            (Function::Gt, [Value::Number(a), Value::Number(b)]) => Ok(Value::Truth(a > b)),
            (Function::Ge, [Value::Number(a), Value::Number(b)]) => Ok(Value::Truth(a >= b)),
            (Function::Len, [Value::Text(text)]) => Ok(Value::Number(text.len() as i64)),
            (Function::Len, [Value::Messages(messages)]) => {
                Ok(Value::Number(messages.len() as i64))
            }
            (Function::Slice, [Value::Messages(messages), bounds @ ..]) => slice(messages, bounds),
            (function, _) => fail(format!("`{function:?}` with arguments it does not take")),
        }
    }
}

fn slice<'a>(messages: &'a [Message], bounds: &[Value<'a>]) -> Result<Value<'a>, TemplateError> {
    let bound = |index: usize, default: usize| match bounds.get(index) {
        None => Some(default),
        Some(Value::Number(number)) => usize::try_from(*number).ok(),
        Some(_) => None,
    };
    let range = bound(0, 0).zip(bound(1, messages.len())).filter(|_| bounds.len() <= 2);
    match range.and_then(|(start, end)| messages.get(start..end)) {
        Some(part) => Ok(Value::Messages(part)),
        None => fail("`slice` outside of its list"),
    }
}

fn fail<T>(reason: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Render { reason: reason.into() })
}
