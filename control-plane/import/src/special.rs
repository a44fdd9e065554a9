//! Which tokens begin and end texts, from the four files that say something of it.
//!
//! `tokenizer_config.json` names them by spelling and comes first; `generation_config.json` and `config.json` name them by
//! number, the end of a generation sometimes as a list. What ends a generation and is not `eos` becomes `eot` and `eom`.

use crate::checkpoint::Checkpoint;
use crate::error::ImportError;
use crate::json::Json;
use ollamamax_gguf::Value as Entry;
use serde_json::Value;

impl Checkpoint {
    /// The entries of the roles; `id` finds a token by its spelling among `count`.
    pub(crate) fn roles(
        &self,
        count: usize,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Vec<(String, Entry)>, ImportError> {
        let spelt = |role: &str| {
            let named = self.tokenizer_config.as_ref()?.get(role)?;
            id(named.as_str().or_else(|| named["content"].as_str())?)
        };
        let configs = || self.generation.iter().chain([&self.config_json]);
        let numbered = |role: &str| -> Result<Vec<u32>, ImportError> {
            configs()
                .find_map(|json| json.get(role).map(|v| ids(json, role, v, count)))
                .unwrap_or(Ok(Vec::new()))
        };
        let mut ends = numbered("eos_token_id")?;
        let bos = spelt("bos_token").or(numbered("bos_token_id")?.first().copied());
        let eos = spelt("eos_token").or(ends.first().copied());
        ends.retain(|end| Some(*end) != eos);
        let roles = [
            ("bos", bos),
            ("eos", eos),
            ("eot", ends.first().copied()),
            ("eom", ends.get(1).copied()),
            ("unknown", spelt("unk_token")),
            ("padding", spelt("pad_token").or(numbered("pad_token_id")?.first().copied())),
        ];
        let entry = |role: &str, id: Option<u32>| {
            Some((format!("tokenizer.ggml.{role}_token_id"), Entry::U32(id?)))
        };
        let mut all: Vec<_> = roles.iter().filter_map(|(role, id)| entry(role, *id)).collect();
        let said = |field: &str| match &self.tokenizer_config {
            Some(json) => json.optional_truth(field),
            None => Ok(None),
        };
        let begins = said("add_bos_token")?.or_else(|| self.begins_with(bos));
        let begins = begins.unwrap_or(false) && bos.is_some();
        all.push(("tokenizer.ggml.add_bos_token".to_owned(), Entry::Bool(begins)));
        if let Some(ends) = said("add_eos_token")? {
            all.push(("tokenizer.ggml.add_eos_token".to_owned(), Entry::Bool(ends)));
        }
        if let Some(template) = self.chat_template() {
            all.push(("tokenizer.chat_template".to_owned(), Entry::Str(template)));
        }
        Ok(all)
    }

    /// Whether the tokenizer's own last step puts `bos` before a text.
    fn begins_with(&self, bos: Option<u32>) -> Option<bool> {
        let last = self.tokenizer.get("post_processor")?;
        let steps = last["processors"].as_array();
        let steps = steps.map_or_else(|| std::slice::from_ref(last), Vec::as_slice);
        let template = steps.iter().find(|step| step["type"] == "TemplateProcessing")?;
        let first = template["single"].get(0)?["SpecialToken"]["id"].as_str();
        let id = first.and_then(|first| template["special_tokens"][first]["ids"].get(0)?.as_u64());
        Some(id.is_some() && id == bos.map(u64::from))
    }

    /// The template of conversations: a file of its own, or a field, which may be a list of several by name.
    fn chat_template(&self) -> Option<String> {
        if let Some(template) = &self.template {
            return Some(template.clone());
        }
        let named = self.tokenizer_config.as_ref()?.get("chat_template")?;
        let default = || {
            let all = named.as_array()?;
            all.iter().find(|one| one["name"] == "default")?["template"].as_str()
        };
        named.as_str().or_else(default).map(str::to_owned)
    }
}

/// One id or several.
fn ids(json: &Json, role: &str, value: &Value, count: usize) -> Result<Vec<u32>, ImportError> {
    let list = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    let id = |value: &Value| {
        let id =
            value.as_u64().filter(|id| *id < count as u64).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| json.wrong(role, value, "a token of the vocabulary"))
    };
    list.iter().map(id).collect()
}
