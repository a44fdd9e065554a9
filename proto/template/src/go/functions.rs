//! The functions of Go's templates and of Ollama's, apart from `and` and `or`, which need not look at all their arguments.

use super::json;
use super::node::Function;
use super::printf::printf;
use super::run::{Fault, fail};
use super::value::{List, Value};
use crate::TODAY;
use std::cmp::Ordering;

/// Calls a function; `room` is how many bytes it may make.
pub(super) fn call(function: Function, arguments: &[Value], room: u64) -> Result<Value, Fault> {
    match (function, arguments) {
        (Function::Not, [value]) => Ok(Value::Truth(!value.is_true())),
        (Function::Eq, [first, rest @ ..]) if !rest.is_empty() => {
            for other in rest {
                if equal(first, other)? {
                    return Ok(Value::Truth(true));
                }
            }
            Ok(Value::Truth(false))
        }
        (Function::Ne, [first, second]) => Ok(Value::Truth(!equal(first, second)?)),
        (Function::Lt, [first, second]) => {
            compare(first, second).map(|order| Value::Truth(order == Ordering::Less))
        }
        (Function::Le, [first, second]) => {
            compare(first, second).map(|order| Value::Truth(order != Ordering::Greater))
        }
        (Function::Gt, [first, second]) => {
            compare(first, second).map(|order| Value::Truth(order == Ordering::Greater))
        }
        (Function::Ge, [first, second]) => {
            compare(first, second).map(|order| Value::Truth(order != Ordering::Less))
        }
        (Function::Len, [value]) => len(value),
        (Function::Index, [value, keys @ ..]) => keys.iter().try_fold(value.clone(), index),
        (Function::Slice, [value, bounds @ ..]) => slice(value, bounds),
        (Function::Print, values) => print(values, false, room),
        (Function::Println, values) => print(values, true, room),
        (Function::Printf, [Value::Text(format), values @ ..]) => {
            printf(format, values, room).map(|text| Value::text(&text))
        }
        (Function::Json, [value]) => {
            let mut text = String::new();
            json::write(value, &mut text);
            Ok(Value::text(&text))
        }
        // Their arguments, a format, mean nothing in Ollama either.
        (Function::CurrentDate, _) => Ok(Value::text(TODAY.iso)),
        (Function::YesterdayDate, _) => Ok(Value::text(TODAY.yesterday)),
        (Function::ToTypeScriptType, [value]) => Ok(Value::text(&typescript(value))),
        (function, _) => {
            let kinds: Vec<&str> = arguments.iter().map(Value::kind).collect();
            fail(format!("`{}` does not take ({})", function.name(), kinds.join(", ")))
        }
    }
}

/// Whether two values are the same; those of different kinds cannot be compared, apart from nil.
fn equal(first: &Value, second: &Value) -> Result<bool, Fault> {
    match (first, second) {
        (Value::Nil, other) | (other, Value::Nil) => Ok(matches!(other, Value::Nil)),
        (Value::Truth(a), Value::Truth(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        _ => compare(first, second).map(|order| order == Ordering::Equal),
    }
}

fn compare(first: &Value, second: &Value) -> Result<Ordering, Fault> {
    let order = match (first, second) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        _ => None,
    };
    match order {
        Some(order) => Ok(order),
        None => fail(format!("{} cannot be compared with {}", first.kind(), second.kind())),
    }
}

fn len(value: &Value) -> Result<Value, Fault> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.as_slice().len(),
        Value::Map(map) => map.entries.len(),
        other => return fail(format!("`len` of {}", other.kind())),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(value: Value, key: &Value) -> Result<Value, Fault> {
    let place = |length: usize, number: i64| match usize::try_from(number) {
        Ok(place) if place < length => Ok(place),
        _ => fail(format!("`index` {number} of {length}")),
    };
    match (&value, key) {
        (Value::List(list), Value::Int(number)) => {
            let items = list.as_slice();
            Ok(items[place(items.len(), *number)?].clone())
        }
        (Value::Text(text), Value::Int(number)) => {
            Ok(Value::Int(i64::from(text.as_bytes()[place(text.len(), *number)?])))
        }
        (Value::Map(map), Value::Text(key)) => {
            Ok(map.entries.get(&**key).cloned().unwrap_or(Value::Nil))
        }
        (value, key) => fail(format!("`index` of {} by {}", value.kind(), key.kind())),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, Fault> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.as_slice().len(),
        other => return fail(format!("`slice` of {}", other.kind())),
    };
    let bound = |place: usize, default: usize| match bounds.get(place) {
        None => Some(default),
        Some(Value::Int(number)) => usize::try_from(*number).ok(),
        Some(_) => None,
    };
    let range = bound(0, 0)
        .zip(bound(1, length))
        .filter(|(start, end)| bounds.len() <= 2 && start <= end && *end <= length);
    let part = range.and_then(|(start, end)| match value {
        Value::Text(text) => text.get(start..end).map(Value::text),
        Value::List(list) => Some(Value::List(List {
            start: list.start + start,
            end: list.start + end,
            ..list.clone()
        })),
        _ => None,
    });
    part.map_or_else(|| fail(format!("`slice` outside of its {length}")), Ok)
}

/// Values one after another: as Go's `Sprint`, with a space between two that are both no text, or as its `Sprintln`.
fn print(values: &[Value], line: bool, room: u64) -> Result<Value, Fault> {
    let mut text = String::new();
    for (place, value) in values.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        let apart = place > 0 && (line || !is_text(value) && !is_text(&values[place - 1]));
        text.push_str(if apart { " " } else { "" });
        value.print(&mut text);
        within(&text, room)?;
    }
    text.push_str(if line { "\n" } else { "" });
    Ok(Value::text(&text))
}

/// A text that is made must not outgrow the budget before that is asked.
pub(super) fn within(text: &str, room: u64) -> Result<(), Fault> {
    if text.len() as u64 > room { Err(Fault::Budget) } else { Ok(()) }
}

/// The type of a parameter, for templates that show tools as TypeScript.
fn typescript(value: &Value) -> String {
    let Value::Object(property) = value else { return "any".to_owned() };
    let field = |name: &str| property.fields.iter().find(|field| field.name == name);
    let list = |name: &str| match field(name).map(|field| &field.value) {
        Some(Value::List(list)) => list.as_slice().to_vec(),
        _ => Vec::new(),
    };
    let any_of: Vec<String> = list("AnyOf").iter().map(typescript).collect();
    if !any_of.is_empty() {
        return any_of.join(" | ");
    }
    let types: Vec<&str> = list("Type").iter().map(typescript_name).collect();
    if types.is_empty() { "any".to_owned() } else { types.join(" | ") }
}

fn typescript_name(of: &Value) -> &'static str {
    let Value::Text(name) = of else { return "any" };
    match &**name {
        "string" => "string",
        "number" | "integer" => "number",
        "boolean" => "boolean",
        "array" => "any[]",
        "object" => "Record<string, any>",
        "null" => "null",
        _ => "any",
    }
}
