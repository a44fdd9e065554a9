//! Source to pieces: text, and the words of each action, with what the trim markers take away.

use super::syntax;
use crate::TemplateError;

/// What Go takes for white space.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(String),
    /// The words of one action, and the line it begins in.
    Action(Vec<Word>, usize),
}

#[derive(Clone, Debug)]
pub(super) struct Word {
    pub kind: Lexeme,
    /// Nothing stands between it and the word before.
    pub glued: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lexeme {
    Dot,
    /// Without its dot.
    Field(String),
    /// With its dollar.
    Variable(String),
    Name(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Open,
    Close,
    Comma,
    Pipe,
    Declare,
    Assign,
}

/// Reads a whole source.
pub(super) fn lex(source: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut cursor = Cursor { rest: source, line: 1 };
    let mut trim = false;
    while !cursor.rest.is_empty() {
        let end = cursor.rest.find("{{").unwrap_or(cursor.rest.len());
        let mut text = cursor.take(end);
        let line = cursor.line;
        if trim {
            text = text.trim_start_matches(SPACE);
        }
        let opened = cursor.eat("{{");
        if opened && cursor.rest.starts_with('-') && cursor.rest[1..].starts_with(SPACE) {
            cursor.take(1);
            cursor.skip_space();
            text = text.trim_end_matches(SPACE);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        if !opened {
            break;
        }
        trim = if cursor.rest.starts_with("/*") {
            cursor.comment()?
        } else {
            let (words, trim) = cursor.words(line)?;
            pieces.push(Piece::Action(words, line));
            trim
        };
    }
    Ok(pieces)
}

struct Cursor<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.bytes().filter(|byte| *byte == b'\n').count();
        self.rest = rest;
        taken
    }

    fn eat(&mut self, text: &str) -> bool {
        let there = self.rest.starts_with(text);
        if there {
            self.take(text.len());
        }
        there
    }

    fn skip_space(&mut self) {
        let rest = self.rest.trim_start_matches(SPACE);
        self.take(self.rest.len() - rest.len());
    }

    /// `}}`, or the same with a trim marker: whether it trims.
    fn close(&mut self) -> Option<bool> {
        if self.eat("}}") {
            return Some(false);
        }
        let marked = self.rest.starts_with(SPACE) && self.rest[1..].starts_with("-}}");
        if marked {
            self.take(4);
        }
        marked.then_some(true)
    }

    fn comment(&mut self) -> Result<bool, TemplateError> {
        let Some(end) = self.rest.find("*/") else {
            return syntax(self.line, "a comment without its `*/`");
        };
        self.take(end + 2);
        match self.close() {
            Some(trim) => Ok(trim),
            None => syntax(self.line, "`*/` without `}}` right behind it"),
        }
    }

    /// The words up to the end of the action, and whether that trims.
    fn words(&mut self, line: usize) -> Result<(Vec<Word>, bool), TemplateError> {
        let mut words = Vec::new();
        let mut glued = false;
        loop {
            if let Some(trim) = self.close() {
                return Ok((words, trim));
            }
            let Some(first) = self.rest.chars().next() else {
                return syntax(line, "`{{` without its `}}`");
            };
            if SPACE.contains(&first) {
                self.take(1);
                glued = false;
                continue;
            }
            let kind = self.word(first)?;
            words.push(Word { kind, glued });
            glued = true;
        }
    }

    fn word(&mut self, first: char) -> Result<Lexeme, TemplateError> {
        let fixed = [
            ("(", Lexeme::Open),
            (")", Lexeme::Close),
            (",", Lexeme::Comma),
            ("|", Lexeme::Pipe),
            (":=", Lexeme::Declare),
            ("=", Lexeme::Assign),
        ];
        for (spelling, kind) in fixed {
            if self.eat(spelling) {
                return Ok(kind);
            }
        }
        match first {
            '"' => self.quoted('"').map(Lexeme::Text),
            '`' => self.raw().map(Lexeme::Text),
            '\'' => self.character(),
            '.' if !self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                self.take(1);
                let name = self.name();
                Ok(if name.is_empty() { Lexeme::Dot } else { Lexeme::Field(self.ended(name)?) })
            }
            '$' => {
                self.take(1);
                let name = format!("${}", self.name());
                Ok(Lexeme::Variable(self.ended(&name)?))
            }
            '.' | '+' | '-' | '0'..='9' => self.number(),
            _ if is_word(first) => {
                let name = self.name();
                Ok(Lexeme::Name(self.ended(name)?))
            }
            _ => syntax(self.line, format!("`{first}` where no such character may stand")),
        }
    }

