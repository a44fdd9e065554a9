//! `printf`, as far as templates use it: `%v %s %d %q %t %f %x` with a width, a precision, and the flags `-`, `+`, `0`.

use super::functions::within;
use super::run::{Fault, fail};
use super::value::Value;
use std::fmt::Write;

/// Widest field and most digits: wider ones only make output.
const WIDTH: usize = 200;

/// Fills a format, with at most `room` bytes.
pub(super) fn printf(format: &str, values: &[Value], room: u64) -> Result<String, Fault> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((text, after)) = rest.split_once('%') {
        out.push_str(text);
        let (verb, after) = Verb::read(after)?;
        rest = after;
        if verb.letter == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            return fail(format!("`printf` with too few values for `{format}`"));
        };
        verb.write(value, &mut out)?;
        within(&out, room)?;
    }
    out.push_str(rest);
    match values.next() {
        Some(_) => fail(format!("`printf` with too many values for `{format}`")),
        None => Ok(out),
    }
}

#[derive(Default)]
struct Verb {
    left: bool,
    plus: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    letter: char,
}

impl Verb {
    /// The verb behind a `%`, and what follows it.
    fn read(text: &str) -> Result<(Self, &str), Fault> {
        let mut verb = Self::default();
        let mut rest = text;
        while let Some(flag) = rest.chars().next().filter(|flag| "-+0".contains(*flag)) {
            match flag {
                '-' => verb.left = true,
                '+' => verb.plus = true,
                _ => verb.zeros = true,
            }
            rest = &rest[1..];
        }
        (verb.width, rest) = number(rest)?;
        if let Some(after) = rest.strip_prefix('.') {
            let (precision, after) = number(after)?;
            (verb.precision, rest) = (Some(precision), after);
        }
        match rest.chars().next() {
            Some(letter) if "vsdqtfx%".contains(letter) => {
                verb.letter = letter;
                Ok((verb, &rest[1..]))
            }
            Some(letter) => fail(format!("`printf` with `%{letter}`, which is not supported")),
            None => fail("`printf` with a `%` at its end"),
        }
    }

    fn write(&self, value: &Value, out: &mut String) -> Result<(), Fault> {
        let mut text = String::new();
        match (self.letter, value) {
            ('v', value) => value.print(&mut text),
            ('s', Value::Text(_) | Value::List(_) | Value::Map(_) | Value::Object(_)) => {
                value.print(&mut text);
            }
            ('d', Value::Int(number)) => text = number.to_string(),
            ('q', Value::Text(quoted)) => text = quote(quoted),
            ('t', Value::Truth(_)) => value.print(&mut text),
            ('f', Value::Float(number)) => {
                let _ = write!(text, "{number:.*}", self.precision.unwrap_or(6));
            }
            ('x', Value::Int(number)) => {
                let sign = if *number < 0 { "-" } else { "" };
                let _ = write!(text, "{sign}{:x}", number.unsigned_abs());
            }
            ('x', Value::Text(bytes)) => {
                for byte in bytes.bytes() {
                    let _ = write!(text, "{byte:02x}");
                }
            }
            _ => return self.wrong(value),
        }
        if let ('s' | 'v', Value::Text(_), Some(most)) = (self.letter, value, self.precision) {
            text = text.chars().take(most).collect();
        }
        let is_number = matches!(value, Value::Int(_) | Value::Float(_));
        if self.plus && is_number && !text.starts_with('-') {
            text.insert(0, '+');
        }
        let missing = self.width.saturating_sub(text.chars().count());
        if self.left {
            out.push_str(&text);
            out.extend(std::iter::repeat_n(' ', missing));
        } else if self.zeros && is_number {
            let signs = usize::from(text.starts_with(['+', '-']));
            out.push_str(&text[..signs]);
            out.extend(std::iter::repeat_n('0', missing));
            out.push_str(&text[signs..]);
        } else {
            out.extend(std::iter::repeat_n(' ', missing));
            out.push_str(&text);
        }
        Ok(())
    }

    fn wrong(&self, value: &Value) -> Result<(), Fault> {
        fail(format!("`printf` with `%{}` for {}", self.letter, value.kind()))
    }
}

/// The number a text begins with, or 0, and what follows it.
fn number(text: &str) -> Result<(usize, &str), Fault> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Ok((0, rest));
    }
    match digits.parse() {
        Ok(number) if number <= WIDTH => Ok((number, rest)),
        _ => fail(format!("`printf` with a width of {digits}, at most {WIDTH} is accepted")),
    }
}

/// A text as Go would write it in its source.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(character));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
