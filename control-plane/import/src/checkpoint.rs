//! A checkpoint: the files of a published model, found by their names.
//!
//! The tensors are in one `*.safetensors` or in several; an index says which then, and only those it names are read: some
//! repositories carry the same weights twice. Tensors of one name in two files are refused, whoever might be right.

use crate::bytes::ReadAt;
use crate::config::Config;
use crate::error::{ImportError, Quote};
use crate::json::Json;
use crate::safetensors::{Safetensors, Stored};
use ollamamax_proto::limits::CHECKPOINT_FILES_COUNT;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Files by name.
pub type Files = BTreeMap<String, Arc<dyn ReadAt>>;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const INDEX_END: &str = ".safetensors.index.json";
const WEIGHTS_END: &str = ".safetensors";

/// A checkpoint whose headers are read and whose numbers are checked.
pub struct Checkpoint {
    pub(crate) config: Config,
    pub(crate) config_json: Json,
    pub(crate) generation: Option<Json>,
    pub(crate) tokenizer: Json,
    pub(crate) tokenizer_config: Option<Json>,
    pub(crate) template: Option<String>,
    pub(crate) weights: Weights,
}

/// Tensors in files.
#[derive(Clone, Default)]
pub(crate) struct Weights {
    pub files: Vec<(String, Arc<dyn ReadAt>)>,
    /// By name: which file, and where in it.
    pub tensors: BTreeMap<String, (usize, Stored)>,
}

impl Checkpoint {
    /// Reads what stands in `files`, by their names without folders; other files are left alone.
    pub fn read(files: &Files) -> Result<Self, ImportError> {
        let (found, limit) = (files.len() as u64, CHECKPOINT_FILES_COUNT as u64);
        if found > limit {
            let (file, what) = (Quote::of("the checkpoint"), "the number of its files");
            return Err(ImportError::TooLarge { file, what, found, limit });
        }
        let needed = |file: &'static str, why| {
            let missing = || ImportError::MissingFile { file: Quote::of(file), why };
            Json::read(file, files.get(file).ok_or_else(missing)?.as_ref())
        };
        let optional = |file: &'static str| {
            files.get(file).map(|bytes| Json::read(file, bytes.as_ref())).transpose()
        };
        let config_json = needed(CONFIG, "it has the numbers of the model")?;
        let weights = Weights::read(files)?;
        let has_head = weights.tensors.contains_key("lm_head.weight");
        Ok(Self {
            config: Config::read(&config_json, has_head)?,
            config_json,
            generation: optional(GENERATION)?,
            tokenizer: needed(
                TOKENIZER,
                "it has the vocabulary; `AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes one",
            )?,
            tokenizer_config: optional(TOKENIZER_CONFIG)?,
            template: files.get(TEMPLATE).map(|bytes| text(bytes.as_ref())).transpose()?,
            weights,
        })
    }
}

/// A chat template that has a file of its own.
fn text(bytes: &dyn ReadAt) -> Result<String, ImportError> {
    let (found, limit) = (bytes.bytes(), ollamamax_proto::limits::GGUF_STRING_BYTES);
    let file = || Quote::of(TEMPLATE);
    if found > limit {
        let what = "its size in bytes";
        return Err(ImportError::TooLarge { file: file(), what, found, limit });
    }
    let mut all = vec![0; found as usize];
    let read = bytes.read_at(0, &mut all);
    let text = read.and_then(|()| String::from_utf8(all).map_err(std::io::Error::other));
    text.map_err(|source| ImportError::Read { file: file(), source })
}

impl Weights {
    /// The headers of all files that an index names, or of all there are.
    fn read(files: &Files) -> Result<Self, ImportError> {
        let indices: Vec<&String> = files.keys().filter(|name| name.ends_with(INDEX_END)).collect();
        let index = match indices.as_slice() {
            [] => None,
            [one] => Some(index(files[*one].as_ref())?),
            [first, second, ..] => {
                let tensor = Quote::of("(every one)");
                let (first, second) = (Quote::of(first), Quote::of(second));
                return Err(ImportError::Twice { tensor, first, second });
            }
        };
        let names: BTreeSet<&str> = match &index {
            Some(index) => index.values().map(String::as_str).collect(),
            None => files.keys().map(String::as_str).filter(|n| n.ends_with(WEIGHTS_END)).collect(),
        };
        let mut all = Self::default();
        for name in names {
            let missing = || ImportError::MissingFile {
                file: Quote::of(name),
                why: "the index of the checkpoint names it",
            };
            all.add(name, files.get(name).ok_or_else(missing)?)?;
        }
        if all.files.is_empty() {
            let why = "they have the weights";
            return Err(ImportError::MissingFile { file: Quote::of("*.safetensors"), why });
        }
        for (tensor, file) in index.iter().flatten() {
            let there = all.tensors.get(tensor).is_some_and(|(at, _)| all.files[*at].0 == *file);
            if !there {
                let reason = format!("the index says it has tensor {}", Quote::of(tensor));
                return Err(ImportError::Safetensors { file: Quote::of(file), reason });
            }
        }
        Ok(all)
    }

    /// Adds the tensors of a file.
    pub fn add(&mut self, name: &str, bytes: &Arc<dyn ReadAt>) -> Result<(), ImportError> {
        let read = Safetensors::read(name, bytes.as_ref())?;
        let at = self.files.len();
        self.files.push((name.to_owned(), Arc::clone(bytes)));
        for (tensor, stored) in read.tensors {
            if let Some((first, _)) = self.tensors.get(&tensor) {
                let first = Quote::of(&self.files[*first].0);
                let (tensor, second) = (Quote::of(tensor), Quote::of(name));
                return Err(ImportError::Twice { tensor, first, second });
            }
            self.tensors.insert(tensor, (at, stored));
        }
        Ok(())
    }
}

/// Which file has which tensor.
fn index(bytes: &dyn ReadAt) -> Result<BTreeMap<String, String>, ImportError> {
    const FILE: &str = "the index of the checkpoint";
    let json = Json::read(FILE, bytes)?;
    let map = json.needed("weight_map", "an object", Value::as_object)?;
    let file = |value: &Value| value.as_str().map(str::to_owned);
    map.iter()
        .map(|(tensor, value)| {
            let wrong = || json.wrong(&format!("weight_map.{tensor}"), value, "a file's name");
            Ok((tensor.clone(), file(value).ok_or_else(wrong)?))
        })
        .collect()
}
