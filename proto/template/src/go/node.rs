//! What a template is made of, once it is read.

use super::value::Value;

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Action(Action),
}

/// What stands in `{{ }}`, with its blocks.
#[derive(Clone, Debug)]
pub(super) struct Action {
    /// Of the source, from 1.
    pub line: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Prints, unless it sets variables.
    Print(Pipe),
    /// `else if` is an `if` in `otherwise`.
    If(Branch),
    /// The same with `.` set to the value.
    With(Branch),
    Range(Branch),
    Break,
    Continue,
    /// `template "name" value`
    Template(String, Option<Expression>),
}

/// A block and its `else`.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub pipe: Pipe,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// A value, and the variables that take it.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    pub variables: Vec<String>,
    /// `=` and not `:=`.
    pub assigns: bool,
    pub value: Expression,
}

#[derive(Clone, Debug)]
pub(super) enum Expression {
    Literal(Value),
    /// A chain of fields, which may be empty.
    Fields(Root, Vec<String>),
    Call(Function, Vec<Expression>),
}

/// Where a chain of fields begins.
#[derive(Clone, Debug)]
pub(super) enum Root {
    Dot,
    Dollar,
    Variable(String),
    Value(Box<Expression>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Slice,
    Print,
    Printf,
    Println,
    Json,
    CurrentDate,
    YesterdayDate,
    ToTypeScriptType,
}

impl Function {
    const NAMES: [(&'static str, Self); 19] = [
        ("and", Self::And),
        ("or", Self::Or),
        ("not", Self::Not),
        ("eq", Self::Eq),
        ("ne", Self::Ne),
        ("lt", Self::Lt),
        ("le", Self::Le),
        ("gt", Self::Gt),
        ("ge", Self::Ge),
        ("len", Self::Len),
        ("index", Self::Index),
        ("slice", Self::Slice),
        ("print", Self::Print),
        ("printf", Self::Printf),
        ("println", Self::Println),
        ("json", Self::Json),
        ("currentDate", Self::CurrentDate),
        ("yesterdayDate", Self::YesterdayDate),
        ("toTypeScriptType", Self::ToTypeScriptType),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
    }

    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, function)| *function == self);
        named.map_or("", |(name, _)| name)
    }
}

/// Whether a field of that name is read anywhere, in whatever case: so Ollama tells templates apart.
pub(super) fn reads(nodes: &[Node], field: &str) -> bool {
    nodes.iter().any(|node| match node {
        Node::Text(_) => false,
        Node::Action(action) => match &action.kind {
            Kind::Print(pipe) => expression_reads(&pipe.value, field),
            Kind::If(branch) | Kind::With(branch) | Kind::Range(branch) => {
                expression_reads(&branch.pipe.value, field)
                    || reads(&branch.body, field)
                    || reads(&branch.otherwise, field)
            }
            Kind::Break | Kind::Continue => false,
            Kind::Template(_, value) => {
                value.as_ref().is_some_and(|value| expression_reads(value, field))
            }
        },
    })
}

/// The same for one value.
pub(super) fn expression_reads(expression: &Expression, field: &str) -> bool {
    match expression {
        Expression::Literal(_) => false,
        Expression::Fields(root, path) => {
            let within = match root {
                Root::Value(value) => expression_reads(value, field),
                Root::Dot | Root::Dollar | Root::Variable(_) => false,
            };
            within || path.iter().any(|name| name.eq_ignore_ascii_case(field))
        }
        Expression::Call(_, arguments) => arguments.iter().any(|a| expression_reads(a, field)),
    }
}
