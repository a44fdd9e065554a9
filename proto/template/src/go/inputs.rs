//! What a template reads: messages and tools in the shapes Ollama gives them, by the names its templates use.

use super::value::{Field, Object, Prints, Value, entries};
use crate::{TemplateError, fields};
use ollamamax_proto::inference::{Message, Think};
use serde_json::{Map as JsonMap, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The fields of a template's inputs. The last ones are from before tools and always empty.
const KNOWN: [&str; 13] = [
    "System",
    "Prompt",
    "Response",
    "Messages",
    "Tools",
    "Suffix",
    "Think",
    "ThinkLevel",
    "IsThinkSet",
    "First",
    "Query",
    "Document",
    "Instruction",
];

/// Whether templates may read a field of that name.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// What a template is run over: [`KNOWN`] fields, and nothing where one is not set.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs(BTreeMap<&'static str, Value>);

impl Inputs {
    pub fn new(think: Option<Think>) -> Self {
        let thinks = think.is_some_and(|think| think != Think::Off);
        let level = think.and_then(Think::level).unwrap_or_default();
        Self::default()
            .with("Think", Value::Truth(thinks))
            .with("ThinkLevel", Value::text(level))
            .with("IsThinkSet", Value::Truth(think.is_some()))
            .with("Response", Value::text(""))
    }

    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.0.insert(name, value);
        self
    }

    pub fn get(&self, name: &str) -> Value {
        self.0.get(name).cloned().unwrap_or(Value::Nil)
    }
}

/// Messages as `.Messages`; neighbours of one role become one, answers of tools apart.
pub(super) fn messages(messages: &[Collated<'_>]) -> Value {
    Value::list(messages.iter().map(Collated::value).collect(), Prints::Go)
}

/// One message, or several neighbours of one role.
#[derive(Debug)]
pub(super) struct Collated<'a> {
    pub role: &'a str,
    pub content: String,
    thinking: String,
    tool_calls: Vec<Value>,
    tool_name: String,
    tool_call_id: String,
}

/// Neighbouring messages of one role as one, as Ollama does it; nothing of what they call is lost.
pub(super) fn collate(messages: &[Message]) -> Result<Vec<Collated<'_>>, TemplateError> {
    let mut all: Vec<Collated<'_>> = Vec::new();
    for message in messages {
        let next = Collated::of(message)?;
        match all.last_mut().filter(|last| last.role == next.role && last.role != "tool") {
            Some(last) => {
                last.content.push_str("\n\n");
                last.content.push_str(&next.content);
                if last.thinking.is_empty() {
                    last.thinking = next.thinking;
                }
                last.tool_calls.extend(next.tool_calls);
            }
            None => all.push(next),
        }
    }
    Ok(all)
}

impl<'a> Collated<'a> {
    fn of(message: &'a Message) -> Result<Self, TemplateError> {
        let fields = fields(message)?;
        let text =
            |name: &str| fields.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
        let calls = fields.get("tool_calls").and_then(Json::as_array);
        Ok(Self {
            role: &message.role,
            content: message.content.clone(),
            thinking: text("thinking"),
            tool_calls: calls.into_iter().flatten().map(tool_call).collect(),
            tool_name: text("tool_name"),
            tool_call_id: text("tool_call_id"),
        })
    }

    fn value(&self) -> Value {
        object(
            vec![
                field("Role", "Role", Value::text(self.role)),
                field("Content", "Content", Value::text(&self.content)),
                field("Thinking", "Thinking", Value::text(&self.thinking)),
                field("Images", "Images", Value::list(Vec::new(), Prints::Go)),
                field("ToolCalls", "ToolCalls", Value::list(self.tool_calls.clone(), Prints::Go)),
                field("ToolName", "ToolName", Value::text(&self.tool_name)),
                field("ToolCallID", "ToolCallID", Value::text(&self.tool_call_id)),
            ],
            BTreeMap::new(),
        )
    }
}

fn field(name: &'static str, key: &'static str, value: Value) -> Field {
    Field { name, key, optional: false, value }
}

fn optional(name: &'static str, key: &'static str, value: Value) -> Field {
    Field { name, key, optional: true, value }
}

fn object(fields: Vec<Field>, rest: BTreeMap<String, Value>) -> Value {
    Value::Object(Arc::new(Object { fields, rest }))
}

