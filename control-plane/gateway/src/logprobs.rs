//! Log-probabilities as Ollama and OpenAI write them: the same fields, of which Ollama leaves out the empty ones.

use ollamamax_proto::inference::{Logprob, TokenLogprob};
use serde::Serialize;
use utoipa::ToSchema;

/// A token of the output.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = TokenLogprob)]
pub(crate) struct Told {
    #[serde(flatten)]
    chosen: Rival,
    /// The likeliest, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Rival>>,
}

/// A token that could have stood there.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Logprob)]
struct Rival {
    /// Bytes that are no text by themselves are shown as U+FFFD; `bytes` has them as they are.
    token: String,
    /// The logarithm of its probability.
    logprob: f32,
    /// Its bytes.
    bytes: Vec<u8>,
}

impl From<&Logprob> for Rival {
    fn from(logprob: &Logprob) -> Self {
        Self {
            token: String::from_utf8_lossy(&logprob.bytes).into_owned(),
            logprob: logprob.logprob,
            bytes: logprob.bytes.clone(),
        }
    }
}

/// As `/api/generate` and `/api/chat` answer them.
pub(crate) fn ollama(logprobs: &[TokenLogprob]) -> Vec<Told> {
    let told = |token: &TokenLogprob| Told {
        chosen: (&token.chosen).into(),
        top_logprobs: Some(rivals(token)).filter(|rivals| !rivals.is_empty()),
    };
    logprobs.iter().map(told).collect()
}

/// As OpenAI's clients expect them: `top_logprobs` is always there.
pub(crate) fn openai(logprobs: &[TokenLogprob]) -> Vec<Told> {
    let told = |token: &TokenLogprob| Told {
        chosen: (&token.chosen).into(),
        top_logprobs: Some(rivals(token)),
    };
    logprobs.iter().map(told).collect()
}

fn rivals(token: &TokenLogprob) -> Vec<Rival> {
    token.top.iter().map(Rival::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_shape() {
        let logprob = |bytes: &[u8]| Logprob { token: 1, logprob: -0.5, bytes: bytes.to_vec() };
        let alone = TokenLogprob { chosen: logprob(b"a"), top: vec![] };
        let with = TokenLogprob { chosen: logprob(b"\xc3"), top: vec![logprob("é".as_bytes())] };
        let text = |told: Vec<Told>| serde_json::to_string(&told).expect("JSON");
        let a = r#"{"token":"a","logprob":-0.5,"bytes":[97]"#;
        assert_eq!(text(ollama(std::slice::from_ref(&alone))), format!("[{a}}}]"));
        assert_eq!(
            text(openai(std::slice::from_ref(&alone))),
            format!(r#"[{a},"top_logprobs":[]}}]"#)
        );
        let expected = "[{\"token\":\"\u{fffd}\",\"logprob\":-0.5,\"bytes\":[195],\"top_logprobs\":\
            [{\"token\":\"é\",\"logprob\":-0.5,\"bytes\":[195,169]}]}]";
        assert_eq!(text(ollama(std::slice::from_ref(&with))), expected);
        assert_eq!(text(openai(&[with])), expected);
    }
}
