//! Source to nodes: text, and actions in `{{ }}` with their trim markers.

use crate::template::TemplateError;
use ollamamax_proto::limits::TEMPLATE_DEPTH;
use std::iter::Peekable;
use std::vec::IntoIter;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Expression),
    /// `$name := value`
    Set(String, Expression),
    /// `if`, `else if` ..., and `else`.
    If(Vec<(Expression, Vec<Node>)>, Vec<Node>),
    /// `range $index, $item := over`, both names optional; `else` runs when there is nothing.
    Range {
        index: Option<String>,
        item: Option<String>,
        over: Expression,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    Text(String),
    Number(i64),
    Truth(bool),
    Field(Root, Vec<Field>),
    Call(Function, Vec<Expression>),
}

/// Where a chain of fields begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Root {
    Dot,
    Dollar,
    Variable(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field {
    System,
    Prompt,
    Response,
    Messages,
    Tools,
    Role,
    Content,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Not,
    Len,
    Slice,
}

#[derive(Clone, Debug, PartialEq)]
enum Lexeme {
    Text(String),
    /// The words of one action.
    Action(Vec<Word>),
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Name(String),
    Quoted(String),
    Open,
    Close,
    Comma,
    Define,
}

fn unsupported<T>(construct: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Unsupported { construct: construct.into() })
}

fn syntax<T>(reason: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Syntax { reason: reason.into() })
}

/// Reads a whole template.
pub(super) fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { lexemes: lex(source)?.into_iter().peekable(), depth: 0 };
    let nodes = parser.nodes()?;
    match parser.lexemes.next() {
        None => Ok(nodes),
        Some(_) => syntax("an `end` or `else` without its beginning"),
    }
}

fn lex(source: &str) -> Result<Vec<Lexeme>, TemplateError> {
    let mut lexemes = Vec::new();
    let (mut rest, mut trim) = (source, false);
    loop {
        let (text, after) = match rest.split_once("{{") {
            Some((text, after)) => (text, Some(after)),
            None => (rest, None),
        };
        let text = if trim { text.trim_start() } else { text };
        let trims_before = after.is_some_and(|after| {
            after.strip_prefix('-').is_some_and(|a| a.starts_with(char::is_whitespace))
        });
        let text = if trims_before { text.trim_end() } else { text };
        if !text.is_empty() {
            lexemes.push(Lexeme::Text(text.to_owned()));
        }
        let Some(after) = after else { return Ok(lexemes) };
        let after = if trims_before { &after[1..] } else { after };
        let end = action_end(after)?;
        let (action, following) = (&after[..end], &after[end + 2..]);
        let trimmed = action.strip_suffix('-').filter(|a| a.ends_with(char::is_whitespace));
        trim = trimmed.is_some();
        let action = trimmed.unwrap_or(action).trim();
        if !action.starts_with("/*") {
            lexemes.push(Lexeme::Action(words(action)?));
        }
        rest = following;
    }
}

/// Where the action ends: the first `}}` outside of quotes.
fn action_end(source: &str) -> Result<usize, TemplateError> {
    let (mut quote, mut escaped) = (None, false);
    for (at, character) in source.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '`') => quote = Some(character),
            None if source[at..].starts_with("}}") => return Ok(at),
            None => {}
        }
    }
    syntax("`{{` without its `}}`")
}

fn words(action: &str) -> Result<Vec<Word>, TemplateError> {
    let mut words = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | ',' => {
                words.push(match first {
                    '(' => Word::Open,
                    ')' => Word::Close,
                    _ => Word::Comma,
                });
                1
            }
            '"' | '`' => {
                let (text, length) = quoted(rest, first)?;
                words.push(Word::Quoted(text));
                length
            }
            ':' if rest.starts_with(":=") => {
                words.push(Word::Define);
                2
            }
            '|' => return unsupported("|"),
            '=' => return unsupported("="),
            _ => {
                let ends = |c: char| c.is_whitespace() || "(),|\"`:=".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len()).max(first.len_utf8());
                words.push(Word::Name(rest[..length].to_owned()));
                length
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(words)
}

