//! The Modelfile: instructions that make a model out of a file or another model.
//!
//! One instruction a line, in any order and case; `#` starts a comment line; a value is bare, `"quoted"`, or `"""quoted over
//! several lines"""`. Only `FROM` is required. The grammar is Ollama's (`docs/modelfile.mdx`).

use serde_json::{Map, Value, json};

/// A parsed Modelfile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modelfile {
    /// What it is made from: a model's name or a path.
    pub from: String,
    /// Chat template.
    pub template: Option<String>,
    /// System prompt.
    pub system: Option<String>,
    /// Licence texts, in order.
    pub licenses: Vec<String>,
    /// Options in order of appearance.
    pub parameters: Vec<(String, String)>,
    /// An adapter to merge: a path.
    pub adapter: Option<String>,
    /// Messages (role, text) in order.
    pub messages: Vec<(String, String)>,
    /// `RENDERER`, `PARSER`, `REQUIRES`: passed on by their lower-case names.
    pub others: Vec<(String, String)>,
}

/// Why a text is no Modelfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelfileError {
    /// The first word of a line is no instruction.
    #[error("line {line}: unknown instruction `{word}`; expected one of {INSTRUCTIONS}")]
    UnknownInstruction {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        word: String,
    },
    /// Nothing follows the instruction.
    #[error("line {line}: `{instruction}` needs {expected}")]
    MissingValue {
        /// Counted from 1.
        line: usize,
        /// Which instruction.
        instruction: String,
        /// What should follow.
        expected: &'static str,
    },
    /// A quote that never ends.
    #[error("line {line}: the quoted text never ends; close it with {quote}")]
    OpenQuote {
        /// Where it starts, counted from 1.
        line: usize,
        /// `"` or `"""`.
        quote: &'static str,
    },
    /// A role that no message has.
    #[error("line {line}: unknown role `{role}`; expected `system`, `user` or `assistant`")]
    UnknownRole {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        role: String,
    },
    /// An option that is not a number or truth value where it must be.
    #[error("parameter `{name}` has the value `{value}`; expected {expected}")]
    BadParameter {
        /// The option.
        name: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A second adapter.
    #[error("line {line}: a second ADAPTER; create from this one's result with another Modelfile")]
    SecondAdapter {
        /// Counted from 1.
        line: usize,
    },
    /// An instruction that is not supported.
    #[error("line {line}: `{instruction}` is not supported; leave it out")]
    Unsupported {
        /// Counted from 1.
        line: usize,
        /// Which instruction.
        instruction: String,
    },
    /// FROM is missing.
    #[error("no FROM line")]
    NoFrom,
}

const INSTRUCTIONS: &str =
    "FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, LICENSE, MESSAGE, RENDERER, PARSER, REQUIRES";

/// Parses a Modelfile.
pub fn parse(text: &str) -> Result<Modelfile, ModelfileError> {
    let mut file = Modelfile::default();
    let mut reader = Reader { rest: text.trim_start_matches('\u{feff}'), line: 1 };
    while let Some((line, word)) = reader.instruction() {
        let instruction = word.to_uppercase();
        let value = |reader: &mut Reader<'_>, expected| {
            let value = reader.value()?;
            if value.is_empty() && expected != MAY_BE_EMPTY {
                return Err(ModelfileError::MissingValue {
                    line,
                    instruction: instruction.clone(),
                    expected,
                });
            }
            Ok(value)
        };
        match instruction.as_str() {
            "FROM" => file.from = value(&mut reader, "a model name or a path")?,
            "TEMPLATE" => file.template = Some(value(&mut reader, MAY_BE_EMPTY)?),
            "SYSTEM" => file.system = Some(value(&mut reader, MAY_BE_EMPTY)?),
            "LICENSE" => file.licenses.push(value(&mut reader, MAY_BE_EMPTY)?),
            "PARAMETER" => {
                let name = reader.word().to_lowercase();
                let value = value(&mut reader, "a name and a value")?;
                file.parameters.push((name, value));
            }
            "MESSAGE" => {
                let role = reader.word().to_lowercase();
                if !["system", "user", "assistant"].contains(&role.as_str()) {
                    return Err(ModelfileError::UnknownRole { line, role });
                }
                let content = value(&mut reader, "a role and a text")?;
                file.messages.push((role, content));
            }
            "RENDERER" | "PARSER" | "REQUIRES" => {
                let text = value(&mut reader, "a value")?;
                file.others.push((instruction.to_lowercase(), text));
            }
            "ADAPTER" if file.adapter.is_some() => {
                return Err(ModelfileError::SecondAdapter { line });
            }
            "ADAPTER" => file.adapter = Some(value(&mut reader, "a path")?),
            "DRAFT" => return Err(ModelfileError::Unsupported { line, instruction }),
            _ => return Err(ModelfileError::UnknownInstruction { line, word }),
        }
    }
    if file.from.is_empty() {
        return Err(ModelfileError::NoFrom);
    }
    Ok(file)
}

