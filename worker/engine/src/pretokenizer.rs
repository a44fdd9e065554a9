//! How text is cut into words before byte pairs merge: one rule per family of models, named by
//! `tokenizer.ggml.pre`.
//!
//! The expressions are llama.cpp's (`llama_vocab` pre-types), each applied to the pieces the one
//! before left. A name that is not here is refused: a neighbouring rule would give slightly
//! different tokens and quietly worse answers.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// One family's rule.
#[derive(Debug)]
pub struct Rule {
    /// Cuts text into words and spells their bytes as characters.
    pub pre_tokenizer: PreTokenizerWrapper,
    /// A word that is a token is not built from merges.
    pub ignore_merges: bool,
    /// Whether the family begins a text with `bos` when the file does not say.
    pub add_bos: bool,
}

/// The rule of a pre-tokenizer; `None` for a name that is not known.
pub fn rule(pre: &str) -> Option<Rule> {
    let llama3 = matches!(pre, "llama3" | "llama-v3" | "llama-bpe");
    let stages = match pre {
        "smollm" | "starcoder" | "refact" | "command-r" => {
            vec![Digits::new(true).into(), split(GPT2)]
        }
        "gpt-2" | "gpt2" | "olmo" | "mpt" => vec![split(GPT2)],
        "qwen2" | "stablelm2" => vec![split(QWEN2)],
        "default" => vec![
            split(r"[\p{P}\$\+<=>\^~\|]+"),
            split(GPT2),
            split(r"\p{N}+"),
            split("[0-9][0-9][0-9]"),
        ],
        _ if llama3 => vec![split(LLAMA3)],
        _ => return None,
    };
    let bytes = ByteLevel::new(false, false, false).into();
    let stages = stages.into_iter().chain([bytes]).collect();
    Some(Rule {
        pre_tokenizer: Sequence::new(stages).into(),
        ignore_merges: llama3,
        add_bos: llama3,
    })
}

fn split(expression: &str) -> PreTokenizerWrapper {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .expect("the expressions are constants, each built by a test")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        rule(pre).expect(pre).pre_tokenizer.pre_tokenize(&mut cut).expect("cuts");
        cut.get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| text[start..end].to_owned())
            .collect()
    }

    #[test]
    fn each_family_cuts_its_own_way() {
        let text = "It's 12345\n\n  ok!";
        assert_eq!(words("gpt-2", text), ["It", "'s", " 12345", "\n\n ", " ok", "!"]);
        assert_eq!(
            words("smollm", text),
            ["It", "'s", " ", "1", "2", "3", "4", "5", "\n\n ", " ok", "!"]
        );
        assert_eq!(
            words("llama-bpe", text),
            ["It", "'s", " ", "123", "45", "\n\n", " ", " ok", "!"]
        );
        assert_eq!(
            words("qwen2", text),
            ["It", "'s", " ", "1", "2", "3", "4", "5", "\n\n", " ", " ok", "!"]
        );
        assert_eq!(words("default", "a 12345"), ["a", " ", "123", "45"]);
    }

    #[test]
    fn an_unknown_name_is_not_guessed() {
        assert!(rule("smollm3").is_none());
        assert!(rule("").is_none());
    }
}