/// A quoted text and the bytes it takes.
fn quoted(source: &str, quote: char) -> Result<(String, usize), TemplateError> {
    let mut text = String::new();
    let mut characters = source.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((text, at + 1)),
            '\\' if quote == '"' => match characters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, same @ ('"' | '\\'))) => text.push(same),
                Some((_, other)) => return unsupported(format!("\\{other}")),
                None => break,
            },
            _ => text.push(character),
        }
    }
    syntax("a text without its closing quote")
}

struct Parser {
    lexemes: Peekable<IntoIter<Lexeme>>,
    depth: usize,
}

impl Parser {
    /// Nodes up to an `end`, an `else`, or the end of the source.
    fn nodes(&mut self) -> Result<Vec<Node>, TemplateError> {
        self.depth += 1;
        if self.depth > TEMPLATE_DEPTH {
            return unsupported(format!("more than {TEMPLATE_DEPTH} nested blocks"));
        }
        let mut nodes = Vec::new();
        while let Some(lexeme) = self.lexemes.next_if(|lexeme| !closes(lexeme)) {
            nodes.push(match lexeme {
                Lexeme::Text(text) => Node::Text(text),
                Lexeme::Action(words) => self.action(&words)?,
            });
        }
        self.depth -= 1;
        Ok(nodes)
    }

    fn action(&mut self, words: &[Word]) -> Result<Node, TemplateError> {
        match words {
            [Word::Name(name), rest @ ..] if name == "if" => self.conditional(rest),
            [Word::Name(name), rest @ ..] if name == "range" => self.range(rest),
            [Word::Name(name), Word::Define, rest @ ..] if name.starts_with('$') => {
                Ok(Node::Set(name.clone(), expression(rest)?))
            }
            [Word::Name(name), ..]
                if ["with", "define", "template", "block", "break", "continue"]
                    .contains(&name.as_str()) =>
            {
                unsupported(name.as_str())
            }
            words => Ok(Node::Print(expression(words)?)),
        }
    }

    fn conditional(&mut self, test: &[Word]) -> Result<Node, TemplateError> {
        let mut branches = vec![(expression(test)?, self.nodes()?)];
        loop {
            match self.closing()?.as_slice() {
                [_end] => return Ok(Node::If(branches, Vec::new())),
                [_else, Word::Name(name), test @ ..] if name == "if" => {
                    branches.push((expression(test)?, self.nodes()?));
                }
                _ => return Ok(Node::If(branches, self.otherwise()?)),
            }
        }
    }

    fn range(&mut self, words: &[Word]) -> Result<Node, TemplateError> {
        let name = |name: &String| (name != "$_").then(|| name.clone());
        let (index, item, over) = match words {
            [Word::Name(i), Word::Comma, Word::Name(v), Word::Define, over @ ..] => {
                (name(i), name(v), over)
            }
            [Word::Name(v), Word::Define, over @ ..] => (None, name(v), over),
            over => (None, None, over),
        };
        let (over, body) = (expression(over)?, self.nodes()?);
        let closing = self.closing()?;
        let otherwise = if is_end(&closing) { Vec::new() } else { self.otherwise()? };
        Ok(Node::Range { index, item, over, body, otherwise })
    }

    /// The nodes of an `else` and its `end`.
    fn otherwise(&mut self) -> Result<Vec<Node>, TemplateError> {
        let nodes = self.nodes()?;
        if is_end(&self.closing()?) { Ok(nodes) } else { syntax("a second `else`") }
    }

