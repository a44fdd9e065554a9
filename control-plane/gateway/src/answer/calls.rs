//! Finds the tools that an answer calls: a tag and then JSON with a name and arguments, or JSON that is the whole answer.
//!
//! Families differ in the tag (`<tool_call>`, `[TOOL_CALLS]`, ...), in whether calls come one by one or in a list, and in the
//! names of the fields. What stands between tag and tag is a call when it parses as one and names a tool that was offered.

use super::{Call, Said, open_end};
use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How calls look in one answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Syntax {
    /// What stands before a call.
    pub tags: Vec<String>,
    /// Whether an answer that begins with JSON is a call, too.
    pub bare: bool,
    /// The tools that were offered.
    pub names: Vec<String>,
    /// What the ids of its calls come from.
    pub salt: u32,
}

/// What may stand behind a call and before the next.
const CLOSES: [&str; 8] = [
    "</tool_call>",
    "<|/tool_call|>",
    "<|tool_call_end|>",
    "</function_call>",
    "</function>",
    "<|eom_id|>",
    "<|eot_id|>",
    "```",
];
/// What Mistral's models write between a name and its arguments.
const ARGUMENTS: &str = "[ARGS]";
/// What some of them write before that, with an id of their own behind it.
const CALL_ID: &str = "[CALL_ID]";

/// Control tokens that stand around calls: a worker shows them only on request.
pub(super) fn closing() -> impl Iterator<Item = &'static str> {
    [ARGUMENTS, CALL_ID].into_iter().chain(CLOSES)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Nothing but white space has come.
    Beginning,
    /// In text.
    Text,
    /// Behind a tag.
    Call,
    /// Behind a call.
    Behind {
        /// Whether what ends a call has come.
        closed: bool,
    },
}

/// Finds the calls of one answer.
#[derive(Debug)]
pub(super) struct Finder {
    syntax: Syntax,
    place: Place,
    held: String,
    /// The tag before the call that is being read; empty for a bare one.
    tag: String,
    scan: Scan,
    count: usize,
}

/// How far a JSON value was read, to find its end in one pass.
#[derive(Debug, Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

/// What stands behind a tag.
enum Body {
    /// More has to come.
    Open,
    /// Calls, and the bytes they take.
    Calls(Vec<(String, Map<String, Value>)>, usize),
    /// None.
    Other,
}

