//! JSON schemas on their way to the compiler: what it would take too long over, or get wrong, is refused here by name.

use ollamamax_proto::limits;
use serde_json::{Map, Number, Value, json};

/// Whitespace between the parts of a value, once at each place: a space, or line breaks with an indentation. Without a
/// bound small models fall into writing nothing else. The pattern is llama.cpp's.
const WHITESPACE: &str = r"\x20|\n{1,2}[\x20\t]{0,20}";
/// Whole numbers up to this size are exact in a double, which is what the compiler counts in.
const NUMBER_MAX: f64 = 9_007_199_254_740_992.0;

/// The schema of `json`: any object.
pub(super) fn any_object() -> Value {
    with_whitespace(Map::from_iter([("type".to_owned(), json!("object"))]))
}

/// A schema from its text.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let schema: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    let mut found = Found { multiples: 1, patterns: 0, joined: false };
    schema.iter().try_for_each(|(key, value)| found.look(key, value))?;
    let mut schema = with_whitespace(schema);
    if !found.joined {
        close(&mut schema);
    }
    Ok(schema)
}

/// Leaves objects only the properties that are listed, where a schema does not say whether there may be others: as Ollama
/// has it, and what is meant. Small models would fill in one property after the other.
fn close(schema: &mut Value) {
    const OF_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
    const LISTS: [&str; 3] = ["anyOf", "oneOf", "prefixItems"];
    const SCHEMAS: [&str; 2] = ["items", "additionalProperties"];
    let Value::Object(keywords) = schema else { return };
    let says = [
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "anyOf",
        "oneOf",
        "$ref",
    ];
    if keywords.contains_key("properties") && !says.iter().any(|key| keywords.contains_key(*key)) {
        keywords.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for (key, value) in keywords {
        match value {
            Value::Object(schemas) if OF_SCHEMAS.contains(&key.as_str()) => {
                schemas.values_mut().for_each(close);
            }
            Value::Array(schemas) if LISTS.contains(&key.as_str()) => {
                schemas.iter_mut().for_each(close);
            }
            Value::Object(_) if SCHEMAS.contains(&key.as_str()) => close(value),
            _ => {}
        }
    }
}

/// `x-guidance` holds the compiler's options; a client's own are not for it to choose.
fn with_whitespace(mut schema: Map<String, Value>) -> Value {
    schema.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": WHITESPACE }));
    Value::Object(schema)
}

/// What of a schema adds up.
struct Found {
    /// Least common multiple of all `multipleOf`, as whole numbers: the states of an automaton that checks them.
    multiples: u64,
    /// Entries of all `patternProperties`: each pair is compared.
    patterns: usize,
    /// Whether schemas are joined by `allOf`: each of them then has to allow what the others list.
    joined: bool,
}

impl Found {
    fn look(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match value {
            Value::Number(number) if key == "multipleOf" => self.multiple(number),
            Value::Number(number) => {
                let size = number.as_f64().map_or(f64::INFINITY, f64::abs);
                if size > NUMBER_MAX {
                    return Err(format!("`{key}` is {number}, at most {NUMBER_MAX} is exact"));
                }
                Ok(())
            }
            Value::Array(values) => {
                self.joined |= key == "allOf" && values.len() > 1;
                values.iter().try_for_each(|value| self.look(key, value))
            }
            Value::Object(entries) => {
                if key == "patternProperties" {
                    self.patterns += entries.len();
                    let (count, most) = (self.patterns, limits::CONSTRAINT_PATTERNS_COUNT);
                    if count > most {
                        return Err(format!(
                            "`{key}` has {count} entries, at most {most} are accepted"
                        ));
                    }
                }
                entries.iter().try_for_each(|(key, value)| self.look(key, value))
            }
            Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        }
    }

    fn multiple(&mut self, number: &Number) -> Result<(), String> {
        let most = limits::CONSTRAINT_MULTIPLE_MAX;
        let whole = whole(&number.to_string()).filter(|whole| (1..=most).contains(whole));
        let multiples = whole.map(|whole| self.multiples / divisor(self.multiples, whole) * whole);
        self.multiples = multiples.filter(|multiples| *multiples <= most).ok_or_else(|| {
            format!(
                "`multipleOf` is {number}; all of them together, without their decimal points, may have a least common \
                 multiple of {most}"
            )
        })?;
        Ok(())
    }
}

/// The digits of a positive decimal number as one whole number: 0.25 gives 25, which has as many remainders.
fn whole(number: &str) -> Option<u64> {
    let (before, after) = number.split_once('.').unwrap_or((number, ""));
    format!("{before}{}", after.trim_end_matches('0')).parse().ok()
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_without_whitespace(schema: &Value) -> Value {
        let mut read = read(&schema.to_string()).expect("a sound schema");
        read.as_object_mut().expect("an object").remove("x-guidance");
        read
    }

    #[test]
    fn objects_have_the_properties_that_are_listed_unless_their_schema_says_more() {
        // A property may be called like a keyword, and a constant may look like a schema.
        let listed = json!({"properties": {"a": {"items": {"properties": {"b": true}}}, "properties": {"type": "null"},
            "c": {"const": {"properties": {}}}}});
        let closed = json!({"additionalProperties": false, "properties": {
            "a": {"items": {"properties": {"b": true}, "additionalProperties": false}}, "properties": {"type": "null"},
            "c": {"const": {"properties": {}}}}});
        assert_eq!(read_without_whitespace(&listed), closed);
        for open in [
            json!({"type": "object"}),
            json!({"properties": {"a": true}, "additionalProperties": true}),
            json!({"properties": {"a": true}, "additionalProperties": {"type": "string"}}),
            json!({"properties": {"a": true}, "patternProperties": {"b": true}}),
            json!({"properties": {"a": true}, "anyOf": [{"required": ["b"]}]}),
            json!({"allOf": [{"properties": {"a": true}}, {"properties": {"b": true}}]}),
        ] {
            assert_eq!(read_without_whitespace(&open), open);
        }
    }
}