    fn name(&mut self) -> &'a str {
        self.take(self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len()))
    }

    /// A name must not run into what is no name.
    fn ended(&self, name: &str) -> Result<String, TemplateError> {
        match self.rest.chars().next() {
            Some(next) if !SPACE.contains(&next) && !".,|:=)(}".contains(next) => {
                syntax(self.line, format!("`{next}` right behind `{name}`"))
            }
            _ => Ok(name.to_owned()),
        }
    }

    fn raw(&mut self) -> Result<String, TemplateError> {
        let Some(end) = self.rest[1..].find('`') else {
            return syntax(self.line, "a text without its closing quote");
        };
        let text = self.take(end + 2);
        // So Go reads files from other systems.
        Ok(text[1..=end].replace('\r', ""))
    }

    fn character(&mut self) -> Result<Lexeme, TemplateError> {
        let line = self.line;
        let text = self.quoted('\'')?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(only), None) => Ok(Lexeme::Integer(i64::from(u32::from(only)))),
            _ => syntax(line, format!("'{text}' where one character is expected")),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, TemplateError> {
        let line = self.line;
        self.take(1);
        let mut bytes = Vec::new();
        loop {
            let Some(next) = self.rest.chars().next().filter(|next| *next != '\n') else {
                return syntax(line, "a text without its closing quote");
            };
            self.take(next.len_utf8());
            match next {
                _ if next == quote => break,
                '\\' => self.escape(quote, &mut bytes)?,
                _ => bytes.extend(next.to_string().bytes()),
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => syntax(line, "a text that is not UTF-8"),
        }
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), TemplateError> {
        let kind = self.rest.chars().next().unwrap_or(' ');
        let (skip, digits, radix) = match kind {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='7' => (0, 3, 8),
            _ => {
                let plain = match kind {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    '\\' => '\\',
                    _ if kind == quote => quote,
                    _ => return syntax(self.line, format!("`\\{kind}` in a text")),
                };
                self.take(kind.len_utf8());
                bytes.push(plain as u8);
                return Ok(());
            }
        };
        let spelt = self.rest.get(skip..skip + digits).unwrap_or_default();
        let number = u32::from_str_radix(spelt, radix).ok();
        match (number, matches!(kind, 'u' | 'U')) {
            (Some(number), true) if char::from_u32(number).is_some() => {
                let character = char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
                bytes.extend(character.to_string().bytes());
            }
            (Some(number), false) if number <= 0xff => bytes.push(number as u8),
            _ => return syntax(self.line, format!("`\\{kind}` without its number in a text")),
        }
        self.take(skip + digits);
        Ok(())
    }

    fn number(&mut self) -> Result<Lexeme, TemplateError> {
        let mut previous = ' ';
        let ends = |c: char| {
            let sign = matches!(c, '+' | '-') && matches!(previous, ' ' | 'e' | 'E');
            previous = c;
            !sign && c != '.' && !is_word(c)
        };
        let length = self.rest.find(ends).unwrap_or(self.rest.len());
        let spelling = self.take(length);
        match number(&spelling.replace('_', "")) {
            Some(number) => Ok(number),
            None => syntax(self.line, format!("`{spelling}` is no number")),
        }
    }
}

fn number(spelling: &str) -> Option<Lexeme> {
    let (negative, digits) = match spelling.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, spelling.strip_prefix('+').unwrap_or(spelling)),
    };
    let lower = digits.to_ascii_lowercase();
    let radix = |prefix: &str, radix| {
        lower.strip_prefix(prefix).map(|digits| i64::from_str_radix(digits, radix).ok())
    };
    let octal = lower.len() > 1 && lower.starts_with('0') && !lower.contains(['.', 'e', 'x']);
    let integer = radix("0x", 16)
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0o", 8))
        .or_else(|| octal.then(|| i64::from_str_radix(&lower, 8).ok()));
    let integer = integer.unwrap_or_else(|| lower.parse().ok());
    if let Some(integer) = integer {
        return Some(Lexeme::Integer(if negative { -integer } else { integer }));
    }
    let is_float = lower.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && lower.chars().all(|c| c.is_ascii_digit() || ".e+-".contains(c));
    let float: f64 = is_float.then(|| lower.parse().ok()).flatten()?;
    float.is_finite().then_some(Lexeme::Float(if negative { -float } else { float }))
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}