impl Finder {
    pub(super) fn new(syntax: Syntax) -> Self {
        let place = if syntax.bare { Place::Beginning } else { Place::Text };
        let (held, tag, scan, count) = (String::new(), String::new(), Scan::default(), 0);
        Self { syntax, place, held, tag, scan, count }
    }

    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Said>) {
        self.held.push_str(text);
        while self.step(out) {}
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Said>) {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Beginning | Place::Text => out.push(Said::Text(held)),
            Place::Call => out.push(Said::Text(std::mem::take(&mut self.tag) + &held)),
            // White space, or half of what ends a call.
            Place::Behind { .. } => {}
        }
    }

    /// True when there is more to do.
    fn step(&mut self, out: &mut Vec<Said>) -> bool {
        match self.place {
            Place::Beginning => self.begin(),
            Place::Text => self.seek(out),
            Place::Call => self.call(out),
            Place::Behind { closed } => self.behind(closed),
        }
    }

    fn begin(&mut self) -> bool {
        let text = self.held.trim_start();
        let mut tags = self.syntax.tags.iter();
        if text.is_empty() || tags.clone().any(|tag| tag.starts_with(text) && tag != text) {
            return false;
        }
        let bare = text.starts_with(['{', '[']) && !tags.any(|tag| text.starts_with(tag.as_str()));
        self.place = if bare { Place::Call } else { Place::Text };
        true
    }

    fn seek(&mut self, out: &mut Vec<Said>) -> bool {
        let tags = self.syntax.tags.iter();
        let found = tags.filter_map(|tag| Some((self.held.find(tag.as_str())?, tag)));
        if let Some((at, tag)) = found.min_by_key(|found| found.0) {
            out.push(Said::Text(self.held[..at].trim_end().to_owned()));
            self.held.drain(..at + tag.len());
            self.tag.clone_from(tag);
            (self.place, self.scan) = (Place::Call, Scan::default());
            return true;
        }
        let open = self.syntax.tags.iter().map(|tag| open_end(&self.held, tag)).max();
        let rest = self.held.split_off(self.held.len() - open.unwrap_or(0));
        out.push(Said::Text(std::mem::replace(&mut self.held, rest)));
        false
    }

    fn call(&mut self, out: &mut Vec<Said>) -> bool {
        match self.body() {
            Body::Open if self.held.len() <= limits::TOOL_CALL_BYTES => return false,
            Body::Open | Body::Other => {
                out.push(Said::Text(std::mem::take(&mut self.tag)));
                self.place = Place::Text;
            }
            Body::Calls(calls, bytes) => {
                for (name, arguments) in calls {
                    // Odd, so that no two of an answer are the same.
                    let id = 0x9e37_79b1_u32
                        .wrapping_mul(self.count as u32)
                        .wrapping_add(self.syntax.salt);
                    let (id, index) = (format!("call_{id:08x}"), self.count);
                    out.push(Said::Call(Call { id, index, name, arguments }));
                    self.count += 1;
                }
                self.held.drain(..bytes);
                self.place = Place::Behind { closed: false };
            }
        }
        self.scan = Scan::default();
        true
    }

    fn body(&mut self) -> Body {
        let text = self.held.trim_start();
        let blank = self.held.len() - text.len();
        let Some(first) = text.chars().next() else { return Body::Open };
        if matches!(first, '{' | '[') {
            let Some(end) = self.scan.end(&self.held, blank) else { return Body::Open };
            let value = serde_json::from_str(&self.held[blank..end]);
            let calls = value.ok().and_then(|value| calls(value, &self.syntax.names));
            return calls.map_or(Body::Other, |calls| Body::Calls(calls, end));
        }
        // A name, and behind it the arguments.
        let named = self.syntax.names.iter().filter(|name| text.starts_with(name.as_str()));
        if let Some(name) = named.max_by_key(|name| name.len()) {
            let mut rest = text[name.len()..].trim_start();
            if let Some(id) = rest.strip_prefix(CALL_ID) {
                let Some(at) = id.find(ARGUMENTS) else { return Body::Open };
                rest = &id[at..];
            }
            let rest = rest.strip_prefix(ARGUMENTS).unwrap_or(rest).trim_start();
            if rest.starts_with('{') {
                let from = self.held.len() - rest.len();
                let Some(end) = self.scan.end(&self.held, from) else { return Body::Open };
                let Ok(arguments) = serde_json::from_str(&self.held[from..end]) else {
                    return Body::Other;
                };
                return Body::Calls(vec![(name.clone(), arguments)], end);
            }
            if [ARGUMENTS, CALL_ID].iter().any(|mark| mark.starts_with(rest)) {
                return Body::Open;
            }
        }
        let may_be = |name: &String| name.starts_with(text);
        if self.syntax.names.iter().any(may_be) { Body::Open } else { Body::Other }
    }

    fn behind(&mut self, mut closed: bool) -> bool {
        let mut text =
            self.held.trim_start_matches(|c: char| c.is_whitespace() || ",;".contains(c));
        let own = self.tag.strip_prefix('<').map(|name| format!("</{name}"));
        let closes = || CLOSES.into_iter().chain(own.as_deref());
        while let Some(rest) = closes().find_map(|close| text.strip_prefix(close)) {
            (text, closed) = (rest.trim_start(), true);
        }
        self.held = text.to_owned();
        self.place = Place::Behind { closed };
        let tags = self.syntax.tags.iter().map(String::as_str);
        let may_be = |tag: &str| tag.starts_with(&self.held) && tag != self.held;
        if self.held.is_empty() || tags.chain(closes()).any(may_be) {
            return false;
        }
        let goes_on = !closed && self.held.starts_with('{');
        self.place = if goes_on { Place::Call } else { Place::Text };
        // The next one has no tag of its own, should it be none.
        self.tag.clear();
        true
    }
}

impl Scan {
    /// The end of the value that begins at `from`; `None` while it is open.
    fn end(&mut self, text: &str, from: usize) -> Option<usize> {
        self.at = self.at.max(from);
        for (index, byte) in text.bytes().enumerate().skip(self.at) {
            self.at = index + 1;
            if self.in_text {
                let quoted = self.escaped;
                self.escaped = byte == b'\\' && !quoted;
                self.in_text = quoted || byte != b'"';
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.at);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// All calls of a value, or `None` when anything in it is none.
fn calls(value: Value, names: &[String]) -> Option<Vec<(String, Map<String, Value>)>> {
    match value {
        Value::Array(values) if !values.is_empty() => {
            values.into_iter().map(|value| call(value, names)).collect()
        }
        value => Some(vec![call(value, names)?]),
    }
}

fn call(value: Value, names: &[String]) -> Option<(String, Map<String, Value>)> {
    let Value::Object(mut fields) = value else { return None };
    if let Some(Value::Object(_)) = fields.get("function") {
        return call(fields.remove("function")?, names);
    }
    let is_offered = |name: &String| names.contains(name);
    let named = ["name", "function", "tool_name"].iter().find_map(|key| fields.get(*key)?.as_str());
    let Some(name) = named.map(str::to_owned) else {
        // The name alone, with the arguments as its value.
        let (name, value) = fields.into_iter().next()?;
        return is_offered(&name).then_some((name, arguments(value)?));
    };
    let given = ["arguments", "parameters", "args", name.as_str()];
    let given = given.iter().find_map(|key| fields.remove(*key));
    let arguments = given.map_or_else(|| Some(Map::new()), arguments)?;
    is_offered(&name).then_some((name, arguments))
}

fn arguments(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields),
        Value::Null => Some(Map::new()),
        // Some models write the object as a text.
        Value::String(text) => serde_json::from_str(&text).ok(),
        _ => None,
    }
}
