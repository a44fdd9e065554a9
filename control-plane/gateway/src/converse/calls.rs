//! The JSON schema of a call: what an answer is held to where a tool must be called.
//!
//! Tools are described for the model to read, so their schemas hold what no grammar can be made of. That is taken out: a call
//! that is a little too free is better than a request that is refused.

use serde_json::{Map, Value, json};

/// What a tool is called, if it is called anything.
pub(super) fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str().filter(|name| !name.is_empty())
}

/// What the tools are called.
pub(super) fn names(tools: &[Value]) -> Vec<String> {
    tools.iter().filter_map(name_of).map(str::to_owned).collect()
}

/// What a call of one of the tools is. Definitions that tools bring are told apart by the place of their tool.
pub(super) fn call_schema(tools: &[Value]) -> Value {
    let mut definitions = Map::new();
    let mut calls = Vec::new();
    for (place, tool) in tools.iter().enumerate() {
        let Some(name) = name_of(tool) else { continue };
        let mut arguments = tool["function"]["parameters"].clone();
        if !arguments.is_object() {
            arguments = json!({"type": "object"});
        }
        loosen(&mut arguments);
        let mut recurs = false;
        for key in ["$defs", "definitions"] {
            let own = arguments.as_object_mut().and_then(|fields| fields.shift_remove(key));
            let Some(Value::Object(own)) = own else { continue };
            for (name, mut definition) in own {
                recurs |= refer(&mut definition, place);
                definitions.insert(format!("{place}_{name}"), definition);
            }
        }
        recurs |= refer(&mut arguments, place);
        if recurs {
            let whole = std::mem::replace(&mut arguments, json!({"$ref": whole_of(place)}));
            definitions.insert(format!("{place}_"), whole);
        }
        calls.push(json!({
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        }));
    }
    let mut schema = json!({"anyOf": calls});
    if !definitions.is_empty() {
        schema["$defs"] = Value::Object(definitions);
    }
    schema
}

fn whole_of(place: usize) -> String {
    format!("#/$defs/{place}_")
}

/// Lets references find the definitions of the tool at `place` where these are now. True when one means the whole.
fn refer(schema: &mut Value, place: usize) -> bool {
    match schema {
        Value::Object(fields) => {
            let mut any = false;
            for (key, value) in fields {
                let target = value.as_str().filter(|_| key == "$ref");
                let own = target.and_then(|target| {
                    target.strip_prefix("#/$defs/").or(target.strip_prefix("#/definitions/"))
                });
                if target == Some("#") {
                    (*value, any) = (Value::String(whole_of(place)), true);
                } else if let Some(name) = own {
                    *value = Value::String(format!("#/$defs/{place}_{name}"));
                } else {
                    any |= refer(value, place);
                }
            }
            any
        }
        Value::Array(values) => {
            let mut any = false;
            values.iter_mut().for_each(|value| any |= refer(value, place));
            any
        }
        _ => false,
    }
}

/// What says more than a grammar can hold.
const TOO_MUCH: [&str; 14] = [
    "uniqueItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "$schema",
    "$id",
];
/// Formats of texts that a grammar can hold.
const FORMATS: [&str; 9] =
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];

/// Takes out of a schema, and of those in it, what no grammar can be made of. What only looks like that, because a property has
/// its name, stays.
fn loosen(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for key in TOO_MUCH {
        fields.shift_remove(key);
    }
    if fields.get("format").is_some_and(|f| f.as_str().is_none_or(|f| !FORMATS.contains(&f))) {
        fields.shift_remove("format");
    }
    if let Some(one) = fields.shift_remove("oneOf") {
        fields.entry("anyOf").or_insert(one);
    }
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(all)) => {
                all.values_mut().for_each(loosen);
            }
            ("anyOf" | "allOf" | "prefixItems" | "items", Value::Array(all)) => {
                all.iter_mut().for_each(loosen);
            }
            ("items" | "additionalProperties" | "additionalItems", value) => loosen(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, parameters: Value) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    }

    #[test]
    fn a_call_is_described_with_definitions_of_its_own_tool() {
        let shared = |kind: &str| {
            json!({"type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}},
                "$defs": {"Place": {"type": kind}}})
        };
        let tools =
            [tool("a", shared("string")), tool("b", shared("integer")), tool("c", Value::Null)];
        let schema = call_schema(&tools);
        let arguments = |at: usize| &schema["anyOf"][at]["properties"]["arguments"];
        let definitions = json!({"0_Place": {"type": "string"}, "1_Place": {"type": "integer"}});
        assert_eq!(schema["$defs"], definitions);
        let referring =
            json!({"type": "object", "properties": {"at": {"$ref": "#/$defs/1_Place"}}});
        assert_eq!(arguments(1), &referring);
        assert_eq!(arguments(2), &json!({"type": "object"}));
        assert_eq!(schema["anyOf"][2]["properties"]["name"], json!({"const": "c"}));
    }

    #[test]
    fn a_tool_that_takes_itself_is_a_definition() {
        let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}}});
        let schema = call_schema(&[tool("t", tree)]);
        let arguments = &schema["anyOf"][0]["properties"]["arguments"];
        assert_eq!(arguments, &json!({"$ref": "#/$defs/0_"}));
        let whole = json!({"type": "object", "properties": {"left": {"$ref": "#/$defs/0_"}}});
        assert_eq!(schema["$defs"]["0_"], whole);
    }

    #[test]
    fn what_no_grammar_holds_is_left_out_and_properties_of_such_names_stay() {
        let mut schema = json!({
            "$schema": "x", "type": "object", "not": {"required": ["a"]},
            "properties": {
                "not": {"type": "string", "format": "byte"},
                "when": {"type": "string", "format": "date"},
                "which": {"oneOf": [{"type": "array", "uniqueItems": true}, {"type": "null"}]},
            },
        });
        loosen(&mut schema);
        let loose = json!({
            "type": "object",
            "properties": {
                "not": {"type": "string"},
                "when": {"type": "string", "format": "date"},
                "which": {"anyOf": [{"type": "array"}, {"type": "null"}]},
            },
        });
        assert_eq!(schema, loose);
    }
}
