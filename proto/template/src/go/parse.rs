//! Pieces to nodes: blocks, variables that must be there, and fields that must be known.

use super::lex::{Lexeme, Piece, lex};
use super::node::{Action, Branch, Expression, Function, Kind, Node, Pipe, Root};
use super::value::Value;
use super::words::Words;
use super::{inputs, syntax, unsupported};
use crate::TemplateError;
use ollamamax_proto::limits::TEMPLATE_DEPTH;
use std::collections::BTreeMap;
use std::vec::IntoIter;

/// A template that is read, and those that it defines.
#[derive(Debug)]
pub(super) struct Parsed {
    pub main: Vec<Node>,
    pub defined: BTreeMap<String, Vec<Node>>,
}

/// Reads a whole template.
pub(super) fn parse(source: &str) -> Result<Parsed, TemplateError> {
    let mut parser = Parser {
        pieces: lex(source)?.into_iter(),
        defined: BTreeMap::new(),
        called: Vec::new(),
        variables: Vec::new(),
        context: Context { dot_is_root: true, dollar_is_root: true, in_range: false },
        depth: 0,
    };
    let (main, end) = parser.nodes()?;
    if let Some(end) = end {
        return syntax(end.line, format!("`{}` without its beginning", end.name));
    }
    if let Some((name, line)) =
        parser.called.iter().find(|(name, _)| !parser.defined.contains_key(name))
    {
        return unsupported(*line, format!("template \"{name}\" without its definition"));
    }
    Ok(Parsed { main, defined: parser.defined })
}

/// What ended a list of nodes.
struct End {
    /// `end` or `else`.
    name: &'static str,
    rest: Words,
    line: usize,
}

/// What holds for the nodes that are read.
#[derive(Clone, Copy)]
struct Context {
    /// `.` and `$` are the template's inputs: their fields are known.
    dot_is_root: bool,
    dollar_is_root: bool,
    in_range: bool,
}

struct Parser {
    pieces: IntoIter<Piece>,
    defined: BTreeMap<String, Vec<Node>>,
    /// Templates that are called, and where.
    called: Vec<(String, usize)>,
    /// Variables that are declared, the innermost last.
    variables: Vec<String>,
    context: Context,
    depth: usize,
}