    /// The words of an `end` or `else`.
    fn closing(&mut self) -> Result<Vec<Word>, TemplateError> {
        match self.lexemes.next() {
            Some(Lexeme::Action(words)) if is_end(&words) && words.len() > 1 => {
                syntax("words after `end`")
            }
            Some(Lexeme::Action(words)) => Ok(if is_else(&words) && words.len() == 1 {
                // Told apart from `end` by its length.
                [words, vec![Word::Name(String::new())]].concat()
            } else {
                words
            }),
            _ => syntax("a block without its `end`"),
        }
    }
}

fn is_end(words: &[Word]) -> bool {
    matches!(words.first(), Some(Word::Name(name)) if name == "end")
}

fn is_else(words: &[Word]) -> bool {
    matches!(words.first(), Some(Word::Name(name)) if name == "else")
}

fn closes(lexeme: &Lexeme) -> bool {
    matches!(lexeme, Lexeme::Action(words) if is_end(words) || is_else(words))
}

fn expression(words: &[Word]) -> Result<Expression, TemplateError> {
    let mut words = words.iter().peekable();
    let value = call(&mut words, 0)?;
    match words.next() {
        None => Ok(value),
        Some(word) => syntax(format!("{word:?} where an action should end")),
    }
}

type Words<'a> = Peekable<std::slice::Iter<'a, Word>>;

/// A function with its arguments, or a single value.
fn call(words: &mut Words<'_>, depth: usize) -> Result<Expression, TemplateError> {
    let Some(Word::Name(name)) = words.peek() else { return value(words, depth) };
    let Some(function) = function(name) else { return value(words, depth) };
    words.next();
    let mut arguments = Vec::new();
    while words.peek().is_some_and(|word| **word != Word::Close) {
        arguments.push(value(words, depth)?);
    }
    Ok(Expression::Call(function, arguments))
}

fn value(words: &mut Words<'_>, depth: usize) -> Result<Expression, TemplateError> {
    match words.next() {
        Some(Word::Quoted(text)) => Ok(Expression::Text(text.clone())),
        Some(Word::Name(name)) => named(name),
        Some(Word::Open) if depth < TEMPLATE_DEPTH => {
            let inner = call(words, depth + 1)?;
            if words.next() == Some(&Word::Close) { Ok(inner) } else { syntax("`(` without `)`") }
        }
        Some(word) => syntax(format!("{word:?} where a value should be")),
        None => syntax("a value is missing"),
    }
}

fn named(name: &str) -> Result<Expression, TemplateError> {
    if let Ok(number) = name.parse() {
        return Ok(Expression::Number(number));
    }
    let (root, path) = match name {
        "true" | "false" => return Ok(Expression::Truth(name == "true")),
        "." => return Ok(Expression::Field(Root::Dot, Vec::new())),
        _ => name.split_once('.').map_or((name, None), |(root, path)| (root, Some(path))),
    };
    let root = match root {
        "" => Root::Dot,
        "$" => Root::Dollar,
        _ if root.starts_with('$') => Root::Variable(root.to_owned()),
        _ => return unsupported(name),
    };
    let path = path.map(|path| path.split('.').map(field).collect()).transpose()?;
    Ok(Expression::Field(root, path.unwrap_or_default()))
}

fn field(name: &str) -> Result<Field, TemplateError> {
    Ok(match name {
        "System" => Field::System,
        "Prompt" => Field::Prompt,
        "Response" => Field::Response,
        "Messages" => Field::Messages,
        "Tools" => Field::Tools,
        "Role" => Field::Role,
        "Content" => Field::Content,
        _ => return unsupported(format!(".{name}")),
    })
}

fn function(name: &str) -> Option<Function> {
    Some(match name {
        "eq" => Function::Eq,
        "ne" => Function::Ne,
        "lt" => Function::Lt,
        "le" => Function::Le,
        "gt" => Function::Gt,
        "ge" => Function::Ge,
        "and" => Function::And,
        "or" => Function::Or,
        "not" => Function::Not,
        "len" => Function::Len,
        "slice" => Function::Slice,
        _ => return None,
    })
}
