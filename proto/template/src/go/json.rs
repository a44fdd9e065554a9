//! Values as Go's `encoding/json` writes them: compact, keys of maps sorted, and what could be taken for HTML escaped. Models
//! have seen their tools spelt like this.

use super::value::{Field, Prints, Value, scientific};
use std::fmt::Write;

/// Appends the JSON of a value.
pub(super) fn write(value: &Value, out: &mut String) {
    match value {
        Value::Nil => out.push_str("null"),
        Value::Truth(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Float(number) => out.push_str(&float(*number)),
        Value::Text(text) => quote(text, out),
        Value::List(list) => match (list.prints, list.as_slice()) {
            (Prints::Types, [only]) => write(only, out),
            (_, items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    write(item, out);
                }
                out.push(']');
            }
        },
        Value::Map(map) => {
            members(map.entries.iter().map(|(key, value)| (key.as_str(), value)), out)
        }
        Value::Object(object) => {
            let told = |field: &&Field| !field.optional || field.value.is_true();
            let fields = object.fields.iter().filter(told).map(|field| (field.key, &field.value));
            members(fields.chain(object.rest.iter().map(|(k, v)| (k.as_str(), v))), out);
        }
    }
}

fn members<'a>(members: impl Iterator<Item = (&'a str, &'a Value)>, out: &mut String) {
    out.push('{');
    for (index, (key, value)) in members.enumerate() {
        out.push_str(if index == 0 { "" } else { "," });
        quote(key, out);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// With an exponent below -6 and from 21 on, as ECMAScript has it.
fn float(number: f64) -> String {
    let (digits, exponent) = scientific(number);
    if number == 0.0 || (-6..21).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{}", exponent.abs())
}