impl Parser {
    /// Nodes up to an `end`, an `else`, or the end of the source.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (words, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(words, line) => (words, line),
            };
            let mut words = Words::new(words, line);
            let keyword = words.keyword();
            if let Some(name) = ["end", "else"].into_iter().find(|name| *name == keyword) {
                words.next();
                return Ok((nodes, Some(End { name, rest: words, line })));
            }
            if let Some(kind) = self.action(&keyword, &mut words)? {
                nodes.push(Node::Action(Action { line, kind }));
            }
        }
        Ok((nodes, None))
    }

    fn action(&mut self, name: &str, words: &mut Words) -> Result<Option<Kind>, TemplateError> {
        if !matches!(
            name,
            "if" | "with" | "range" | "define" | "block" | "template" | "break" | "continue"
        ) {
            let pipe = self.pipe(words, 1)?;
            return words.end().map(|()| Some(Kind::Print(pipe)));
        }
        words.next();
        let line = words.line();
        Ok(Some(match name {
            "if" | "with" | "range" => self.block(name, words)?,
            "define" => {
                let name = words.text()?;
                words.end()?;
                self.define(name, line)?;
                return Ok(None);
            }
            "block" => {
                let name = words.text()?;
                let value = self.value(words, 0)?;
                words.end()?;
                self.define(name.clone(), line)?;
                self.called.push((name.clone(), line));
                Kind::Template(name, Some(value))
            }
            "template" => {
                let name = words.text()?;
                let value = if words.peek().is_some() { Some(self.value(words, 0)?) } else { None };
                words.end()?;
                self.called.push((name.clone(), line));
                Kind::Template(name, value)
            }
            _ if !self.context.in_range => {
                return syntax(line, format!("`{name}` outside of a `range`"));
            }
            _ => {
                words.end()?;
                if name == "break" { Kind::Break } else { Kind::Continue }
            }
        }))
    }

    /// The nodes of a `define` and its `end`, as a template of their own.
    fn define(&mut self, name: String, line: usize) -> Result<(), TemplateError> {
        self.deeper(line)?;
        let apart = Context { dot_is_root: false, dollar_is_root: false, in_range: false };
        let context = std::mem::replace(&mut self.context, apart);
        let variables = std::mem::take(&mut self.variables);
        let (nodes, end) = self.nodes()?;
        end_of(end, line)?;
        self.context = context;
        self.variables = variables;
        self.depth -= 1;
        self.defined.insert(name, nodes);
        Ok(())
    }

    /// A block from behind its keyword to its `end`.
    fn block(&mut self, name: &str, words: &mut Words) -> Result<Kind, TemplateError> {
        self.deeper(words.line())?;
        let declared = self.variables.len();
        let pipe = self.pipe(words, if name == "range" { 2 } else { 1 })?;
        words.end()?;
        let context = self.context;
        if name != "if" {
            self.context.dot_is_root = false;
        }
        self.context.in_range |= name == "range";
        let inner = self.variables.len();
        let (body, end) = self.nodes()?;
        self.variables.truncate(inner);
        self.context = context;
        let otherwise = self.otherwise(name, end, words.line())?;
        self.variables.truncate(declared);
        self.depth -= 1;
        let branch = Branch { pipe, body, otherwise };
        Ok(match name {
            "if" => Kind::If(branch),
            "with" => Kind::With(branch),
            _ => Kind::Range(branch),
        })
    }

    /// What comes behind a block's nodes: nothing, its `else`, or `else if` and `else with`, which are blocks themselves.
    fn otherwise(
        &mut self,
        name: &str,
        end: Option<End>,
        line: usize,
    ) -> Result<Vec<Node>, TemplateError> {
        let Some(mut end) = end else { return end_of(None, line).map(|()| Vec::new()) };
        if end.name == "end" {
            return end_of(Some(end), line).map(|()| Vec::new());
        }
        if end.rest.peek().is_none() {
            let (nodes, end) = self.nodes()?;
            return end_of(end, line).map(|()| nodes);
        }
        let keyword = end.rest.keyword();
        if name == "range" || keyword != name {
            return syntax(end.line, format!("`else {keyword}` behind `{name}`"));
        }
        end.rest.next();
        let kind = self.block(name, &mut end.rest)?;
        Ok(vec![Node::Action(Action { line: end.line, kind })])
    }

    fn deeper(&mut self, line: usize) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > TEMPLATE_DEPTH {
            return unsupported(line, format!("more than {TEMPLATE_DEPTH} nested blocks"));
        }
        Ok(())
    }

    /// A value with at most so many variables before it.
    fn pipe(&mut self, words: &mut Words, most: usize) -> Result<Pipe, TemplateError> {
        let (variables, assigns) = words.variables(most);
        for name in variables.iter().filter(|_| assigns) {
            self.check_variable(name, words.line())?;
        }
        let value = self.value(words, 0)?;
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipe { variables, assigns, value })
    }

    fn check_variable(&self, name: &str, line: usize) -> Result<(), TemplateError> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        syntax(line, format!("the variable `{name}` is not declared"))
    }

    /// Commands, each of which gets what the one before it gives.
    fn value(&mut self, words: &mut Words, depth: usize) -> Result<Expression, TemplateError> {
        let mut value = self.command(words, None, depth)?;
        while words.peek() == Some(&Lexeme::Pipe) {
            words.next();
            value = self.command(words, Some(value), depth)?;
        }
        Ok(value)
    }

    fn command(
        &mut self,
        words: &mut Words,
        piped: Option<Expression>,
        depth: usize,
    ) -> Result<Expression, TemplateError> {
        let line = words.line();
        let function = match words.peek() {
            Some(Lexeme::Name(name)) if !is_constant(name) => Some(function(name, line)?),
            _ => None,
        };
        let Some(function) = function else {
            if piped.is_some() {
                return syntax(line, "`|` before something that is no function");
            }
            let value = self.operand(words, depth)?;
            return match words.peek() {
                _ if matches!(value, Expression::Literal(Value::Nil)) => {
                    syntax(line, "`nil` by itself, which is no value to print or test")
                }
                None | Some(Lexeme::Pipe | Lexeme::Close) => Ok(value),
                Some(_) => syntax(line, "something behind a value that is no function"),
            };
        };
        words.next();
        let mut arguments = Vec::new();
        while !matches!(words.peek(), None | Some(Lexeme::Pipe | Lexeme::Close)) {
            arguments.push(self.operand(words, depth)?);
        }
        arguments.extend(piped);
        Ok(Expression::Call(function, arguments))
    }

    fn operand(&mut self, words: &mut Words, depth: usize) -> Result<Expression, TemplateError> {
        let line = words.line();
        let (root, mut path) = match words.next().map(|word| word.kind) {
            Some(Lexeme::Dot) => (Root::Dot, Vec::new()),
            Some(Lexeme::Field(name)) => (Root::Dot, vec![name]),
            Some(Lexeme::Variable(name)) if name == "$" => (Root::Dollar, Vec::new()),
            Some(Lexeme::Variable(name)) => {
                self.check_variable(&name, line)?;
                (Root::Variable(name), Vec::new())
            }
            Some(Lexeme::Open) if depth < TEMPLATE_DEPTH => {
                let inner = self.value(words, depth + 1)?;
                if words.next().map(|word| word.kind) != Some(Lexeme::Close) {
                    return syntax(line, "`(` without `)`");
                }
                (Root::Value(Box::new(inner)), Vec::new())
            }
            Some(Lexeme::Name(name)) if !is_constant(&name) => {
                return Ok(Expression::Call(function(&name, line)?, Vec::new()));
            }
            Some(Lexeme::Name(name)) => {
                let truth = |truth| Expression::Literal(Value::Truth(truth));
                return Ok(match name.as_str() {
                    "true" => truth(true),
                    "false" => truth(false),
                    _ => Expression::Literal(Value::Nil),
                });
            }
            Some(Lexeme::Text(text)) => return Ok(Expression::Literal(Value::text(&text))),
            Some(Lexeme::Integer(number)) => return Ok(Expression::Literal(Value::Int(number))),
            Some(Lexeme::Float(number)) => return Ok(Expression::Literal(Value::Float(number))),
            Some(word) => return syntax(line, format!("{word:?} where a value should be")),
            None => return syntax(line, "a value is missing"),
        };
        while let Some(name) = words.glued_field() {
            path.push(name);
        }
        let is_root = match root {
            Root::Dot => self.context.dot_is_root,
            Root::Dollar => self.context.dollar_is_root,
            Root::Variable(_) | Root::Value(_) => false,
        };
        match path.first() {
            Some(name) if is_root && !inputs::is_known(name) => {
                unsupported(line, format!(".{name}"))
            }
            _ => Ok(match (root, path.is_empty()) {
                (Root::Value(value), true) => *value,
                (root, _) => Expression::Fields(root, path),
            }),
        }
    }
}

fn end_of(end: Option<End>, line: usize) -> Result<(), TemplateError> {
    match end {
        Some(mut end) if end.name == "end" => end.rest.end(),
        Some(end) => syntax(end.line, "an `else` too many"),
        None => syntax(line, "a block without its `end`"),
    }
}

fn is_constant(name: &str) -> bool {
    matches!(name, "true" | "false" | "nil")
}

fn function(name: &str, line: usize) -> Result<Function, TemplateError> {
    Function::named(name).map_or_else(|| unsupported(line, name), Ok)
}
