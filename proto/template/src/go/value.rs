//! What a template computes with, and how Go prints it.
//!
//! Numbers of JSON are all floats in Go; here whole ones stay whole, so that a million is not printed as `1e+06`.

use super::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// What is not there.
    Nil,
    Truth(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    List(List),
    Map(Map),
    Object(Arc<Object>),
}

/// A part of a list.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub items: Arc<[Value]>,
    pub start: usize,
    pub end: usize,
    pub prints: Prints,
}

/// Keys and values, by key.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub entries: Arc<BTreeMap<String, Value>>,
    pub prints: Prints,
}

/// How a list or map is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prints {
    /// `[a b]` or `map[a:b]`.
    Go,
    Json,
    /// The types a schema allows: one of them stands for itself.
    Types,
}

/// A thing with fields of its own: other fields it has none. It is printed as JSON.
#[derive(Debug)]
pub(super) struct Object {
    pub fields: Vec<Field>,
    /// What a client sent beside: seen in JSON only.
    pub rest: BTreeMap<String, Value>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    /// Its name in JSON.
    pub key: &'static str,
    /// JSON leaves it out when it is empty.
    pub optional: bool,
    pub value: Value,
}

impl List {
    pub fn new(items: Vec<Value>, prints: Prints) -> Self {
        Self { start: 0, end: items.len(), items: items.into(), prints }
    }

    pub fn as_slice(&self) -> &[Value] {
        &self.items[self.start..self.end]
    }
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub fn list(items: Vec<Self>, prints: Prints) -> Self {
        Self::List(List::new(items, prints))
    }

    pub fn map(entries: BTreeMap<String, Self>, prints: Prints) -> Self {
        Self::Map(Map { entries: Arc::new(entries), prints })
    }

    /// JSON as Go reads it without knowing its shape.
    pub fn of_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Nil,
            Json::Bool(truth) => Self::Truth(*truth),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or(f64::MAX)),
            },
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::list(items.iter().map(Self::of_json).collect(), Prints::Go),
            Json::Object(object) => Self::map(entries(object), Prints::Go),
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Truth(truth) => *truth,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => list.start < list.end,
            Self::Map(map) => !map.entries.is_empty(),
            Self::Object(_) => true,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Truth(_) => "a bool",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Object(_) => "an object",
        }
    }

    /// As an action prints it.
    pub fn printed(&self) -> String {
        match self {
            Self::Nil => "<no value>".to_owned(),
            other => {
                let mut text = String::new();
                other.print(&mut text);
                text
            }
        }
    }

    /// As `%v` prints it.
    pub fn print(&self, out: &mut String) {
        match self {
            Self::Nil => out.push_str("<nil>"),
            Self::Truth(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Self::Int(number) => {
                let _ = write!(out, "{number}");
            }
            Self::Float(number) => out.push_str(&float(*number)),
            Self::Text(text) => out.push_str(text),
            Self::List(list) => match (list.prints, list.as_slice()) {
                (Prints::Json, _) => json::write(self, out),
                (Prints::Types, []) => {}
                (Prints::Types, [only]) => only.print(out),
                (_, items) => {
                    out.push('[');
                    for (index, item) in items.iter().enumerate() {
                        out.push_str(if index == 0 { "" } else { " " });
                        item.print(out);
                    }
                    out.push(']');
                }
            },
            Self::Map(map) if map.prints == Prints::Go => {
                out.push_str("map[");
                for (index, (key, value)) in map.entries.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { " " });
                    out.push_str(key);
                    out.push(':');
                    value.print(out);
                }
                out.push(']');
            }
            Self::Map(_) | Self::Object(_) => json::write(self, out),
        }
    }
}

/// The members of a JSON object.
pub(super) fn entries(
    object: &serde_json::Map<String, serde_json::Value>,
) -> BTreeMap<String, Value> {
    object.iter().map(|(key, value)| (key.clone(), Value::of_json(value))).collect()
}

/// A float as `%v` prints it: with an exponent below -4 and from 6 on.
fn float(number: f64) -> String {
    let (digits, exponent) = scientific(number);
    if (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The shortest digits, with a point behind the first, and the exponent.
pub(super) fn scientific(number: f64) -> (String, i32) {
    let spelt = format!("{number:e}");
    let (digits, exponent) = spelt.split_once('e').unwrap_or((&spelt, "0"));
    (digits.to_owned(), exponent.parse().unwrap_or(0))
}
