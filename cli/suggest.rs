//! What to type next when a name is not known: the nearest that is, and the command that brings it.

use crate::client::Client;
use crate::exit::Failure;
use crate::list::{elements, text};
use serde_json::Value;

/// Least similarity (Jaro-Winkler, 0 to 1) of a name that is offered.
const NEAR: f64 = 0.75;

/// The same failure, with what to do next where that can be told.
pub async fn next(client: &Client, failure: Failure) -> Failure {
    let Failure::Refused { status: 404, message } = &failure else { return failure };
    let Some((kind, name)) = missing(message) else { return failure };
    let known = match kind {
        Kind::Model => client.get("/api/tags").await.map(|answer| names(&answer["models"])),
        Kind::Worker => {
            client.get("/admin/v1/workers").await.map(|answer| names(&answer["workers"]))
        }
    };
    let hint = hint(kind, name, &known.unwrap_or_default());
    Failure::Refused { status: 404, message: format!("{message}; {hint}") }
}

/// What is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Worker,
}

/// What a message says is missing.
fn missing(message: &str) -> Option<(Kind, &str)> {
    let kinds = [("model", Kind::Model), ("worker", Kind::Worker)];
    let (at, kind) = kinds.iter().find_map(|(word, kind)| Some((message.find(word)?, *kind)))?;
    let rest = &message[at..];
    let open = rest.find(['\'', '"', '`'])?;
    let quote = rest[open..].chars().next()?;
    let name = rest[open + 1..].split(quote).next()?;
    (!name.is_empty() && name.len() < 200).then_some((kind, name))
}

fn names(list: &Value) -> Vec<String> {
    elements(list).iter().map(|item| text(item, "name")).collect()
}

fn hint(kind: Kind, name: &str, known: &[String]) -> String {
    let name = name.trim_end_matches(":latest");
    match (kind, nearest(name, known)) {
        (Kind::Model, Some(near)) => {
            format!(
                "did you mean `{near}`? `ollamamax list` shows all, `ollamamax pull {name}` gets it"
            )
        }
        (Kind::Model, None) => {
            format!("`ollamamax list` shows what there is, `ollamamax pull {name}` gets it")
        }
        (Kind::Worker, Some(near)) => {
            format!("did you mean `{near}`? `ollamamax workers list` shows all")
        }
        (Kind::Worker, None) => "`ollamamax workers list` shows what there is".to_owned(),
    }
}

/// The known name that is most like one, if any is like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a String>) -> Option<&'a str> {
    let bare = |text: &str| text.to_lowercase().trim_end_matches(":latest").to_owned();
    let wanted = bare(name);
    let likeness = |other: &&String| strsim::jaro_winkler(&wanted, &bare(other));
    let scored = known.into_iter().map(|other| (likeness(&other), other));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= NEAR).then_some(best.1.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_read_from_the_message() {
        for (message, found) in [
            ("model 'x:latest' not found", Some((Kind::Model, "x:latest"))),
            ("model \"x\" not found, try pulling it first", Some((Kind::Model, "x"))),
            ("no worker is called `gpu-z`", Some((Kind::Worker, "gpu-z"))),
            ("404 page not found", None),
            ("model '' not found", None),
        ] {
            assert_eq!(missing(message), found, "{message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_read(message in "(model|worker|é|'|\"|`| |x){0,12}") {
            if let Some((_, name)) = missing(&message) {
                proptest::prop_assert!(!name.is_empty() && message.contains(name));
            }
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_seen_through() {
        let known = ["smollm2:135m", "qwen3:8b", "mine:latest"].map(str::to_owned);
        for (typed, near) in [
            ("smolm2:135m", Some("smollm2:135m")),
            ("Smollm2", Some("smollm2:135m")),
            ("mime", Some("mine:latest")),
            ("mistral", None),
        ] {
            assert_eq!(nearest(typed, &known), near, "{typed}");
        }
        let hint = hint(Kind::Model, "mime", &known);
        assert!(
            hint.contains("did you mean `mine:latest`?") && hint.contains("pull mime"),
            "{hint}"
        );
    }
}
