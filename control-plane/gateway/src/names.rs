//! Model names as clients send them.

use crate::error::Failure;
use ollamamax_core::State;
use ollamamax_core::record::ModelRecord;
use ollamamax_proto::ModelName;

/// The model a request names, from `model` or its old alias `name`.
pub fn named(model: Option<String>, alias: Option<String>) -> Result<String, Failure> {
    model
        .filter(|name| !name.is_empty())
        .or(alias)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure::invalid("model is required"))
}

/// A name that must be well-formed because something will be stored under it.
pub fn well_formed(text: &str) -> Result<ModelName, Failure> {
    without_suffix(text)
        .parse()
        .map_err(|error| Failure::invalid(format!("invalid model name: {error}")))
}

/// The name that a client means; nothing where it can be none's.
pub fn meant(text: &str) -> Option<ModelName> {
    without_suffix(text).parse().ok()
}

/// The catalogue's record of a model, or 404 in Ollama's words with the name as it was asked.
pub fn resolve(state: &State, text: &str) -> Result<ModelRecord, Failure> {
    let unknown = || Failure::unknown_model(text);
    let name: ModelName = without_suffix(text).parse().map_err(|_| unknown())?;
    state.models.get(&name).cloned().ok_or_else(unknown)
}

/// `:local` only says where to look, and everything here is local.
fn without_suffix(text: &str) -> &str {
    text.strip_suffix(":local").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_alias_still_names_a_model() {
        assert_eq!(named(None, Some("a".into())).expect("named"), "a");
        assert_eq!(named(Some("b".into()), Some("a".into())).expect("named"), "b");
        assert_eq!(
            named(Some(String::new()), None).expect_err("none").to_string(),
            "model is required"
        );
    }

    #[test]
    fn an_unknown_name_is_echoed_as_asked() {
        for text in ["x", "../../etc/passwd", "X:Y"] {
            let error = resolve(&State::default(), text).expect_err(text);
            assert_eq!(error.to_string(), format!("model '{text}' not found"));
        }
    }
}