fn tool_call(call: &Json) -> Value {
    let function = call.get("function").unwrap_or(&Json::Null);
    let text = |json: &Json, name: &str| {
        Value::text(json.get(name).and_then(Json::as_str).unwrap_or_default())
    };
    let arguments = match function.get("arguments") {
        Some(Json::Object(object)) => Value::map(entries(object), Prints::Json),
        None | Some(Json::Null) => Value::map(BTreeMap::new(), Prints::Json),
        Some(other) => Value::of_json(other),
    };
    let index = function.get("index").and_then(Json::as_i64).unwrap_or(0);
    let function = object(
        vec![
            field("Index", "Index", Value::Int(index)),
            field("Name", "Name", text(function, "name")),
            field("Arguments", "Arguments", arguments),
        ],
        BTreeMap::new(),
    );
    object(
        vec![field("ID", "ID", text(call, "id")), field("Function", "Function", function)],
        BTreeMap::new(),
    )
}

/// Tools as `.Tools`; `json` is an array or empty.
pub(super) fn tools(json: &str) -> Result<Value, TemplateError> {
    let tools: Vec<Json> =
        if json.trim().is_empty() { Vec::new() } else { crate::parse("tools", json)? };
    Ok(Value::list(tools.iter().map(tool).collect(), Prints::Json))
}

/// Takes what is known out of a JSON object; what remains goes along.
struct Taken(JsonMap<String, Json>);

impl Taken {
    fn of(json: Option<Json>) -> Self {
        match json {
            Some(Json::Object(object)) => Self(object),
            _ => Self(JsonMap::new()),
        }
    }

    fn take(&mut self, key: &str) -> Option<Json> {
        self.0.shift_remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Value {
        let text = self.take(key);
        Value::text(text.as_ref().and_then(Json::as_str).unwrap_or_default())
    }

    fn any(&mut self, key: &str) -> Value {
        self.take(key).as_ref().map_or(Value::Nil, Value::of_json)
    }

    fn list(&mut self, key: &str) -> Value {
        match self.any(key) {
            list @ Value::List(_) => list,
            _ => Value::list(Vec::new(), Prints::Go),
        }
    }

    fn rest(self) -> BTreeMap<String, Value> {
        entries(&self.0)
    }
}

fn tool(tool: &Json) -> Value {
    let Some(Json::Object(_)) = tool.get("function") else { return Value::of_json(tool) };
    let mut tool = Taken::of(Some(tool.clone()));
    let mut function = Taken::of(tool.take("function"));
    let mut parameters = Taken::of(function.take("parameters"));
    let parameters = object(
        vec![
            field("Type", "type", parameters.text("type")),
            optional("Defs", "$defs", parameters.any("$defs")),
            optional("Items", "items", parameters.any("items")),
            optional("Required", "required", parameters.list("required")),
            field("Properties", "properties", properties(parameters.take("properties"))),
        ],
        parameters.rest(),
    );
    let function = object(
        vec![
            field("Name", "name", function.text("name")),
            field("Description", "description", function.text("description")),
            field("Parameters", "parameters", parameters),
        ],
        function.rest(),
    );
    object(
        vec![
            field("Type", "type", tool.text("type")),
            optional("Items", "items", tool.any("items")),
            field("Function", "function", function),
        ],
        tool.rest(),
    )
}

fn properties(json: Option<Json>) -> Value {
    match json {
        Some(Json::Object(object)) => {
            let all = object.into_iter().map(|(name, schema)| (name, property(&schema))).collect();
            Value::map(all, Prints::Json)
        }
        _ => Value::Nil,
    }
}

fn property(schema: &Json) -> Value {
    if !schema.is_object() {
        return Value::of_json(schema);
    }
    let mut schema = Taken::of(Some(schema.clone()));
    let any_of = match schema.take("anyOf") {
        Some(Json::Array(all)) => all.iter().map(property).collect(),
        _ => Vec::new(),
    };
    let types = match schema.take("type") {
        Some(Json::Array(types)) => types.iter().map(Value::of_json).collect(),
        Some(only) => vec![Value::of_json(&only)],
        None => Vec::new(),
    };
    object(
        vec![
            optional("AnyOf", "anyOf", Value::list(any_of, Prints::Go)),
            optional("Type", "type", Value::list(types, Prints::Types)),
            optional("Items", "items", schema.any("items")),
            optional("Description", "description", schema.text("description")),
            optional("Enum", "enum", schema.list("enum")),
            optional("Properties", "properties", properties(schema.take("properties"))),
            optional("Required", "required", schema.list("required")),
        ],
        schema.rest(),
    )
}
