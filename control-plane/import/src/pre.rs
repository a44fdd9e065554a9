//! How a tokenizer cuts text into words, found by what its `tokenizer.json` says, and named as GGUFs name it.
//!
//! llama.cpp finds it by the tokens of a long text. What decides over those tokens is in the file: the expressions, the
//! normaliser, whether whole words skip the merges. Each kind is taken only when all of them are what it consists of; anything
//! else is refused, since a neighbouring kind would give slightly different tokens and quietly worse answers.

use crate::error::{ImportError, Quote};
use serde_json::Value;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How pieces become tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Byte pairs merge; the name of the rule that cuts words.
    Bytes(&'static str),
    /// Characters merge, and spaces are `▁`; whether one is put before a text.
    Pieces { space_first: bool },
}

/// Finds it.
pub(crate) fn kind(tokenizer: &Value) -> Result<Kind, ImportError> {
    let model = &tokenizer["model"];
    if model["type"].as_str() != Some("BPE") {
        return Err(unsupported("the tokenizer model", &model["type"], "only `BPE` is"));
    }
    if model["byte_fallback"].as_bool() == Some(true) {
        return pieces(tokenizer);
    }
    let normaliser = &tokenizer["normalizer"];
    let cut = &tokenizer["pre_tokenizer"];
    let steps = steps(cut, "pretokenizers");
    let spelt = |step: &Value| is(step, "ByteLevel") && step["add_prefix_space"] != true;
    let Some((last, steps)) = steps.split_last().filter(|(last, _)| spelt(last)) else {
        return Err(unknown(cut));
    };
    let by_itself = last["use_regex"].as_bool().unwrap_or(true);
    let whole_words = model["ignore_merges"].as_bool().unwrap_or(false);
    let name = match steps {
        [] if by_itself => "gpt-2",
        [digits] if by_itself && is(digits, "Digits") && digits["individual_digits"] == true => {
            "smollm"
        }
        [split] if !by_itself && isolates(split, LLAMA3) => "llama-bpe",
        [split] if !by_itself && isolates(split, QWEN2) => "qwen2",
        _ => return Err(unknown(cut)),
    };
    // What is composed already stays as it is under NFC, which is what nearly all text is.
    if !(normaliser.is_null() || name == "qwen2" && is(normaliser, "NFC")) {
        return Err(unsupported("the normaliser", normaliser, "none is expected here"));
    }
    if whole_words != (name == "llama-bpe") {
        let instead = "it goes with the words of Llama 3 and with no others";
        return Err(unsupported("`ignore_merges`", &Value::Bool(whole_words), instead));
    }
    Ok(Kind::Bytes(name))
}

/// SentencePiece's, as it is written down by Transformers: an old and a newer way.
fn pieces(tokenizer: &Value) -> Result<Kind, ImportError> {
    let normaliser = &tokenizer["normalizer"];
    let cut = &tokenizer["pre_tokenizer"];
    if normaliser.is_null() && is(cut, "Metaspace") && cut["replacement"] == "\u{2581}" {
        let by_scheme = match cut["prepend_scheme"].as_str() {
            Some("always" | "first") => Some(true),
            Some("never") => Some(false),
            Some(_) => None,
            None => cut["add_prefix_space"].as_bool(),
        };
        let space_first = by_scheme.ok_or_else(|| unknown(cut))?;
        return if cut["split"] == true {
            Err(unknown(cut))
        } else {
            Ok(Kind::Pieces { space_first })
        };
    }
    let replaces = |step: &Value| {
        is(step, "Replace") && step["pattern"]["String"] == " " && step["content"] == "\u{2581}"
    };
    let prepends = |step: &Value| is(step, "Prepend") && step["prepend"] == "\u{2581}";
    let steps = steps(normaliser, "normalizers");
    match (steps.as_slice(), cut.is_null()) {
        ([first, second], true) if prepends(first) && replaces(second) => {
            Ok(Kind::Pieces { space_first: true })
        }
        ([only], true) if replaces(only) => Ok(Kind::Pieces { space_first: false }),
        (_, true) => {
            Err(unsupported("the normaliser", normaliser, "spaces are expected as `\u{2581}`"))
        }
        _ => Err(unknown(cut)),
    }
}

/// The steps of a sequence, or the only one.
fn steps<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    match value[name].as_array() {
        Some(all) if is(value, "Sequence") => all.iter().collect(),
        _ => vec![value],
    }
}

fn is(value: &Value, kind: &str) -> bool {
    value["type"] == kind
}

fn isolates(split: &Value, expression: &str) -> bool {
    is(split, "Split")
        && split["pattern"]["Regex"] == expression
        && split["behavior"] == "Isolated"
        && split["invert"] != true
}

fn unknown(cut: &Value) -> ImportError {
    let instead = "those of GPT-2, SmolLM, Llama 3, Qwen2 and SentencePiece are; another one would give wrong tokens";
    unsupported("the pre-tokenizer", cut, instead)
}

fn unsupported(subject: &'static str, found: &Value, instead: &'static str) -> ImportError {
    ImportError::Unsupported { subject, found: Quote::of(found), instead }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bpe(cut: Value, ignore_merges: bool) -> Value {
        json!({"model": {"type": "BPE", "ignore_merges": ignore_merges}, "normalizer": null,
            "pre_tokenizer": cut})
    }

    fn split(expression: &str) -> Value {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    }

    #[test]
    fn each_kind_is_found_by_what_it_consists_of() {
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        let smollm = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, gpt2]});
        for (tokenizer, name) in [
            (bpe(gpt2.clone(), false), "gpt-2"),
            (bpe(smollm, false), "smollm"),
            (bpe(split(LLAMA3), true), "llama-bpe"),
            (bpe(split(QWEN2), false), "qwen2"),
        ] {
            assert_eq!(kind(&tokenizer).expect(name), Kind::Bytes(name));
        }
        let pieces = |normaliser: Value, cut: Value| {
            kind(&json!({"model": {"type": "BPE", "byte_fallback": true},
                "normalizer": normaliser, "pre_tokenizer": cut}))
        };
        let old = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]});
        let new = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never", "split": false});
        assert_eq!(pieces(old, Value::Null).expect("old"), Kind::Pieces { space_first: true });
        assert_eq!(pieces(Value::Null, new).expect("new"), Kind::Pieces { space_first: false });
    }

    #[test]
    fn what_differs_in_anything_is_refused() {
        let mut composed = bpe(split(LLAMA3), true);
        composed["normalizer"] = json!({"type": "NFC"});
        for tokenizer in [
            bpe(split(LLAMA3), false),
            bpe(split(QWEN2), true),
            bpe(split(r"\p{L}+"), false),
            bpe(json!({"type": "ByteLevel", "add_prefix_space": true}), false),
            bpe(json!({"type": "Whitespace"}), false),
            bpe(Value::Null, false),
            composed,
            json!({"model": {"type": "Unigram"}}),
            json!([]),
            json!({"model": {"type": "BPE", "byte_fallback": true}}),
        ] {
            kind(&tokenizer).expect_err(&tokenizer.to_string());
        }
    }
}
