//! Ollama's environment variables: which of them mean something here, and what to do instead of the others.
//!
//! What a variable is a flag for is read by that flag (`env = "…"`). A variable that would be without effect is told of once,
//! where a server starts, so that nobody believes in a limit that is not there.

use crate::out;

/// Variables of Ollama's server that have no effect here, and what has.
const WITHOUT_EFFECT: [(&str, &str); 13] = [
    ("OLLAMA_MODELS", "models are kept in the data directory: `--data-dir`"),
    ("OLLAMA_MAX_LOADED_MODELS", "memory decides how many models are loaded: `worker --memory`"),
    ("OLLAMA_FLASH_ATTENTION", "attention is always computed in one pass"),
    ("OLLAMA_GPU_OVERHEAD", "`worker --memory` says how much may be used"),
    ("OLLAMA_SCHED_SPREAD", "`deploy --strategy` says how a model is split"),
    ("OLLAMA_NOPRUNE", "bytes that no model needs are removed after a while"),
    ("OLLAMA_LLM_LIBRARY", "`worker --device` says what is computed on"),
    ("OLLAMA_INTEL_GPU", "`worker --device` says what is computed on"),
    ("OLLAMA_VULKAN", "`worker --device` says what is computed on"),
    ("OLLAMA_NO_CLOUD", "nothing is ever sent to a cloud"),
    ("OLLAMA_REMOTES", "nothing is ever sent to a cloud"),
    ("OLLAMA_NEW_ENGINE", "there is one engine"),
    ("OLLAMA_MULTIUSER_CACHE", "what was computed of a prompt is shared by all who send it"),
];

/// Whether a variable is set to something that is not `false` or `0`.
pub fn is_on(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| means_on(&value))
}

fn means_on(value: &str) -> bool {
    let value = value.trim().trim_matches(['"', '\'']);
    !matches!(value.to_lowercase().as_str(), "" | "0" | "f" | "false")
}

/// What `OLLAMA_DEBUG` asks of the log: 1 or `true` is `debug`, 2 and more is `trace`.
pub fn debug_level() -> Option<&'static str> {
    level(&std::env::var("OLLAMA_DEBUG").unwrap_or_default())
}

fn level(value: &str) -> Option<&'static str> {
    match value.trim().parse::<i64>() {
        Ok(..=0) => None,
        Ok(1) => Some("debug"),
        Ok(2..) => Some("trace"),
        Err(_) => means_on(value).then_some("debug"),
    }
}

/// Says which variables are set in vain.
pub fn warn() {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    for warning in warnings(is_set) {
        out::say(&warning);
    }
}

fn warnings(is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let vain = WITHOUT_EFFECT.iter().filter(|(name, _)| is_set(name));
    vain.map(|(name, instead)| format!("Warning: {name} has no effect here: {instead}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_on_unless_they_say_no() {
        for (value, on) in [
            ("1", true),
            ("true", true),
            ("yes", true),
            ("\"0\"", false),
            ("False", false),
            ("", false),
        ] {
            assert_eq!(means_on(value), on, "{value:?}");
        }
    }

    #[test]
    fn the_log_is_as_talkative_as_debug_says() {
        for (value, wanted) in [
            ("", None),
            ("0", None),
            ("false", None),
            ("1", Some("debug")),
            ("true", Some("debug")),
        ] {
            assert_eq!(level(value), wanted, "{value:?}");
        }
        assert_eq!(level("2"), Some("trace"));
    }

    #[test]
    fn what_is_set_in_vain_is_told_once_each() {
        assert_eq!(warnings(|_| false), Vec::<String>::new());
        assert_eq!(warnings(|_| true).len(), WITHOUT_EFFECT.len());
        let told = warnings(|name| name == "OLLAMA_MODELS");
        assert_eq!(
            told,
            [
                "Warning: OLLAMA_MODELS has no effect here: models are kept in the data directory: `--data-dir`"
            ]
        );
    }
}