const MAY_BE_EMPTY: &str = "a text";

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    /// The line and first word of the next instruction; blank and comment lines are skipped.
    fn instruction(&mut self) -> Option<(usize, String)> {
        loop {
            self.skip(|c| c.is_whitespace());
            if self.rest.is_empty() {
                return None;
            }
            if self.rest.starts_with('#') {
                self.skip(|c| c != '\n');
                continue;
            }
            let line = self.line;
            return Some((line, self.word()));
        }
    }

    /// The next word of this line.
    fn word(&mut self) -> String {
        self.skip(is_blank);
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// The rest of this line, or a quoted text.
    fn value(&mut self) -> Result<String, ModelfileError> {
        self.skip(is_blank);
        let line = self.line;
        for quote in ["\"\"\"", "\""] {
            let Some(inner) = self.rest.strip_prefix(quote) else { continue };
            let Some(end) = inner.find(quote) else {
                return Err(ModelfileError::OpenQuote { line, quote });
            };
            let after = &inner[end + quote.len()..];
            let rest_of_line = after.split('\n').next().unwrap_or_default();
            if quote == "\"" && !rest_of_line.trim().is_empty() {
                // `"a" and "b"`: a bare value that happens to start with a quote.
                break;
            }
            let value = inner[..end].to_owned();
            self.line += value.matches('\n').count();
            self.rest = after;
            self.skip(|c| c != '\n');
            return Ok(value);
        }
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(value.trim().to_owned())
    }

    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        let end = self.rest.find(|c| !skipped(c)).unwrap_or(self.rest.len());
        self.line += self.rest[..end].matches('\n').count();
        self.rest = &self.rest[end..];
    }
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() && c != '\n'
}

/// Options that hold several values.
const LISTS: [&str; 1] = ["stop"];
/// Options that are whole numbers.
const INTEGERS: [&str; 12] = [
    "num_keep",
    "seed",
    "num_predict",
    "top_k",
    "repeat_last_n",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "draft_num_predict",
    "mirostat",
];
/// Options that are numbers.
const NUMBERS: [&str; 9] = [
    "top_p",
    "min_p",
    "typical_p",
    "temperature",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat_tau",
    "mirostat_eta",
];
/// Options that are true or false.
const TRUTHS: [&str; 5] = ["use_mmap", "penalize_newline", "numa", "low_vram", "use_mlock"];

impl Modelfile {
    /// The fields of `/api/create` that do not depend on files.
    pub fn to_request(&self, model: &str) -> Result<Map<String, Value>, ModelfileError> {
        let mut request = Map::new();
        let mut put = |name: &str, value: Value| request.insert(name.to_owned(), value);
        put("model", json!(model));
        if let Some(template) = &self.template {
            put("template", json!(template));
        }
        if let Some(system) = &self.system {
            put("system", json!(system));
        }
        if !self.licenses.is_empty() {
            put("license", json!(self.licenses));
        }
        if !self.messages.is_empty() {
            let message = |(role, content)| json!({"role": role, "content": content});
            put("messages", self.messages.iter().map(|(r, c)| (r, c)).map(message).collect());
        }
        for (name, value) in &self.others {
            put(name, json!(value));
        }
        let parameters = self.typed_parameters()?;
        if !parameters.is_empty() {
            put("parameters", Value::Object(parameters));
        }
        Ok(request)
    }

    fn typed_parameters(&self) -> Result<Map<String, Value>, ModelfileError> {
        let mut parameters = Map::new();
        for (name, text) in &self.parameters {
            let bad = |expected| ModelfileError::BadParameter {
                name: name.clone(),
                value: text.clone(),
                expected,
            };
            let value = if LISTS.contains(&name.as_str()) {
                let list = parameters.entry(name.clone()).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(json!(text));
                }
                continue;
            } else if INTEGERS.contains(&name.as_str()) {
                json!(text.parse::<i64>().map_err(|_| bad("a whole number"))?)
            } else if NUMBERS.contains(&name.as_str()) {
                let number: f64 = text.parse().map_err(|_| bad("a number"))?;
                serde_json::Number::from_f64(number).ok_or_else(|| bad("a finite number"))?.into()
            } else if TRUTHS.contains(&name.as_str()) {
                json!(text.parse::<bool>().map_err(|_| bad("`true` or `false`"))?)
            } else {
                return Err(bad("the name of a known option"));
            };
            parameters.insert(name.clone(), value);
        }
        Ok(parameters)
    }
}

#[cfg(test)]
#[path = "modelfile_tests.rs"]
mod tests;
